//! From constraints to grammars, by llguidance. Grammars come from strangers: they are
//! compiled on threads of their own with room on the stack, within limits of work, and a
//! request waits for one only so long. What has been compiled is kept, within bounds.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use lru::LruCache;
use serde_json::{Value, json};

use super::closing::Closing;
use super::hints::Hints;
use super::strokes::Strokes;
use super::vocabulary::Vocabulary;
use super::way::Scout;
use super::{Constraint, ConstraintError};
use crate::engine::guide::{Allowed, Grammar, Guide, GuideError};
use crate::engine::tokenizer::Tokenizer;

/// Most grammars that are kept, and the most bytes of their sources together. A compiled
/// one has some hundred kilobytes, of which most are shared by all.
const MOST_KEPT: usize = 64;
const MOST_KEPT_BYTES: usize = 2 << 20;

/// How long a request waits for its grammar. The greatest that are allowed take a
/// fraction of a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most grammars that are compiled at once, those among them that nobody waits for any more.
const MOST_AT_ONCE: usize = 4;

/// Room for recursion over a grammar, bytes: the deepest one that is allowed takes a part.
const STACK: usize = 64 << 20;

/// What stands between two parts of JSON where the grammar leaves it open: nothing, a
/// space, or a new line with what it is indented by. Without an end to it, a small model
/// goes on with spaces until it has no tokens left.
const BETWEEN: &str = "(?: |\\n[ \\t]{0,40})";

/// Texts whose tokens are looked up together and not one by one where all of them may come: words,
/// which are most tokens that a regular expression's class of letters allows. Longer ones could
/// not come together any more where a text nears its greatest length. The library knows those of
/// JSON's strings. Each of them takes some megabytes.
const TOGETHER: [&str; 2] = ["[a-z ]{1,16}", "[a-zA-Z ]{1,16}"];

/// Longest line of the library's words that a refusal repeats, characters.
const SHOWN: usize = 200;

/// Compiles grammars for one model.
pub struct Compiler {
    shared: Arc<Shared>,
    kept: Mutex<Kept>,
    at_once: Arc<AtomicUsize>,
}

struct Shared {
    tokenizer: Arc<Tokenizer>,
    /// Made for the first grammar: it takes time that most workers never need.
    factory: OnceLock<Result<ParserFactory, ConstraintError>>,
    strokes: OnceLock<Arc<Strokes>>,
}

/// What has been compiled, and the bytes of its sources.
struct Kept {
    grammars: LruCache<String, Arc<Compiled>>,
    bytes: usize,
}

/// A grammar, at its beginning.
struct Compiled {
    matcher: Mutex<Matcher>,
    /// What brings a document to its end; nothing for what is no JSON.
    closing: Option<Closing>,
}

/// An answer within a grammar.
struct Following {
    matcher: Matcher,
    closing: Option<Closing>,
}

impl Compiler {
    /// A compiler for the tokens of `tokenizer`.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let shared = Shared {
            tokenizer,
            factory: OnceLock::new(),
            strokes: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
            kept: Mutex::new(Kept {
                grammars: LruCache::unbounded(),
                bytes: 0,
            }),
            at_once: Arc::default(),
        }
    }

    /// The grammar of a constraint. Blocks, at most for [`PATIENCE`].
    ///
    /// # Errors
    /// What is wrong with it, or that there is no time or no room to compile it.
    pub fn compile(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, ConstraintError> {
        let source = source(constraint)?;
        let key = source.key();
        if let Some(kept) = self.kept().grammars.get(&key) {
            return Ok(Arc::clone(kept) as Arc<dyn Grammar>);
        }
        let compiled = Arc::new(self.compile_anew(source)?);
        self.kept().keep(key, Arc::clone(&compiled));
        Ok(compiled)
    }

    fn compile_anew(&self, source: Source) -> Result<Compiled, ConstraintError> {
        let place = Place::take(&self.at_once).ok_or(ConstraintError::Busy)?;
        let shared = Arc::clone(&self.shared);
        let (done, result) = mpsc::sync_channel(1);
        let work = move || {
            let compiled = shared.compile(source);
            // Free before the one who waits goes on, who may want it again at once.
            drop(place);
            drop(done.send(compiled));
        };
        std::thread::Builder::new()
            .name("grammar".to_owned())
            .stack_size(STACK)
            .spawn(work)
            .map_err(|error| {
                tracing::error!(?error, "a grammar could not be compiled");
                ConstraintError::Failed
            })?;
        match result.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(ConstraintError::Refused(format!(
                "it takes more than {} seconds to compile",
                PATIENCE.as_secs()
            ))),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ConstraintError::Failed),
        }
    }

    /// What is kept is a cache: no panic can leave it such that it does harm.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn keep(&mut self, key: String, compiled: Arc<Compiled>) {
        self.bytes += key.len();
        if let Some((before, _)) = self.grammars.push(key, compiled) {
            self.bytes -= before.len();
        }
        while self.grammars.len() > MOST_KEPT || self.bytes > MOST_KEPT_BYTES {
            let Some((oldest, _)) = self.grammars.pop_lru() else {
                return;
            };
            self.bytes -= oldest.len();
        }
    }
}

