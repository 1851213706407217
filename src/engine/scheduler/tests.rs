use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    parallel: 3,
    room: 64,
    chunk: 8,
    together: 6,
    block: 4,
};

fn scheduler(sequences: &[(Id, u64, u64)]) -> Scheduler {
    let mut scheduler = Scheduler::new(LIMITS);
    for (id, prompt, answer) in sequences {
        scheduler.arrive(*id, *prompt, *answer).expect("fits");
    }
    scheduler
}

fn prefill(id: Id, from: u64, length: u64, last: bool) -> Work {
    Work::Prefill(vec![chunk(id, from, length, last)])
}

fn chunk(id: Id, from: u64, length: u64, last: bool) -> Chunk {
    Chunk {
        id,
        from,
        length,
        last,
    }
}

/// Starts what can be started and plans.
fn next(scheduler: &mut Scheduler) -> Plan {
    scheduler.start();
    scheduler.plan()
}

/// Plans until nothing is left to read.
fn read_in(scheduler: &mut Scheduler) {
    while !scheduler.reading.is_empty() || scheduler.sequences.values().any(|s| !s.decoding) {
        next(scheduler);
    }
}

#[test]
fn prompts_are_read_in_turn_between_steps_of_others() {
    let mut scheduler = scheduler(&[(1, 3, 9), (2, 20, 9)]);
    let works: Vec<Work> = (0..7).map(|_| next(&mut scheduler).work).collect();
    assert_eq!(
        works,
        [
            prefill(1, 0, 3, true),
            Work::Decode(vec![1]),
            prefill(2, 0, 8, false),
            Work::Decode(vec![1]),
            prefill(2, 8, 8, false),
            Work::Decode(vec![1]),
            prefill(2, 16, 4, true),
        ]
    );
    assert_eq!(next(&mut scheduler).work, Work::Decode(vec![1, 2]));

    let mut scheduler = self::scheduler(&[(1, 12, 9), (2, 12, 9)]);
    let works: Vec<Work> = (0..3).map(|_| next(&mut scheduler).work).collect();
    let expected = [
        prefill(1, 0, 8, false),
        prefill(2, 0, 8, false),
        prefill(1, 8, 4, true),
    ];
    assert_eq!(works, expected);
}

#[test]
fn short_prompts_are_read_together_and_none_is_overtaken() {
    let mut scheduler = scheduler(&[(1, 2, 9), (2, 3, 9), (3, 1, 9)]);
    let all = vec![
        chunk(1, 0, 2, true),
        chunk(2, 0, 3, true),
        chunk(3, 0, 1, true),
    ];
    assert_eq!(next(&mut scheduler).work, Work::Prefill(all));
    assert_eq!(next(&mut scheduler).work, Work::Decode(vec![1, 2, 3]));

    // What has no room within the six is not cut, and holds up those behind it.
    let mut scheduler = self::scheduler(&[(1, 3, 9), (2, 4, 9), (3, 1, 9)]);
    assert_eq!(next(&mut scheduler).work, prefill(1, 0, 3, true));
    assert_eq!(next(&mut scheduler).work, Work::Decode(vec![1]));
    let both = vec![chunk(2, 0, 4, true), chunk(3, 0, 1, true)];
    assert_eq!(next(&mut scheduler).work, Work::Prefill(both));

    // The rest of a long one is read with a short one, whichever came first.
    let mut scheduler = self::scheduler(&[(1, 11, 9), (2, 2, 9)]);
    assert_eq!(next(&mut scheduler).work, prefill(1, 0, 8, false));
    let both = vec![chunk(1, 8, 3, true), chunk(2, 0, 2, true)];
    assert_eq!(next(&mut scheduler).work, Work::Prefill(both));
}

#[test]
fn short_prompts_that_come_while_one_is_read_follow_it_without_a_step_between() {
    let mut scheduler = scheduler(&[(1, 2, 9)]);
    assert_eq!(next(&mut scheduler).work, prefill(1, 0, 2, true));
    scheduler.arrive(2, 3, 9).expect("fits");
    assert_eq!(next(&mut scheduler).work, prefill(2, 0, 3, true));
    // With the five that were read these would be more than six.
    scheduler.arrive(3, 2, 9).expect("fits");
    assert_eq!(next(&mut scheduler).work, Work::Decode(vec![1, 2]));
    assert_eq!(next(&mut scheduler).work, prefill(3, 0, 2, true));

    // A chunk of a long one leaves no room for others, whoever has made a token since.
    let mut scheduler = self::scheduler(&[(1, 1, 9), (2, 9, 9), (3, 1, 9)]);
    let works: Vec<Work> = (0..4).map(|_| next(&mut scheduler).work).collect();
    let both = vec![chunk(2, 8, 1, true), chunk(3, 0, 1, true)];
    assert_eq!(
        works,
        [
            prefill(1, 0, 1, true),
            Work::Decode(vec![1]),
            prefill(2, 0, 8, false),
            Work::Decode(vec![1]),
        ]
    );
    assert_eq!(next(&mut scheduler).work, Work::Prefill(both));
}

