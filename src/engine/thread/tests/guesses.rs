//! Whatever is guessed, an answer is what it is without.

use proptest::prelude::*;

use super::*;
use crate::engine::speculation::pace::MOST_AHEAD;

/// Tokens of [`Chaotic`]: so few that its texts repeat.
const FEW: u32 = 9;

/// A network whose next token depends on the last two by chance, or rather by a seed.
#[derive(Clone, Copy, Debug)]
struct Chaotic {
    seed: u64,
    /// Of 16 pairs of tokens so many are followed by something else.
    wrong: u64,
    /// One token less is known.
    vocabulary: u32,
    trims: bool,
    breaks: bool,
}

impl Chaotic {
    fn of(seed: u64) -> Self {
        Self {
            seed,
            wrong: 0,
            vocabulary: FEW,
            trims: true,
            breaks: false,
        }
    }

    fn after(&self, cache: &[u32]) -> Result<Vec<f32>, EngineError> {
        if self.breaks && cache.len() > 12 {
            return Err(EngineError::Device("broken".to_owned()));
        }
        let pair = cache.iter().rev().take(2).map(|token| u64::from(*token));
        let pair = pair.fold(self.seed, |sum, token| mixed(sum ^ token));
        let pair = match pair % 16 < self.wrong {
            true => mixed(pair),
            false => pair,
        };
        let number = |token: u32| (mixed(pair ^ u64::from(token)) % 4096) as f32 / 512.0;
        Ok((0..self.vocabulary).map(number).collect())
    }
}

/// SplitMix64's output function.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Network for Chaotic {
    type Cache = Vec<u32>;
    type Piece = Vec<u32>;

    fn vocabulary(&self) -> usize {
        self.vocabulary as usize
    }

    fn new_cache(&self) -> Vec<u32> {
        Vec::new()
    }

    fn prefill_batch(
        &mut self,
        batch: &mut [Reading<'_, Vec<u32>>],
    ) -> Result<Vec<Option<Vec<f32>>>, EngineError> {
        let read = |reading: &mut Reading<'_, Vec<u32>>| {
            reading.cache.extend(reading.tokens);
            let logits = reading.want_logits.then(|| self.after(reading.cache));
            logits.transpose()
        };
        batch.iter_mut().map(read).collect()
    }

    fn decode(
        &mut self,
        batch: &mut [(&mut Vec<u32>, &[u32])],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut rows = Vec::new();
        for (cache, tokens) in batch {
            assert!((1..=1 + MOST_AHEAD).contains(&tokens.len()));
            for token in *tokens {
                assert!(*token < self.vocabulary);
                cache.push(*token);
                rows.push(self.after(cache)?);
            }
        }
        Ok(rows)
    }

    fn is_trimmable(&self) -> bool {
        self.trims
    }

    fn trim(&self, cache: &mut Vec<u32>, tokens: usize) {
        assert!(self.trims);
        cache.truncate(tokens);
    }

    fn tokens_in(&self, cache: &Vec<u32>) -> usize {
        cache.len()
    }

    fn room_in(&self, cache: &Vec<u32>) -> usize {
        cache.len()
    }

    fn evaluate_pieces(
        &mut self,
        cache: Vec<u32>,
        from: usize,
        lengths: &[usize],
    ) -> Result<Vec<Vec<u32>>, EngineError> {
        let mut rest = cache.into_iter().skip(from);
        let piece = |length: &usize| rest.by_ref().take(*length).collect();
        Ok(lengths.iter().map(piece).collect())
    }

    fn evaluate_cache(&mut self, pieces: Vec<(Vec<u32>, usize)>) -> Result<Vec<u32>, EngineError> {
        let parts = pieces.iter().map(|(piece, count)| &piece[..*count]);
        Ok(parts.flatten().copied().collect())
    }

    fn bytes_held(&self) -> u64 {
        10
    }

    fn kv_bytes_per_token(&self) -> u64 {
        2
    }

    fn device(&self) -> (&'static str, &'static str) {
        ("cpu", "float32")
    }

    fn load_times(&self) -> LoadTimes {
        LoadTimes::default()
    }
}

fn engine(network: Chaotic, draft: Draft<Chaotic>, kv: u64) -> Engine {
    let build = move || Ok((network, draft));
    Engine::start(settings(kv), None, build).expect("built").0
}

/// All that a sequence says, log-probabilities and all.
async fn whole(mut sequence: Sequence) -> Vec<Said> {
    let mut said = Vec::new();
    while let Some(next) = sequence.next().await {
        // How much was in the prompt cache depends on which of several ended first.
        if !matches!(next, Said::Began { .. }) {
            said.push(next);
        }
    }
    said
}

/// What each of these says when all are begun at once.
fn all_said(engine: &Engine, jobs: &[Job]) -> Vec<Vec<Said>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let sequences = jobs.iter().map(|job| whole(engine.begin(job.clone())));
    let all = futures_util::future::join_all(sequences);
    runtime.expect("a runtime").block_on(all)
}

