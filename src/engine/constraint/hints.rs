//! What a schema tells of the way to a document's end: the names that it requires somewhere,
//! for each pattern in it a text, as short as any, that the pattern matches, and the words that
//! it lists. It follows no references and does not ask where in the schema a thing stands: hints are tried, never
//! relied upon. Schemas come from strangers, so all of it has bounds.

use std::collections::{BTreeMap, BTreeSet};

use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Map, Value};

/// Most names of members that are kept, and the longest of a required one, bytes.
const NAMES: usize = 4096;
const NAME: usize = 128;

/// Most patterns that are read, and the longest, bytes: a class of a few bytes stands for some
/// kilobytes of letters.
const PATTERNS: usize = 32;
const PATTERN: usize = 1000;

/// The longest text that is kept, letters, and most words of lists that are.
const TEXT: usize = 128;
const WORDS: usize = 4096;

/// Texts of the formats whose strings may be somewhat longer at every letter.
const FORMATS: &[(&str, &str)] = &[
    ("date-time", "2000-01-01T00:00:00Z"),
    ("duration", "P1D"),
    ("email", "a@a"),
    ("hostname", "a"),
    ("ipv6", "::"),
    ("time", "00:00:00Z"),
    ("uri", "a:"),
    ("uuid", "00000000-0000-0000-0000-000000000000"),
];

/// What was found in a schema. Names and texts are as they stand in a document between quotes.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// That are required somewhere.
    names: BTreeSet<Vec<u8>>,
    objects: Vec<Members>,
    texts: Vec<Text>,
    /// That are listed somewhere.
    words: BTreeSet<Vec<u8>>,
}

/// The names of an object's members: where each has its place, and whether it is required.
type Members = BTreeMap<Vec<u8>, (usize, bool)>;

/// A text that a pattern matches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    bytes: Vec<u8>,
    /// Where each letter begins.
    letters: Vec<usize>,
}

impl Hints {
    /// Those of a schema.
    pub fn of(schema: &Value) -> Self {
        let mut objects = Vec::new();
        let mut patterns = BTreeSet::new();
        let mut words = BTreeSet::new();
        let mut texts = BTreeSet::new();
        let mut left = vec![schema];
        let mut room = NAMES;
        while let Some(value) = left.pop() {
            match value {
                Value::Array(items) => left.extend(items),
                Value::Object(schema) => {
                    let found = members(schema);
                    if !found.is_empty() && found.len() <= room {
                        room -= found.len();
                        objects.push(found);
                    }
                    patterns.extend(schema.get("pattern").and_then(Value::as_str));
                    let by_name = schema.get("patternProperties");
                    let by_name = by_name.and_then(Value::as_object).into_iter().flatten();
                    patterns.extend(by_name.map(|(pattern, _)| pattern.as_str()));
                    let listed = schema.get("enum").and_then(Value::as_array);
                    words.extend(listed.into_iter().flatten().filter_map(Value::as_str));
                    let format = schema.get("format").and_then(Value::as_str);
                    let known = FORMATS.iter().filter(|(name, _)| Some(*name) == format);
                    texts.extend(known.map(|(_, text)| (*text).to_owned()));
                    left.extend(schema.values());
                }
                _ => {}
            }
        }
        let patterns = patterns.into_iter().filter(|it| it.len() <= PATTERN);
        let found = patterns.take(PATTERNS).filter_map(text);
        texts.extend(found.filter(|text| !text.is_empty()));
        let short = words.into_iter().filter(|word| word.len() <= TEXT);
        let required = |object: &Members| {
            let names = object.iter().filter(|(_, (_, is_required))| *is_required);
            names.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        Self {
            names: objects.iter().flat_map(required).collect(),
            objects,
            texts: texts.iter().map(|text| Text::of(text)).collect(),
            words: short.take(WORDS).map(inside).collect(),
        }
    }

    /// The names that are required somewhere and begin so.
    pub fn names<'a>(&'a self, beginning: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let from = self.names.range(beginning.to_vec()..);
        let names = from.take_while(|name| name.starts_with(beginning));
        names.map(Vec::as_slice)
    }

