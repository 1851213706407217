//! A snapshot as the embedded engine's language: its tokenizer, its chat template
//! and its generation settings.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::text::{Defaults, Growing, Language, LanguageError, Source};
use super::{ranks, vectors};
use crate::engine::constraint::compiler::Compiler;
use crate::engine::constraint::{Constraint, ConstraintError};
use crate::engine::detokenizer::Detokenizer;
use crate::engine::encoder::{Handle, Text};
use crate::engine::guide::Grammar;
use crate::engine::mlx;
use crate::engine::parts::format::Format;
use crate::engine::progress::Progress;
use crate::engine::speculation::Draft;
use crate::engine::stored::Place;
use crate::engine::stored::room::Quota;
use crate::engine::template::ChatTemplate;
use crate::engine::thread::{Ended, Engine, Settings};
use crate::engine::tokenizer::pairs::Pairs;
use crate::engine::tokenizer::{TextError, Tokenizer};
use crate::engine::{EngineError, LoadTimes, supported_architectures};
use crate::model::kind::Kind;
use crate::model::sentence::{Recipe, RecipeError, Scale, Verdict};
use crate::model::vocabulary;
use crate::worker::serve::request::Chat;
use crate::worker::serve::standby::Standby;
use crate::worker::{LoadPhases, WorkerArgs};

/// The file with what the snapshot says about choosing tokens.
const GENERATION: &str = "generation_config.json";

/// Tokens of a prompt that are read between two steps of the others.
const CHUNK: NonZeroU32 = NonZeroU32::new(256).expect("not 0");

/// The tokenizer and the template of a snapshot.
struct Snapshot {
    tokenizer: Arc<Tokenizer>,
    compiler: Compiler,
    template: Option<ChatTemplate>,
}

/// Loads the snapshot as what it is for: texts and device at once, weights as soon as it
/// may. Blocks.
///
/// # Errors
/// What is wrong with it.
pub fn load(
    args: &WorkerArgs,
    standby: &Standby,
    loading: impl Fn(Progress) + Send + 'static,
) -> Result<(super::Engine, Ended, LoadPhases), EngineError> {
    let dir = &args.model_dir;
    let made = Recipe::made(&|name| Some(dir.join(name)).filter(|path| path.is_file()));
    let model_type = mlx::model_type(dir)?;
    match Kind::of(&model_type, made, supported_architectures()) {
        Kind::Chat => load_text(args, standby, loading)
            .map(|(source, ended, phases)| (super::Engine::Text(source), ended, phases)),
        Kind::Embeddings => load_vectors(args, standby, loading)
            .map(|(source, ended, phases)| (super::Engine::Vectors(source), ended, phases)),
        Kind::Rerank => load_ranks(args, standby, loading)
            .map(|(source, ended, phases)| (super::Engine::Ranks(source), ended, phases)),
    }
}

/// Loads what makes vectors. Blocks.
fn load_vectors(
    args: &WorkerArgs,
    standby: &Standby,
    loading: impl Fn(Progress) + Send + 'static,
) -> Result<(vectors::Source, Ended, LoadPhases), EngineError> {
    let began = Instant::now();
    let recipe = recipe(args)?;
    let tokenizer = Tokenizer::load(&args.model_dir).map_err(in_snapshot)?;
    let text = began.elapsed();
    let (encoder, ended, phases) = load_encoder(args, recipe.clone(), text, standby, loading)?;
    let encode = move |text: &str| tokenizer.encode(text, true).map_err(in_request);
    let source = vectors::Source::new(encoder, Arc::new(encode), recipe, args.context);
    Ok((source, ended, phases))
}

/// Loads what judges documents. Blocks.
fn load_ranks(
    args: &WorkerArgs,
    standby: &Standby,
    loading: impl Fn(Progress) + Send + 'static,
) -> Result<(ranks::Source, Ended, LoadPhases), EngineError> {
    let began = Instant::now();
    let recipe = recipe(args)?;
    let scale = recipe.verdict.map_or(Scale::Share, Verdict::scale);
    let write = match recipe.verdict {
        Some(Verdict::Head(_)) => writes_pairs(args, &recipe)?,
        _ => writes_prompts(args, &recipe)?,
    };
    let text = began.elapsed();
    let (encoder, ended, phases) = load_encoder(args, recipe, text, standby, loading)?;
    let source = ranks::Source::new(encoder, write, scale, args.context);
    Ok((source, ended, phases))
}

