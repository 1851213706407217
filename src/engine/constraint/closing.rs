//! Brings a JSON answer to its end while it still has tokens: strings end, lists and
//! objects close, nothing is begun that need not be. A small model may write a string or a
//! list that its schema does not end until its tokens run out, and half a document is of no use
//! to anybody. It chooses among what the grammar allows and knows nothing of that: a way to
//! the end, and what leads out of a string that may not end yet, it is told (`way`). Where the
//! tokens that are left are hardly more than that way has, it is followed to the letter. A
//! document whose required parts need more tokens than are left stays unfinished.

use std::sync::Arc;

use super::hints::Hints;
use super::place::Place;
use super::strokes::Strokes;
use crate::engine::guide::Allowed;

/// The part of an answer's tokens that is kept for its end: one in so many.
const PART: u32 = 8;

/// The fewest and the most of them.
const FEWEST: u32 = 16;
const MOST: u32 = 256;

/// Tokens that a list or object may take to close.
const LEVEL: u32 = 2;

/// A model does not take the shortest way: one token more for so many of it.
const LONGER: u32 = 2;

/// The way is looked for again when so much of the tokens that were left is gone: one part in
/// so many.
const LOOKS: u32 = 4;

/// To look for it takes about as long as all masks of the way do. So a bracket that was opened
/// waits for it until one token has come for so many of the way.
const EACH: u32 = 2;

/// Where the way takes so many times what is left, no end is hoped for: to look for one again and
/// again would hold up an answer that stays the beginning of a document.
const HOPELESS: u32 = 2;

/// The way is followed to the letter when no more are left beside it than these, one for so
/// many of it, and what a text may take.
const SPARE: u32 = 4;
const SPARED: u32 = 16;

/// In a string, nothing that leads on is looked for in more places in a row than so many.
const REST: u32 = 8;

/// How far a document has come.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    strokes: Arc<Strokes>,
    hints: Arc<Hints>,
    /// How many tokens the whole answer may have; known with the first.
    total: Option<u32>,
    place: Place,
    /// Something was left out that the grammar allows.
    has_cut: bool,
    /// How long the way to the end was when it was looked for last.
    way: Option<u32>,
    /// By how much a bracket made it longer, at the most.
    detour: u32,
    /// By how much a string may that has begun.
    text: u32,
    /// A bracket was opened since.
    has_opened: bool,
    /// With how many tokens left it was looked for last.
    looked_at: u32,
    /// With how many tokens left it is to be looked for again.
    look_at: u32,
    /// From so many tokens on the way to the end takes all that are left.
    needed: u32,
    /// Tokens that lead on from here, the next one last: to the end, or out of a string or
    /// number. None if the answer went elsewhere.
    ahead: Vec<u32>,
    /// Nothing but them is allowed.
    is_bound: bool,
    misses: Misses,
}

/// In how many places in a row nothing was found that leads on. A string that has to be long
/// wants many tokens before it may end, whatever they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Misses(u32);

impl Misses {
    /// Whether it is time to look for it at `place`.
    pub fn is_time(&self, place: &Place) -> bool {
        !place.in_string() || self.0.is_power_of_two() || self.0.is_multiple_of(REST)
    }

    /// It was found, or not.
    pub fn count(&mut self, was_found: bool) {
        self.0 = if was_found { 0 } else { self.0 + 1 };
    }
}

impl Closing {
    /// Before the first token.
    pub fn new(strokes: Arc<Strokes>, hints: Arc<Hints>) -> Self {
        Self {
            strokes,
            hints,
            total: None,
            place: Place::default(),
            has_cut: false,
            way: None,
            detour: 0,
            text: 0,
            has_opened: false,
            looked_at: 0,
            look_at: 0,
            needed: 0,
            ahead: Vec::new(),
            is_bound: false,
            misses: Misses::default(),
        }
    }

    /// The same, if `way` is a whole document, as short as was found, and a string may take
    /// `text` tokens more once it is begun.
    pub fn with(mut self, way: Option<Vec<u32>>, text: u32) -> Self {
        self.go(way);
        self.text = text;
        self
    }

    /// Whether the document is shorter than it might have become.
    pub fn has_cut(&self) -> bool {
        self.has_cut
    }

    /// Whether it is time to look for the way to the end.
    pub fn is_to_look(&mut self, left: u32) -> bool {
        if self.total.is_none() {
            self.total = Some(left);
            self.plan(left);
            return false;
        }
        let Some(way) = self.way else { return false };
        let since = self.looked_at.saturating_sub(left);
        let has_changed = self.has_opened && since.saturating_mul(EACH) >= way;
        let is_due = left <= self.look_at || has_changed && left > self.needed;
        is_due && !self.is_bound
    }

