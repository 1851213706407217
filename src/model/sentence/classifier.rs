//! A cross-encoder: a network with a head that scores a pair of texts, as transformers'
//! `…ForSequenceClassification` has one. What of `config.json` and the files of
//! sentence-transformers beside it says how a score becomes what callers see.
//!
//! Rules: `CrossEncoder` of sentence-transformers 6.2 (`get_default_activation_fn` and
//! `_parse_model_config`; documentation, "CrossEncoder": `activation_fn`), `num_labels`
//! of transformers' `PretrainedConfig`.

use std::path::PathBuf;

use serde_json::Value;

use super::{
    MODULES, Pooling, Recipe, RecipeError, SETTINGS, Scale, Verdict, bad, kind, needed, optional,
    prompt, transformer,
};

/// The file that says what the network is.
const CONFIG: &str = "config.json";

/// The file that says how long a text may be for the tokenizer.
const TOKENIZER: &str = "tokenizer_config.json";

/// Labels of a head that `config.json` says nothing of.
const USUAL_LABELS: u64 = 2;

/// Whether the snapshot is one: its network has such a head, and no step that it lists
/// makes something else of the network.
pub(super) fn is_one(find: &dyn Fn(&str) -> Option<PathBuf>) -> bool {
    let Ok(Some(config)) = optional(find, CONFIG) else {
        return false;
    };
    let names = config["architectures"].as_array().into_iter().flatten();
    let mut names = names.filter_map(Value::as_str);
    if !names.any(|name| name.ends_with("ForSequenceClassification")) {
        return false;
    }
    match optional(find, MODULES) {
        Ok(Some(modules)) => {
            let is_network = |module| kind(module).is_ok_and(|kind| kind == "Transformer");
            modules.as_array().into_iter().flatten().all(is_network)
        }
        Ok(None) => true,
        Err(_) => false,
    }
}

