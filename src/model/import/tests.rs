use std::fs;

use serde_json::Value;

use super::*;
use crate::model::cache::CacheIndex;
use crate::model::gguf::build::Builder;
use crate::model::manifest::fixture::RULES;
use crate::model::safetensors;

const HIDDEN: u64 = 32;

/// Numbers that differ, within −1 to 1.
fn numbers(count: u64, seed: u64) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 + seed * 101) % 201) as f32 / 100.0 - 1.0)
        .collect()
}

/// A llama of two layers with two heads of 16 and one of keys, everything float32.
fn tiny() -> Builder {
    let matrix = |builder: Builder, name: &str, rows: u64, columns: u64| {
        let values = numbers(rows * columns, name.len() as u64 + rows);
        builder.floats_tensor(name, &[rows, columns], &values)
    };
    let norm = |builder: Builder, name: &str| {
        builder.floats_tensor(name, &[HIDDEN], &[1.0; HIDDEN as usize])
    };
    let mut builder = matrix(metadata(), "token_embd.weight", 8, HIDDEN);
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        builder = norm(builder, &name("attn_norm"));
        builder = matrix(builder, &name("attn_q"), 32, HIDDEN);
        builder = matrix(builder, &name("attn_k"), 16, HIDDEN);
        builder = matrix(builder, &name("attn_v"), 16, HIDDEN);
        builder = matrix(builder, &name("attn_output"), HIDDEN, 32);
        builder = norm(builder, &name("ffn_norm"));
        builder = matrix(builder, &name("ffn_gate"), 64, HIDDEN);
        builder = matrix(builder, &name("ffn_up"), 64, HIDDEN);
        builder = matrix(builder, &name("ffn_down"), HIDDEN, 64);
    }
    norm(builder, "output_norm.weight")
}

/// The metadata of [`tiny`], with a byte-level tokenizer of eight tokens.
fn metadata() -> Builder {
    Builder::default()
        .text("general.architecture", "llama")
        .number("llama.block_count", 2)
        .number("llama.context_length", 128)
        .number("llama.embedding_length", HIDDEN as u32)
        .number("llama.feed_forward_length", 64)
        .number("llama.attention.head_count", 2)
        .number("llama.attention.head_count_kv", 1)
        .float("llama.rope.freq_base", 100_000.0)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts(
            "tokenizer.ggml.tokens",
            &["<|end|>", "<|im_end|>", "h", "i", "Ġ", "hi", "Ġhi", "!"],
        )
        .integers("tokenizer.ggml.token_type", &[3, 3, 1, 1, 1, 1, 1, 1])
        .texts("tokenizer.ggml.merges", &["h i", "Ġ hi"])
        .number("tokenizer.ggml.bos_token_id", 0)
        .number("tokenizer.ggml.eos_token_id", 0)
        .text("tokenizer.chat_template", "{{ messages }}<|im_end|>")
}

/// A file on disk and a cache folder for it.
struct Home(tempfile::TempDir);

impl Home {
    fn with(builder: &Builder) -> Self {
        let home = Self(tempfile::tempdir().expect("a folder"));
        fs::write(home.0.path().join("tiny.gguf"), builder.bytes()).expect("written");
        home
    }

    fn request(&self, precision: Precision) -> Request {
        Request {
            file: self.0.path().join("tiny.gguf"),
            id: ModelId::parse("test/tiny").expect("an id"),
            precision,
            cache: self.0.path().join("hub"),
        }
    }

    fn import(&self, precision: Precision) -> Result<Imported, ImportError> {
        import(&self.request(precision), &mut |_| {})
    }
}

fn json(snapshot: &Path, name: &str) -> Value {
    let text = fs::read(snapshot.join(name)).expect(name);
    serde_json::from_slice(&text).expect(name)
}