#[test]
fn only_so_many_run_at_once_and_a_free_place_is_taken() {
    let mut scheduler = scheduler(&[(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)]);
    assert_eq!(scheduler.start(), [1, 2, 3]);
    assert_eq!(scheduler.counts(), (3, 1));
    scheduler.leave(2);
    assert_eq!(scheduler.start(), [4]);
}

#[test]
fn guesses_take_what_room_is_left_and_put_nobody_back() {
    let mut alone = scheduler(&[(1, 20, 40)]);
    read_in(&mut alone);
    next(&mut alone);
    // 21 tokens are in the cache and 22 known, in blocks of 4.
    assert_eq!(alone.reserved(), 24);
    assert_eq!(alone.ahead(1, 8), 8);
    assert_eq!(alone.reserved(), 32);
    alone.made(1, 5);
    assert_eq!(alone.sequences[&1].known, 27);
    assert_eq!(alone.ahead(1, 100), 33);
    assert_eq!((alone.ahead(1, 0), alone.ahead(2, 8)), (0, 0));

    let mut full = scheduler(&[(1, 28, 30), (2, 27, 30)]);
    read_in(&mut full);
    assert_eq!(next(&mut full).work, Work::Decode(vec![1, 2]));
    let sequence = &full.sequences[&1];
    let left = sequence.reserved.expect("it runs") - sequence.filled;
    assert!(left < 8 && full.reserved() >= 60);
    assert_eq!(full.ahead(1, 8), left);
    assert_eq!(full.counts(), (2, 0));
}

#[test]
fn a_paused_sequence_makes_no_token_and_holds_up_nobody() {
    let mut scheduler = scheduler(&[(1, 1, 9), (2, 1, 9)]);
    read_in(&mut scheduler);
    scheduler.pause(1);
    assert_eq!(next(&mut scheduler).work, Work::Decode(vec![2]));
    scheduler.pause(2);
    assert_eq!(next(&mut scheduler).work, Work::Idle);
    scheduler.go_on(1);
    assert_eq!(next(&mut scheduler).work, Work::Decode(vec![1]));
}

#[test]
fn the_youngest_gives_way_and_comes_back() {
    // Both together need more than the room of 64.
    let mut scheduler = scheduler(&[(1, 20, 40), (2, 20, 40)]);
    let mut back = None;
    let mut said = 0;
    for _ in 0..60 {
        let plan = next(&mut scheduler);
        if let Work::Decode(batch) = &plan.work {
            said += u64::from(batch.contains(&2));
        }
        if !plan.put_back.is_empty() {
            assert_eq!(plan.put_back, [2]);
            back = Some(said);
            break;
        }
    }
    let said = back.expect("the room runs out");
    // The older one goes on alone until it leaves; then the other reads in what it
    // has said besides its prompt and goes on from there.
    for _ in 0..10 {
        assert_eq!(next(&mut scheduler).work, Work::Decode(vec![1]));
    }
    scheduler.leave(1);
    assert_eq!(scheduler.start(), [2]);
    let plan = next(&mut scheduler);
    assert_eq!(plan.work, prefill(2, 0, 8, false));
    assert_eq!(scheduler.sequences[&2].known, 20 + 1 + said);
}

#[test]
fn a_paused_sequence_gives_way_first() {
    let mut scheduler = scheduler(&[(1, 20, 40), (2, 20, 40)]);
    read_in(&mut scheduler);
    scheduler.pause(1);
    let put_back = (0..60)
        .map(|_| next(&mut scheduler).put_back)
        .find(|back| !back.is_empty());
    assert_eq!(put_back, Some(vec![1]));
    assert_eq!(next(&mut scheduler).work, Work::Decode(vec![2]));
}

#[test]
fn the_only_one_that_speaks_gives_way_to_an_older_prompt() {
    let mut scheduler = Scheduler::new(Limits {
        parallel: 2,
        room: 24,
        chunk: 1,
        together: 1,
        block: 1,
    });
    scheduler.arrive(1, 20, 4).expect("fits");
    scheduler.arrive(2, 1, 6).expect("fits");
    // It takes turns with the chunks until its growth has no room; that step goes
    // to the next chunk.
    let expected = [
        (vec![], prefill(1, 0, 1, false)),
        (vec![], prefill(2, 0, 1, true)),
        (vec![], Work::Decode(vec![2])),
        (vec![], prefill(1, 1, 1, false)),
        (vec![], Work::Decode(vec![2])),
        (vec![], prefill(1, 2, 1, false)),
        (vec![2], prefill(1, 3, 1, false)),
    ];
    let steps = expected.clone().map(|_| next(&mut scheduler));
    assert_eq!(steps.map(|plan| (plan.put_back, plan.work)), expected);
}

