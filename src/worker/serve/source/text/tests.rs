//! The text engine with a network that counts and a language of single bytes.

use std::num::NonZeroU32;
use std::sync::mpsc;

use serde_json::json;

use super::*;
use crate::api::fields::Endpoint;
use crate::engine::guide::{Allowed, Guide, GuideError};
use crate::engine::parts::Part;
use crate::engine::speculation::Draft;
use crate::engine::thread::Settings;
use crate::engine::{EngineError, Finish, LoadTimes, Network, Reading};
use crate::worker::serve::body::Event;
use crate::worker::serve::request::read;

/// Says, after a byte, the next higher one.
struct NextByte {
    /// Lets one step through for each message; nothing lets all through.
    gate: Option<mpsc::Receiver<()>>,
}

impl NextByte {
    fn pass(&self) {
        if let Some(gate) = &self.gate {
            // Without a keeper the gate stands open.
            let _ = gate.recv();
        }
    }
}

impl Network for NextByte {
    type Cache = Vec<u32>;
    type Piece = Vec<u32>;

    fn vocabulary(&self) -> usize {
        300
    }

    fn new_cache(&self) -> Vec<u32> {
        Vec::new()
    }

    fn prefill_batch(
        &mut self,
        batch: &mut [Reading<'_, Vec<u32>>],
    ) -> Result<Vec<Option<Vec<f32>>>, EngineError> {
        self.pass();
        let read = |reading: &mut Reading<'_, Vec<u32>>| {
            reading.cache.extend(reading.tokens);
            reading.want_logits.then(|| after(reading.cache))
        };
        Ok(batch.iter_mut().map(read).collect())
    }

