//! The usage of an answer: how many tokens were read, found in the prompt cache, and
//! made. Our own workers report it beside their answers in words, which is the form in which it is
//! logged: `prompt=12 cached=8 completion=34 finish=stop`.

use crate::telemetry::line::push_number;

/// What was reported of one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The words.
    pub text: String,
    /// Tokens that were read.
    pub prompt: Option<u64>,
    /// Those of them that were in the prompt cache, if that is known.
    pub cached: Option<u64>,
    /// Tokens that were made.
    pub completion: Option<u64>,
    /// Those of them that had been guessed, if any were.
    pub accepted: Option<u64>,
    /// Tokens that were guessed wrongly.
    pub rejected: Option<u64>,
}

impl Usage {
    /// What these words say; words that are none of it are passed over.
    pub fn said(text: &str) -> Self {
        let mut usage = Self {
            text: text.to_owned(),
            prompt: None,
            cached: None,
            completion: None,
            accepted: None,
            rejected: None,
        };
        for (name, number) in text.split(' ').filter_map(|word| word.split_once('=')) {
            let place = match name {
                "prompt" => &mut usage.prompt,
                "cached" => &mut usage.cached,
                "completion" => &mut usage.completion,
                "accepted" => &mut usage.accepted,
                "rejected" => &mut usage.rejected,
                _ => continue,
            };
            // The first of several is meant.
            *place = place.or_else(|| number.parse().ok());
        }
        usage
    }

    /// These numbers of tokens.
    pub fn counted(prompt: u64, completion: u64) -> Self {
        let mut text = String::from("prompt=");
        push_number(&mut text, prompt, 1);
        text.push_str(" completion=");
        push_number(&mut text, completion, 1);
        Self {
            text,
            prompt: Some(prompt),
            cached: None,
            completion: Some(completion),
            accepted: None,
            rejected: None,
        }
    }

    /// All tokens, if both parts were told and their sum is a number.
    pub fn tokens(&self) -> Option<u64> {
        self.prompt?.checked_add(self.completion?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_what_its_words_say() {
        let check = |text: &str, expected: [Option<u64>; 3], tokens: Option<u64>| {
            let usage = Usage::said(text);
            assert_eq!([usage.prompt, usage.cached, usage.completion], expected);
            assert_eq!((usage.tokens(), usage.text.as_str()), (tokens, text));
        };
        let all = [Some(12), Some(8), Some(34)];
        check(
            "prompt=12 cached=8 completion=34 finish=stop",
            all,
            Some(46),
        );
        check(
            "completion=34 prompt=12",
            [Some(12), None, Some(34)],
            Some(46),
        );
        check("prompt=12", [Some(12), None, None], None);
        check("prompt=x prompts=3 completion", [None; 3], None);
        check("", [None; 3], None);
        let most = u64::MAX;
        check(
            &format!("prompt={most} completion=1"),
            [Some(most), None, Some(1)],
            None,
        );
        let guessed = Usage::said("prompt=3 completion=9 accepted=5 rejected=2 finish=stop");
        assert_eq!((guessed.accepted, guessed.rejected), (Some(5), Some(2)));
        let counted = Usage::counted(37, 0);
        assert_eq!(counted, Usage::said("prompt=37 completion=0"));
    }
}
