//! A trace: models with their sizes and rates, and who asks for them, when. Reads
//! the format of `docs/SIMULATE.md`; nothing of what was said is ever in it.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

use super::ModelIndex;
use super::fields::{FieldError, Fields};
use super::recorded::{self, Pace};
use crate::pool::Priority;
use crate::units::ByteSize;

/// The version of the format that is read.
const VERSION: u64 = 1;

/// The largest trace, bytes.
pub const LARGEST: u64 = 256 * 1024 * 1024;

/// The most requests of a run, repetitions counted.
const REQUESTS: u64 = 1_000_000;

/// The most models.
const MODELS: usize = 10_000;

/// The longest time, milliseconds: a year.
const LONGEST_MS: u64 = 366 * 24 * 3600 * 1000;

/// The most tokens of a prompt or an answer.
const TOKENS: u64 = 100_000_000;

/// What is played.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The budget it was made for.
    pub budget: Option<ByteSize>,
    /// The most models at once it was made for.
    pub max_models: Option<usize>,
    /// The models.
    pub models: Vec<Model>,
    /// Who asks.
    pub agents: Vec<Agent>,
    /// It is a request log: what models reserve is not in it.
    pub is_recorded: bool,
    /// Lines of a recording that tell of no use of a model.
    pub skipped: usize,
}

/// One model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// What it reserves; nothing where the trace does not say, as in recordings.
    pub memory: ByteSize,
    /// From the start of its worker until that is ready.
    pub load: Duration,
    /// From the order to end until its memory is free.
    pub unload: Duration,
    /// Tokens of a prompt in a second.
    pub prefill: f64,
    /// Tokens of an answer in a second.
    pub decode: f64,
    /// Sequences at once; more wait inside the worker.
    pub parallel: usize,
}

/// One who asks, each time some time after the former answer ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Whose requests these are.
    pub caller: String,
    /// The class of its requests.
    pub priority: Priority,
    /// When it begins.
    pub start: Duration,
    /// How often it goes through its steps.
    pub rounds: u64,
    /// What it asks, in order.
    pub steps: Vec<Step>,
}

/// One request of an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The model asked for.
    pub model: ModelIndex,
    /// Those that may answer in its place, as behind a background name.
    pub others: Vec<ModelIndex>,
    /// The time since the former answer ended.
    pub think: Duration,
    /// What the engine has to do.
    pub work: Work,
}

/// What an engine has to do for a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// So many tokens, at the model's rates.
    Tokens {
        /// Of the prompt.
        prompt: u64,
        /// Of the answer.
        output: u64,
    },
    /// It took so long when it was recorded.
    Time(Duration),
}

/// What is wrong with a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line is not a JSON object.
    #[error("line {line}: not a JSON object: {reason}")]
    NoObject {
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// A field is wrong.
    #[error("line {line}: {error}")]
    Field {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        error: FieldError,
    },
    /// Something else is wrong with a line.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Nobody asks for anything.
    #[error("the trace has no requests")]
    Empty,
    /// It is more than a run takes.
    #[error("the trace has more than {REQUESTS} requests, repetitions counted")]
    TooMany,
}

/// Reads a trace: the format of its own, or a request log as it was written.
/// `pace` is for the log alone.
pub fn parse(text: &str, pace: Pace) -> Result<Trace, TraceError> {
    let mut lines = numbered(text).peekable();
    let Some((line, first)) = lines.peek() else {
        return Err(TraceError::Empty);
    };
    let trace = match object(*line, first)?.contains_key("kind") {
        true => own(lines)?,
        false => recorded::parse(lines, pace)?,
    };
    let requests = |agent: &Agent| agent.rounds.saturating_mul(agent.steps.len() as u64);
    let sum = trace.agents.iter().map(requests);
    match sum.fold(0, u64::saturating_add) {
        0 => Err(TraceError::Empty),
        sum if sum > REQUESTS => Err(TraceError::TooMany),
        _ => Ok(trace),
    }
}

/// The lines that are not empty, counted from 1.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty())
}

/// One line as an object.
pub(super) fn object(
    line: usize,
    text: &str,
) -> Result<serde_json::Map<String, Value>, TraceError> {
    serde_json::from_str(text).map_err(|error| TraceError::NoObject {
        line,
        reason: error.to_string(),
    })
}

/// Reads the format of its own.
fn own<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Trace, TraceError> {
    let mut reader = Reader::default();
    for (line, text) in lines {
        let fields = Fields::new(object(line, text)?);
        reader.record(line, fields).map_err(|wrong| match wrong {
            Wrong::Field(error) => TraceError::Field { line, error },
            Wrong::Line(reason) => TraceError::Line { line, reason },
        })?;
    }
    Ok(reader.trace)
}

/// What is wrong with one line.
enum Wrong {
    Field(FieldError),
    Line(String),
}

impl From<FieldError> for Wrong {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    trace: Trace,
    models: HashMap<String, ModelIndex>,
    has_head: bool,
}

impl Reader {
    fn record(&mut self, line: usize, mut fields: Fields) -> Result<(), Wrong> {
        let kind = fields.text("kind")?;
        if !self.has_head && kind != "trace" {
            let first = "the first record has the kind \"trace\"";
            return Err(Wrong::Line(first.to_owned()));
        }
        match kind.as_str() {
            "trace" if self.has_head => Err(Wrong::Line(format!(
                "the kind \"trace\" stands in the first line, not in line {line}"
            ))),
            "trace" => self.head(fields),
            "model" => self.model(fields),
            "request" => self.request(fields),
            "agent" => self.agent(fields),
            other => Err(Wrong::Line(format!(
                "kind: expected trace, model, request or agent, found {:?}",
                other.chars().take(40).collect::<String>()
            ))),
        }
    }

