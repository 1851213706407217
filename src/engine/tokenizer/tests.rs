//! Small tokenizers of the kinds that occur, made here; the detokenizer's tests use them
//! too.

use serde_json::{Value, json};

use super::*;

/// The character that a byte-level vocabulary writes for a byte, told the way GPT-2's
/// source tells it.
fn byte_character(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !printable(*other)).count() as u32;
    char::from_u32(256 + before).unwrap()
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": special})
}

/// Numbers the words, and gives the description of a BPE tokenizer with them.
fn bpe(words: &[String], merges: &[[String; 2]], rest: Value) -> Value {
    let vocabulary: serde_json::Map<String, Value> = words
        .iter()
        .enumerate()
        .map(|(id, word)| (word.clone(), json!(id)))
        .collect();
    let mut description = json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges,
            "byte_fallback": rest["byte_fallback"] == true, "unk_token": rest["unk_token"],
            "fuse_unk": true},
    });
    for key in [
        "normalizer",
        "pre_tokenizer",
        "decoder",
        "added_tokens",
        "post_processor",
    ] {
        description[key] = rest[key].clone();
    }
    if description["added_tokens"].is_null() {
        description["added_tokens"] = json!([]);
    }
    description
}

/// GPT-2's kind: every byte is a character; some merges, one of them across the middle of
/// an emoji. It cuts at 512 tokens, as training files do.
pub(crate) fn byte_level() -> Value {
    let mut words: Vec<String> = (0..=255u8).map(|b| byte_character(b).to_string()).collect();
    let spelled = |bytes: &[u8]| bytes.iter().map(|b| byte_character(*b)).collect::<String>();
    let mut merges = Vec::new();
    let emoji = "😀".as_bytes();
    for pair in [
        [b"h".as_slice(), b"e"],
        [b" ", b"he"],
        ["é".as_bytes().split_at(1).0, "é".as_bytes().split_at(1).1],
        [&emoji[..1], &emoji[1..2]],
        [&emoji[2..3], &emoji[3..]],
    ] {
        let [left, right] = pair.map(spelled);
        words.push(format!("{left}{right}"));
        merges.push([left, right]);
    }
    let next = words.len();
    let mut description = bpe(
        &words,
        &merges,
        json!({
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "added_tokens": [added(next, "<|end|>", true), added(next + 1, "<call> ä", false)],
        }),
    );
    description["truncation"] =
        json!({"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0});
    description
}

/// Sentencepiece's kind, with byte fallback; `decoder` is what the models differ in.
pub(crate) fn sentencepiece(decoder: Value) -> Value {
    let mut words: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    words.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    words.extend(
        "▁ abcdehlo,.é"
            .chars()
            .filter(|c| *c != ' ')
            .map(String::from),
    );
    let mut merges = Vec::new();
    for [left, right] in [["▁", "h"], ["▁h", "e"], ["l", "l"], ["▁", "▁"]] {
        words.push(format!("{left}{right}"));
        merges.push([left.to_owned(), right.to_owned()]);
    }
    bpe(
        &words,
        &merges,
        json!({
            "byte_fallback": true, "unk_token": "<unk>", "decoder": decoder,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        }),
    )
}

/// The decoder of llama's sentencepiece models, and (without the last step) of gemma's.
pub(crate) fn llama_decoder() -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
}

/// All kinds, by name.
pub(crate) fn kinds() -> Vec<(&'static str, Value)> {
    let mut gemma = llama_decoder();
    gemma["decoders"].as_array_mut().unwrap().pop();
    let mut both_ends = llama_decoder();
    both_ends["decoders"][3] = json!({"type": "Strip", "content": "l", "start": 2, "stop": 2});
    vec![
        ("byte level", byte_level()),
        ("llama", sentencepiece(llama_decoder())),
        ("gemma", sentencepiece(gemma)),
        ("both ends", sentencepiece(both_ends)),
        (
            "metaspace",
            sentencepiece(
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
            ),
        ),
        (
            "metaspace, never",
            sentencepiece(
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false}),
            ),
        ),
        ("none", sentencepiece(Value::Null)),
        (
            "word pieces",
            sentencepiece(json!({"type": "WordPiece", "prefix": "##", "cleanup": false})),
        ),
    ]
}

/// A tokenizer from its description.
pub(crate) fn tokenizer(description: &Value) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), description.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

#[test]
fn there_and_back() {
    let text = "hello, he said: \"Größe\" 😀\n\n  and\tmore";
    let tokenizer = tokenizer(&byte_level());
    let tokens = tokenizer.encode(text, true).unwrap();
    assert_eq!(tokenizer.decode(&tokens, true).as_deref(), Ok(text));
    assert_eq!(tokenizer.vocabulary(), 256 + 5 + 2);
}

