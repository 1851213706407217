use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Texts that nothing may take for a name.
const NO_NAMES: [&str; 33] = [
    "",
    "../..",
    ".git/b",
    "a/.b",
    "./.",
    "a/..",
    "../a",
    "a/../b",
    "/etc/passwd",
    "C:\\x",
    "a\\b",
    "file:///",
    "https://h/x",
    "~/m",
    "a//b",
    "a/",
    "/a",
    "a%2f..%2f..",
    "%252e",
    "a/b%00",
    "a/b\0",
    "a/b\n",
    " a/b",
    "a/b ",
    "a\tb",
    "\u{430}/b",
    "\u{ff21}/b",
    "e\u{301}/b",
    "\u{e9}/b",
    "a\u{200d}/b",
    "\u{202e}a/b",
    "a/b?x",
    "a/{b}",
];

/// Names that are no ids: they may be asked for and never touch the cache.
const NO_IDS: [&str; 11] = [
    "gpt-4",
    "a/b/c",
    "a/b:c",
    "a/b.",
    "-a/b",
    "a/-b",
    "a--b/c",
    "a/b..c",
    "a/b.git",
    "a/b.lock",
    "a/b.incomplete",
];

#[test]
fn what_is_outside_the_grammar_is_no_name() {
    for text in NO_NAMES {
        assert!(Name::parse(text).is_err(), "{text:?}");
        assert!(ModelId::parse(text).is_err(), "{text:?}");
    }
    for text in NO_IDS {
        assert!(
            Name::parse(text).is_ok_and(|name| name.as_id().is_none()),
            "{text:?}"
        );
    }
    for text in ["a/b", "mlx-community/Qwen3-4B-4bit", "_a/b.c_d-e0", "0/1"] {
        assert_eq!(
            Name::parse(text).ok().and_then(|n| n.as_id()),
            ModelId::parse(text).ok(),
            "{text:?}"
        );
        assert!(ModelId::parse(text).is_ok(), "{text:?}");
    }
}

#[test]
fn ninety_six_bytes_are_fine_and_more_are_refused_at_once() {
    for (length, fine) in [(96, true), (97, false), (10_000, false), (1_000_000, false)] {
        let text = format!("a/{}", "b".repeat(length - 2));
        // Others share the processors: what counts is how quick it can be.
        let least = (0..10).map(|_| {
            let start = Instant::now();
            let _ = (Name::parse(&text), ModelId::parse(&text));
            start.elapsed()
        });
        let least = least.min().expect("ten tries");
        assert!(least < Duration::from_millis(5), "{length}: {least:?}");
        let (name, id) = (Name::parse(&text), ModelId::parse(&text));
        assert_eq!((name.is_ok(), id.is_ok()), (fine, fine), "{length}");
        if let Err(error) = id {
            assert!(error.to_string().len() < 200, "{length}");
        }
    }
}

#[test]
fn an_error_shows_escapes_and_not_the_text_itself() {
    for text in ["a/b\n", "a\u{202e}b", "a\x1b[31m"] {
        let error = Name::parse(text).expect_err("refused").to_string();
        assert!(
            error.bytes().all(|b| (0x20..0x7f).contains(&b)),
            "{error:?}"
        );
    }
}

proptest! {
    #[test]
    fn a_folder_stands_for_one_id_and_stays_in_its_parent(text in "[A-Za-z0-9._/-]{1,40}") {
        if let Ok(id) = ModelId::parse(&text) {
            let folder = id.folder();
            prop_assert_eq!(ModelId::from_folder(&folder), Some(id));
            prop_assert!(!folder.contains('/') && !folder.contains(".."), "{}", folder);
        }
    }

    #[test]
    fn a_folder_that_is_an_id_is_the_folder_of_that_id(folder in "models--[A-Za-z0-9._-]{1,40}") {
        if let Some(id) = ModelId::from_folder(&folder) {
            prop_assert_eq!(id.folder(), folder);
        }
    }

    #[test]
    fn every_id_is_a_name_and_no_text_panics(text in ".{0,120}") {
        if ModelId::parse(&text).is_ok() {
            prop_assert!(Name::parse(&text).is_ok());
        }
        let _ = ModelId::from_folder(&text);
    }
}