fn any_job() -> impl Strategy<Value = Job> {
    let sampling = (0u8..3, any::<u64>(), 0u8..2).prop_map(|(warm, seed, penalty)| Sampling {
        temperature: f32::from(warm) * 0.5,
        seed: Some(seed),
        repetition_penalty: 1.0 + f32::from(penalty) * 0.5,
        frequency_penalty: f32::from(penalty) * 0.25,
        ..Sampling::default()
    });
    let grammar = prop_oneof![
        2 => Just(None),
        1 => prop::collection::vec(0..FEW, 1..40).prop_map(Some),
    ];
    let prompt = prop::collection::vec(0..FEW, 1..30);
    let how = (1u32..70, any::<bool>(), 1u128..4, any::<bool>());
    (prompt, sampling, grammar, how).prop_map(
        |(prompt, sampling, grammar, (max_tokens, ends, owner, told))| Job {
            prompt,
            max_tokens,
            end_tokens: if ends { Arc::from([3]) } else { Arc::from([]) },
            sampling,
            grammar: grammar.map(|tokens| Arc::new(Exactly(tokens)) as Arc<dyn Grammar>),
            logprobs: told.then_some(2),
            owner: Some(Owner(owner)),
            adapter: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_guesses_give_what_none_give(
        jobs in prop::collection::vec(any_job(), 1..6),
        seed in any::<u64>(),
        wrong in 0u64..17,
        knows_all in any::<bool>(),
        // For some of the sequences at once, or for all.
        tokens in 110u64..500,
    ) {
        let network = Chaotic::of(seed);
        let smaller = Chaotic {
            wrong,
            vocabulary: FEW - u32::from(!knows_all),
            ..network
        };
        let expected = all_said(&engine(network, Draft::Nothing, tokens * 2), &jobs);
        for (draft, each) in [(Draft::Prompt, 2), (Draft::Network(smaller), 4)] {
            let engine = engine(network, draft, tokens * each);
            prop_assert_eq!(engine.facts().room, tokens);
            // The second time with what the first has left in the prompt cache.
            for _ in 0..2 {
                prop_assert_eq!(&all_said(&engine, &jobs), &expected);
            }
            let counted = engine.counted();
            prop_assert!(counted.accepted <= counted.guessed);
            prop_assert_eq!((counted.running, counted.reserved), (0, 0));
        }
    }
}

/// A prompt of a text that repeats, and how it goes on.
fn repeating(max_tokens: u32) -> Job {
    Job {
        prompt: vec![1, 2, 3, 4, 1, 2, 3, 4, 1],
        max_tokens,
        end_tokens: Arc::from([]),
        ..job(0..1, 1)
    }
}

#[test]
fn a_network_that_is_its_own_draft_is_never_wrong() {
    let network = Chaotic::of(5);
    let engine = engine(network, Draft::Network(network), 4000);
    let facts = engine.facts();
    assert_eq!((facts.bytes_held, facts.kv_bytes_per_token), (20, 4));
    // So short that a slow reader stops none of them: a pause throws right guesses away.
    for _ in 0..4 {
        all_said(&engine, &[repeating(50)]);
    }
    let counted = engine.counted();
    assert_eq!(counted.made, 200);
    assert!(counted.guessed > 0);
    assert_eq!(counted.accepted, counted.guessed);
}

#[test]
fn a_grammar_and_a_slow_reader_get_along_with_guesses() {
    let tokens: Vec<u32> = [1, 2, 3, 4].into_iter().cycle().skip(1).take(300).collect();
    let within = Job {
        grammar: Some(Arc::new(Exactly(tokens.clone()))),
        ..repeating(400)
    };
    let engine = engine(Chaotic::of(1), Draft::Prompt, 4000);
    let sequence = engine.begin(within);
    // More is made than may lie unread: the sequence stops and waits for its reader.
    let begun = std::time::Instant::now();
    while engine.counted().made < 60 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let (said, end) = runtime.expect("a runtime").block_on(super::said(sequence));
    assert_eq!(said, tokens);
    assert_eq!(end, super::end(Finish::Stop, false));
    assert!(engine.counted().accepted > 0);
}

#[test]
fn what_cannot_go_back_or_breaks_is_not_asked() {
    let network = Chaotic::of(7);
    let expected = all_said(&engine(network, Draft::Nothing, 4000), &[repeating(50)]);
    let stuck = Chaotic {
        trims: false,
        ..network
    };
    let broken = Chaotic {
        breaks: true,
        ..network
    };
    for (network, draft) in [
        (stuck, Draft::Prompt),
        (network, Draft::Network(stuck)),
        (network, Draft::Network(broken)),
    ] {
        let engine = engine(network, draft, 4000);
        assert_eq!(all_said(&engine, &[repeating(50)]), expected);
        let guessed = engine.counted().guessed;
        // The broken one does for its first tokens.
        assert!(guessed <= MOST_AHEAD as u64, "{guessed}");
    }
}
