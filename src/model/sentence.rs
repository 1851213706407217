//! How the vector of a text is made from those of its tokens, or what a model says of a
//! query and a document, as the files of sentence-transformers beside the weights say it. What they ask for and is not
//! known here is refused, never guessed: the vectors would be others.
//!
//! Keys: `modules.json`, `sentence_bert_config.json`,
//! `config_sentence_transformers.json` and the folder of each module, as in the
//! documentation of sentence-transformers ("Creating Custom Models").

mod classifier;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json;
use super::kind::Made;

/// The file that lists the steps; whoever has it makes vectors, or says how well texts fit.
pub const MODULES: &str = "modules.json";

const TRANSFORMER: &str = "sentence_bert_config.json";
const SETTINGS: &str = "config_sentence_transformers.json";

/// Largest of these files, bytes.
const LARGEST: u64 = 1 << 20;

/// The step of a model that says how well texts fit: the type's last word.
const SCORE: &str = "LogitScore";

/// Most steps of a model.
const MOST_MODULES: usize = 16;

/// How the vector of a text is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// What becomes of the vectors of the tokens.
    pub pooling: Pooling,
    /// Whether the vector is brought to length one.
    pub normalise: bool,
    /// Most tokens of a text, if said.
    pub tokens: Option<u32>,
    /// Whether texts are lowered before the tokenizer sees them.
    pub lower_case: bool,
    /// What is put before each text, or told as the system's message beside a query and
    /// a document.
    pub prompt: String,
    /// By what it says how well a document fits; then the vector of a text is that one
    /// number.
    pub verdict: Option<Verdict>,
}

/// By what a model says how well a document fits a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// By how much likelier one token is than another, as a logarithm (Qwen3 Embedding,
    /// arXiv 2506.05176, section 3; the keys are those of sentence-transformers'
    /// `LogitScore`).
    Tokens {
        /// The one that stands for yes.
        yes: u32,
        /// The one that stands for no; without it the logit of `yes` counts alone.
        no: Option<u32>,
    },
    /// By a head of the network for that alone (Nogueira and Cho, arXiv 1901.04085).
    Head(Scale),
}

/// How a number that may be any becomes the score that callers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As a share from 0 to 1: the logistic function of it.
    Share,
    /// As it is.
    Logit,
}

impl Scale {
    /// The score.
    pub fn score(self, logit: f32) -> f32 {
        match self {
            Self::Share => 1.0 / (1.0 + (-logit).exp()),
            Self::Logit => logit,
        }
    }
}

impl Verdict {
    /// How its number becomes a score.
    pub fn scale(self) -> Scale {
        match self {
            Self::Tokens { .. } => Scale::Share,
            Self::Head(scale) => scale,
        }
    }
}

/// From the vectors of the tokens to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// That of the first token.
    First,
    /// Their mean.
    Mean,
    /// Their sum over the square root of their number.
    MeanRoot,
    /// The largest number at each place.
    Largest,
    /// That of the last token.
    Last,
}

/// What keeps the recipe from being read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// A file is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// A file says what cannot be done, or nothing that can be read.
    #[error("{file} {problem}")]
    Bad {
        /// The file.
        file: String,
        /// A phrase that goes after its name.
        problem: String,
    },
}

