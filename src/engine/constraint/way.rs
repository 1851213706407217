//! A way from where a document is to its end, as short as is found by always taking what
//! leads there. It looks a few letters ahead and not further, so what it finds is no proof of
//! the shortest, and that it finds none is no proof that there is none.

use std::sync::Arc;

use llguidance::Matcher;

use super::closing::{Closing, Misses};
use super::place::Bracket;
use crate::engine::guide::Allowed;

/// The longest way that is looked for, tokens.
const LONGEST: usize = 2_000;

/// The work that may go into one, in texts that are tried; and what it costs to work out all
/// that may come next.
const WORK: u32 = 100_000;
const MASK: u32 = 16;

/// Most digits that are tried before a number may end.
const DIGITS: usize = 3;

/// A place in a document, from which ways are tried.
pub(super) struct Scout {
    matcher: Matcher,
    closing: Closing,
    work: u32,
    misses: Misses,
}

impl Scout {
    /// At the place of both.
    pub fn new(matcher: Matcher, closing: Closing) -> Self {
        Self {
            matcher,
            closing,
            work: WORK,
            misses: Misses::default(),
        }
    }

    /// The tokens that lead from here to the end. Nothing if no end was found.
    pub fn find_end(mut self) -> Option<Vec<u32>> {
        let mut way = Vec::new();
        while way.len() < LONGEST {
            if self.matcher.is_stopped() {
                return Some(way);
            }
            let allowed = self.allowed()?;
            let next = match self.closing.nearer(&allowed) {
                Some(nearer) => {
                    self.misses.count(true);
                    vec![self.closing.strokes().longest(&nearer)?]
                }
                None => match self.onward_at_times(&allowed) {
                    Some(onward) => onward,
                    None => {
                        let least = self.closing.at_least(&allowed);
                        let least = least.as_ref().unwrap_or(&allowed);
                        vec![self.closing.strokes().longest(least)?]
                    }
                },
            };
            for token in next {
                way.push(token);
                if self.closing.strokes().ends.contains(token) {
                    return Some(way);
                }
                self.matcher.consume_token(token).ok()?;
                self.closing.take(token);
            }
        }
        None
    }

    /// How many tokens the longest text has that the schema tells of.
    pub fn longest_text(&self) -> Option<u32> {
        let environment = self.matcher.tok_env().ok()?;
        let hints = self.closing.hints();
        let tokens = hints
            .all()
            .map(|text| environment.tok_trie().greedy_tokenize(text).len());
        tokens.max().and_then(|tokens| u32::try_from(tokens).ok())
    }

    /// What leads on, if it was found lately or for a while not looked for.
    fn onward_at_times(&mut self, allowed: &Allowed) -> Option<Vec<u32>> {
        let is_time = self.misses.is_time(self.closing.place());
        let found = is_time.then(|| self.onward(allowed)).flatten();
        self.misses.count(found.is_some());
        found
    }

    /// Tokens that lead on: the name of the member that has to come; in a string or a number
    /// that may not end here, to where it may, or where something else may follow than here;
    /// through a bracket where nothing else may come.
    pub fn onward(&mut self, allowed: &Allowed) -> Option<Vec<u32>> {
        if let Some(name) = self.name(allowed) {
            return Some(name);
        }
        let place = self.closing.place();
        match (place.in_string(), place.in_number()) {
            (true, _) => self.out_of_string(allowed),
            (_, true) => self.out_of_number(),
            _ => self.through_bracket(allowed),
        }
    }

    /// The name of a required member, or what is missing of it, where one may stand.
    fn name(&mut self, allowed: &Allowed) -> Option<Vec<u32>> {
        let begun = self.closing.place().name()?.to_vec();
        let quote: &[u8] = match self.closing.place().in_string() {
            true => b"",
            false => b"\"",
        };
        let hints = Arc::clone(self.closing.hints());
        let environment = self.matcher.tok_env().ok()?;
        let mut may_be = Vec::new();
        for name in hints.names(&begun) {
            self.spend(1)?;
            let rest = [quote, &name[begun.len()..], b"\""].concat();
            let tokens = environment.tok_trie().greedy_tokenize(&rest);
            if allowed.contains(*tokens.first()?) && self.may_come(&tokens)? {
                may_be.push((name, tokens));
            }
        }
        let names: Vec<&[u8]> = may_be.iter().map(|(name, _)| *name).collect();
        let required = hints.required_of(&names)?;
        let found = may_be.into_iter().find(|(name, _)| *name == required);
        found.map(|(_, tokens)| tokens)
    }