#[test]
fn what_a_cache_holds_already_is_not_read() {
    let mut scheduler = scheduler(&[(1, 20, 9), (2, 3, 9)]);
    assert_eq!(scheduler.start(), [1, 2]);
    scheduler.holds(1, 17);
    // One token has to be read, whatever is there.
    scheduler.holds(2, 3);
    let rests = vec![chunk(1, 17, 3, true), chunk(2, 2, 1, true)];
    assert_eq!(scheduler.plan().work, Work::Prefill(rests));
}

#[test]
fn what_can_never_fit_is_refused() {
    let mut scheduler = scheduler(&[]);
    let refused = NeverFits {
        tokens: 65,
        room: 64,
    };
    assert_eq!(scheduler.arrive(1, 60, 5), Err(refused));
    assert_eq!(scheduler.arrive(1, 60, 4), Ok(()));
    assert!(scheduler.arrive(2, 1, u64::MAX).is_err());
}

/// What can happen from the outside, with a number that picks the sequence.
#[derive(Debug, Clone)]
enum Happening {
    Arrives { prompt: u64, answer: u64 },
    Cancelled(usize),
    Paused(usize),
    GoesOn(usize),
    Steps(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (1u64..40, 1u64..24).prop_map(|(prompt, answer)| Happening::Arrives { prompt, answer }),
        1 => any::<usize>().prop_map(Happening::Cancelled),
        1 => any::<usize>().prop_map(Happening::Paused),
        1 => any::<usize>().prop_map(Happening::GoesOn),
        6 => (1usize..12).prop_map(Happening::Steps),
    ]
}

/// A stand-in for the engine thread: caches as numbers of tokens.
struct Driver {
    scheduler: Scheduler,
    next: Id,
    /// Of each sequence: prompt, answer, tokens made.
    open: BTreeMap<Id, (u64, u64, u64)>,
    caches: BTreeMap<Id, u64>,
    paused: Vec<Id>,
    finished: usize,
}

impl Driver {
    fn new() -> Self {
        Self {
            scheduler: Scheduler::new(LIMITS),
            next: 0,
            open: BTreeMap::new(),
            caches: BTreeMap::new(),
            paused: Vec::new(),
            finished: 0,
        }
    }