impl Recipe {
    /// Reads the recipe. `find` says where a file of the snapshot really is.
    ///
    /// # Errors
    /// A file that is missing, broken, or asks for a step that is not known.
    pub fn read(find: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Self, RecipeError> {
        if classifier::is_one(find) {
            return classifier::read(find);
        }
        let modules = needed(find, MODULES)?;
        let modules = modules.as_array().filter(|all| all.len() <= MOST_MODULES);
        let modules = modules.ok_or_else(|| bad(MODULES, "is not a list of modules"))?;
        let (mut pooling, mut verdict) = (None, None);
        let mut normalise = false;
        for (place, module) in modules.iter().enumerate() {
            let (kind, folder) = (kind(module)?, folder(module)?);
            match kind {
                "Transformer" if place == 0 && folder.is_empty() => {}
                "Pooling" if pooling.is_none() && place > 0 => {
                    pooling = Some(self::pooling(find, &format!("{folder}/config.json"))?);
                }
                "Normalize" if pooling.is_some() && verdict.is_none() => normalise = true,
                SCORE if pooling.is_none() && place > 0 => {
                    verdict = Some(self::verdict(find, &format!("{folder}/config.json"))?);
                    pooling = Some(Pooling::Last);
                }
                other => {
                    let problem =
                        format!("asks for {other} at place {place}, which is not supported");
                    return Err(bad(MODULES, problem));
                }
            }
        }
        let (tokens, lower_case) = transformer(find)?;
        Ok(Self {
            pooling: pooling.ok_or_else(|| bad(MODULES, "has no Pooling"))?,
            normalise,
            tokens,
            lower_case,
            prompt: prompt(find)?,
            verdict,
        })
    }

    /// What the files of the snapshot make of its network; nothing if they say nothing.
    /// Steps that cannot be read make vectors: whoever reads the recipe says what is wrong.
    pub fn made(find: &dyn Fn(&str) -> Option<PathBuf>) -> Option<Made> {
        if classifier::is_one(find) {
            return Some(Made::Scores);
        }
        find(MODULES)?;
        let modules = needed(find, MODULES).unwrap_or_default();
        let mut modules = modules.as_array().into_iter().flatten();
        let judges = modules.any(|module| kind(module).is_ok_and(|kind| kind == SCORE));
        Some(match judges {
            true => Made::Verdicts,
            false => Made::Vectors,
        })
    }

    /// The same for a snapshot folder.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn of(dir: &Path) -> Result<Self, RecipeError> {
        Self::read(&|name| Some(dir.join(name)).filter(|path| path.is_file()))
    }