    fn decode(
        &mut self,
        batch: &mut [(&mut Vec<u32>, &[u32])],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.pass();
        let mut rows = Vec::new();
        for (cache, tokens) in batch {
            for token in *tokens {
                cache.push(*token);
                rows.push(after(cache));
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
        let mut rest = cache.into_iter().skip(from);
        let piece = |length: &usize| rest.by_ref().take(*length).collect();
        Ok(lengths.iter().map(piece).collect())
    }

    fn evaluate_cache(&mut self, pieces: Vec<(Vec<u32>, usize)>) -> Result<Vec<u32>, EngineError> {
        let parts = pieces.iter().map(|(piece, count)| &piece[..*count]);
        Ok(parts.flatten().copied().collect())
    }

    fn bytes_held(&self) -> u64 {
        77
    }

    fn kv_bytes_per_token(&self) -> u64 {
        10
    }

    fn device(&self) -> (&'static str, &'static str) {
        ("cpu", "float32")
    }

    fn load_times(&self) -> LoadTimes {
        LoadTimes::default()
    }
}

fn after(cache: &[u32]) -> Vec<f32> {
    let mut logits = vec![0.0; 300];
    let next = cache.last().map_or(0, |last| (last + 1) % 300);
    logits[next as usize] = 20.0;
    logits
}

/// A token is a byte; `z` ends; a chat is its messages one after the other.
struct Bytes;

/// A grammar of one text.
#[derive(Debug)]
struct Spelt(String);

/// What is left of the text.
struct Spelling(std::collections::VecDeque<u8>);

impl Grammar for Spelt {
    fn begin(&self) -> Box<dyn Guide> {
        Box::new(Spelling(self.0.bytes().collect()))
    }
}

impl Guide for Spelling {
    fn allowed(&mut self, _: u32) -> Result<Allowed, GuideError> {
        Ok(self
            .0
            .front()
            .map(|byte| u32::from(*byte))
            .into_iter()
            .collect())
    }

    fn take(&mut self, token: u32) -> Result<bool, GuideError> {
        match self.0.pop_front().map(u32::from) == Some(token) {
            true => Ok(self.0.is_empty()),
            false => Err(GuideError("spelt wrongly".to_owned())),
        }
    }

    fn is_cut_short(&self) -> bool {
        false
    }
}

/// Holds nothing back.
struct AsItComes;

impl Language for Bytes {
    fn render(&self, chat: &Chat) -> Result<String, LanguageError> {
        let text = |message: &serde_json::Value| match message["content"].as_str() {
            Some("refuse me") => Err(LanguageError::Refused("the template says no".to_owned())),
            Some("break") => Err(LanguageError::Broken("inner words".to_owned())),
            Some("bare") => Err(LanguageError::NoTemplate),
            Some("panic") => panic!("in the template"),
            content => Ok(content.unwrap_or_default().to_owned()),
        };
        chat.messages.iter().map(text).collect()
    }

    fn encode(&self, text: &str, _whole: bool) -> Result<Vec<u32>, LanguageError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, LanguageError> {
        let bytes = tokens.iter().filter_map(|token| u8::try_from(*token).ok());
        Ok(bytes.map(char::from).collect())
    }

    fn end_tokens(&self) -> &[u32] {
        &[b'z' as u32]
    }

    fn told(&self, token: u32) -> (String, Vec<u8>) {
        let byte = u8::try_from(token).unwrap_or(b'?');
        (char::from(byte).to_string(), vec![byte])
    }

    fn grammar(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, ConstraintError> {
        match constraint {
            Constraint::Choice(choices) => Ok(Arc::new(Spelt(choices[0].clone()))),
            _ => Err(ConstraintError::Refused("not in this language".to_owned())),
        }
    }

    fn format(&self) -> Format {
        Format::of(["<tool_call></think>"])
    }

    fn growing(&self, _marks: &[&str]) -> Box<dyn Growing> {
        Box::new(AsItComes)
    }
}

impl Growing for AsItComes {
    fn push(&mut self, token: u32) -> String {
        char::from(u8::try_from(token).unwrap_or(b'?')).to_string()
    }

    fn finish(&mut self) -> String {
        String::new()
    }
}

fn source() -> Source {
    source_behind(None)
}

/// A source whose network makes a step for each message of `gate`; nothing means as
/// fast as it can.
pub fn source_behind(gate: Option<mpsc::Receiver<()>>) -> Source {
    let settings = Settings {
        parallel: NonZeroU32::new(4).expect("not 0"),
        context: 100,
        kv: 800,
        chunk: NonZeroU32::new(16).expect("not 0"),
    };
    let (engine, _ended) = Engine::start(settings, None, move || {
        Ok((NextByte { gate }, Draft::Nothing))
    })
    .expect("built");
    let defaults = Defaults {
        temperature: Some(0.0),
        ..Defaults::default()
    };
    Source::new(engine, Arc::new(Bytes), defaults, 100)
}

fn asked(prompt: &str, more: serde_json::Value) -> Asked {
    let mut body = json!({"messages": [{"role": "user", "content": prompt}]});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    read(Endpoint::Chat, body.to_string().as_bytes()).expect("accepted")
}

/// The texts of the choices, their ends, the tokens told and counted.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    text: Vec<String>,
    parts: Vec<Part>,
    finish: Vec<Option<Finish>>,
    tokens: Vec<String>,
    count: u64,
    cached: u64,
}

async fn hear(begun: Begun) -> Heard {
    let mut heard = Heard {
        text: vec![String::new(); begun.choices],
        finish: vec![None; begun.choices],
        ..Heard::default()
    };
    let mut events = begun.events;
    while let Some(event) = events.next().await {
        match event {
            Event::Text {
                choice,
                text,
                tokens,
                count,
            } => {
                assert_eq!(heard.finish[choice], None, "text after the end");
                heard.text[choice].push_str(&text);
                heard
                    .tokens
                    .extend(tokens.into_iter().map(|token| token.text));
                heard.count += count;
            }
            Event::Part { part, .. } => heard.parts.push(part),
            Event::End {
                choice,
                finish,
                count,
                cached,
                guesses: _,
            } => {
                heard.cached += cached;
                heard.finish[choice] = Some(finish);
                heard.count += count;
            }
            other => panic!("{other:?}"),
        }
    }
    heard
}

#[track_caller]
fn check(prompt: &str, more: serde_json::Value, text: &str, finish: Finish, count: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let heard = runtime.block_on(async {
        let begun = source().begin(asked(prompt, more)).await.expect("begun");
        hear(begun).await
    });
    assert_eq!(
        (heard.text[0].as_str(), heard.finish[0]),
        (text, Some(finish))
    );
    assert_eq!(heard.count, count);
}

#[test]
fn answers_end_where_they_should() {
    check("abc", json!({"max_tokens": 3}), "def", Finish::Length, 3);
    // The end token is counted and not told.
    check("uv", json!({}), "wxy", Finish::Stop, 4);
    check(
        "uv",
        json!({"ignore_eos": true, "max_tokens": 6}),
        "wxyz{|",
        Finish::Length,
        6,
    );
    check("abc", json!({"stop": "gh"}), "def", Finish::Stop, 5);
    check("abc", json!({"stop": ["d"]}), "", Finish::Stop, 1);
    // Held back as the beginning of a stop string, and no stop string in the end.
    check(
        "abc",
        json!({"stop": "efZ", "max_tokens": 3}),
        "def",
        Finish::Length,
        3,
    );
}

#[tokio::test]
async fn choices_and_prompts_are_answered_side_by_side() {
    let body = json!({"prompt": ["ab", "xx", [99, 100]], "n": 2, "max_tokens": 1});
    let asked = read(Endpoint::Completions, body.to_string().as_bytes()).expect("accepted");
    let begun = source().begin(asked).await.expect("begun");
    assert_eq!((begun.choices, begun.prompt), (6, 6));
    let heard = hear(begun).await;
    assert_eq!(heard.text, ["c", "c", "y", "y", "e", "e"]);
}

#[tokio::test]
async fn log_probabilities_go_out_with_their_text() {
    let more = json!({"logprobs": true, "top_logprobs": 2, "stop": "gh", "temperature": 0});
    let begun = source().begin(asked("abc", more)).await.expect("begun");
    let heard = hear(begun).await;
    assert_eq!(heard.text, ["def"]);
    assert_eq!(heard.tokens, ["d", "e", "f"], "none of the stop string");
    let more = json!({"logprobs": true, "stop": "fZ", "max_tokens": 3});
    let heard = hear(source().begin(asked("abc", more)).await.expect("begun")).await;
    assert_eq!(heard.tokens, ["d", "e", "f"]);
}

#[tokio::test]
async fn a_grammar_holds_for_each_choice() {
    let more = json!({"guided_choice": ["hello"], "n": 2, "logprobs": true, "ignore_eos": true});
    let heard = hear(source().begin(asked("abc", more)).await.expect("begun")).await;
    assert_eq!(heard.text, ["hello", "hello"]);
    assert_eq!(heard.finish, [Some(Finish::Stop); 2]);
    assert_eq!((heard.tokens.len(), heard.count), (10, 10));
    let refused = source()
        .begin(asked("abc", json!({"guided_regex": "a"})))
        .await;
    let error = refused.err().expect("refused");
    assert_eq!(error.code, Code::InvalidValue);
    assert_eq!(error.param.as_deref(), Some("guided_regex"));
    assert_eq!(error.message, "guided_regex: not in this language");
}

/// What an answer of this text comes to.
async fn hear_text(text: &str, more: serde_json::Value) -> Heard {
    let mut more = more;
    more["guided_choice"] = json!([text]);
    let begun = source().begin(asked("abc", more)).await.expect("begun");
    hear(begun).await
}

/// The reasoning, and each call with its arguments.
fn joined(parts: &[Part]) -> (String, Vec<(String, String)>) {
    let (mut reasoning, mut calls) = (String::new(), Vec::new());
    for part in parts {
        match part {
            Part::Reasoning(text) => reasoning.push_str(text),
            Part::Call(name) => calls.push((name.clone(), String::new())),
            Part::Arguments(text) => {
                let (_, arguments) = calls.last_mut().expect("a call");
                *arguments += text;
            }
        }
    }
    (reasoning, calls)
}

#[tokio::test]
async fn reasoning_and_calls_are_apart_from_content() {
    const SAID: &str =
        "<think>hm</think>So <tool_call>{\"name\":\"f\",\"arguments\":{\"a\": 1}}</tool_call>";
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    let call = || vec![("f".to_owned(), "{\"a\": 1}".to_owned())];
    let heard = hear_text(SAID, tools.clone()).await;
    assert_eq!(heard.text, ["So"]);
    assert_eq!(joined(&heard.parts), ("hm".to_owned(), call()));
    // Each letter of the arguments is told when it comes.
    assert_eq!(heard.parts.len(), 2 + 1 + 8);
    assert_eq!(heard.finish, [Some(Finish::ToolCalls)]);
    assert_eq!(heard.count, SAID.len() as u64);
    // Without tools a call is text.
    let heard = hear_text(SAID, json!({"logprobs": true})).await;
    assert_eq!(heard.text[0], SAID["<think>hm</think>".len()..]);
    assert_eq!(heard.finish, [Some(Finish::Stop)]);
    assert_eq!(heard.tokens.concat(), SAID, "all of them, reasoning too");
    // Of two calls the first ends the answer, if one alone is wanted.
    let mut one = tools;
    one["parallel_tool_calls"] = json!(false);
    let heard = hear_text(&SAID.repeat(2), one).await;
    assert_eq!(joined(&heard.parts).1, call());
    assert_eq!(heard.finish, [Some(Finish::ToolCalls)]);
}

#[tokio::test]
async fn reasoning_that_the_prompt_has_opened_is_reasoning() {
    let source = source();
    let begun = source.begin(asked("<think>", json!({"max_tokens": 3})));
    let heard = hear(begun.await.expect("begun")).await;
    assert_eq!(heard.text, [""]);
    assert_eq!(joined(&heard.parts).0, "?@A");
    let body = json!({"prompt": "<think>", "max_tokens": 3});
    let asked = read(Endpoint::Completions, body.to_string().as_bytes()).expect("accepted");
    let heard = hear(source.begin(asked).await.expect("begun")).await;
    assert_eq!(heard.text, ["?@A"], "as it comes");
}

#[tokio::test]
async fn a_stop_string_cancels_the_sequence() {
    let source = source();
    let begun = source
        .begin(asked("!", json!({"stop": "%"})))
        .await
        .expect("begun");
    hear(begun).await;
    // Seventy more tokens would fit; a few are made before the cancel arrives.
    let gone = async {
        while source.status().sequences != (0, 0) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), gone).await;
    assert!(waited.is_ok(), "the sequence is still there");
}

#[tokio::test]
async fn a_dropped_answer_is_cancelled() {
    let source = source();
    for _ in 0..50 {
        let mut begun = source.begin(asked("!", json!({}))).await.expect("begun");
        let first = begun.events.next().await;
        assert!(matches!(first, Some(Event::Text { .. })), "{first:?}");
    }
    let gone = async {
        while source.status().sequences != (0, 0) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), gone).await;
    assert!(waited.is_ok(), "sequences are still there");
    assert_eq!(source.status().kv, (0, 800));
}