/// The bytes of a tensor of the only weight file.
fn tensor(snapshot: &Path, name: &str) -> Vec<u8> {
    let path = snapshot.join("model.safetensors");
    let header = safetensors::Header::open(&path).expect("a header");
    let found = header.tensors.iter().find(|t| t.name == name).expect(name);
    let bytes = fs::read(path).expect("weights");
    bytes[found.offset as usize..(found.offset + found.len) as usize].to_vec()
}

#[test]
fn what_is_imported_is_a_complete_model_of_the_cache() {
    for (precision, bits) in [
        (Precision::Four, Some(4)),
        (Precision::Eight, Some(8)),
        (Precision::Half, None),
        (Precision::Full, None),
    ] {
        let home = Home::with(&tiny());
        let imported = home.import(precision).expect("imported");
        let index = CacheIndex::scan(&[home.0.path().join("hub")], RULES);
        let id = ModelId::parse("test/tiny").expect("an id");
        let manifest = index
            .get(&id)
            .expect("cached")
            .state
            .clone()
            .expect("complete");
        assert_eq!(manifest.commit.as_deref(), Some(imported.commit.as_str()));
        assert_eq!(manifest.quantization.map(|q| q.bits), bits, "{precision:?}");
        assert_eq!(
            (manifest.context, manifest.has_chat_template),
            (Some(128), true)
        );
        assert!(index.strangers.is_empty());
    }
}