/// Query and document go through the chat template as messages of these roles, as
/// sentence-transformers tells templates.
fn writes_prompts(args: &WorkerArgs, recipe: &Recipe) -> Result<Arc<ranks::Write>, EngineError> {
    let template = ChatTemplate::load(&args.model_dir).map_err(in_snapshot)?;
    let template = template.ok_or_else(|| {
        let message = "it judges documents and has no chat template";
        EngineError::Unsupported(message.to_owned())
    })?;
    let tokenizer = Tokenizer::load(&args.model_dir).map_err(in_snapshot)?;
    let system = recipe.prompt.clone();
    let write = move |query: &str, document: &str| {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let mut messages = vec![message("query", query), message("document", document)];
        if !system.is_empty() {
            messages.insert(0, message("system", &system));
        }
        let prompt = template.render(&Value::Array(messages), None, &Map::new(), true, false)?;
        tokenizer.encode(&prompt, false).map(Text::from)
    };
    Ok(Arc::new(move |query: &str, documents: &[String]| {
        let one = |(index, document): (usize, &String)| {
            write(query, document).map_err(|error| (index, in_request(error)))
        };
        documents.iter().enumerate().map(one).collect()
    }))
}

/// Query and document make a pair, cut to what the model was made for.
fn writes_pairs(args: &WorkerArgs, recipe: &Recipe) -> Result<Arc<ranks::Write>, EngineError> {
    let most = recipe
        .tokens
        .map_or(args.context, |most| most.min(args.context));
    let pairs = Pairs::load(&args.model_dir, most as usize).map_err(in_snapshot)?;
    let lower_case = recipe.lower_case;
    let read = move |text: &str| match lower_case {
        true => text.to_lowercase(),
        false => text.to_owned(),
    };
    Ok(Arc::new(move |query: &str, documents: &[String]| {
        let first = pairs.first(&read(query));
        let first = first.map_err(|error| (0, in_request(error)))?;
        let one = |(index, document): (usize, &String)| {
            let pair = pairs.with(&first, &read(document));
            let (tokens, first) = pair.map_err(|error| (index, in_request(error)))?;
            Ok(Text { tokens, first })
        };
        documents.iter().enumerate().map(one).collect()
    }))
}

/// What the snapshot says of what is made of its network.
fn recipe(args: &WorkerArgs) -> Result<Recipe, EngineError> {
    Recipe::of(&args.model_dir).map_err(|error| match error {
        RecipeError::Bad { file, problem } => EngineError::BadFile {
            file,
            reason: problem,
        },
        missing => EngineError::Unsupported(missing.to_string()),
    })
}

/// Loads an encoder on its thread; `text` is how long its tokenizer took. Blocks.
fn load_encoder(
    args: &WorkerArgs,
    recipe: Recipe,
    text: Duration,
    standby: &Standby,
    loading: impl Fn(Progress) + Send + 'static,
) -> Result<(Handle, Ended, LoadPhases), EngineError> {
    let dir = args.model_dir.clone();
    let load = mlx::Settings {
        context: Some(args.context),
        compute: args.compute,
        kv_format: args.kv_format,
        adapters: args.adapters,
    };
    let standby = standby.clone();
    let (encoder, ended) = Handle::start(move || {
        let prepared = mlx::Prepared::new(&load)?;
        standby.wait();
        mlx::encoder::load(prepared, &dir, &load, recipe, &loading)
    })?;
    let phases = phases(encoder.facts().load_times, text);
    Ok((encoder, ended, phases))
}

fn phases(times: LoadTimes, text: Duration) -> LoadPhases {
    let in_ms = |time: Duration| time.as_secs_f64() * 1e3;
    LoadPhases {
        device_ms: in_ms(times.device),
        map_ms: in_ms(times.map),
        evaluate_ms: in_ms(times.evaluate),
        text_ms: in_ms(text),
        ..LoadPhases::default()
    }
}