    /// The vector of a text from `rows`, the vectors of its tokens one after the
    /// other, each of `size` numbers.
    pub fn pool(&self, rows: &[f32], size: usize) -> Vec<f32> {
        let tokens = rows.chunks_exact(size.max(1));
        let count = tokens.len().max(1) as f32;
        let sum = || {
            let mut sum = vec![0.0; size];
            for row in tokens.clone() {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            sum
        };
        let divided = |by: f32| sum().into_iter().map(|x: f32| x / by).collect();
        let one = |row: Option<&[f32]>| row.map_or_else(|| vec![0.0; size], <[f32]>::to_vec);
        let mut vector: Vec<f32> = match self.pooling {
            Pooling::First => one(tokens.clone().next()),
            Pooling::Last => one(tokens.clone().next_back()),
            Pooling::Mean => divided(count),
            Pooling::MeanRoot => divided(count.sqrt()),
            Pooling::Largest => {
                let mut largest = vec![f32::MIN; size];
                for row in tokens.clone() {
                    largest
                        .iter_mut()
                        .zip(row)
                        .for_each(|(most, x)| *most = most.max(*x));
                }
                largest
            }
        };
        if self.normalise {
            to_length_one(&mut vector);
        }
        vector
    }

    /// The first `dimensions` numbers of a vector, as models allow it that were
    /// trained for that (arXiv 2205.13147); of length one again if the whole was.
    pub fn shorten(&self, vector: &mut Vec<f32>, dimensions: usize) {
        if dimensions < vector.len() {
            vector.truncate(dimensions);
            if self.normalise {
                to_length_one(vector);
            }
        }
    }
}

/// Divides a vector by its length, if it has one.
pub fn to_length_one(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 1e-12 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

/// The last word of a module's type: `sentence_transformers.models.Pooling`.
fn kind(module: &Value) -> Result<&str, RecipeError> {
    let kind = module["type"]
        .as_str()
        .and_then(|kind| kind.rsplit('.').next());
    kind.filter(|kind| kind.len() <= 64)
        .ok_or_else(|| bad(MODULES, "has a module without a type"))
}

/// The folder of a module, a plain name or nothing.
fn folder(module: &Value) -> Result<&str, RecipeError> {
    let is_plain = |name: &&str| {
        let mut bytes = name.bytes();
        name.len() <= 64
            && !name.starts_with('.')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let folder = module["path"].as_str().filter(is_plain);
    folder.ok_or_else(|| bad(MODULES, "has a module whose path is no plain name"))
}

/// The one way of pooling that `file` asks for: `pooling_mode`, or flags of which
/// one is set.
fn pooling(find: &dyn Fn(&str) -> Option<PathBuf>, file: &str) -> Result<Pooling, RecipeError> {
    const MODES: [(&str, &str, Pooling); 5] = [
        ("cls", "pooling_mode_cls_token", Pooling::First),
        ("mean", "pooling_mode_mean_tokens", Pooling::Mean),
        (
            "mean_sqrt_len_tokens",
            "pooling_mode_mean_sqrt_len_tokens",
            Pooling::MeanRoot,
        ),
        ("max", "pooling_mode_max_tokens", Pooling::Largest),
        ("lasttoken", "pooling_mode_lasttoken", Pooling::Last),
    ];
    let config = needed(find, file)?;
    if config["include_prompt"] == false {
        return Err(bad(
            file,
            "leaves prompts out of the pooling, which is not supported",
        ));
    }
    if let Some(word) = config["pooling_mode"].as_str() {
        let mode = MODES.iter().find(|(name, ..)| *name == word);
        let unknown = || {
            bad(
                file,
                format!("asks for pooling {:.40?}, which is not supported", word),
            )
        };
        return mode.map(|(.., pooling)| *pooling).ok_or_else(unknown);
    }
    let set: Vec<&str> = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with("pooling_mode") && **value == Value::Bool(true))
        .map(|(key, _)| key.as_str())
        .collect();
    let [flag] = set.as_slice() else {
        return Err(bad(
            file,
            format!("sets {} ways of pooling, expected one", set.len()),
        ));
    };
    let mode = MODES.iter().find(|(_, name, _)| name == flag);
    let unknown = || bad(file, format!("asks for {flag:.60}, which is not supported"));
    mode.map(|(.., pooling)| *pooling).ok_or_else(unknown)
}

/// The tokens that `file` names.
fn verdict(find: &dyn Fn(&str) -> Option<PathBuf>, file: &str) -> Result<Verdict, RecipeError> {
    let config = needed(find, file)?;
    let token = |key: &str| match &config[key] {
        Value::Null => Ok(None),
        value => {
            let token = value.as_u64().and_then(|token| u32::try_from(token).ok());
            let wrong = || bad(file, format!("has a {key} that is no token"));
            token.map(Some).ok_or_else(wrong)
        }
    };
    let yes = token("true_token_id")?;
    Ok(Verdict::Tokens {
        yes: yes.ok_or_else(|| bad(file, "has no true_token_id"))?,
        no: token("false_token_id")?,
    })
}

/// Most tokens of a text, and whether texts are lowered.
fn transformer(find: &dyn Fn(&str) -> Option<PathBuf>) -> Result<(Option<u32>, bool), RecipeError> {
    let Some(config) = optional(find, TRANSFORMER)? else {
        return Ok((None, false));
    };
    let most = &config["max_seq_length"];
    let tokens = most.as_u64().and_then(|most| u32::try_from(most).ok());
    match (tokens, most) {
        (Some(1..), _) | (None, Value::Null) => Ok((tokens, config["do_lower_case"] == true)),
        _ => Err(bad(
            TRANSFORMER,
            "has a max_seq_length that is no number of tokens",
        )),
    }
}

/// What is put before a text that names no prompt.
fn prompt(find: &dyn Fn(&str) -> Option<PathBuf>) -> Result<String, RecipeError> {
    let settings = optional(find, SETTINGS)?.unwrap_or_default();
    let Some(name) = settings["default_prompt_name"].as_str() else {
        return Ok(String::new());
    };
    let prompt = settings["prompts"][name].as_str();
    prompt
        .map(str::to_owned)
        .ok_or_else(|| bad(SETTINGS, "names a default prompt that it does not have"))
}

fn needed(find: &dyn Fn(&str) -> Option<PathBuf>, file: &str) -> Result<Value, RecipeError> {
    optional(find, file)?.ok_or_else(|| RecipeError::Missing(file.to_owned()))
}

fn optional(
    find: &dyn Fn(&str) -> Option<PathBuf>,
    file: &str,
) -> Result<Option<Value>, RecipeError> {
    let read = |path: PathBuf| {
        json::read_file(&path, LARGEST)
            .and_then(|bytes| json::parse(&bytes))
            .map_err(|problem| bad(file, problem))
    };
    find(file).map(read).transpose()
}

fn bad(file: &str, problem: impl Into<String>) -> RecipeError {
    RecipeError::Bad {
        file: file.to_owned(),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests;