/// One of the places for grammars that are being compiled.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let place = Self(Arc::clone(taken));
        (before < MOST_AT_ONCE).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn compile(&self, source: Source) -> Result<Compiled, ConstraintError> {
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer));
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let closing = match &source {
            Source::Schema(schema) => {
                let strokes = || Arc::new(Strokes::of(&self.tokenizer));
                let strokes = Arc::clone(self.strokes.get_or_init(strokes));
                Some(Closing::new(strokes, Arc::new(Hints::of(schema))))
            }
            Source::Lark(_) => None,
        };
        let grammar = match source {
            Source::Schema(schema) => TopLevelGrammar::from_json_schema(schema),
            Source::Lark(grammar) => TopLevelGrammar::from_lark(grammar),
        };
        let mut matcher = Matcher::new(factory.create_parser(grammar));
        // Whether there is anything to begin with; and what is found out for it is known
        // to all answers.
        matcher
            .compute_mask()
            .map_err(|error| refused(&error.to_string()))?;
        let closing = closing.map(|closing| {
            let scout = Scout::new(matcher.deep_clone(), closing.clone());
            let text = scout.longest_text().unwrap_or(0);
            closing.with(scout.find_end(), text)
        });
        Ok(Compiled {
            matcher: Mutex::new(matcher),
            closing,
        })
    }
}

fn factory(tokenizer: &Arc<Tokenizer>) -> Result<ParserFactory, ConstraintError> {
    let vocabulary: TokEnv = Arc::new(Vocabulary::of(Arc::clone(tokenizer))?);
    let mut together = SlicedBiasComputer::general_slices();
    together.extend(TOGETHER.map(str::to_owned));
    let factory = ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &together);
    let mut factory = factory.map_err(|error| ConstraintError::Unsupported(error.to_string()))?;
    *factory.limits_mut() = ParserLimits {
        // 1 to 2 kB each, for each answer.
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        // The state holds what the answer says, and errors go to the log.
        verbose_errors: false,
        ..ParserLimits::default()
    };
    factory.quiet();
    Ok(factory)
}

/// A constraint in one of the forms that the library reads.
enum Source {
    Schema(Value),
    Lark(String),
}

impl Source {
    /// What it is kept by.
    fn key(&self) -> String {
        match self {
            Self::Schema(schema) => schema.to_string(),
            // No JSON begins so.
            Self::Lark(grammar) => format!("lark {grammar}"),
        }
    }
}

fn source(constraint: &Constraint) -> Result<Source, ConstraintError> {
    let refused = |reason: &str| Err(ConstraintError::Refused(reason.to_owned()));
    Ok(match constraint {
        Constraint::Object => Source::Schema(with_options(json!({"type": "object"}), true)),
        Constraint::Schema { schema, strict } => match schema {
            Value::Object(_) => Source::Schema(with_options(schema.clone(), *strict)),
            Value::Bool(true) => Source::Schema(with_options(json!({}), *strict)),
            _ => return refused("nothing fits this schema"),
        },
        Constraint::Pattern(pattern) => {
            // It always has to match the whole.
            let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
            let ends = pattern.ends_with('$') && !pattern.ends_with("\\$");
            let pattern = &pattern[..pattern.len() - usize::from(ends)];
            let pattern = llguidance::regex_to_lark(pattern, "");
            Source::Lark(format!("start: /(?:{pattern})/"))
        }
        Constraint::Choice(choices) => {
            // A string of Lark is one of JSON.
            let choices: Vec<String> = choices.iter().map(|text| json!(text).to_string()).collect();
            Source::Lark(format!("start: {}", choices.join(" | ")))
        }
        Constraint::Grammar(grammar) => Source::Lark(grammar.clone()),
    })
}

/// The schema with what we ask of the library. A caller's own wishes in this place are
/// no JSON Schema and have no effect.
fn with_options(mut schema: Value, strict: bool) -> Value {
    let options = JsonCompileOptions {
        whitespace_pattern: Some(BETWEEN.to_owned()),
        lenient: !strict,
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    schema
}

/// The library's words as a refusal may repeat them: the first line, and of a regular
/// expression what is wrong with it, shortened.
fn refused(said: &str) -> ConstraintError {
    if said.starts_with("panic") {
        tracing::error!(said, "the compiler of grammars panicked");
        return ConstraintError::Failed;
    }
    let first = said.lines().next().unwrap_or_default();
    let cause = said.lines().find(|line| line.starts_with("error: "));
    let reason: Vec<String> = [Some(first), cause]
        .into_iter()
        .flatten()
        .map(|line| match line.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line.trim_end_matches(':').to_owned(),
        })
        .collect();
    ConstraintError::Refused(reason.join(": "))
}

impl fmt::Debug for Compiled {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("Compiled")
    }
}

impl Grammar for Compiled {
    fn begin(&self) -> Box<dyn Guide> {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        // A deep one, so that what one answer costs is gone with it.
        Box::new(Following {
            matcher: matcher.deep_clone(),
            closing: self.closing.clone(),
        })
    }
}

impl Guide for Following {
    fn allowed(&mut self, left: u32) -> Result<Allowed, GuideError> {
        let mask = self.matcher.compute_mask().map_err(in_answer)?;
        let allowed = Allowed::of_bits(mask.as_slice().to_vec());
        let Some(closing) = &mut self.closing else {
            return Ok(allowed);
        };
        if closing.is_to_look(left) {
            let scout = Scout::new(self.matcher.deep_clone(), closing.clone());
            closing.looked(scout.find_end(), left);
        }
        Ok(closing.narrow(allowed, left, |closing, allowed| {
            Scout::new(self.matcher.deep_clone(), closing.clone()).onward(allowed)
        }))
    }

    fn take(&mut self, token: u32) -> Result<bool, GuideError> {
        self.matcher.consume_token(token).map_err(in_answer)?;
        if let Some(closing) = &mut self.closing {
            closing.take(token);
        }
        Ok(self.matcher.is_stopped())
    }

    fn is_cut_short(&self) -> bool {
        self.closing.as_ref().is_some_and(Closing::has_cut)
    }
}

fn in_answer(error: impl fmt::Display) -> GuideError {
    let said = error.to_string();
    GuideError(said.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
