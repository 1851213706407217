use std::fs;

use serde_json::json;

use super::*;

const MEAN: &str = "pooling_mode_mean_tokens";

/// A folder with these files.
pub(super) fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content.to_string()).expect("written");
    }
    dir
}

/// The modules of these types, each in a folder of its own but the first.
pub(super) fn modules(types: &[&str]) -> Value {
    let module = |(place, kind): (usize, &&str)| {
        let path = match place {
            0 => String::new(),
            place => format!("{place}_{kind}"),
        };
        json!({"idx": place, "name": place.to_string(), "path": path,
            "type": format!("sentence_transformers.models.{kind}")})
    };
    types.iter().enumerate().map(module).collect()
}

fn recipe(pooling: Pooling, normalise: bool) -> Recipe {
    Recipe {
        pooling,
        normalise,
        tokens: None,
        lower_case: false,
        prompt: String::new(),
        verdict: None,
    }
}

#[test]
fn a_score_by_two_logits_is_a_verdict() {
    let check = |config: Value, verdict: Result<Verdict, &str>| {
        let score = ("1_LogitScore/config.json", config);
        let folder = folder(&[(MODULES, modules(&["Transformer", "LogitScore"])), score]);
        let find = |name: &str| Some(folder.path().join(name)).filter(|path| path.is_file());
        assert_eq!(Recipe::made(&find), Some(Made::Verdicts));
        match (Recipe::of(folder.path()), verdict) {
            (Ok(found), Ok(verdict)) => {
                let verdict = Some(verdict);
                let expected = Recipe {
                    verdict,
                    ..recipe(Pooling::Last, false)
                };
                assert_eq!(found, expected);
            }
            (Err(found), Err(words)) => assert!(found.to_string().contains(words), "{found}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    };
    let verdict = |yes, no| Ok(Verdict::Tokens { yes, no });
    let both = json!({"true_token_id": 9693, "false_token_id": 2152});
    check(both, verdict(9693, Some(2152)));
    check(
        json!({"true_token_id": 5, "false_token_id": null}),
        verdict(5, None),
    );
    check(json!({"false_token_id": 5}), Err("has no true_token_id"));
    check(
        json!({"true_token_id": -5}),
        Err("has a true_token_id that is no token"),
    );
    // One or the other.
    for steps in [
        &["Transformer", "Pooling", "LogitScore"][..],
        &["Transformer", "LogitScore", "Normalize"],
        &["LogitScore"],
    ] {
        let folder = folder(&[
            (MODULES, modules(steps)),
            ("1_Pooling/config.json", json!({"pooling_mode": "mean"})),
            ("1_LogitScore/config.json", json!({"true_token_id": 5})),
        ]);
        let error = Recipe::of(folder.path()).expect_err("refused").to_string();
        assert!(error.contains("which is not supported"), "{error}");
    }
    let plain = folder(&[(MODULES, modules(&["Transformer", "Pooling"]))]);
    let find = |name: &str| Some(plain.path().join(name)).filter(|path| path.is_file());
    assert_eq!(
        (Recipe::made(&find), Recipe::made(&|_| None)),
        (Some(Made::Vectors), None)
    );
}

#[test]
fn the_recipe_is_what_the_files_say() {
    let check = |types: &[&str], pool: Value, more: &[(&str, Value)], expected: &Recipe| {
        let mut files = vec![(MODULES, modules(types)), ("1_Pooling/config.json", pool)];
        files.extend(more.iter().cloned());
        assert_eq!(Recipe::of(folder(&files).path()).as_ref(), Ok(expected));
    };
    let flags = |set: &str| json!({"word_embedding_dimension": 8, MEAN: false, set: true});
    let short = &["Transformer", "Pooling"];
    let whole = &["Transformer", "Pooling", "Normalize"];
    check(short, flags(MEAN), &[], &recipe(Pooling::Mean, false));
    check(
        whole,
        flags("pooling_mode_cls_token"),
        &[],
        &recipe(Pooling::First, true),
    );
    check(
        whole,
        json!({"pooling_mode": "lasttoken"}),
        &[],
        &recipe(Pooling::Last, true),
    );
    let more = [
        (
            TRANSFORMER,
            json!({"max_seq_length": 256, "do_lower_case": true}),
        ),
        (
            SETTINGS,
            json!({"default_prompt_name": "doc", "prompts": {"doc": "text: "}}),
        ),
    ];
    let expected = Recipe {
        tokens: Some(256),
        lower_case: true,
        prompt: "text: ".to_owned(),
        ..recipe(Pooling::Largest, true)
    };
    check(whole, flags("pooling_mode_max_tokens"), &more, &expected);
}

#[test]
fn what_is_not_known_is_refused() {
    let check = |modules: Value, pool: Value, more: Option<(&str, Value)>, part: &str| {
        let mut files = vec![(MODULES, modules), ("1_Pooling/config.json", pool)];
        files.extend(more);
        let error = Recipe::of(folder(&files).path())
            .expect_err("refused")
            .to_string();
        assert!(error.contains(part), "{error}");
    };
    let mean = || json!({MEAN: true});
    let short = || modules(&["Transformer", "Pooling"]);
    check(modules(&["Transformer"]), mean(), None, "no Pooling");
    check(
        modules(&["Transformer", "Pooling", "Dense"]),
        mean(),
        None,
        "Dense",
    );
    check(
        modules(&["Pooling"]),
        mean(),
        None,
        "asks for Pooling at place 0",
    );
    check(json!({}), mean(), None, "not a list");
    check(
        json!([{"type": "x.Transformer"}]),
        mean(),
        None,
        "no plain name",
    );
    let outside = json!([{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "../x"}]);
    check(outside, mean(), None, "no plain name");
    check(
        short(),
        json!({MEAN: true, "pooling_mode_cls_token": true}),
        None,
        "2 ways",
    );
    check(short(), json!({}), None, "0 ways");
    check(
        short(),
        json!({"pooling_mode_weightedmean_tokens": true}),
        None,
        "weightedmean",
    );
    check(short(), json!({"pooling_mode": "odd"}), None, "odd");
    check(
        short(),
        json!({MEAN: true, "include_prompt": false}),
        None,
        "prompts",
    );
    check(
        short(),
        mean(),
        Some((TRANSFORMER, json!({"max_seq_length": 0}))),
        "max_seq_length",
    );
    let nameless = Some((SETTINGS, json!({"default_prompt_name": "x"})));
    check(short(), mean(), nameless, "default prompt");
    let missing = Recipe::of(folder(&[(MODULES, short())]).path());
    assert_eq!(
        missing,
        Err(RecipeError::Missing("1_Pooling/config.json".to_owned()))
    );
}

#[test]
fn vectors_of_tokens_become_one() {
    let rows = [3.0, 0.0, 1.0, 8.0, -1.0, 1.0];
    let check = |pooling, normalise, expected: &[f32]| {
        let found = recipe(pooling, normalise).pool(&rows, 2);
        let close = found
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close && found.len() == 2, "{pooling:?}: {found:?}");
    };
    check(Pooling::First, false, &[3.0, 0.0]);
    check(Pooling::Last, false, &[-1.0, 1.0]);
    check(Pooling::Mean, false, &[1.0, 3.0]);
    check(
        Pooling::MeanRoot,
        false,
        &[3.0 / 3f32.sqrt(), 9.0 / 3f32.sqrt()],
    );
    check(Pooling::Largest, false, &[3.0, 8.0]);
    check(Pooling::First, true, &[1.0, 0.0]);
    check(Pooling::Mean, true, &[0.316_227_8, 0.948_683_3]);
}

#[test]
fn a_shorter_vector_has_the_length_that_the_whole_has() {
    let check = |normalise, dimensions, expected: &[f32]| {
        let mut vector = vec![0.6, 0.0, 0.8];
        recipe(Pooling::Mean, normalise).shorten(&mut vector, dimensions);
        assert_eq!(vector, expected);
    };
    check(true, 3, &[0.6, 0.0, 0.8]);
    check(true, 2, &[1.0, 0.0]);
    check(false, 2, &[0.6, 0.0]);
}