    fn pick(&self, number: usize) -> Option<Id> {
        let ids: Vec<_> = self.open.keys().collect();
        (!ids.is_empty()).then(|| *ids[number % ids.len()])
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Arrives { prompt, answer } => {
                self.next += 1;
                self.scheduler
                    .arrive(self.next, *prompt, *answer)
                    .expect("fits");
                self.open.insert(self.next, (*prompt, *answer, 0));
            }
            Happening::Cancelled(number) => {
                if let Some(id) = self.pick(*number) {
                    self.leave(id);
                }
            }
            Happening::Paused(number) => {
                if let Some(id) = self.pick(*number) {
                    self.scheduler.pause(id);
                    self.paused.push(id);
                }
            }
            Happening::GoesOn(number) => {
                if let Some(id) = self.pick(*number) {
                    self.scheduler.go_on(id);
                    self.paused.retain(|paused| *paused != id);
                }
            }
            Happening::Steps(count) => (0..*count).for_each(|_| {
                self.step();
            }),
        }
    }

    fn leave(&mut self, id: Id) {
        self.scheduler.leave(id);
        self.open.remove(&id);
        self.caches.remove(&id);
        self.paused.retain(|paused| *paused != id);
    }

    /// One step; whether anything was done.
    fn step(&mut self) -> bool {
        let could_decode: Vec<Id> = self
            .scheduler
            .sequences
            .iter()
            .filter(|(_, sequence)| {
                sequence.decoding && !sequence.paused && sequence.reserved.is_some()
            })
            .map(|(id, _)| *id)
            .collect();
        let read_since = self.scheduler.read_since;
        for id in self.scheduler.start() {
            // Some have been read before, as far as the scheduler takes it.
            self.scheduler.holds(id, id % 5 * 4);
            let held = self.scheduler.sequences[&id].filled;
            assert_eq!(self.caches.insert(id, held), None, "started twice");
        }
        let plan = self.scheduler.plan();
        // One that is put back, its own growth having no room, stalls for that.
        let stalls = could_decode.iter().any(|id| !plan.put_back.contains(id));
        for id in &plan.put_back {
            assert!(self.caches.remove(id).is_some(), "put back without a cache");
        }
        match &plan.work {
            Work::Idle => {}
            Work::Prefill(chunks) => {
                let tokens = chunks.iter().map(|chunk| chunk.length).sum::<u64>();
                assert!(tokens <= LIMITS.chunk, "a step of {tokens} tokens");
                if stalls && read_since > 0 {
                    let tokens = read_since + tokens;
                    assert!(tokens <= LIMITS.together, "{tokens} tokens stall others");
                }
                if chunks.len() > 1 {
                    assert!(tokens <= LIMITS.together, "{tokens} tokens together");
                    assert!(chunks.iter().all(|chunk| chunk.last), "a part of one");
                }
                assert!(chunks.is_sorted_by(|one, other| one.id < other.id));
                for chunk in chunks {
                    assert!(chunk.length > 0);
                    let cache = self.caches.get_mut(&chunk.id).expect("a cache");
                    assert_eq!(*cache, chunk.from);
                    *cache += chunk.length;
                    if chunk.last {
                        let (prompt, _, made) = self.open[&chunk.id];
                        assert_eq!(*cache, prompt + made);
                        self.make(chunk.id);
                    }
                }
            }
            Work::Decode(batch) => {
                for id in batch {
                    assert!(!self.paused.contains(id), "a paused sequence made a token");
                    *self.caches.get_mut(id).expect("a cache") += 1;
                    let (prompt, _, made) = self.open[id];
                    assert_eq!(self.caches[id], prompt + made);
                    self.guess(*id);
                    self.make(*id);
                }
            }
        }
        self.check();
        plan.work != Work::Idle
    }

    /// Some more tokens are guessed, and some of them are right.
    fn guess(&mut self, id: Id) {
        let held = self.caches[&id];
        let wanted = (held + id) % 7;
        let granted = self.scheduler.ahead(id, wanted);
        assert!(granted <= wanted);
        *self.caches.get_mut(&id).expect("a cache") += granted;
        self.check();
        let right = (held * 5 + id) % (granted + 1);
        self.scheduler.made(id, right);
        self.caches.insert(id, held + right);
        let sequence = self.open.get_mut(&id).expect("open");
        sequence.2 += right;
        // One is left to be chosen.
        assert!(sequence.2 < sequence.1);
    }

    fn make(&mut self, id: Id) {
        let sequence = self.open.get_mut(&id).expect("open");
        sequence.2 += 1;
        if sequence.2 == sequence.1 {
            self.leave(id);
            self.finished += 1;
        }
    }

    fn check(&self) {
        assert!(self.scheduler.reserved() <= LIMITS.room, "over the room");
        assert!(self.caches.values().sum::<u64>() <= self.scheduler.reserved());
        assert!(self.scheduler.counts().0 <= LIMITS.parallel);
        assert_eq!(self.scheduler.counts().0, self.caches.len());
        assert_eq!(self.scheduler.sequences.len(), self.open.len());
        for (id, cached) in &self.caches {
            let reserved = self.scheduler.sequences[id].reserved.expect("a share");
            assert!(*cached <= reserved, "a cache over its share");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn room_is_kept_and_everyone_finishes(happenings in prop::collection::vec(happening(), 1..80)) {
        let mut driver = Driver::new();
        for happening in &happenings {
            driver.happen(happening);
            driver.check();
        }
        for id in driver.paused.clone() {
            driver.scheduler.go_on(id);
        }
        driver.paused.clear();
        // Work that is thrown away when a sequence is put back is bounded too.
        let mut steps = 0;
        while !driver.open.is_empty() {
            prop_assert!(driver.step(), "nothing is done, yet {:?} wait", driver.open);
            steps += 1;
            prop_assert!(steps < 20_000, "no end: {:?}", driver.open);
        }
        prop_assert_eq!(driver.scheduler.reserved(), 0);
        prop_assert!(driver.scheduler.reading.is_empty());
    }

    #[test]
    fn an_older_sequence_is_never_overtaken_into_the_room(
        prompts in prop::collection::vec((1u64..40, 1u64..24), 2..12)
    ) {
        let mut driver = Driver::new();
        for (prompt, answer) in prompts {
            driver.happen(&Happening::Arrives { prompt, answer });
        }
        while !driver.open.is_empty() {
            driver.step();
            if let Some(oldest) = driver.open.keys().next() {
                let started = driver.caches.contains_key(oldest);
                prop_assert!(started || driver.caches.is_empty(), "the oldest waits");
            }
        }
    }
}
