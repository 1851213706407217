use proptest::prelude::*;

use super::{Pushed, StopStrings};

/// Pushes the pieces one by one and answers what came out, and whether it stopped.
fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
    let mut machine = StopStrings::new(stops.iter().map(|s| (*s).to_owned()).collect());
    let mut out = String::new();
    let mut stopped = false;
    for piece in pieces {
        let pushed = machine.push(piece);
        out.push_str(&pushed.text);
        stopped = pushed.stopped;
    }
    out.push_str(&machine.finish());
    (out, stopped)
}

fn check(stops: &[&str], pieces: &[&str], text: &str, stopped: bool) {
    assert_eq!(
        run(stops, pieces),
        (text.to_owned(), stopped),
        "stops {stops:?}, pieces {pieces:?}"
    );
}

#[test]
fn finds_stop_strings_across_pieces() {
    check(&[], &["a", "b"], "ab", false);
    check(&[""], &["a", "b"], "ab", false);
    check(&["\n\n"], &["one\n", "\ntwo"], "one", true);
    check(&["\n\n"], &["one\n", "two\n"], "one\ntwo\n", false);
    check(&["STOP"], &["S", "T", "O", "P", "more"], "", true);
    check(&["STOP"], &["S", "T", "O"], "STO", false);
    check(&["aab"], &["aa", "ab"], "a", true);
    check(&["</s>", "<|end|>"], &["x<|e", "nd|", "></s>"], "x", true);
    check(&["→é"], &["a→", "éb"], "a", true);
}

#[test]
fn the_first_to_be_complete_wins_and_of_those_the_longest() {
    check(&["abcd", "bc"], &["xabcd"], "xa", true);
    check(&["bc", "abc"], &["xabc"], "x", true);
    check(&["abc", "bc"], &["xabc"], "x", true);
}

#[test]
fn holds_back_no_more_than_it_must() {
    let mut machine = StopStrings::new(vec!["END".to_owned()]);
    assert_eq!(machine.push("an E").text, "an ");
    assert_eq!(machine.push("nd").text, "End");
    assert_eq!(machine.push("EEN").text, "E");
    assert_eq!(
        machine.push("D and more"),
        Pushed {
            text: String::new(),
            stopped: true
        }
    );
    assert_eq!(
        machine.push("after"),
        Pushed {
            text: String::new(),
            stopped: true
        }
    );
    assert_eq!(machine.finish(), "");
}

/// The rule told the slow way: the earliest end, and of those the earliest start.
fn slowly(stops: &[String], text: &str) -> (String, bool) {
    let hit = (1..=text.len())
        .filter(|end| text.is_char_boundary(*end))
        .find_map(|end| {
            stops
                .iter()
                .filter(|stop| !stop.is_empty() && text[..end].ends_with(stop.as_str()))
                .map(|stop| end - stop.len())
                .min()
        });
    match hit {
        Some(start) => (text[..start].to_owned(), true),
        None => (text.to_owned(), false),
    }
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same(
        stops in prop::collection::vec("[abé]{0,4}", 0..4),
        text in "[abéc]{0,24}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut borders: Vec<usize> = cuts
            .iter()
            .map(|cut| cut.index(text.len() + 1))
            .filter(|at| text.is_char_boundary(*at))
            .chain([0, text.len()])
            .collect();
        borders.sort_unstable();
        let pieces: Vec<&str> = borders.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        let borrowed: Vec<&str> = stops.iter().map(String::as_str).collect();
        prop_assert_eq!(run(&borrowed, &pieces), slowly(&stops, &text));
    }

    #[test]
    fn what_is_held_always_begins_a_stop_string(
        stops in prop::collection::vec("[abé]{1,4}", 1..4),
        text in "[abéc]{0,24}",
    ) {
        let mut machine = StopStrings::new(stops.clone());
        for character in text.chars() {
            if machine.push(&character.to_string()).stopped {
                break;
            }
            let held = machine.held.clone();
            prop_assert!(stops.iter().any(|stop| stop.starts_with(&held)), "held {:?}", held);
        }
    }
}
