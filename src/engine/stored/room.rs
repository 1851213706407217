//! What on the disk gives way to what, and whether writing pays at all. Pure.

use std::time::Duration;

/// How many bytes may lie on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Of one model.
    pub each: u64,
    /// Of all models together.
    pub all: u64,
}

/// A file, as far as giving it up goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lying {
    /// Which model's it is; any number that tells models apart.
    pub model: usize,
    /// Its bytes.
    pub bytes: u64,
    /// When it was used last; any unit.
    pub used: u128,
    /// The tokens ahead of its own. Those of the same prompt that come later go first:
    /// without what is ahead of them they are of no use.
    pub from: u64,
}

/// Which of these files have to go, by their places, so that both quotas hold when
/// `coming` bytes of a model are added: those that were used longest ago.
pub fn surplus(files: &[Lying], quota: Quota, coming: Option<(usize, u64)>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|&place| (files[place].used, std::cmp::Reverse(files[place].from)));
    let models = files.iter().map(|file| file.model).max().unwrap_or(0);
    let models = models.max(coming.map_or(0, |(model, _)| model));
    let mut held = vec![0_u64; models + 1];
    for file in files {
        held[file.model] = held[file.model].saturating_add(file.bytes);
    }
    if let Some((model, bytes)) = coming {
        held[model] = held[model].saturating_add(bytes);
    }
    let mut goes = Vec::new();
    order.retain(|&place| {
        let file = &files[place];
        let stays = held[file.model] <= quota.each;
        if !stays {
            held[file.model] -= file.bytes;
            goes.push(place);
        }
        stays
    });
    let mut all = held
        .iter()
        .fold(0, |all: u64, each| all.saturating_add(*each));
    for place in order {
        if all <= quota.all {
            break;
        }
        all -= files[place].bytes;
        goes.push(place);
    }
    goes
}

/// How quickly something went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    amount: u64,
    time: Duration,
}

impl Pace {
    /// So much more in so much time.
    pub fn add(&mut self, amount: u64, time: Duration) {
        self.amount = self.amount.saturating_add(amount);
        self.time = self.time.saturating_add(time);
    }

    /// Seconds for one, once at least `enough` were seen.
    fn seconds_each(&self, enough: u64) -> Option<f64> {
        let known = self.amount >= enough.max(1);
        known.then(|| self.time.as_secs_f64() / self.amount as f64)
    }
}

/// Bytes after which the pace of a disk is believed.
const ENOUGH_BYTES: u64 = 16 << 20;

/// Tokens after which the pace of reading prompts is believed.
const ENOUGH_TOKENS: u64 = 256;

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Paces {
    /// The network's, reading tokens of prompts.
    pub prefill: Pace,
    /// The disk's, taking bytes.
    pub write: Pace,
    /// The disk's, giving them; until it is known, it is taken for that of writing.
    pub read: Pace,
}

impl Paces {
    /// Whether writing pieces of `tokens` and `bytes` and reading them once takes less
    /// time than working them out again. What is not measured yet is tried.
    pub fn pays(&self, tokens: u64, bytes: u64) -> bool {
        let write = self.write.seconds_each(ENOUGH_BYTES);
        let prefill = self.prefill.seconds_each(ENOUGH_TOKENS);
        let (Some(write), Some(prefill)) = (write, prefill) else {
            return true;
        };
        let read = self.read.seconds_each(ENOUGH_BYTES).unwrap_or(write);
        (write + read) * bytes as f64 <= prefill * tokens as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lying(model: usize, bytes: u64, used: u128, from: u64) -> Lying {
        Lying {
            model,
            bytes,
            used,
            from,
        }
    }

    #[test]
    fn what_was_used_longest_ago_goes_and_ends_before_beginnings() {
        let files = [
            lying(0, 10, 5, 0),
            lying(0, 10, 5, 64),
            lying(1, 10, 1, 0),
            lying(0, 10, 9, 0),
        ];
        let check = |each, all, coming, expected: &[usize]| {
            let quota = Quota { each, all };
            assert_eq!(surplus(&files, quota, coming), expected);
        };
        check(30, 40, None, &[]);
        check(20, 40, None, &[1]);
        check(30, 30, None, &[2]);
        check(30, 40, Some((0, 10)), &[1]);
        check(20, 30, Some((0, 10)), &[1, 0]);
        check(30, 40, Some((1, 10)), &[2]);
        check(0, 0, None, &[2, 1, 0, 3]);
        assert_eq!(
            surplus(&[], Quota { each: 0, all: 0 }, Some((3, 9))),
            [0; 0]
        );
    }

    proptest! {
        #[test]
        fn both_quotas_hold_and_nothing_goes_without_need(
            files in prop::collection::vec((0usize..3, 1u64..50, 0u128..5, 0u64..4), 0..30),
            each in 0u64..200,
            all in 0u64..400,
            coming in prop::option::of((0usize..3, 0u64..100)),
        ) {
            let files: Vec<Lying> =
                files.iter().map(|&(m, b, u, f)| lying(m, b, u, f)).collect();
            let goes = surplus(&files, Quota { each, all }, coming);
            let stay = |place: &usize| !goes.contains(place);
            let sum = |model: Option<usize>| {
                let kept = (0..files.len()).filter(stay);
                kept.filter(|&place| model.is_none_or(|model| files[place].model == model))
                    .map(|place| files[place].bytes)
                    .sum::<u64>()
            };
            let coming_of = |model| coming.filter(|&(m, _)| m == model).map_or(0, |(_, b)| b);
            for model in 0..3 {
                let kept = sum(Some(model));
                prop_assert!(kept == 0 || kept + coming_of(model) <= each);
            }
            let kept = sum(None);
            prop_assert!(kept == 0 || kept + coming.map_or(0, |(_, b)| b) <= all);
            // The last that went was needed.
            if let Some(&last) = goes.last() {
                let back = files[last].bytes;
                let model = files[last].model;
                let over = sum(Some(model)) + back + coming_of(model) > each
                    || kept + back + coming.map_or(0, |(_, b)| b) > all;
                prop_assert!(over || goes.len() > 1);
            }
        }
    }

    #[test]
    fn writing_pays_while_it_is_quicker_than_reading_the_prompt_again() {
        let second = Duration::from_secs(1);
        let mut paces = Paces::default();
        assert!(paces.pays(1, u64::MAX), "nothing is measured");
        paces.prefill.add(1000, second);
        paces.write.add(1 << 20, second);
        assert!(paces.pays(1, u64::MAX), "too little is measured");
        paces.write = Pace::default();
        paces.write.add(100_000_000, second);
        // A token takes a millisecond, in which half of 100 kB are written and half read.
        assert!(paces.pays(64, 64 * 49_000));
        assert!(!paces.pays(64, 64 * 51_000));
        paces.read.add(1_000_000_000, second);
        assert!(paces.pays(64, 64 * 51_000));
    }
}
