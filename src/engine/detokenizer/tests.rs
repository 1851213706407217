use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::engine::tokenizer::tests::{byte_level, kinds, llama_decoder, sentencepiece, tokenizer};

/// Pushes the tokens one by one; what came out each time and at the end.
fn pushed(tokenizer: &Arc<Tokenizer>, tokens: &[u32]) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer));
    let mut out: Vec<String> = tokens.iter().map(|t| detokenizer.push(*t)).collect();
    out.push(detokenizer.finish());
    assert_eq!(detokenizer.finish(), "", "there is nothing after the end");
    out
}

/// Pushes these words of the vocabulary.
fn check(tokenizer: &Arc<Tokenizer>, words: &[&str], expected: &[&str]) {
    let tokens: Vec<u32> = words
        .iter()
        .map(|word| tokenizer.token_id(word).unwrap())
        .collect();
    assert_eq!(pushed(tokenizer, &tokens), expected, "words {words:?}");
    assert_eq!(tokenizer.decode(&tokens, true), Ok(expected.concat()));
}

#[test]
fn waits_for_whole_characters() {
    let llama = Arc::new(tokenizer(&sentencepiece(llama_decoder())));
    let euro = ["▁he", "<0xE2>", "<0x82>", "<0xAC>", "l"];
    check(&llama, &euro, &["he", "", "", "€", "l", ""]);
    check(
        &llama,
        &["<0xE2>", "<0x82>", "l"],
        &["", "", "\u{fffd}\u{fffd}l", ""],
    );
    check(
        &llama,
        &["a", "<0xE2>", "<0x82>"],
        &["a", "", "", "\u{fffd}\u{fffd}"],
    );
    let byte_level = Arc::new(tokenizer(&byte_level()));
    check(
        &byte_level,
        &["h", "ð", "Ł", "ĺ", "Ģ"],
        &["h", "", "", "", "😀", ""],
    );
    check(&byte_level, &["ð", "Ł", "h"], &["", "", "\u{fffd}h", ""]);
    check(&byte_level, &["h", "ð", "Ł"], &["h", "", "", "\u{fffd}"]);
}

#[test]
fn only_the_first_space_goes() {
    let llama = Arc::new(tokenizer(&sentencepiece(llama_decoder())));
    check(&llama, &["▁he", "▁he", "▁▁"], &["he", " he", "  ", ""]);
    check(&llama, &["▁▁", "▁he"], &[" ", " he", ""]);
    check(&llama, &["▁", "▁he"], &["", " he", ""]);
    check(&llama, &["</s>", "▁he"], &["", "he", ""]);
    check(&llama, &[], &[""]);
}

#[test]
fn what_is_cut_from_the_end_is_held() {
    let (_, description) = kinds().swap_remove(3);
    let both_ends = Arc::new(tokenizer(&description));
    check(
        &both_ends,
        &["ll", "l", "a", "ll", "l", "b", "ll", "l"],
        &["", "", "la", "", "l", "llb", "", "l", ""],
    );
}

#[test]
fn special_tokens_are_told_when_asked() {
    let tokenizer = Arc::new(tokenizer(&byte_level()));
    let end = tokenizer.token_id("<|end|>").unwrap();
    assert_eq!(Detokenizer::new(Arc::clone(&tokenizer)).push(end), "");
    assert_eq!(
        Detokenizer::with_special(tokenizer, false).push(end),
        "<|end|>"
    );
}

#[test]
fn knows_which_decoders_work_token_by_token() {
    for (name, description) in kinds() {
        let found = tokenizer(&description).pieces().is_some();
        assert_eq!(found, name != "word pieces", "{name}");
    }
    for step in [
        json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}),
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
    ] {
        let decoder = json!({"type": "Sequence", "decoders": [step]});
        let found = tokenizer(&sentencepiece(decoder.clone()))
            .pieces()
            .is_some();
        assert!(!found, "{decoder}");
    }
}

static KINDS: LazyLock<Vec<(&str, Arc<Tokenizer>)>> = LazyLock::new(|| {
    kinds()
        .into_iter()
        .map(|(name, description)| (name, Arc::new(tokenizer(&description))))
        .collect()
});

proptest! {
    #[test]
    fn pieces_make_the_whole(
        kind in 0..8usize,
        tokens in prop::collection::vec(prop_oneof![3 => 0u32..290, 2 => 256u32..290, 1 => 0u32..2000], 0..40),
    ) {
        let (name, tokenizer) = &KINDS[kind];
        let whole = tokenizer.decode(&tokens, true).unwrap();
        prop_assert_eq!(pushed(tokenizer, &tokens).concat(), whole.clone(), "{}", name);
        // Beside it the crate's own decoder, which differs only where bytes are no text.
        // (It cannot cut from the end of a text that is nothing but what is cut.)
        let known: Vec<u32> = tokens.iter().copied().filter(|t| tokenizer.word(*t, true).is_some()).collect();
        if *name != "both ends" {
            let theirs = tokenizer.decode_whole(&known, true).unwrap();
            if *name == "byte level" || !theirs.contains('\u{fffd}') {
                prop_assert_eq!(whole, theirs, "{}", name);
            }
        }
    }

    #[test]
    fn text_comes_back_letter_by_letter(kind in 0..3usize, text in "([a-z ,.é😀漢\u{301}]|\\PC){0,30}") {
        let (name, tokenizer) = &KINDS[kind];
        let tokens = tokenizer.encode(&text, false).unwrap();
        // Letters that happen to write a special token's name are that token, which is not told.
        prop_assume!(!tokens.iter().any(|token| tokenizer.is_special(*token)));
        let pieces = pushed(tokenizer, &tokens);
        let whole = pieces.concat();
        // Sentencepiece writes a space with this letter and cannot tell the two apart.
        let text = if *name == "byte level" { text } else { text.replace('▁', " ") };
        // Gemma's decoder keeps the space that is put in front.
        let expected = if *name == "gemma" && !text.is_empty() { format!(" {text}") } else { text.clone() };
        prop_assert_eq!(&whole, &expected, "{}", name);
        // Nothing is held that could go out: before each character's last byte only.
        prop_assert_eq!(pieces.last().map(String::as_str), Some(""));
    }
}

#[test]
fn a_long_answer_costs_no_more_per_token() {
    let (_, tokenizer) = &KINDS[1];
    let tokens = tokenizer
        .encode(&"he said hello 😀 ".repeat(4_000), false)
        .unwrap();
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer));
    let mut longest = 0;
    for token in &tokens {
        detokenizer.push(*token);
        longest = longest.max(detokenizer.window.tokens.len());
    }
    assert_eq!(longest, 0, "nothing is decoded again");
}