/// Loads a network that makes text: its texts here, its network on the engine's thread at the
/// same time, which tells how far it is. Blocks.
///
/// # Errors
/// What is wrong with it.
fn load_text(
    args: &WorkerArgs,
    standby: &Standby,
    loading: impl Fn(Progress) + Send + 'static,
) -> Result<(Source, Ended, LoadPhases), EngineError> {
    let dir = args.model_dir.clone();
    let load = mlx::Settings {
        context: Some(args.context),
        compute: args.compute,
        kv_format: args.kv_format,
        adapters: args.adapters,
    };
    let texts = {
        let (dir, standby) = (dir.clone(), standby.clone());
        std::thread::Builder::new()
            .name("tokenizer".to_owned())
            .spawn(move || {
                let began = Instant::now();
                let texts = (Snapshot::load(&dir)?, defaults(&dir)?);
                standby.is_prepared();
                Ok::<_, EngineError>((texts, began.elapsed()))
            })
            .map_err(|error| EngineError::Device(error.to_string()))?
    };
    let draft = draft(args)?;
    let standby = standby.clone();
    let network = Engine::start(settings(args), place(args)?, move || {
        let prepared = mlx::Prepared::new(&load)?;
        standby.wait();
        let network = prepared.load(&dir, &load, &loading)?;
        let draft = match draft {
            Draft::Nothing => Draft::Nothing,
            Draft::Prompt => Draft::Prompt,
            Draft::Network(dir) => Draft::Network(mlx::load(&dir, &load).map_err(of_draft)?),
        };
        Ok((network, draft))
    });
    let texts = texts
        .join()
        .map_err(|_| EngineError::Unsupported("its tokenizer cannot be read".to_owned()))?;
    // The text's failure comes first: it is the more telling one of a broken snapshot.
    let ((snapshot, defaults), text) = texts?;
    let (engine, ended) = network?;
    let phases = phases(engine.facts().load_times, text);
    let source = Source::new(engine, Arc::new(snapshot), defaults, args.context);
    Ok((source, ended, phases))
}

/// What guesses next tokens, from the worker's command line.
///
/// # Errors
/// Its tokens are not those of the model, or the files of either cannot be read.
fn draft(args: &WorkerArgs) -> Result<Draft<PathBuf>, EngineError> {
    let Some(dir) = &args.draft_dir else {
        return Ok(match args.draft_prompt {
            true => Draft::Prompt,
            false => Draft::Nothing,
        });
    };
    vocabulary::same(&args.model_dir, dir).map_err(|error| {
        EngineError::Unsupported(format!(
            "the draft model cannot guess for this one: {error}"
        ))
    })?;
    Ok(Draft::Network(dir.clone()))
}

/// A failure of the draft model while loading.
fn of_draft(error: EngineError) -> EngineError {
    match error {
        EngineError::Unsupported(reason) => EngineError::Unsupported(format!("draft: {reason}")),
        EngineError::BadFile { file, reason } => EngineError::BadFile {
            file: format!("draft: {file}"),
            reason,
        },
        other => other,
    }
}

/// What the engine thread has to keep to, from the worker's command line.
fn settings(args: &WorkerArgs) -> Settings {
    Settings {
        parallel: NonZeroU32::new(args.parallel).unwrap_or(NonZeroU32::MIN),
        context: args.context,
        kv: args.kv,
        chunk: CHUNK,
    }
}

/// Where prompts are kept on disk, from the worker's command line.
fn place(args: &WorkerArgs) -> Result<Option<Place>, EngineError> {
    let Some(folder) = &args.prompts else {
        return Ok(None);
    };
    let files = contents(&args.model_dir).map_err(|error| EngineError::BadFile {
        file: ".".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Some(Place {
        folder: folder.clone(),
        quota: Quota {
            each: args.prompts_each,
            all: args.prompts_all,
        },
        // The context is one of the figures that some models scale positions by.
        form: format!(
            "{}\n{}\n{}\n{files}",
            folder.file_name().unwrap_or_default().display(),
            args.context,
            args.compute.as_str(),
        ),
    }))
}

/// What tells this snapshot from every other: the names of its files, weights, template
/// and tokenizer among them, and of each what it is a link to, since the hub's cache
/// names files by their contents, or else its length and date.
fn contents(dir: &Path) -> std::io::Result<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().display();
        let about = std::fs::symlink_metadata(&path)?;
        lines.push(match about.is_symlink() {
            true => format!("{name} {}", std::fs::read_link(&path)?.display()),
            false => format!("{name} {} {:?}", about.len(), about.modified()?),
        });
    }
    lines.sort();
    Ok(lines.join("\n"))
}

impl Snapshot {
    fn load(dir: &Path) -> Result<Self, EngineError> {
        let tokenizer = Arc::new(Tokenizer::load(dir).map_err(in_snapshot)?);
        Ok(Self {
            compiler: Compiler::new(Arc::clone(&tokenizer)),
            tokenizer,
            template: ChatTemplate::load(dir).map_err(in_snapshot)?,
        })
    }
}

