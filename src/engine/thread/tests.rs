use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::engine::guide::{Allowed, Guide, GuideError};
use crate::engine::stored::Tensor;
use crate::engine::{Finish, Reading};
use crate::model::safetensors::{Dtype, Header};

/// A network that says, after a token, the next higher one; its cache is the list
/// of tokens it has read. It notes every call.
struct Counting {
    calls: Arc<Mutex<Vec<String>>>,
    /// Lets one call through for each message; nothing lets all through.
    gate: Option<mpsc::Receiver<()>>,
    breaks_at: Option<u32>,
    /// Whether the sequence may have gaps.
    gaps: bool,
    /// Tokens that were copied into pieces and out of them.
    copied: Arc<Copied>,
}

#[derive(Default)]
struct Copied {
    apart: AtomicU64,
    joined: AtomicU64,
}

impl Copied {
    /// Since the last time: into pieces, and out of them.
    fn take(&self) -> (u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        (take(&self.apart), take(&self.joined))
    }
}

const VOCABULARY: u32 = 1000;

impl Counting {
    fn call(&self, words: String) {
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        self.calls.lock().expect("calls").push(words);
    }

    fn after(&self, cache: &[u32]) -> Result<Vec<f32>, EngineError> {
        let last = *cache.last().expect("a token");
        if self.breaks_at == Some(last) {
            return Err(EngineError::Device("broken".to_owned()));
        }
        let mut logits = vec![0.0; VOCABULARY as usize];
        logits[((last + 1) % VOCABULARY) as usize] = 10.0;
        Ok(logits)
    }
}

impl Network for Counting {
    type Cache = Vec<u32>;
    type Piece = Vec<u32>;

    fn vocabulary(&self) -> usize {
        VOCABULARY as usize
    }

    fn new_cache(&self) -> Vec<u32> {
        Vec::new()
    }

    fn adapt(&mut self, _: &mut Self::Cache, _: &Chosen) -> Result<(), EngineError> {
        Ok(())
    }