    fn out_of_string(&mut self, allowed: &Allowed) -> Option<Vec<u32>> {
        let strokes = self.closing.strokes();
        let may_end = !allowed.and(&strokes.end_string).is_empty();
        let text = self.closing.place().string()?;
        if may_end || self.closing.hints().lists(text) {
            return None;
        }
        let quote = strokes.letter(b'"')?;
        let letters = self.closing.strokes().letters.clone();
        let letters = letters.iter().filter(|token| allowed.contains(**token));
        for letter in letters.clone() {
            if self.may_come(&[*letter, quote])? {
                return Some(vec![*letter]);
            }
        }
        // One letter is not enough; a text may be, or the end of one.
        let hints = Arc::clone(self.closing.hints());
        let environment = self.matcher.tok_env().ok()?;
        for length in 1..=hints.longest() {
            for text in hints.texts().iter().filter_map(|text| text.last(length)) {
                self.spend(1)?;
                let mut tokens = environment.tok_trie().greedy_tokenize(text);
                tokens.push(quote);
                if allowed.contains(tokens[0]) && self.may_come(&tokens)? {
                    tokens.pop();
                    return Some(tokens);
                }
            }
        }
        for letter in letters {
            self.matcher.consume_token(*letter).ok()?;
            let then = self.allowed()?;
            self.matcher.rollback(1).ok()?;
            if then != *allowed {
                return Some(vec![*letter]);
            }
        }
        None
    }

    fn out_of_number(&mut self) -> Option<Vec<u32>> {
        let strokes = self.closing.strokes();
        let ends: &[Option<u32>] = match self.closing.place().bracket() {
            Some(Bracket::Object) => &[strokes.letter(b'}'), strokes.letter(b',')],
            Some(Bracket::Array) => &[strokes.letter(b']'), strokes.letter(b',')],
            None => &[strokes.ends.tokens().next()],
        };
        let ends: Vec<u32> = ends.iter().flatten().copied().collect();
        let digits: Vec<Option<u32>> = (b'0'..=b'9').map(|it| strokes.letter(it)).collect();
        let digits: Option<Vec<u32>> = digits.into_iter().collect();
        let digits = digits?;
        let mut begun = vec![Vec::new()];
        for _ in 0..DIGITS {
            let mut longer = Vec::new();
            for tokens in begun {
                for digit in &digits {
                    let mut tokens = Vec::clone(&tokens);
                    tokens.push(*digit);
                    for end in &ends {
                        tokens.push(*end);
                        let may_end = self.may_come(&tokens)?;
                        tokens.pop();
                        if may_end {
                            return Some(tokens);
                        }
                    }
                    longer.push(tokens);
                }
            }
            begun = longer;
        }
        None
    }

    fn through_bracket(&mut self, allowed: &Allowed) -> Option<Vec<u32>> {
        let strokes = self.closing.strokes();
        let letters = |pair: [u8; 2]| Some([strokes.letter(pair[0])?, strokes.letter(pair[1])?]);
        let pairs = [letters(*b"[]"), letters(*b"{}")];
        let pairs = pairs.into_iter().flatten();
        let pairs: Vec<_> = pairs.filter(|[open, _]| allowed.contains(*open)).collect();
        for pair in &pairs {
            if self.may_come(pair)? {
                return Some(vec![pair[0]]);
            }
        }
        pairs.last().map(|[open, _]| vec![*open])
    }

    /// What may come next.
    fn allowed(&mut self) -> Option<Allowed> {
        self.spend(MASK)?;
        let mask = self.matcher.compute_mask().ok()?;
        Some(Allowed::of_bits(mask.as_slice().to_vec()))
    }

    /// Whether all of these may come next, one after the other.
    fn may_come(&mut self, tokens: &[u32]) -> Option<bool> {
        self.spend(1)?;
        let valid = self.matcher.validate_tokens(tokens).ok()?;
        Some(valid == tokens.len())
    }

    fn spend(&mut self, work: u32) -> Option<()> {
        self.work = self.work.checked_sub(work)?;
        Some(())
    }
}