    /// The way to the end was found to be this, if any was found.
    pub fn looked(&mut self, way: Option<Vec<u32>>, left: u32) {
        let before = self.way;
        self.go(way);
        if let (true, Some(before), Some(way)) = (self.has_opened, before, self.way) {
            self.detour = self.detour.max(way.saturating_sub(before));
        }
        self.has_opened = false;
        self.plan(left);
    }

    fn go(&mut self, way: Option<Vec<u32>>) {
        self.way = way.as_ref().map(|way| length(way));
        self.ahead = way.unwrap_or_default();
        self.ahead.reverse();
    }

    /// What follows from how long the way is.
    fn plan(&mut self, left: u32) {
        self.looked_at = left;
        let Some(way) = self.way else { return };
        if way > left.saturating_mul(HOPELESS) {
            (self.way, self.needed) = (None, 0);
            self.ahead.clear();
            return;
        }
        let needed = with_reserve(way.saturating_add(self.detour.max(self.text)));
        if needed < left && self.needed < left {
            self.look_at = needed.max(left - left.div_ceil(LOOKS));
            return;
        }
        self.needed = self.needed.max(left);
        let least = SPARE + way / SPARED + self.text;
        match left.checked_sub(way) {
            Some(spare) if spare <= least => self.is_bound = true,
            Some(spare) => self.look_at = left - spare / 2,
            // Perhaps the model knows a shorter one.
            None => self.look_at = left / 2,
        }
    }

    /// Of what may come next, what brings the end nearer, if it is time for that. `left` is
    /// how many tokens there may still be, the next one among them; `onward` is asked for what
    /// leads there where none does by itself.
    pub fn narrow(
        &mut self,
        allowed: Allowed,
        left: u32,
        onward: impl FnOnce(&Self, &Allowed) -> Option<Vec<u32>>,
    ) -> Allowed {
        let total = self.total.unwrap_or(left);
        let kept = (total / PART).clamp(FEWEST, MOST).min(total / 2);
        let kept = kept.saturating_add(self.place.depth().saturating_mul(LEVEL));
        if left > kept.max(self.needed) {
            return allowed;
        }
        let is_led = self.is_bound && !self.ahead.is_empty();
        let nearer = (!is_led).then(|| self.nearer(&allowed)).flatten();
        let nearer = nearer.or_else(|| {
            if self.ahead.is_empty() && self.misses.is_time(&self.place) {
                self.ahead = onward(self, &allowed).unwrap_or_default();
                self.ahead.reverse();
            }
            let next = *self.ahead.last()?;
            allowed.contains(next).then(|| [next].into_iter().collect())
        });
        self.misses.count(nearer.is_some());
        let nearer = nearer.or_else(|| self.at_least(&allowed));
        match nearer {
            Some(nearer) => {
                self.has_cut |= nearer != allowed;
                nearer
            }
            None => allowed,
        }
    }

    /// Of what may come next, what brings the end nearer by itself.
    pub fn nearer(&self, allowed: &Allowed) -> Option<Allowed> {
        let strokes = &self.strokes;
        let (ends, close, comma) = (&strokes.ends, &strokes.close, &strokes.comma);
        let place = &self.place;
        let wished: &[&Allowed] = match (place.name(), place.in_string(), place.in_number()) {
            // Which name it is makes the difference.
            (Some(_), true, _) => &[],
            (Some(_), ..) => &[close],
            (_, true, _) => &[&strokes.end_string],
            (.., true) => &[ends, close, comma],
            _ => &[ends, close, comma, &strokes.plain, &strokes.empty],
        };
        first(allowed, wished)
    }

    /// Of what may come next, what does no harm, where nothing was found that leads on.
    pub fn at_least(&self, allowed: &Allowed) -> Option<Allowed> {
        let wished: &[&Allowed] = match self.place.in_string() {
            true => &[&self.strokes.end_string],
            false => &[&self.strokes.plain],
        };
        first(allowed, wished)
    }

    /// What the model's tokens do.
    pub fn strokes(&self) -> &Strokes {
        &self.strokes
    }

    /// What the schema tells.
    pub fn hints(&self) -> &Arc<Hints> {
        &self.hints
    }

    /// Where the document is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Takes in a token that has come.
    pub fn take(&mut self, token: u32) {
        if self.ahead.pop() != Some(token) {
            self.ahead.clear();
            self.is_bound = false;
        }
        for byte in self.strokes.bytes(token) {
            let before = self.place.depth();
            self.place.take(*byte);
            self.has_opened |= self.place.depth() > before;
        }
    }
}

