//! `roundhouse schema`, judged by a validator of JSON Schema that is not ours: it
//! passes what is valid and finds most of what is wrong in the gallery.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::clients::say;
use super::gallery;
use super::harness::Home;

/// Files of the gallery whose mistakes no schema can see, since they lie between
/// values or in how the text is written. `check` alone tells them.
const ONLY_CHECK: &[&str] = &[
    "address-others-listen-on",
    "alias-is-an-entry",
    "alias-of-two-models",
    "anchors-and-merges",
    "default-leads-nowhere",
    "denied-entry",
    "duplicate-entry",
    "duplicate-section",
    "entry-with-two-sources",
    "fallback-to-an-entry",
    "name-is-no-id",
    "settings-at-odds",
    "upstream-is-this-server",
];

/// A file of the repository.
fn file(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The shipped file with every commented key in force.
fn uncommented() -> String {
    let text = std::fs::read_to_string(file("models.yaml")).expect("the shipped file");
    text.lines()
        .map(|line| format!("{}\n", line.replacen("#: ", "", 1)))
        .collect()
}

#[test]
fn the_schema_is_the_one_that_the_shipped_file_names() {
    let home = Home::new("");
    let (code, schema, error) = home.run(&["schema"]);
    assert_eq!(code, 0, "{error}");
    serde_json::from_str::<Value>(&schema).expect("JSON");
    let shipped = std::fs::read_to_string(file("models.yaml")).expect("the shipped file");
    let first = shipped.lines().next().expect("a line");
    let named = first.strip_prefix("# yaml-language-server: $schema=");
    let kept = file(named.expect("the schema's file"));
    gallery::hold(&kept, &schema).unwrap_or_else(|difference| panic!("{difference}"));
}

#[test]
fn another_validator_passes_what_is_valid_and_finds_what_is_wrong() {
    let home = Home::new("");
    let (_, schema, _) = home.run(&["schema"]);
    let at = |name: &str| home.path().join(name);
    std::fs::write(at("schema.json"), schema).expect("written");
    std::fs::write(at("all-keys.yaml"), uncommented()).expect("written");
    std::fs::write(at("empty.yaml"), "models:\nallow:\npool:\n").expect("written");
    let mut files = vec![file("models.yaml"), at("all-keys.yaml"), at("empty.yaml")];
    let valid = files.len();
    files.extend(gallery::files());
    let mut args = vec![at("schema.json")];
    args.extend(files.clone());
    let args: Vec<_> = args.iter().filter_map(|path| path.to_str()).collect();
    let said = say("schema_check.py", &args);
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), files.len(), "{said:?}");
    let wrong = said[..valid].iter().filter(|line| **line != "passes");
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&&str>::new());
    let passes = files.iter().zip(&said).skip(valid);
    let passes = passes.filter(|(_, said)| **said == "passes");
    let passes: BTreeSet<_> = passes
        .filter_map(|(file, _)| file.file_stem()?.to_str())
        .collect();
    assert_eq!(passes, BTreeSet::from_iter(ONLY_CHECK.iter().copied()));
}