#[test]
fn the_tree_is_laid_out_as_the_hubs_client_does() {
    let home = Home::with(&tiny());
    let imported = home.import(Precision::Four).expect("imported");
    let repository = home.0.path().join("hub/models--test--tiny");
    let main = fs::read_to_string(repository.join("refs/main")).expect("a ref");
    assert_eq!(main, imported.commit);
    assert_eq!(main.len(), 40);
    for entry in fs::read_dir(&imported.snapshot).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = fs::read_link(&path).expect("a link");
        let blob = target
            .strip_prefix("../../blobs")
            .expect("into blobs")
            .to_owned();
        let content = fs::read(&path).expect("content");
        let expected = match path.extension().is_some_and(|end| end == "safetensors") {
            true => hub::hex(&Sha256::digest(&content)),
            false => hub::git_blob_name(&content),
        };
        assert_eq!(blob, Path::new(&expected), "{path:?}");
    }
    let left: Vec<_> = fs::read_dir(repository.join("blobs"))
        .expect("a folder")
        .filter(|e| {
            e.as_ref()
                .is_ok_and(|e| e.file_name().to_string_lossy().contains("incomplete"))
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_same_again_finds_everything_there_and_a_change_does_not() {
    let home = Home::with(&tiny());
    let first = home.import(Precision::Four).expect("imported");
    assert!(!first.already);
    let again = home.import(Precision::Four).expect("imported");
    assert_eq!((again.already, &again.commit), (true, &first.commit));
    let other = home.import(Precision::Eight).expect("imported");
    assert_ne!(other.commit, first.commit);
    assert!(
        !home.import(Precision::Four).expect("imported").already,
        "the ref has moved"
    );
}

#[test]
fn an_interrupted_import_is_finished_by_the_next() {
    let home = Home::with(&tiny());
    let whole = home.import(Precision::Four).expect("imported");
    let reference = home.0.path().join("hub/models--test--tiny/refs/main");
    let blobs = home.0.path().join("hub/models--test--tiny/blobs");
    fs::remove_file(&reference).expect("removed");
    let weights = whole.snapshot.join("model.safetensors");
    fs::remove_file(fs::canonicalize(&weights).expect("a blob")).expect("removed");
    fs::write(blobs.join("model.safetensors.incomplete"), b"half").expect("written");
    let again = home.import(Precision::Four).expect("imported");
    assert_eq!((again.already, &again.commit), (false, &whole.commit));
    assert!(safetensors::Header::open(&weights).is_ok());
    assert!(!blobs.join("model.safetensors.incomplete").exists());
    assert_eq!(fs::read_to_string(reference).expect("a ref"), whole.commit);
}

#[test]
fn the_configuration_says_what_the_metadata_says() {
    let home = Home::with(&tiny());
    let snapshot = home.import(Precision::Four).expect("imported").snapshot;
    let config = json(&snapshot, "config.json");
    for (key, value) in [
        ("model_type", json!("llama")),
        ("hidden_size", json!(32)),
        ("num_hidden_layers", json!(2)),
        ("num_key_value_heads", json!(1)),
        ("head_dim", json!(16)),
        ("vocab_size", json!(8)),
        ("rope_theta", json!(100_000.0)),
        ("rms_norm_eps", json!(1e-5)),
        ("tie_word_embeddings", json!(true)),
        ("max_position_embeddings", json!(128)),
        ("eos_token_id", json!(0)),
        ("torch_dtype", json!("float16")),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let embedding = json!({"group_size": 32, "bits": 8, "mode": "affine"});
    assert_eq!(config["quantization"]["bits"], 4);
    assert_eq!(config["quantization"]["model.embed_tokens"], embedding);
    assert_eq!(config["quantization"], config["quantization_config"]);
    let generation = json(&snapshot, "generation_config.json");
    assert_eq!(
        generation["eos_token_id"],
        json!([0, 1]),
        "the end of a turn ends an answer"
    );
}

#[test]
fn queries_and_keys_get_their_rows_back_and_values_keep_theirs() {
    let home = Home::with(&tiny());
    let snapshot = home.import(Precision::Full).expect("imported").snapshot;
    let row = |bytes: &[u8], row: usize| bytes[row * 128..(row + 1) * 128].to_vec();
    let in_file = |name: &str, rows: u64| -> Vec<u8> {
        let values = numbers(rows * HIDDEN, name.len() as u64 + rows);
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    };
    let queries = in_file("blk.0.attn_q.weight", 32);
    let got = tensor(&snapshot, "model.layers.0.self_attn.q_proj.weight");
    // Heads of 16 rows: row 1 of the checkpoint is row 2 of the file, row 8 is row 1.
    for (ours, theirs) in [
        (0, 0),
        (1, 2),
        (7, 14),
        (8, 1),
        (15, 15),
        (16, 16),
        (24, 17),
    ] {
        assert_eq!(row(&got, ours), row(&queries, theirs), "{ours}");
    }
    let values = in_file("blk.0.attn_v.weight", 16);
    assert_eq!(
        tensor(&snapshot, "model.layers.0.self_attn.v_proj.weight"),
        values
    );
}

#[test]
fn tensors_lie_for_mapping_and_small_ones_stay_wide() {
    let home = Home::with(&tiny());
    let snapshot = home.import(Precision::Four).expect("imported").snapshot;
    let header = safetensors::Header::open(&snapshot.join("model.safetensors")).expect("a header");
    let mut aligned = true;
    for tensor in &header.tensors {
        assert_eq!(tensor.offset % tensor.dtype.bytes(), 0, "{}", tensor.name);
        assert!(!aligned || tensor.offset % 64 == 0, "{}", tensor.name);
        // Scales of few rows; they come last.
        aligned &= tensor.len % 64 == 0;
        let is_norm = tensor.name.contains("norm");
        assert_eq!(
            is_norm,
            tensor.dtype == safetensors::Dtype::F32,
            "{}",
            tensor.name
        );
    }
    let norms_first = header
        .tensors
        .iter()
        .take_while(|t| t.len % 64 == 0)
        .count();
    assert!(norms_first >= 5, "{norms_first}");
}

#[test]
fn the_tokenizer_is_what_the_metadata_describes() {
    let home = Home::with(&tiny());
    let snapshot = home.import(Precision::Full).expect("imported").snapshot;
    let tokenizer = json(&snapshot, "tokenizer.json");
    let pre = &tokenizer["pre_tokenizer"]["pretokenizers"];
    assert_eq!(pre[0], json!({"type": "Digits", "individual_digits": true}));
    assert_eq!(pre[1]["type"], "ByteLevel");
    assert_eq!(
        tokenizer["model"]["merges"],
        json!([["h", "i"], ["Ġ", "hi"]])
    );
    assert_eq!(tokenizer["model"]["vocab"]["Ġhi"], 6);
    assert_eq!(tokenizer["added_tokens"].as_array().map(Vec::len), Some(2));
    assert_eq!(tokenizer["added_tokens"][1]["content"], "<|im_end|>");
    assert_eq!(tokenizer["added_tokens"][1]["special"], true);
    assert_eq!(
        tokenizer["post_processor"],
        Value::Null,
        "no first token is asked for"
    );
    let config = json(&snapshot, "tokenizer_config.json");
    assert_eq!(config["chat_template"], "{{ messages }}<|im_end|>");
    assert_eq!(config["eos_token"], "<|end|>");
}

#[test]
fn a_sentencepiece_vocabulary_gets_its_merges_from_scores() {
    let tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x41>",
        "\u{2581}",
        "h",
        "i",
        "hi",
        "\u{2581}hi",
    ];
    let builder = Builder::default()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .floats(
            "tokenizer.ggml.scores",
            &[0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0],
        )
        .integers("tokenizer.ggml.token_type", &[2, 3, 3, 6, 1, 1, 1, 1, 1])
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 2);
    let bytes = builder.bytes();
    let header = Header::read(&bytes[..], bytes.len() as u64).expect("a header");
    let tokenizer = Tokenizer::read(&header.metadata, 9, 128).expect("a tokenizer");
    let file = tokenizer.json();
    assert_eq!(
        file["model"]["merges"],
        json!([["h", "i"], ["\u{2581}", "hi"]])
    );
    assert_eq!(file["model"]["byte_fallback"], true);
    assert_eq!(file["model"]["unk_token"], "<unk>");
    let single = &file["post_processor"]["single"];
    assert_eq!(single[0]["SpecialToken"]["id"], "<s>");
    assert_eq!(single[1]["Sequence"]["id"], "A");
}

#[test]
fn files_that_are_no_whole_llama_are_refused_and_leave_nothing() {
    let check = |builder: Builder, words: &str| {
        let home = Home::with(&builder);
        let error = home.import(Precision::Four).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
        assert!(!home.0.path().join("hub").exists(), "{words}");
    };
    let other = Builder::default().text("general.architecture", "mamba");
    check(other, "expected the llama architecture, found mamba");
    check(metadata(), "no tensor for token_embd.weight");
    let norm = [1.0; 32];
    check(
        tiny().floats_tensor("blk.0.ffn_gate_exps.weight", &[32], &norm),
        "does not belong",
    );
    check(
        tiny().floats_tensor("blk.2.attn_norm.weight", &[32], &norm),
        "does not belong",
    );
    check(
        tiny().floats_tensor("output.weight", &[8, 4], &norm),
        "shape [8, 4], expected [8, 32]",
    );
    check(
        tiny().floats_tensor("rope_freqs.weight", &[32], &norm),
        "does not fit the heads",
    );
    let one_layer = metadata().floats_tensor("token_embd.weight", &[8, 32], &numbers(256, 1));
    check(
        one_layer,
        "no tensor for model.layers.0.input_layernorm.weight",
    );
    let expert = tiny().number("llama.expert_count", 8);
    check(expert, "llama with experts");
    check(
        tiny().number("llama.rope.dimension_count", 8),
        "rope over 8 of 16",
    );
    check(
        tiny().text("llama.rope.scaling.type", "longrope"),
        "rope scaling \"longrope\"",
    );
    check(
        tiny().number("tokenizer.ggml.padding_token_id", 8),
        "padding_token_id is 8 with 8 tokens",
    );
}

#[test]
fn numbers_beyond_float16_are_refused_rather_than_made_infinite() {
    let huge = [1e6_f32; 8 * 32];
    let builder = tiny().floats_tensor("output.weight", &[8, 32], &huge);
    let home = Home::with(&builder);
    let error = home
        .import(Precision::Half)
        .expect_err("refused")
        .to_string();
    assert!(error.contains("--bits 32"), "{error}");
    assert!(home.import(Precision::Full).is_ok());
}