impl Language for Snapshot {
    fn render(&self, chat: &Chat) -> Result<String, LanguageError> {
        let template = self.template.as_ref().ok_or(LanguageError::NoTemplate)?;
        let messages = Value::Array(chat.messages.clone());
        let tools = chat.tools.clone().map(Value::Array);
        let rendered = template.render(
            &messages,
            tools.as_ref(),
            &chat.kwargs,
            chat.add_generation_prompt,
            chat.continue_final_message,
        );
        rendered.map_err(in_request)
    }

    fn encode(&self, text: &str, whole: bool) -> Result<Vec<u32>, LanguageError> {
        self.tokenizer.encode(text, whole).map_err(in_request)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, LanguageError> {
        self.tokenizer.decode(tokens, false).map_err(in_request)
    }

    fn end_tokens(&self) -> &[u32] {
        self.tokenizer.end_tokens()
    }

    fn told(&self, token: u32) -> (String, Vec<u8>) {
        let text = self.tokenizer.token_text(token);
        (text, self.tokenizer.token_bytes(token))
    }

    fn grammar(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, ConstraintError> {
        self.compiler.compile(constraint)
    }

    fn format(&self) -> Format {
        let template = self.template.as_ref();
        template.map(ChatTemplate::format).unwrap_or_default()
    }

    fn growing(&self, marks: &[&str]) -> Box<dyn Growing> {
        let tokenizer = Arc::clone(&self.tokenizer);
        Box::new(Detokenizer::with_marks(tokenizer, marks))
    }
}

impl Growing for Detokenizer {
    fn push(&mut self, token: u32) -> String {
        Detokenizer::push(self, token)
    }

    fn finish(&mut self) -> String {
        Detokenizer::finish(self)
    }
}

/// A failure while loading.
fn in_snapshot(error: TextError) -> EngineError {
    match error {
        TextError::BadFile { file, reason } => EngineError::BadFile { file, reason },
        other => EngineError::Unsupported(other.to_string()),
    }
}

/// A failure while answering.
fn in_request(error: TextError) -> LanguageError {
    match error {
        TextError::Template(reason) => LanguageError::Refused(reason),
        TextError::Encode(_) => LanguageError::Refused(error.to_string()),
        other => LanguageError::Broken(other.to_string()),
    }
}

/// What `generation_config.json` may say, as transformers writes it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Generation {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

/// What the snapshot says about choosing tokens; nothing if it has no such file.
/// With `do_sample: false` it wants the likeliest token always. Without
/// `do_sample` its other values still are what its makers advise.
fn defaults(dir: &Path) -> Result<Defaults, EngineError> {
    let bad = |reason: String| EngineError::BadFile {
        file: GENERATION.to_owned(),
        reason,
    };
    let said: Generation = match std::fs::read(dir.join(GENERATION)) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Generation::default(),
        Err(error) => return Err(bad(error.to_string())),
    };
    let temperature = match said.do_sample {
        Some(false) => Some(0.0),
        _ => said.temperature,
    };
    Ok(Defaults {
        temperature,
        top_p: said.top_p,
        top_k: said.top_k,
        min_p: said.min_p,
        repetition_penalty: said.repetition_penalty,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Defaults) {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(GENERATION), text).expect("written");
        assert_eq!(defaults(dir.path()), Ok(expected));
    }

    #[test]
    fn the_snapshot_advises_how_to_choose() {
        check(r#"{"bos_token_id": 1}"#, Defaults::default());
        check(
            r#"{"do_sample": true, "temperature": 0.5, "top_k": 20, "top_p": 0.75}"#,
            Defaults {
                temperature: Some(0.5),
                top_k: Some(20),
                top_p: Some(0.75),
                ..Defaults::default()
            },
        );
        check(
            r#"{"do_sample": false, "temperature": 0.5, "repetition_penalty": 1.5}"#,
            Defaults {
                temperature: Some(0.0),
                repetition_penalty: Some(1.5),
                ..Defaults::default()
            },
        );
        let nothing = tempfile::tempdir().expect("a folder");
        assert_eq!(defaults(nothing.path()), Ok(Defaults::default()));
        std::fs::write(nothing.path().join(GENERATION), "{").expect("written");
        assert!(defaults(nothing.path()).is_err());
    }
}