#[test]
fn refusals_name_what_is_wrong() {
    let check = |asked: Asked, code: Code, param: Option<&str>, words: &str| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let source = source();
        let error = match runtime.block_on(source.begin(asked)) {
            Ok(_) => panic!("begun"),
            Err(error) => error,
        };
        assert_eq!(
            (error.code, error.param.as_deref()),
            (code, param),
            "{}",
            error.message
        );
        assert!(error.message.contains(words), "{}", error.message);
    };
    let long = Code::ContextLengthExceeded;
    check(
        asked(&"a".repeat(100), json!({})),
        long,
        Some("messages"),
        "100",
    );
    // The context would do, the room for caches (80 tokens) does not.
    check(
        asked(&"a".repeat(90), json!({})),
        long,
        Some("messages"),
        "80",
    );
    check(
        asked(&"a".repeat(100_000), json!({})),
        long,
        Some("messages"),
        "391",
    );
    let invalid = Code::InvalidValue;
    check(
        asked("refuse me", json!({})),
        invalid,
        Some("messages"),
        "says no",
    );
    let bias = json!({"logit_bias": {"300": 1}});
    check(asked("a", bias), invalid, Some("logit_bias"), "300");
    check(asked("", json!({})), invalid, Some("messages"), "one token");
    check(
        asked("panic", json!({})),
        Code::InternalError,
        None,
        "prompt",
    );
    let body = json!({"prompt": ["a", [5, 300]]});
    let tokens = read(Endpoint::Completions, body.to_string().as_bytes()).expect("accepted");
    check(tokens, invalid, Some("prompt[1][1]"), "300");
}

#[tokio::test]
async fn bounds_are_told() {
    let begun = source()
        .begin(asked("abc", json!({"max_tokens": 500})))
        .await
        .expect("begun");
    assert_eq!(begun.limited, Some(77), "the room holds 80 tokens");
    let begun = source()
        .begin(asked("abc", json!({"max_tokens": 77})))
        .await
        .expect("begun");
    assert_eq!(begun.limited, None);
}

#[test]
fn wishes_come_before_the_snapshots_advice() {
    let wishes = Wishes {
        temperature: Some(0.5),
        seed: Some(7),
        ..Wishes::default()
    };
    let defaults = Defaults {
        temperature: Some(0.75),
        top_k: Some(20),
        ..Defaults::default()
    };
    let chosen = sampling(&wishes, &defaults, 2);
    let expected = Sampling {
        temperature: 0.5,
        top_k: 20,
        seed: Some(9),
        ..Sampling::default()
    };
    assert_eq!(chosen, expected);
    assert_eq!(
        sampling(&Wishes::default(), &Defaults::default(), 0),
        Sampling::default()
    );
}