    fn prefill_batch(
        &mut self,
        batch: &mut [Reading<'_, Vec<u32>>],
    ) -> Result<Vec<Option<Vec<f32>>>, EngineError> {
        let lengths = batch.iter().map(|reading| reading.tokens.len().to_string());
        self.call(format!("prefill {}", lengths.collect::<Vec<_>>().join("+")));
        let mut answers = Vec::new();
        for reading in batch {
            reading.cache.extend(reading.tokens);
            // What is in the cache is the sequence without a gap.
            assert!(
                self.gaps || reading.cache.windows(2).all(|pair| pair[1] == pair[0] + 1),
                "{:?}",
                reading.cache
            );
            let logits = reading.want_logits.then(|| self.after(reading.cache));
            answers.push(logits.transpose()?);
        }
        Ok(answers)
    }

    fn decode(
        &mut self,
        batch: &mut [(&mut Vec<u32>, &[u32])],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.call(format!("decode {}", batch.len()));
        let mut rows = Vec::new();
        for (cache, tokens) in batch {
            for token in *tokens {
                cache.push(*token);
                assert!(
                    self.gaps || cache.windows(2).all(|pair| pair[1] == pair[0] + 1),
                    "{cache:?}"
                );
                rows.push(self.after(cache)?);
            }
        }
        Ok(rows)
    }

    fn trim(&self, cache: &mut Vec<u32>, tokens: usize) {
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
        let count = lengths.iter().sum::<usize>() as u64;
        self.copied.apart.fetch_add(count, Ordering::Relaxed);
        let mut rest = cache.into_iter().skip(from);
        let piece = |length: &usize| rest.by_ref().take(*length).collect();
        Ok(lengths.iter().map(piece).collect())
    }

    fn evaluate_cache(&mut self, pieces: Vec<(Vec<u32>, usize)>) -> Result<Vec<u32>, EngineError> {
        let count = pieces.iter().map(|(_, count)| *count as u64).sum();
        self.copied.joined.fetch_add(count, Ordering::Relaxed);
        let parts = pieces.iter().map(|(piece, count)| &piece[..*count]);
        Ok(parts.flatten().copied().collect())
    }

    fn stored_form(&self) -> Option<String> {
        Some("counting".to_owned())
    }

    fn tensors_of(&self, piece: &Vec<u32>) -> Result<Vec<Tensor>, EngineError> {
        Ok(vec![Tensor {
            name: "numbers".to_owned(),
            dtype: Dtype::U32,
            shape: vec![piece.len() as u64],
            bytes: piece
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect(),
        }])
    }

    fn map_piece(&self, file: &Path, tokens: usize) -> Result<Vec<u32>, EngineError> {
        let failed = |error: String| EngineError::Device(error);
        let header = Header::open(file).map_err(|error| failed(error.to_string()))?;
        let tensor = header
            .tensors
            .iter()
            .find(|tensor| tensor.name == "numbers");
        let tensor = tensor.ok_or_else(|| failed("no numbers".to_owned()))?;
        let bytes = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
        let begin = tensor.offset as usize;
        let (fours, _) = bytes[begin..begin + 4 * tokens].as_chunks::<4>();
        Ok(fours.iter().map(|four| u32::from_le_bytes(*four)).collect())
    }

    fn bytes_held(&self) -> u64 {
        77
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

struct Setup {
    engine: Engine,
    calls: Arc<Mutex<Vec<String>>>,
    copied: Arc<Copied>,
    ended: Ended,
}

fn start(settings: Settings, gate: Option<mpsc::Receiver<()>>, breaks_at: Option<u32>) -> Setup {
    start_at(None, settings, gate, breaks_at)
}

fn start_at(
    place: Option<Place>,
    settings: Settings,
    gate: Option<mpsc::Receiver<()>>,
    breaks_at: Option<u32>,
) -> Setup {
    let network = Counting {
        calls: Arc::default(),
        gate,
        breaks_at,
        gaps: false,
        copied: Arc::default(),
    };
    start_network(place, settings, network)
}

/// With a network that any token may follow on any other.
fn start_free() -> Setup {
    let network = Counting {
        calls: Arc::default(),
        gate: None,
        breaks_at: None,
        gaps: true,
        copied: Arc::default(),
    };
    start_network(None, settings(2000), network)
}

fn start_network(place: Option<Place>, settings: Settings, network: Counting) -> Setup {
    let (calls, copied) = (Arc::clone(&network.calls), Arc::clone(&network.copied));
    let (engine, ended) =
        Engine::start(settings, place, move || Ok((network, Draft::Nothing))).expect("built");
    Setup {
        engine,
        calls,
        copied,
        ended,
    }
}

fn settings(kv: u64) -> Settings {
    Settings {
        parallel: NonZeroU32::new(4).expect("not 0"),
        context: 1000,
        kv,
        chunk: NonZeroU32::new(8).expect("not 0"),
    }
}

fn job(prompt: std::ops::Range<u32>, max_tokens: u32) -> Job {
    Job {
        prompt: prompt.collect(),
        max_tokens,
        end_tokens: Arc::from([600]),
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        grammar: None,
        logprobs: None,
        owner: None,
        adapter: None,
    }
}

/// The same for a caller.
fn job_of(owner: u128, prompt: std::ops::Range<u32>, max_tokens: u32) -> Job {
    Job {
        owner: Some(Owner(owner)),
        ..job(prompt, max_tokens)
    }
}

/// Everything a sequence says, tokens as numbers.
async fn said(mut sequence: Sequence) -> (Vec<u32>, Option<Said>) {
    let mut tokens = Vec::new();
    loop {
        match sequence.next().await {
            Some(Said::Began { .. }) => {}
            Some(Said::Token(sampled)) => tokens.push(sampled.token),
            end => return (tokens, end),
        }
    }
}

fn end(finish: Finish, end_token: bool) -> Option<Said> {
    Some(Said::End { finish, end_token })
}

#[tokio::test]
async fn sequences_are_read_in_and_answered() {
    let setup = start(settings(2000), None, None);
    let facts = setup.engine.facts();
    assert_eq!((facts.bytes_held, facts.room), (77, 1000));
    let (tokens, ended) = said(setup.engine.begin(job(0..20, 5))).await;
    assert_eq!(tokens, [20, 21, 22, 23, 24]);
    assert_eq!(ended, end(Finish::Length, false));
    let calls = setup.calls.lock().expect("calls").clone();
    let expected = ["prefill 8", "prefill 8", "prefill 4"];
    assert_eq!(calls[..3], expected);
    assert_eq!(calls[3..], ["decode 1"; 4]);
    let counted = setup.engine.counted();
    assert_eq!((counted.read, counted.made), (20, 5));
}

/// Starts sequences that all wait when the first step is over, and reads them to their ends.
fn told_at_once(setup: &Setup, open: mpsc::Sender<()>, jobs: Vec<Job>) -> Vec<Vec<u32>> {
    // A whole chunk, so that nothing is read with it, whoever has come meanwhile.
    let first = setup.engine.begin(job(0..8, 1));
    let sequences = jobs.into_iter().map(|job| said(setup.engine.begin(job)));
    let sequences: Vec<_> = sequences.collect();
    drop(open);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let told = runtime.expect("a runtime").block_on(async {
        said(first).await;
        futures_util::future::join_all(sequences).await
    });
    told.into_iter().map(|(tokens, _)| tokens).collect()
}

#[test]
fn short_prompts_that_wait_are_read_in_one_pass() {
    let (open, gate) = mpsc::channel();
    let setup = start(settings(2000), Some(gate), None);
    let jobs = vec![job(10..12, 3), job(20..24, 3), job(30..32, 3)];
    let told = told_at_once(&setup, open, jobs);
    let expected = [[12, 13, 14], [24, 25, 26], [32, 33, 34]];
    assert_eq!(told, expected.map(Vec::from));
    let calls = setup.calls.lock().expect("calls").clone();
    let expected = ["prefill 8", "prefill 2+4+2", "decode 3", "decode 3"];
    assert_eq!(calls, expected);
    assert_eq!(setup.engine.counted().read, 8 + 2 + 4 + 2);
}

#[tokio::test]
async fn an_end_token_ends_and_is_not_told() {
    let setup = start(settings(2000), None, None);
    let (tokens, ended) = said(setup.engine.begin(job(590..598, 100))).await;
    assert_eq!(tokens, [598, 599]);
    assert_eq!(ended, end(Finish::Stop, true));
}

/// These tokens and no others, one after the other.
#[derive(Debug, Clone)]
struct Exactly(Vec<u32>);

impl Grammar for Exactly {
    fn begin(&self) -> Box<dyn Guide> {
        Box::new(self.clone())
    }
}

impl Guide for Exactly {
    fn allowed(&mut self, _: u32) -> Result<Allowed, GuideError> {
        match self.0.first() {
            Some(token) => Ok([*token].into_iter().collect()),
            None => Err(GuideError("nothing may follow".to_owned())),
        }
    }

    fn take(&mut self, token: u32) -> Result<bool, GuideError> {
        assert_eq!(self.0.remove(0), token);
        Ok(self.0.is_empty())
    }

    fn is_cut_short(&self) -> bool {
        false
    }
}

/// A grammar that counts down what is left and ends with it.
#[derive(Debug)]
struct CountsDown {
    left: u32,
}

impl Grammar for CountsDown {
    fn begin(&self) -> Box<dyn Guide> {
        Box::new(Self { left: u32::MAX })
    }
}

impl Guide for CountsDown {
    fn allowed(&mut self, left: u32) -> Result<Allowed, GuideError> {
        self.left = left;
        Ok([left].into_iter().collect())
    }

    fn take(&mut self, token: u32) -> Result<bool, GuideError> {
        assert_eq!(token, self.left);
        Ok(token == 2)
    }

    fn is_cut_short(&self) -> bool {
        self.left == 2
    }
}

/// As [`job`], within a grammar of these tokens.
fn job_within(tokens: &[u32], prompt: std::ops::Range<u32>, max_tokens: u32) -> Job {
    Job {
        grammar: Some(Arc::new(Exactly(tokens.to_vec()))),
        ..job(prompt, max_tokens)
    }
}

#[tokio::test]
async fn a_guide_knows_what_is_left_and_what_it_cut_short_ends_by_its_length() {
    let setup = start_free();
    let job = Job {
        grammar: Some(Arc::new(CountsDown { left: 0 })),
        ..job(0..20, 6)
    };
    let counted = said(setup.engine.begin(job)).await;
    assert_eq!(counted, (vec![6, 5, 4, 3, 2], end(Finish::Length, false)));
}

#[tokio::test]
async fn only_what_is_allowed_is_said_and_others_in_the_batch_are_left_alone() {
    let setup = start_free();
    let within = setup.engine.begin(job_within(&[7, 3, 900, 5], 0..20, 100));
    let free = setup.engine.begin(job(0..20, 50));
    let cut = setup.engine.begin(job_within(&[1, 2, 3], 0..5, 2));
    let (within, free, cut) = tokio::join!(said(within), said(free), said(cut));
    assert_eq!(within, (vec![7, 3, 900, 5], end(Finish::Stop, false)));
    assert_eq!(free, ((20..70).collect(), end(Finish::Length, false)));
    assert_eq!(cut, (vec![1, 2], end(Finish::Length, false)));
    // An end token ends within a grammar too.
    let (tokens, ended) = said(setup.engine.begin(job_within(&[4, 600, 8], 0..3, 9))).await;
    assert_eq!((tokens, ended), (vec![4], end(Finish::Stop, true)));
}

#[tokio::test]
async fn an_answer_without_a_way_on_fails_alone() {
    let setup = start_free();
    let stuck = setup.engine.begin(job_within(&[], 0..20, 100));
    let free = setup.engine.begin(job(0..20, 5));
    let (stuck, free) = tokio::join!(said(stuck), said(free));
    assert!(
        matches!(&stuck.1, Some(Said::Failed(EngineError::Guide(_)))),
        "{stuck:?}"
    );
    assert_eq!(free.0.len(), 5);
    assert_eq!(setup.engine.counted().running, 0);
}

#[tokio::test]
async fn sequences_put_back_for_lack_of_room_lose_nothing() {
    // Two sequences start with a block each, and both cannot grow to their ends.
    let setup = start(settings(1600), None, None);
    let sequences = [0u32, 1, 2].map(|n| {
        let within: Vec<u32> = (n + 100..n + 600).collect();
        said(setup.engine.begin(match n {
            0 => job(n..n + 100, 350),
            _ => job_within(&within, n..n + 100, 350),
        }))
    });
    // Read side by side, so that none is paused.
    let told = futures_util::future::join_all(sequences).await;
    for (n, (tokens, ended)) in (0u32..).zip(told) {
        assert_eq!(tokens, (n + 100..n + 450).collect::<Vec<_>>());
        assert_eq!(ended, end(Finish::Length, false));
    }
    let counted = setup.engine.counted();
    assert!(
        counted.read > 300,
        "somebody was read in again: {counted:?}"
    );
    assert_eq!(
        (counted.running, counted.waiting, counted.reserved),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_slow_reader_pauses_its_own_sequence_alone() {
    let setup = start(settings(4000), None, None);
    let slow = setup.engine.begin(job(0..1, 400));
    let (tokens, _) = said(setup.engine.begin(job(0..1, 400))).await;
    assert_eq!(tokens.len(), 400);
    // Nobody has read the slow one: it has filled its way and stopped there.
    assert!(setup.engine.counted().made < 400 + 100);
    assert_eq!(setup.engine.counted().running, 1);
    let (tokens, ended) = said(slow).await;
    assert_eq!(tokens, (1..401).collect::<Vec<_>>());
    assert_eq!(ended, end(Finish::Length, false));
}

#[test]
fn a_dropped_sequence_is_gone_before_the_next_step() {
    let (open, gate) = mpsc::channel();
    let setup = start(settings(2000), Some(gate), None);
    let sequence = setup.engine.begin(job(0..100, 100));
    let other = setup.engine.begin(job(0..1, 100));
    // The thread stands before its first call, a chunk of the first prompt.
    drop(sequence);
    for _ in 0..3 {
        open.send(()).expect("the thread lives");
    }
    drop(open);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let (tokens, _) = runtime.block_on(said(other));
    assert_eq!(tokens.len(), 100);
    let calls = setup.calls.lock().expect("calls");
    let chunks = calls.iter().filter(|call| *call == "prefill 8").count();
    assert!(chunks <= 1, "one chunk at most after the cancel: {calls:?}");
}

/// Waits until the network has been called so often.
fn wait_for(setup: &Setup, calls: usize) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while setup.calls.lock().expect("calls").len() < calls {
        assert!(std::time::Instant::now() < deadline, "it does not read");
        std::thread::yield_now();
    }
}

/// How many tokens of a sequence did not have to be read.
async fn cached(sequence: &mut Sequence) -> u64 {
    match sequence.next().await {
        Some(Said::Began { cached }) => cached,
        other => panic!("it says {other:?} first"),
    }
}

#[tokio::test]
async fn e175_what_is_read_for_anybody_is_gone_on_from_by_everybody_and_nothing_else_is() {
    let setup = start(settings(2000), None, None);
    let begin = |owner: u128, prompt| setup.engine.begin(job_of(owner, prompt, 1));
    let anybody = || begin(Owner::ANYBODY.0, 0..100);
    said(anybody()).await;
    for owner in [1, 2] {
        let mut first = begin(owner, 0..130);
        assert_eq!(cached(&mut first).await, 100, "of {owner}");
        assert_eq!(said(first).await.0, [130]);
    }
    // What one of them has added is that one's alone, and goes first if it is more.
    let mut own = begin(1, 0..140);
    assert_eq!(cached(&mut own).await, 130);
    assert_eq!(said(own).await.0, [140]);
    let mut third = begin(3, 0..140);
    assert_eq!(cached(&mut third).await, 100);
    drop(third);
    assert_eq!(cached(&mut anybody()).await, 99, "nobody adds to it");
    let mut nobody = setup.engine.begin(job(0..130, 1));
    assert_eq!(
        cached(&mut nobody).await,
        0,
        "who keeps nothing goes on from nothing"
    );
    // It was read without an adapter.
    let adapter = Chosen {
        mark: 1,
        dir: "/a".into(),
    };
    let mut adapted = setup.engine.begin(Job {
        adapter: Some(adapter),
        ..job_of(4, 0..130, 1)
    });
    assert_eq!(cached(&mut adapted).await, 0);
}

#[tokio::test]
async fn e170_a_second_turn_reads_only_what_is_new() {
    let setup = start(settings(2000), None, None);
    let (answer, _) = said(setup.engine.begin(job_of(1, 0..100, 20))).await;
    assert_eq!(answer, (100..120).collect::<Vec<_>>());
    setup.calls.lock().expect("calls").clear();
    // All but the last token it made is there: that one was never taken in.
    let mut second = setup.engine.begin(job_of(1, 0..125, 5));
    assert_eq!(cached(&mut second).await, 119);
    assert_eq!(said(second).await.0, (125..130).collect::<Vec<_>>());
    let calls = setup.calls.lock().expect("calls").clone();
    assert_eq!(calls[0], "prefill 6");
    // The same once more: a token has to be read.
    let mut again = setup.engine.begin(job_of(1, 0..100, 20));
    assert_eq!(cached(&mut again).await, 99);
    assert_eq!(said(again).await.0, answer);
    let counted = setup.engine.counted();
    assert_eq!((counted.kept.asked, counted.kept.hits), (3, 2));
    assert_eq!((counted.read, counted.kept.saved), (100 + 6 + 1, 119 + 99));
}

#[tokio::test]
async fn e170_nobody_goes_on_from_the_prompt_of_another_caller() {
    let setup = start(settings(2000), None, None);
    said(setup.engine.begin(job_of(1, 0..100, 5))).await;
    said(setup.engine.begin(job(0..100, 5))).await;
    let mut other = setup.engine.begin(job_of(2, 0..100, 5));
    assert_eq!(cached(&mut other).await, 0);
    said(other).await;
    let mut nobody = setup.engine.begin(job(0..100, 5));
    assert_eq!(cached(&mut nobody).await, 0);
    said(nobody).await;
    let mut first = setup.engine.begin(job_of(1, 0..100, 5));
    assert_eq!(cached(&mut first).await, 99);
    setup.engine.forget();
    let mut gone = setup.engine.begin(job_of(2, 0..100, 5));
    assert_eq!(cached(&mut gone).await, 0);
}

#[test]
fn what_was_read_before_a_cancel_is_gone_on_from() {
    let (open, gate) = mpsc::channel();
    let setup = start(settings(2000), Some(gate), None);
    let sequence = setup.engine.begin(job_of(1, 0..100, 100));
    for _ in 0..3 {
        open.send(()).expect("the thread lives");
    }
    // Three chunks of eight have been asked for when the third has passed the gate.
    wait_for(&setup, 3);
    drop(sequence);
    drop(open);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut again = setup.engine.begin(job_of(1, 0..100, 100));
    let held = runtime.block_on(cached(&mut again));
    assert!((24..=32).contains(&held), "{held}");
    assert_eq!(runtime.block_on(said(again)).0.len(), 100);
}

#[tokio::test]
async fn what_is_kept_gives_way_to_sequences() {
    // Room for 300 tokens.
    let setup = start(settings(600), None, None);
    for begin in [0u32, 200, 400] {
        said(setup.engine.begin(job_of(1, begin..begin + 90, 5))).await;
    }
    let mut large = setup.engine.begin(job_of(1, 0..280, 20));
    // What it goes on from has its place now.
    assert!(cached(&mut large).await <= 94);
    let (tokens, _) = said(large).await;
    assert_eq!(tokens, (280..300).collect::<Vec<_>>());
    assert!(setup.engine.counted().kept.bytes <= 600);
    // It had all of the room, so nothing of the others is left.
    for begin in [200, 400] {
        let mut gone = setup.engine.begin(job_of(1, begin..begin + 90, 5));
        assert_eq!(cached(&mut gone).await, 0);
        said(gone).await;
    }
}

#[tokio::test]
async fn what_can_never_fit_fails_alone() {
    let setup = start(settings(200), None, None);
    let (_, ended) = said(setup.engine.begin(job(0..90, 20))).await;
    assert!(matches!(
        ended,
        Some(Said::Failed(EngineError::Unsupported(_)))
    ));
    let (tokens, _) = said(setup.engine.begin(job(0..90, 10))).await;
    assert_eq!(tokens.len(), 10);
    // Nothing to begin with, and a token that there is none of.
    for prompt in [0..0, VOCABULARY - 1..VOCABULARY + 1] {
        let (_, ended) = said(setup.engine.begin(job(prompt, 10))).await;
        assert!(matches!(ended, Some(Said::Failed(_))));
    }
}

#[tokio::test]
async fn a_failing_device_fails_the_sequences_of_the_step_and_no_more() {
    let setup = start(settings(2000), None, Some(30));
    let (tokens, ended) = said(setup.engine.begin(job(20..25, 100))).await;
    assert_eq!(tokens, (25..31).collect::<Vec<_>>());
    let broken = EngineError::Device("broken".to_owned());
    assert_eq!(ended, Some(Said::Failed(broken)));
    let (tokens, _) = said(setup.engine.begin(job(50..55, 10))).await;
    assert_eq!(tokens.len(), 10);
}

#[tokio::test]
async fn the_end_of_the_thread_is_heard_by_all() {
    let setup = start(settings(2000), None, None);
    // A gap in the prompt makes this network panic.
    let mut broken = job(0..3, 5);
    broken.prompt = vec![1, 5];
    let (_, ended) = said(setup.engine.begin(broken)).await;
    assert_eq!(ended, None);
    let heard = tokio::time::timeout(Duration::from_secs(20), setup.ended).await;
    assert!(heard.is_ok(), "the end was not heard");
    assert_eq!(said(setup.engine.begin(job(0..3, 5))).await, (vec![], None));
}

#[test]
fn a_network_that_cannot_be_built_is_told() {
    let refused = EngineError::Unsupported("no".to_owned());
    let build = || Err::<(Counting, Draft<Counting>), _>(EngineError::Unsupported("no".to_owned()));
    assert_eq!(Engine::start(settings(1), None, build).err(), Some(refused));
    let build = || -> Result<(Counting, Draft<Counting>), _> { panic!("while loading") };
    assert!(matches!(
        Engine::start(settings(1), None, build),
        Err(EngineError::Device(_))
    ));
}

mod disk;
mod guesses;
mod whole;