/// The recipe of a snapshot that [`is_one`].
///
/// # Errors
/// A broken file, several labels, an activation or a prompt that is not known here.
pub(super) fn read(find: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Recipe, RecipeError> {
    let config = needed(find, CONFIG)?;
    let labels = labels(&config);
    if labels != 1 {
        let problem = format!(
            "has a head of {labels} labels, and only one with a single label ranks documents"
        );
        return Err(bad(CONFIG, problem));
    }
    let (tokens, lower_case) = transformer(find)?;
    let longest = optional(find, TOKENIZER)?.and_then(|config| {
        // A huge number that is no integer stands for none.
        let most = config["model_max_length"].as_u64()?;
        u32::try_from(most).ok().filter(|most| *most > 0)
    });
    if !prompt(find)?.is_empty() {
        let problem = "asks for a prompt before pairs of texts, which is not supported";
        return Err(bad(SETTINGS, problem));
    }
    Ok(Recipe {
        pooling: Pooling::First,
        normalise: false,
        tokens: match (tokens, longest) {
            (Some(tokens), Some(longest)) => Some(tokens.min(longest)),
            (tokens, longest) => tokens.or(longest),
        },
        lower_case,
        prompt: String::new(),
        verdict: Some(Verdict::Head(scale(&config, find)?)),
    })
}

/// How many labels the head has: as many as have names, or as is said.
fn labels(config: &Value) -> u64 {
    match config["id2label"].as_object() {
        Some(names) => names.len() as u64,
        None => config["num_labels"].as_u64().unwrap_or(USUAL_LABELS),
    }
}

/// What becomes of the head's number. The newest place that names a function of PyTorch
/// decides; functions from elsewhere would be code of the model's own and are passed over,
/// and of two keys of `config.json` the older is not looked at if the newer is there.
fn scale(config: &Value, find: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Scale, RecipeError> {
    let settings = optional(find, SETTINGS)?.unwrap_or_default();
    let newer = &config["sentence_transformers"]["activation_fn"];
    let older = &config["sbert_ce_default_activation_function"];
    let own = if newer.is_null() { older } else { newer };
    for (file, said) in [(SETTINGS, &settings["activation_fn"]), (CONFIG, own)] {
        let said = said.as_str().filter(|said| said.starts_with("torch."));
        let Some(said) = said else {
            continue;
        };
        return match said.rsplit('.').next() {
            Some("Sigmoid") => Ok(Scale::Share),
            Some("Identity") => Ok(Scale::Logit),
            _ => {
                let problem = format!("asks for scores by {said:.60}, which is not supported");
                Err(bad(file, problem))
            }
        };
    }
    Ok(Scale::Share)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{folder, modules};
    use super::*;
    use crate::model::kind::Made;

    fn config(more: &Value) -> Value {
        let mut config = json!({"architectures": ["BertForSequenceClassification"],
            "id2label": {"0": "LABEL_0"}});
        for (key, value) in more.as_object().expect("keys") {
            config[key] = value.clone();
        }
        config
    }

    #[test]
    fn a_head_for_pairs_is_told_by_the_architecture_unless_steps_say_otherwise() {
        let check = |files: &[(&str, Value)], expected: Option<Made>| {
            let folder = folder(files);
            let find = |name: &str| Some(folder.path().join(name)).filter(|path| path.is_file());
            assert_eq!(Recipe::made(&find), expected, "{files:?}");
        };
        let head = || (CONFIG, config(&json!({})));
        check(&[head()], Some(Made::Scores));
        check(
            &[head(), (MODULES, modules(&["Transformer"]))],
            Some(Made::Scores),
        );
        let pooled = (MODULES, modules(&["Transformer", "Pooling"]));
        check(&[head(), pooled], Some(Made::Vectors));
        let judged = (MODULES, modules(&["Transformer", "LogitScore"]));
        check(&[head(), judged], Some(Made::Verdicts));
        let bare = json!({"architectures": ["BertModel"]});
        check(&[(CONFIG, bare.clone())], None);
        check(
            &[(CONFIG, bare), (MODULES, modules(&["Transformer"]))],
            Some(Made::Vectors),
        );
    }

    #[test]
    fn the_score_is_what_the_newest_key_says() {
        let check = |more: Value, settings: Value, expected: Result<Scale, &str>| {
            let folder = folder(&[(CONFIG, config(&more)), (SETTINGS, settings)]);
            match (Recipe::of(folder.path()), expected) {
                (Ok(found), Ok(scale)) => assert_eq!(found.verdict, Some(Verdict::Head(scale))),
                (Err(found), Err(words)) => assert!(found.to_string().contains(words), "{found}"),
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        };
        let (share, logit) = (
            "torch.nn.modules.activation.Sigmoid",
            "torch.nn.modules.linear.Identity",
        );
        let newer = |said: &str| json!({"sentence_transformers": {"activation_fn": said}});
        let older = |said: &str| json!({"sbert_ce_default_activation_function": said});
        let settings = |said: &str| json!({"activation_fn": said});
        let nothing = || json!({});
        check(nothing(), nothing(), Ok(Scale::Share));
        check(newer(logit), nothing(), Ok(Scale::Logit));
        check(older(logit), nothing(), Ok(Scale::Logit));
        check(newer(share), settings(logit), Ok(Scale::Logit));
        check(newer(logit), settings("own.Function"), Ok(Scale::Logit));
        let mut both = older(logit);
        both["sentence_transformers"] = newer("own.Function")["sentence_transformers"].clone();
        check(both, nothing(), Ok(Scale::Share));
        let tanh = "torch.nn.modules.activation.Tanh";
        check(newer(tanh), nothing(), Err("scores by torch.nn"));
        let three = json!({"id2label": {"0": "a", "1": "b", "2": "c"}});
        check(three, nothing(), Err("3 labels"));
        check(json!({"id2label": null}), nothing(), Err("2 labels"));
        let told = json!({"id2label": null, "num_labels": 1});
        check(told, nothing(), Ok(Scale::Share));
        let prompts = json!({"default_prompt_name": "a", "prompts": {"a": "b"}});
        check(nothing(), prompts, Err("a prompt before pairs"));
    }

    #[test]
    fn the_shorter_of_two_lengths_holds() {
        let check = |most: Value, longest: Value, expected: Option<u32>| {
            let folder = folder(&[
                (CONFIG, config(&json!({}))),
                (super::super::TRANSFORMER, json!({"max_seq_length": most})),
                (TOKENIZER, json!({"model_max_length": longest})),
            ]);
            let recipe = Recipe::of(folder.path()).expect("a recipe");
            assert_eq!(recipe.tokens, expected);
        };
        check(json!(256), json!(512), Some(256));
        check(json!(null), json!(512), Some(512));
        check(json!(256), json!(1e30), Some(256));
        check(json!(null), json!(1e30), None);
    }
}