/// Those that are allowed of the first kind that has any.
fn first(allowed: &Allowed, kinds: &[&Allowed]) -> Option<Allowed> {
    let mut found = kinds.iter().map(|kind| allowed.and(kind));
    found.find(|found| !found.is_empty())
}

/// How many tokens there are.
fn length(tokens: &[u32]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}

/// What to keep for a way of so many tokens.
fn with_reserve(way: u32) -> u32 {
    way.saturating_add(way / LONGER).saturating_add(FEWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token for each byte, and one that ends.
    const END: u32 = 256;

    fn of(bytes: &[u8]) -> Allowed {
        bytes.iter().map(|byte| u32::from(*byte)).collect()
    }

    fn bytes(of: &Allowed) -> Vec<u32> {
        (0..=END).filter(|token| of.contains(*token)).collect()
    }

    fn closing() -> Closing {
        let tokens = (0..END).map(|token| (token, vec![u8::try_from(token).expect("a byte")]));
        let strokes = Strokes::among(tokens, &[END]);
        Closing::new(Arc::new(strokes), Arc::default())
    }

    fn none(_: &Closing, _: &Allowed) -> Option<Vec<u32>> {
        None
    }

    fn take(closing: &mut Closing, text: &[u8]) {
        for byte in text {
            closing.take(u32::from(*byte));
        }
    }

    /// A way of so many tokens.
    fn way(length: usize) -> Option<Vec<u32>> {
        Some(vec![u32::from(b']'); length])
    }

    #[test]
    fn a_long_way_is_begun_early() {
        let mut closing = closing();
        closing.go(way(200));
        let closes = |closing: &mut Closing, left: u32| {
            let narrowed = closing.narrow(of(b"1]"), left, none);
            narrowed.and(&of(b"1")).is_empty()
        };
        assert!(!closing.is_to_look(1000) && !closes(&mut closing, 1000));
        assert!(!closing.is_to_look(751) && closing.is_to_look(750));
        // Part of the way is gone.
        closing.looked(way(100), 250);
        assert!(!closes(&mut closing, 250));
        assert!(!closing.is_to_look(188) && closing.is_to_look(187));
        closing.looked(way(150), 187);
        assert!(closes(&mut closing, 187) && closes(&mut closing, 186));
        assert!(!closing.is_to_look(186));
    }

    #[test]
    fn a_bracket_that_made_the_way_long_may_come_again() {
        let mut closing = closing();
        closing.go(way(2));
        assert!(!closing.is_to_look(1000));
        take(&mut closing, b"1, ");
        assert!(!closing.is_to_look(997));
        take(&mut closing, b"{");
        assert!(closing.is_to_look(996));
        closing.looked(way(102), 996);
        closing.looked(way(2), 600);
        // Room for another one.
        assert_eq!(closing.look_at, 450);
        closing.looked(way(2), 180);
        assert_eq!(closing.look_at, with_reserve(102));
        closing.looked(way(2), with_reserve(102));
        assert_eq!(closing.needed, with_reserve(102));
        // Where no way was found it is not looked for again.
        let mut closing = self::closing();
        closing.is_to_look(1000);
        take(&mut closing, b"{");
        assert!(!closing.is_to_look(10));
    }

    #[test]
    fn a_long_way_is_not_looked_for_with_each_bracket_nor_where_it_is_hopeless() {
        let mut closing = closing();
        closing.go(way(100));
        assert!(!closing.is_to_look(1000));
        take(&mut closing, b"{");
        assert!(!closing.is_to_look(951) && closing.is_to_look(950));
        closing.looked(way(101), 950);
        assert!(!closing.is_to_look(900));
        let hopes = |length: usize| {
            let mut closing = self::closing();
            closing.go(way(length));
            assert!(!closing.is_to_look(100));
            (closing.way.is_some(), closing.needed)
        };
        assert_eq!((hopes(200), hopes(201)), ((true, 100), (false, 0)));
    }

    #[test]
    fn what_leads_to_the_end_is_all_that_is_left() {
        let check = |text: &[u8], allowed: &[u8], expected: &[u8]| {
            let mut closing = closing();
            closing.is_to_look(100);
            take(&mut closing, text);
            assert_eq!(
                bytes(&closing.narrow(of(allowed), 90, none)),
                bytes(&of(allowed))
            );
            assert!(!closing.has_cut());
            let narrowed = closing.narrow(of(allowed), 16, none);
            let shown = String::from_utf8_lossy(text);
            assert_eq!(bytes(&narrowed), bytes(&of(expected)), "{shown}");
            assert_eq!(closing.has_cut(), allowed != expected, "{shown}");
        };
        check(b"[1", b"0123, ]", b"]");
        check(b"{\"a\": 1", b"0, }", b"}");
        check(b"{\"a\": 1", b"0, ", b",");
        check(b"[", b"[{\"1 ", b"\"1");
        check(b"[", b"[{", b"[{");
        // In a string brackets are letters, and what stands behind a backslash ends none.
        check(b"[\"a", b"ab}]\"", b"\"");
        check(b"[\"a\\", b"\"n", b"\"");
        check(b"[\"a\\\"", b"x}\"", b"\"");
        check(b"[\"a\\\\\"", b",]", b"]");
        check(b"[\"a", b"ab", b"ab");
    }

    #[test]
    fn where_hardly_more_is_left_the_way_is_all_there_is() {
        let of_text = |text: &[u8]| Some(text.iter().map(|it| u32::from(*it)).collect());
        let allowed =
            |closing: &mut Closing, left: u32| bytes(&closing.narrow(of(b"01234]"), left, none));
        let mut closing = closing().with(of_text(b"[0,1]"), 0);
        assert!(!closing.is_to_look(9));
        take(&mut closing, b"[");
        assert!(!closing.is_to_look(8));
        assert_eq!(allowed(&mut closing, 8), bytes(&of(b"0")));
        // Elsewhere the rest of it is of no use.
        take(&mut closing, b"2");
        assert_eq!(allowed(&mut closing, 7), bytes(&of(b"]")));
        // With some more the model has a say, until it has used them up.
        let mut closing = self::closing().with(way(40), 0);
        assert!(!closing.is_to_look(70));
        assert_eq!(allowed(&mut closing, 70), bytes(&of(b"]")));
        take(&mut closing, b"[");
        assert_eq!(closing.look_at, 55);
        assert!(!closing.is_to_look(56) && closing.is_to_look(55));
        closing.looked(of_text(&[b"3".repeat(48), b"]".to_vec()].concat()), 55);
        assert_eq!(allowed(&mut closing, 55), bytes(&of(b"3")));
    }

    #[test]
    fn what_leads_on_is_taken_to_its_end() {
        let mut closing = closing();
        closing.is_to_look(100);
        take(&mut closing, b"[\"");
        let mut asked = 0;
        for next in b"a@a" {
            let narrowed = closing.narrow(of(b"@abc"), 10, |_, _| {
                asked += 1;
                Some(b"a@a".map(u32::from).to_vec())
            });
            assert_eq!(bytes(&narrowed), [u32::from(*next)]);
            closing.take(u32::from(*next));
        }
        assert_eq!((asked, closing.has_cut()), (1, true));
        let narrowed = closing.narrow(of(b"@abc\""), 7, none);
        assert_eq!(bytes(&narrowed), bytes(&of(b"\"")));
    }

    #[test]
    fn where_nothing_leads_on_it_is_looked_for_at_times() {
        let mut closing = closing();
        closing.is_to_look(200);
        let asked_at = |closing: &mut Closing, of_bytes: &[u8]| -> Vec<u32> {
            let mut asked = Vec::new();
            for left in (1..=25).rev() {
                closing.narrow(of(of_bytes), left, |_, _| {
                    asked.push(25 - left);
                    None
                });
                closing.take(u32::from(b'a'));
            }
            asked
        };
        take(&mut closing, b"[\"");
        assert_eq!(asked_at(&mut closing, b"ab"), [0, 1, 2, 4, 8, 16, 24]);
        // With the next string that does not end by itself it begins anew.
        closing.narrow(of(b"ab\""), 25, none);
        assert_eq!(asked_at(&mut closing, b"ab")[..3], [0, 1, 2]);
        // Where something ends a string nobody is asked.
        assert_eq!(asked_at(&mut closing, b"ab\""), [0; 0]);
        // Elsewhere few tokens may come, and each makes a difference.
        take(&mut closing, b"\", ");
        let mut asked = 0;
        for left in (1..=25).rev() {
            closing.narrow(of(b"["), left, |_, _| {
                asked += 1;
                None
            });
            take(&mut closing, b"[");
        }
        assert_eq!(asked, 25);
    }

    #[test]
    fn deep_documents_begin_to_close_earlier() {
        let begins = |text: &[u8], total: u32| {
            let mut closing = closing();
            closing.is_to_look(total);
            take(&mut closing, text);
            let mut left = (1..total).rev();
            left.find(|left| {
                let narrowed = closing.narrow(of(b"1]"), *left, none);
                narrowed.and(&of(b"1")).is_empty()
            })
        };
        assert_eq!(begins(b"[", 1000), Some(127));
        assert_eq!(begins(b"[[[[", 1000), Some(133));
        assert_eq!(begins(b"[", 100_000), Some(258));
        assert_eq!(begins(b"[", 20), Some(12));
    }
}