    /// Of names that may come at a place, the one that the object there requires. Members
    /// come in their order, so all others that may come stand before it.
    pub fn required_of<'a>(&self, names: &[&'a [u8]]) -> Option<&'a [u8]> {
        let last_of = |object: &Members| {
            let places = names.iter().map(|name| Some((object.get(*name)?, *name)));
            let places: Option<Vec<_>> = places.collect();
            let ((_, is_required), name) = places?.into_iter().max()?;
            is_required.then_some(name)
        };
        let found = self.objects.iter().find_map(last_of);
        found.or_else(|| names.first().copied())
    }

    /// Texts that a string may be, or end with.
    pub fn texts(&self) -> &[Text] {
        &self.texts
    }

    /// Whether a word begins so that is listed somewhere: it has an end, whatever is chosen.
    pub fn lists(&self, beginning: &[u8]) -> bool {
        let mut from = self.words.range(beginning.to_vec()..);
        from.next().is_some_and(|word| word.starts_with(beginning))
    }

    /// The texts and the words.
    pub fn all(&self) -> impl Iterator<Item = &[u8]> {
        let texts = self.texts.iter().map(|text| text.bytes.as_slice());
        texts.chain(self.words.iter().map(Vec::as_slice))
    }

    /// How many letters the longest of the texts has.
    pub fn longest(&self) -> usize {
        let letters = self.texts.iter().map(|text| text.letters.len());
        letters.max().unwrap_or(0)
    }
}

impl Text {
    fn of(text: &str) -> Self {
        let mut found = Self {
            bytes: Vec::new(),
            letters: Vec::new(),
        };
        for letter in text.chars() {
            found.letters.push(found.bytes.len());
            found.bytes.extend(inside(letter.encode_utf8(&mut [0; 4])));
        }
        found
    }

    /// Its last letters, if it has so many.
    pub fn last(&self, letters: usize) -> Option<&[u8]> {
        let from = self.letters.len().checked_sub(letters)?;
        self.bytes.get(*self.letters.get(from)?..)
    }
}

/// The members that a schema of objects names, if it requires any.
fn members(schema: &Map<String, Value>) -> Members {
    let required = schema.get("required").and_then(Value::as_array);
    let required = required.into_iter().flatten().filter_map(Value::as_str);
    let required: Vec<&str> = required.filter(|name| name.len() <= NAME).collect();
    if required.is_empty() {
        return Members::new();
    }
    let named = schema.get("properties").and_then(Value::as_object);
    let named = named.into_iter().flatten().map(|(name, _)| name.as_str());
    // Those without a schema of their own come last.
    let names = named.map(|name| (name, false));
    let names = names.chain(required.into_iter().map(|name| (name, true)));
    let mut members = Members::new();
    for (place, (name, is_required)) in names.enumerate() {
        members.entry(inside(name)).or_insert((place, false)).1 |= is_required;
    }
    members
}