    fn head(&mut self, mut fields: Fields) -> Result<(), Wrong> {
        match fields.number("version", u64::MAX)? {
            Some(VERSION) => {}
            Some(other) => {
                return Err(Wrong::Line(format!(
                    "version: this program reads {VERSION}, found {other}"
                )));
            }
            None => return Err(FieldError::Missing("version").into()),
        }
        self.trace.budget = fields.size("budget")?;
        let places = fields.number("max_models", MODELS as u64)?;
        self.trace.max_models = places.filter(|places| *places > 0).map(|n| n as usize);
        self.has_head = true;
        Ok(fields.end()?)
    }

    fn model(&mut self, mut fields: Fields) -> Result<(), Wrong> {
        let name = fields.text("name")?;
        if self.trace.models.len() == MODELS {
            return Err(Wrong::Line(format!("more than {MODELS} models")));
        }
        if self.models.contains_key(&name) {
            return Err(Wrong::Line(format!("the model {name:?} stands twice")));
        }
        let memory = fields.size("memory")?;
        let mut model = Model::new(name, memory.ok_or(FieldError::Missing("memory"))?);
        if let Some(load) = fields.number("load_ms", LONGEST_MS)? {
            model.load = Duration::from_millis(load);
        }
        if let Some(unload) = fields.number("unload_ms", LONGEST_MS)? {
            model.unload = Duration::from_millis(unload);
        }
        model.prefill = fields.rate("prefill_per_second")?.unwrap_or(model.prefill);
        model.decode = fields.rate("decode_per_second")?.unwrap_or(model.decode);
        if let Some(parallel) = fields.number("parallel", 100_000)? {
            model.parallel = parallel.max(1) as usize;
        }
        fields.end()?;
        self.models
            .insert(model.name.clone(), self.trace.models.len());
        self.trace.models.push(model);
        Ok(())
    }

    fn request(&mut self, mut fields: Fields) -> Result<(), Wrong> {
        let at = fields.number("at_ms", LONGEST_MS)?;
        let at = at.ok_or(FieldError::Missing("at_ms"))?;
        let caller = fields.text("caller")?;
        let priority = priority(&mut fields)?;
        let step = self.step(&mut fields)?;
        fields.end()?;
        self.trace.agents.push(Agent {
            caller,
            priority,
            start: Duration::from_millis(at),
            rounds: 1,
            steps: vec![step],
        });
        Ok(())
    }

    fn agent(&mut self, mut fields: Fields) -> Result<(), Wrong> {
        let caller = fields.text("caller")?;
        let priority = priority(&mut fields)?;
        let start = fields.number("start_ms", LONGEST_MS)?.unwrap_or(0);
        let rounds = fields.number("rounds", REQUESTS)?.unwrap_or(1);
        let mut steps = Vec::new();
        for mut fields in fields.objects("steps")? {
            let think = fields.number("think_ms", LONGEST_MS)?.unwrap_or(0);
            let times = fields.number("times", REQUESTS)?.unwrap_or(1);
            let step = Step {
                think: Duration::from_millis(think),
                ..self.step(&mut fields)?
            };
            fields.end()?;
            if steps.len() as u64 + times > REQUESTS {
                return Err(Wrong::Line(format!("more than {REQUESTS} steps")));
            }
            steps.extend((0..times).map(|_| step.clone()));
        }
        fields.end()?;
        self.trace.agents.push(Agent {
            caller,
            priority,
            start: Duration::from_millis(start),
            rounds,
            steps,
        });
        Ok(())
    }

    /// What requests and steps have in common.
    fn step(&self, fields: &mut Fields) -> Result<Step, Wrong> {
        let known = |field, name: &String| {
            let unknown = format!("{field}: no line before this one describes {name:?}");
            let model = self.models.get(name).copied();
            model.ok_or(Wrong::Line(unknown))
        };
        let model = known("model", &fields.text("model")?)?;
        let others = fields.texts("others")?;
        let others = others.iter().map(|name| known("others", name));
        let tokens = |fields: &mut Fields, name| {
            let tokens = fields.number(name, TOKENS)?;
            tokens.ok_or(FieldError::Missing(name))
        };
        Ok(Step {
            model,
            others: others.collect::<Result<_, _>>()?,
            think: Duration::ZERO,
            work: Work::Tokens {
                prompt: tokens(fields, "prompt_tokens")?,
                output: tokens(fields, "output_tokens")?,
            },
        })
    }
}

/// The class, `normal` if nothing is said.
fn priority(fields: &mut Fields) -> Result<Priority, FieldError> {
    let word = fields.word("priority", "high, normal or low")?;
    Ok(word.unwrap_or_default())
}

impl Model {
    /// A model of which nothing but its size is known: it loads at 2 GB a second
    /// after half a second, and has the rates of a mid-sized model on a laptop.
    pub fn new(name: String, memory: ByteSize) -> Self {
        let mapping = Duration::from_millis(memory.0 / 2_000_000);
        Self {
            name,
            memory,
            load: Duration::from_millis(500) + mapping,
            unload: Duration::from_millis(200),
            prefill: 500.0,
            decode: 30.0,
            parallel: 8,
        }
    }

    /// How long the engine works on a request.
    pub fn takes(&self, work: Work) -> Duration {
        match work {
            Work::Time(time) => time,
            Work::Tokens { prompt, output } => {
                Duration::from_secs_f64(prompt as f64 / self.prefill + output as f64 / self.decode)
            }
        }
    }
}

#[cfg(test)]
mod tests;
