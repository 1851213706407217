use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::fixture::{COMMIT, RULES, Tree, config, weights};
use super::*;
use crate::model::sentence::Pooling;

/// Changes a complete tree and looks at the code and the words of the refusal.
fn check(change: impl FnOnce(&Tree), code: &str, words: &str) {
    let tree = Tree::complete();
    change(&tree);
    let reason = tree.inspect().expect_err(words);
    assert_eq!(reason.code(), code, "{reason}");
    assert!(reason.to_string().starts_with(code), "{reason}");
    assert!(reason.to_string().contains(words), "{reason}");
}

#[test]
fn a_complete_snapshot_is_told_whole() {
    let tree = Tree::complete();
    tree.put("tokenizer_config.json", br#"{"chat_template": "{{ x }}"}"#);
    let manifest = tree.inspect().expect("complete");
    assert_eq!(manifest.commit.as_deref(), Some(COMMIT));
    assert_eq!(manifest.context, Some(512));
    assert_eq!((manifest.weight_bytes, manifest.half_bytes), (128, 0));
    assert_eq!(manifest.weight_files[0].name, "model.safetensors");
    assert!(manifest.has_chat_template && !manifest.scripted);
    let geometry = manifest.geometry.expect("measures");
    assert_eq!((geometry.kv_heads, geometry.head_dim), (2, 16));
}

#[test]
fn a_decoder_with_modules_makes_vectors_by_its_own_recipe() {
    let tree = Tree::complete();
    tree.put(
        "modules.json",
        br#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
             {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
             {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#,
    );
    std::fs::create_dir(tree.snapshot().join("1_Pooling")).expect("a folder");
    let pooling = tree.snapshot().join("1_Pooling/config.json");
    std::fs::write(pooling, r#"{"pooling_mode_lasttoken": true}"#).expect("written");
    let manifest = tree.inspect().expect("complete");
    assert_eq!(
        (manifest.kind, manifest.is_decoder),
        (Kind::Embeddings, true)
    );
    let recipe = Recipe::of(&manifest.dir).expect("a recipe");
    assert_eq!((recipe.pooling, recipe.normalise), (Pooling::Last, true));
}

#[test]
fn what_is_missing_is_named() {
    check(
        |t| t.remove("config.json"),
        "incomplete",
        "config.json is missing",
    );
    check(
        |t| t.remove("tokenizer.json"),
        "incomplete",
        "tokenizer.json is missing",
    );
    check(
        |t| t.remove("model.safetensors"),
        "incomplete",
        "model.safetensors is missing",
    );
    check(
        |t| t.put("model.safetensors", b""),
        "incomplete",
        "model.safetensors (empty)",
    );
    check(
        |t| t.put("tokenizer.json", b""),
        "incomplete",
        "tokenizer.json (empty)",
    );
    let dangling = |t: &Tree| t.link("model.safetensors", "../../blobs/not-there-yet");
    check(dangling, "incomplete", "model.safetensors is missing");
    let unfinished = |t: &Tree| {
        fs::write(t.repository().join("blobs/ab.incomplete"), weights(&["a"])).expect("written");
        t.link("model.safetensors", "../../blobs/ab.incomplete");
    };
    check(unfinished, "incomplete", "one download is not finished");
    let cut = |t: &Tree| {
        let file = weights(&["a", "b"]);
        t.put("model.safetensors", &file[..file.len() - 1]);
    };
    check(cut, "incomplete", "model.safetensors the file has");
}

#[test]
fn an_empty_snapshot_and_none_at_all_are_incomplete() {
    let tree = Tree::empty();
    assert_eq!(tree.inspect().expect_err("empty").code(), "incomplete");
    fs::remove_dir(tree.snapshot()).expect("removed");
    assert_eq!(tree.inspect(), Err(Reason::NoSnapshot));
}

#[test]
fn every_shard_of_the_index_has_to_be_there_with_its_tensors() {
    let index = |t: &Tree, map: serde_json::Value| {
        t.remove("model.safetensors");
        let index = json!({"metadata": {}, "weight_map": map});
        t.put("model.safetensors.index.json", index.to_string().as_bytes());
        t.put("model-00001-of-00002.safetensors", &weights(&["a"]));
    };
    let (first, second) = (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    );
    let two = || json!({"a": first, "b": second});
    check(
        |t| index(t, two()),
        "incomplete",
        &format!("{second} is missing"),
    );
    let wrong = |t: &Tree| {
        index(t, two());
        t.put(second, &weights(&["c"]));
    };
    check(wrong, "bad_weights", "no tensor \"b\"");
    check(
        |t| index(t, json!({"a": "../x.safetensors"})),
        "bad_file",
        "expected a plain name",
    );
    check(
        |t| index(t, json!({"a": "/etc/passwd"})),
        "bad_file",
        "expected a plain name",
    );
    check(|t| index(t, json!({})), "bad_file", "names no weights");
    check(|t| index(t, json!([])), "bad_file", "not a valid index");
    let tree = Tree::complete();
    index(&tree, two());
    tree.put(second, &weights(&["b"]));
    assert_eq!(tree.inspect().expect("complete").weight_files.len(), 2);
}

#[test]
fn numbered_files_without_an_index_ask_for_the_whole_series() {
    let first = |t: &Tree| {
        t.remove("model.safetensors");
        t.put("model-00001-of-00003.safetensors", &weights(&["a"]));
    };
    check(
        first,
        "incomplete",
        "model-00002-of-00003.safetensors, model-00003-of-00003.safetensors are missing",
    );
}

#[test]
fn an_index_left_behind_by_joined_weights_does_not_make_them_incomplete() {
    let tree = Tree::complete();
    let index = json!({"weight_map": {"a": "model-00001-of-00002.safetensors"}});
    tree.put("model.safetensors.index.json", index.to_string().as_bytes());
    assert_eq!(
        tree.inspect().expect("complete").weight_files[0].name,
        "model.safetensors"
    );
}

#[test]
fn links_that_leave_the_repository_are_refused() {
    let out = "leads out of its repository";
    let to = |name: &'static str, target: &'static str| move |t: &Tree| t.link(name, target);
    check(to("config.json", "/etc/hostname"), "unsafe_link", out);
    check(to("README.md", "/etc/hostname"), "unsafe_link", out);
    check(to("tokenizer.json", "../../../../x"), "unsafe_link", out);
    check(to("model.safetensors", "/dev/zero"), "unsafe_link", out);
    check(
        to("config.json", "config.json"),
        "unsafe_link",
        "leads in a circle",
    );
    let other_model = |t: &Tree| {
        let other = t.root().join("models--other--model/blobs");
        fs::create_dir_all(&other).expect("a folder");
        fs::write(other.join("blob"), weights(&["a"])).expect("written");
        let blob = t.repository().join("blobs/blob-of-model.safetensors");
        fs::remove_file(&blob).expect("removed");
        symlink("../../models--other--model/blobs/blob", blob).expect("linked");
    };
    check(other_model, "unsafe_link", out);
    let folder = |t: &Tree| {
        fs::create_dir(t.snapshot().join("1_Pooling")).expect("a folder");
        symlink("/etc/passwd", t.snapshot().join("1_Pooling/config.json")).expect("linked");
    };
    check(folder, "unsafe_link", "1_Pooling/config.json");
    check(to("assets", "/etc"), "unsafe_link", out);
    check(
        to("assets", "../../blobs"),
        "bad_file",
        "not a regular file",
    );
    let moved = |t: &Tree| {
        let away = t.root().join("away");
        fs::rename(t.snapshot(), &away).expect("moved");
        symlink(away, t.snapshot()).expect("linked");
    };
    check(moved, "unsafe_link", out);
}

#[test]
fn a_pipe_is_not_waited_for() {
    let tree = Tree::complete();
    tree.remove("config.json");
    let pipe = std::process::Command::new("mkfifo")
        .arg(tree.snapshot().join("config.json"))
        .status();
    assert!(pipe.expect("mkfifo").success());
    assert_eq!(tree.inspect().expect_err("refused").code(), "bad_file");
}

#[test]
fn configurations_that_are_traps_are_refused() {
    let put = |content: Vec<u8>| move |t: &Tree| t.put("config.json", &content);
    let code = json!({"model_type": "llama", "auto_map": {"AutoModel": "evil.Model"}});
    check(
        put(code.to_string().into_bytes()),
        "untrusted_code",
        "auto_map",
    );
    check(put(vec![b' '; 50 << 20]), "bad_file", "is larger than");
    check(
        put(br#"{"a":"#.repeat(10_000)),
        "bad_file",
        "recursion limit",
    );
    check(
        put(br#"{"model_type": "llama", "model_type": "x"}"#.to_vec()),
        "bad_file",
        "twice",
    );
    check(put(b"not json".to_vec()), "bad_file", "not valid JSON");
    let strange = json!({"model_type": "mamba"}).to_string();
    check(
        put(strange.into_bytes()),
        "unsupported",
        "\"mamba\" is not supported; supported are llama, mistral",
    );
    check(
        put(br#"{"model_type": "llama"}"#.to_vec()),
        "bad_file",
        "lacks measures",
    );
}

#[test]
fn something_else_under_the_name_of_weights_is_named() {
    let put = |content: &'static [u8]| move |t: &Tree| t.put("model.safetensors", content);
    check(
        put(b"GGUF\x03\0\0\0\0\0\0\0"),
        "bad_weights",
        "found a GGUF file",
    );
    check(
        put(b"PK\x03\x04 archive"),
        "bad_weights",
        "found a zip archive",
    );
    check(
        put(b"\x80\x04\x95 pickle"),
        "bad_weights",
        "found a Python pickle",
    );
    check(
        put(b"<!DOCTYPE html><html>"),
        "bad_weights",
        "found a web page",
    );
    check(
        put(b"version https://git-lfs.github.com/spec/v1\n"),
        "bad_weights",
        "git-lfs pointer",
    );
}

#[test]
fn what_stands_in_the_place_of_a_small_file_is_named() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for name in ["config.json", "tokenizer.json"] {
        let words = format!("{name} is a git-lfs pointer without its content");
        check(|t| t.put(name, pointer), "bad_file", &words);
    }
    let page = b"<!DOCTYPE html><html>";
    check(
        |t| t.put("tokenizer.json", page),
        "bad_file",
        "is a web page",
    );
    check(
        |t| t.put("tokenizer.json", &[0; 64]),
        "bad_file",
        "is zeros",
    );
}

#[test]
fn the_check_reads_no_weights_and_is_quick() {
    let tree = Tree::complete();
    // A sparse file of a terabyte whose header is honest.
    let file = header_of_a_terabyte();
    tree.put("model.safetensors", &file);
    let blob = tree.repository().join("blobs/blob-of-model.safetensors");
    let sparse = fs::File::options().write(true).open(blob).expect("opened");
    sparse
        .set_len(file.len() as u64 + (1 << 40))
        .expect("grown");
    let start = Instant::now();
    let manifest = tree.inspect().expect("complete");
    assert_eq!(manifest.weight_bytes, 1 << 40);
    assert!(start.elapsed().as_millis() < 1000, "{:?}", start.elapsed());
}

fn header_of_a_terabyte() -> Vec<u8> {
    let shape = [1_u64 << 38];
    let tensors = [("a", crate::model::safetensors::Dtype::F32, &shape[..])];
    crate::model::safetensors::header_for(tensors.into_iter())
}

#[test]
fn a_folder_outside_the_cache_may_link_inside_itself_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, content: &[u8]| {
        fs::write(folder.path().join(name), content).expect("written");
    };
    put("config.json", config().to_string().as_bytes());
    put("tokenizer.json", b"{}");
    put("weights.bin", &weights(&["a"]));
    let link = folder.path().join("model.safetensors");
    symlink("weights.bin", &link).expect("linked");
    let manifest = inspect_folder(folder.path(), &RULES).expect("complete");
    assert_eq!((manifest.commit, manifest.weight_bytes), (None, 64));
    fs::remove_file(&link).expect("removed");
    symlink("/etc/hostname", &link).expect("linked");
    let reason = inspect_folder(folder.path(), &RULES).expect_err("refused");
    assert_eq!(reason.code(), "unsafe_link");
    assert_eq!(
        inspect_folder(Path::new("/not/there"), &RULES),
        Err(Reason::NoSnapshot)
    );
}

#[test]
fn a_folder_that_is_a_snapshot_of_a_cache_is_inspected_as_one() {
    let tree = Tree::complete();
    let manifest = inspect_folder(&tree.snapshot(), &RULES).expect("complete");
    assert_eq!(manifest.commit.as_deref(), Some(COMMIT));
}

#[test]
fn a_play_needs_its_script_and_says_what_it_touches() {
    let tree = Tree::empty();
    tree.put(
        "config.json",
        br#"{"model_type": "scripted", "max_position_embeddings": 64}"#,
    );
    assert_eq!(tree.inspect().expect_err("no script").code(), "incomplete");
    tree.put("scripted.json", br#"{"memory_bytes": 40000000}"#);
    let manifest = tree.inspect().expect("complete");
    assert!(manifest.scripted);
    assert_eq!(manifest.weight_bytes, 40_000_000);
    tree.put("model-00001-of-00002.safetensors", &weights(&["a"]));
    assert_eq!(tree.inspect().expect_err("half").code(), "incomplete");
}

#[test]
fn reasons_name_a_command_where_one_helps() {
    let id = crate::model::id::ModelId::parse("good/model").expect("an id");
    let tree = Tree::complete();
    tree.remove("tokenizer.json");
    let reason = tree.inspect().expect_err("incomplete");
    assert_eq!(
        reason.remedy(&id, None).as_deref(),
        Some("hf download good/model")
    );
}