/// A text as JSON has it between quotes.
fn inside(text: &str) -> Vec<u8> {
    let quoted = Value::from(text).to_string();
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

/// A text that a pattern matches, as short as any, if the pattern can be read and the text is
/// not too long.
fn text(pattern: &str) -> Option<String> {
    shortest(&regex_syntax::parse(pattern).ok()?)
}

fn shortest(hir: &Hir) -> Option<String> {
    let text = match hir.kind() {
        // Of what stands beside a place nothing is known: whoever tries the text finds out.
        HirKind::Empty | HirKind::Look(_) => String::new(),
        HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok()?,
        HirKind::Class(class) => letter(class)?.to_string(),
        HirKind::Capture(capture) => shortest(&capture.sub)?,
        HirKind::Repetition(repetition) => match repetition.min {
            0 => String::new(),
            least => {
                let once = shortest(&repetition.sub)?;
                let least = usize::try_from(least).ok()?;
                match once.len().checked_mul(least)? {
                    0 => String::new(),
                    length => (length <= TEXT * 4).then(|| once.repeat(least))?,
                }
            }
        },
        HirKind::Concat(parts) => {
            let mut whole = String::new();
            for part in parts {
                whole.push_str(&shortest(part)?);
            }
            whole
        }
        HirKind::Alternation(ways) => {
            let ways = ways.iter().filter_map(shortest);
            ways.min_by_key(|way| way.chars().count())?
        }
    };
    (text.chars().count() <= TEXT).then_some(text)
}

/// A letter of a class: a plain one, if there is one.
fn letter(class: &Class) -> Option<char> {
    let Class::Unicode(class) = class else {
        return None;
    };
    let has = |letter: &char| {
        let mut ranges = class.iter();
        ranges.any(|range| (range.start()..=range.end()).contains(letter))
    };
    let plain = "a0A -_./:@".chars().chain('!'..='~');
    let first = class.iter().next().map(|range| range.start());
    // These are written with a second letter.
    let plain = plain.filter(|letter| !"\"\\".contains(*letter));
    plain.clone().find(has).or(first)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;

    #[test]
    fn a_pattern_has_a_shortest_text() {
        let check = |pattern: &str, expected: Option<&str>| {
            assert_eq!(text(pattern).as_deref(), expected, "{pattern}");
            if let Some(found) = expected {
                let pattern = regex::Regex::new(pattern).expect("a pattern");
                assert!(pattern.is_match(found), "{pattern}");
            }
        };
        check("", Some(""));
        check("abc", Some("abc"));
        check("^[^@]+@([a-z]+\\.)+[a-z]{2,4}$", Some("a@a.aa"));
        check("20\\d{2}-\\w{3}-[0-3]\\d", Some("2000-aaa-00"));
        check("long|or|not", Some("or"));
        check("(x|yy){2,}z?", Some("xx"));
        check("^(?:\\S+\\s+){3,9}\\S+$", Some("a a a a"));
        check("[\"\\\\#]", Some("#"));
        check("[\"]", Some("\""));
        check("[éè]", Some("è"));
        check("(){1000}", Some(""));
        check("[^\\s\\S]", None);
        check("(?=a)", None);
        check("a{129}", None);
    }

    #[test]
    fn a_hostile_pattern_costs_little() {
        let began = Instant::now();
        let hostile = [
            "(a{1000}){1000}".to_owned(),
            "((((a{100}){100}){100}){100}){100}".to_owned(),
            "(".repeat(400) + &")".repeat(400),
            "\\w".repeat(PATTERN / 2),
            "(a|".repeat(150) + "a" + &")".repeat(150),
        ];
        let schemas: Vec<Value> = hostile.iter().map(|it| json!({"pattern": it})).collect();
        let hints = Hints::of(&json!(schemas));
        assert!(hints.texts.len() <= hostile.len());
        assert!(hints.texts.iter().all(|text| text.letters.len() <= TEXT));
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn hints_are_found_wherever_they_stand() {
        let long = "x".repeat(TEXT + 1);
        let hints = Hints::of(&json!({
            "required": ["name", "na\"me"],
            "properties": {
                "pattern": {"items": [{"type": "string", "pattern": "^a+$"}]},
                "required": {"required": ["deep", 1]},
            },
            "patternProperties": {"^é\n$": {"pattern": ["no pattern"]}},
            "items": [{"enum": ["word", 1, long], "format": "ipv6"}, {"format": "unknown"}],
        }));
        let names = |beginning: &[u8]| -> Vec<String> {
            let names = hints.names(beginning).map(String::from_utf8_lossy);
            names.map(String::from).collect()
        };
        assert_eq!(names(b""), ["deep", "na\\\"me", "name"]);
        assert_eq!(names(b"na"), ["na\\\"me", "name"]);
        assert_eq!(names(b"na\\"), ["na\\\"me"]);
        assert!(names(b"named").is_empty() && names(b"x").is_empty());
        let texts: Vec<_> = hints.texts().iter().map(|text| text.last(2)).collect();
        assert_eq!(texts, [Some(&b"::"[..]), None, Some("é\\n".as_bytes())]);
        assert_eq!(hints.texts()[1].last(1), Some(&b"a"[..]));
        assert_eq!(hints.longest(), 2);
        assert!(hints.lists(b"") && hints.lists(b"wo") && hints.lists(b"word"));
        assert!(!hints.lists(b"words") && !hints.lists(b"x"));
        assert_eq!(
            hints.all().map(<[u8]>::len).collect::<Vec<_>>(),
            [2, 1, 4, 4]
        );
        assert_eq!(Hints::of(&json!(true)).names(b"").count(), 0);
    }

    #[test]
    fn of_the_names_that_may_come_one_is_required() {
        let hints = Hints::of(&json!({
            "properties": {"a": {}, "b": {}, "c": {"required": ["a"]}, "d": {}},
            "required": ["d", "e", "b"],
        }));
        let required = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| name.as_bytes()).collect();
            let found = hints.required_of(&names);
            found.map(|name| String::from_utf8_lossy(name).into_owned())
        };
        assert_eq!(required(&["a", "b"]).as_deref(), Some("b"));
        assert_eq!(required(&["e", "d"]).as_deref(), Some("e"));
        assert_eq!(required(&["a"]).as_deref(), Some("a"));
        // Of two objects, for all that is known.
        assert_eq!(required(&["b", "f"]).as_deref(), Some("b"));
        assert_eq!(required(&[]), None);
    }

    #[test]
    fn so_many_are_kept() {
        let names = |from: usize| -> Vec<String> {
            (from..from + NAMES - 2).map(|it| it.to_string()).collect()
        };
        let patterns: Vec<Value> = (0..2 * PATTERNS)
            .map(|it| json!({"pattern": it.to_string()}))
            .collect();
        let long = "x".repeat(NAME + 1);
        let schema = json!([{"required": names(0)}, {"required": names(NAMES)}, {"required": [long, "y"]}, patterns]);
        let hints = Hints::of(&schema);
        assert_eq!(hints.names(b"").count(), NAMES - 1);
        assert_eq!(hints.texts.len(), PATTERNS);
        assert_eq!(hints.names(b"x").count(), 0);
    }
}