#[test]
fn special_tokens_are_known_and_skipped() {
    let tokenizer = tokenizer(&byte_level());
    let tokens = tokenizer.encode("a<|end|>b<call> ä", false).unwrap();
    assert_eq!(tokens.len(), 4);
    assert_eq!(tokenizer.token_id("<|end|>"), Some(tokens[1]));
    assert!(tokenizer.is_special(tokens[1]) && !tokenizer.is_special(tokens[3]));
    assert_eq!(tokenizer.decode(&tokens, true).as_deref(), Ok("ab<call> ä"));
    assert_eq!(
        tokenizer.decode(&tokens, false).as_deref(),
        Ok("a<|end|>b<call> ä")
    );
    assert_eq!(tokenizer.decode(&[999_999], false).as_deref(), Ok(""));
    assert_eq!(tokenizer.decode(&[], false).as_deref(), Ok(""));
}

#[test]
fn adds_the_tokens_around_a_text_when_asked() {
    let tokenizer = tokenizer(&sentencepiece(llama_decoder()));
    let bare = tokenizer.encode("hello", false).unwrap();
    let with = tokenizer.encode("hello", true).unwrap();
    assert_eq!(with, [&[1], bare.as_slice()].concat());
    assert_eq!(tokenizer.decode(&with, true).as_deref(), Ok("hello"));
}

#[test]
fn a_long_text_is_neither_cut_nor_slow() {
    let text = "he said hello, he did; ".repeat(5_000);
    for (name, description) in kinds().iter().take(3) {
        let tokenizer = tokenizer(description);
        let tokens = tokenizer.encode(&text, false).unwrap();
        let back = tokenizer.decode(&tokens, true).unwrap();
        assert_eq!(back.trim_start(), text, "{name}");
    }
}

#[test]
fn tells_what_a_token_stands_for() {
    let byte_level = tokenizer(&byte_level());
    let [first, second] = byte_level.encode("😀", false).unwrap()[..] else {
        panic!("expected the emoji in two tokens");
    };
    let bytes = [
        byte_level.token_bytes(first),
        byte_level.token_bytes(second),
    ]
    .concat();
    assert_eq!(bytes, "😀".as_bytes());
    assert_eq!(byte_level.token_text(first), "\u{fffd}");
    assert_eq!(
        byte_level.token_text(byte_level.encode(" he", false).unwrap()[0]),
        " he"
    );
    assert_eq!(byte_level.token_text(999_999), "");
    let llama = tokenizer(&sentencepiece(llama_decoder()));
    let token = |word| llama.token_id(word).unwrap();
    assert_eq!(llama.token_text(token("▁he")), " he");
    assert_eq!(llama.token_bytes(token("<0xE2>")), [0xe2]);
    assert_eq!(llama.token_text(token("</s>")), "</s>");
}

/// Loads a byte-level tokenizer beside these files; its end tokens.
fn check_end(files: &[(&str, Value)], expected: &[u32]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), byte_level().to_string()).unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.end_tokens(), expected, "files {files:?}");
}

#[test]
fn gathers_the_end_tokens() {
    let config = |ids: Value| json!({ "eos_token_id": ids });
    check_end(&[], &[]);
    check_end(&[("config.json", config(json!(7)))], &[7]);
    check_end(&[("config.json", config(json!([9, 7])))], &[7, 9]);
    check_end(&[("config.json", config(Value::Null))], &[]);
    check_end(
        &[("config.json", json!({"text_config": {"eos_token_id": 5}}))],
        &[5],
    );
    check_end(
        &[
            ("config.json", config(json!(7))),
            ("generation_config.json", config(json!([3, 4]))),
            (
                "tokenizer_config.json",
                json!({"eos_token": {"content": "<|end|>"}}),
            ),
        ],
        &[3, 4, 261],
    );
    check_end(
        &[
            ("config.json", config(json!(7))),
            ("generation_config.json", json!({})),
            ("tokenizer_config.json", json!({"eos_token": "<|unknown|>"})),
            ("special_tokens_map.json", json!({"eos_token": "<|end|>"})),
        ],
        &[7],
    );
    check_end(
        &[
            ("tokenizer_config.json", json!({})),
            ("special_tokens_map.json", json!({"eos_token": "<|end|>"})),
        ],
        &[261],
    );
}

fn check_broken(files: &[(&str, &str)], file: &str, reason: &str) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    match Tokenizer::load(dir.path()) {
        Err(TextError::BadFile {
            file: found,
            reason: why,
        }) => {
            assert_eq!(found, file);
            assert!(why.contains(reason), "found {why}");
        }
        other => panic!("found {other:?}"),
    }
}

#[test]
fn says_which_file_is_broken() {
    let good = byte_level().to_string();
    let deep = "[".repeat(10_000);
    check_broken(&[], "tokenizer.json", "not in the snapshot");
    check_broken(
        &[("tokenizer.json", "{}")],
        "tokenizer.json",
        "Model missing",
    );
    check_broken(&[("tokenizer.json", &deep)], "tokenizer.json", "");
    check_broken(
        &[("tokenizer.json", &good), ("config.json", "{\"a\":")],
        "config.json",
        "EOF",
    );
    check_broken(
        &[("tokenizer.json", &good), ("tokenizer_config.json", &deep)],
        "tokenizer_config.json",
        "recursion limit",
    );
}
