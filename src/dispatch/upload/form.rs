//! What the rules of an entry do to the parts of a form that passes, as changes of its bytes:
//! parts are taken out, and parts are put in before the end. What no rule names stays byte
//! for byte. Limits are not held against parts. Pure.

use serde_json::Value;

use super::parts::{Mark, Unclear};
use crate::api::fields::{Endpoint, known};
use crate::config::request::{Parameters, Rules};
use crate::dispatch::payload::Edit;

/// A part: its name and what it holds.
type Field = (String, String);

/// The rules of an entry, as far as they are about forms.
#[derive(Debug, Default)]
pub struct FormRules {
    /// Parts that are taken out.
    strip: Vec<String>,
    /// Parts that are there whatever the form says.
    set: Vec<Field>,
    /// Parts that are there if the form has none of that name.
    fill: Vec<Field>,
}

impl FormRules {
    /// Those that hold on this path.
    pub fn of(endpoint: Endpoint, rules: &Rules) -> Self {
        let set = fields(endpoint, &rules.set);
        let mut fill = fields(endpoint, &rules.defaults);
        fill.retain(|(name, _)| !set.iter().any(|(taken, _)| taken == name));
        Self {
            strip: rules.strip.clone(),
            set,
            fill,
        }
    }

    /// Whether forms go on as they came.
    pub fn is_empty(&self) -> bool {
        self.strip.is_empty() && self.set.is_empty() && self.fill.is_empty()
    }

    /// Whether what is put in can stand in a form with this boundary, which the client chose.
    ///
    /// # Errors
    /// It would be read as another part.
    pub fn check(&self, boundary: &str) -> Result<(), Unclear> {
        let delimiter = format!("--{boundary}");
        let mut values = self.set.iter().chain(&self.fill);
        match values.any(|(_, value)| value.contains(&delimiter)) {
            true => Err(Unclear::Delimiter),
            false => Ok(()),
        }
    }

    /// Whether a part of this name goes.
    fn takes_out(&self, part: &str) -> bool {
        let mut set = self.set.iter();
        self.strip.iter().any(|name| is(part, name)) || set.any(|(name, _)| is(part, name))
    }
}

/// What can stand in a form of these values.
fn fields(endpoint: Endpoint, values: &Parameters) -> Vec<Field> {
    let fits = |(name, value): &(&String, &Value)| {
        known(endpoint, name).is_some_and(|field| field.check(value).is_ok())
    };
    let text = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        Some((name.clone(), text))
    };
    values.iter().filter(fits).filter_map(text).collect()
}

/// Whether a part is the field of this name. Clients write lists as parts with brackets
/// after the name.
fn is(part: &str, name: &str) -> bool {
    part == name || part.strip_suffix("[]") == Some(name)
}

/// The way of one form through the rules.
#[derive(Debug)]
pub struct Filter<'r> {
    rules: &'r FormRules,
    boundary: &'r str,
    /// For each part that may have to be filled in, whether the form has it.
    has: Vec<bool>,
    /// Whether the part goes that has come last.
    is_cut: bool,
    /// To where in the body it has been.
    at: usize,
}

impl<'r> Filter<'r> {
    /// For a form with this boundary.
    pub fn new(rules: &'r FormRules, boundary: &'r str) -> Self {
        Self {
            rules,
            boundary,
            has: vec![false; rules.fill.len()],
            is_cut: false,
            at: 0,
        }
    }

    /// What changes from where it has been to `decided`, given what begins there. Places
    /// are those of the body.
    pub fn edits(&mut self, marks: &[Mark], decided: usize) -> Vec<Edit> {
        let mut edits = Vec::new();
        for mark in marks {
            edits.extend(self.go(mark.at));
            match &mark.name {
                Some(name) => self.part(name),
                None => {
                    self.is_cut = false;
                    edits.push(Edit {
                        at: mark.at..mark.at,
                        with: self.added(),
                    });
                }
            }
        }
        edits.extend(self.go(decided));
        edits
    }

    /// Goes on to there; what lies between is taken out if its part is.
    fn go(&mut self, to: usize) -> Option<Edit> {
        let from = std::mem::replace(&mut self.at, to);
        (self.is_cut && from < to).then(|| Edit {
            at: from..to,
            with: String::new(),
        })
    }

    fn part(&mut self, part: &str) {
        self.is_cut = self.rules.takes_out(part);
        if !self.is_cut {
            for (has, (name, _)) in self.has.iter_mut().zip(&self.rules.fill) {
                *has |= is(part, name);
            }
        }
    }

    /// The parts that come before the end.
    fn added(&self) -> String {
        let lacking = self.rules.fill.iter().zip(&self.has);
        let lacking = lacking.filter_map(|(field, has)| (!has).then_some(field));
        let added = self.rules.set.iter().chain(lacking);
        added
            .map(|(name, value)| field(self.boundary, name, value))
            .collect()
    }
}

/// A part with its delimiter and the line break at its end.
pub fn field(boundary: &str, name: &str, value: &str) -> String {
    format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::parts::Scanner;
    use super::*;
    use crate::dispatch::payload::Payload;

    const FILE: &str = "--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n\
                        \0\r\n-b\r\n--\r\n";

    fn rules(strip: &[&str], set: Value, defaults: Value) -> FormRules {
        let object = |value: Value| value.as_object().expect("an object").clone();
        let rules = Rules {
            strip: strip.iter().map(|&name| name.to_owned()).collect(),
            set: object(set),
            defaults: object(defaults),
            ..Rules::default()
        };
        FormRules::of(Endpoint::Transcriptions, &rules)
    }

    /// What goes on of a body that comes in pieces of this length.
    fn filtered(rules: &FormRules, body: &str, length: usize) -> String {
        let (mut scanner, mut filter) = (Scanner::new("b"), Filter::new(rules, "b"));
        let (mut held, mut at) = (BytesMut::new(), 0);
        let mut passed = Vec::new();
        for piece in body.as_bytes().chunks(length) {
            held.extend_from_slice(piece);
            scanner.push(piece).expect("a form");
            let decided = scanner.decided();
            let mut edits = filter.edits(&scanner.take_marks(), decided);
            for edit in &mut edits {
                edit.at = edit.at.start - at..edit.at.end - at;
            }
            let whole: Bytes = held.split_to(decided - at).freeze();
            passed.extend_from_slice(&Payload::edited(&whole, edits).joined());
            at = decided;
        }
        assert!(held.is_empty(), "all is decided at the end");
        String::from_utf8(passed).expect("text")
    }

    #[track_caller]
    fn check(rules: &FormRules, parts: &[&str], expected: &[&str]) {
        let form = |parts: &[&str]| parts.concat() + "--b--\r\n";
        for length in [1, 2, 7, 1000] {
            assert_eq!(
                filtered(rules, &form(parts), length),
                form(expected),
                "{length}"
            );
        }
    }

    #[test]
    fn parts_are_taken_out_and_put_in_and_all_else_stays() {
        let part = |name: &str, value: &str| field("b", name, value);
        let (model, prompt) = (part("model", "m"), part("prompt", "a\r\nb"));
        let (german, french) = (part("language", "de"), part("language", "fr"));
        let lists = part("timestamp_granularities[]", "word");

        let none = rules(&[], json!({}), json!({"top_p": 0.5, "stop": ["a"]}));
        assert!(none.is_empty(), "transcriptions know neither");

        let strip = rules(&["prompt", "timestamp_granularities"], json!({}), json!({}));
        assert!(!strip.is_empty());
        check(&strip, &[&model, FILE, &german], &[&model, FILE, &german]);
        check(
            &strip,
            &[&prompt, &model, &lists, FILE, &lists, &prompt],
            &[&model, FILE],
        );
        check(&strip, &[&prompt], &[]);
        check(
            &rules(&["file"], json!({}), json!({})),
            &[FILE, &model],
            &[&model],
        );

        let set = rules(
            &[],
            json!({"language": "fr", "temperature": 0}),
            json!({"language": "de"}),
        );
        let zero = part("temperature", "0");
        check(
            &set,
            &[&model, &german, FILE, &german],
            &[&model, FILE, &french, &zero],
        );
        check(&set, &[], &[&french, &zero]);

        let fill = rules(&["prompt"], json!({}), json!({"language": "de"}));
        check(&fill, &[FILE, &model], &[FILE, &model, &german]);
        check(&fill, &[FILE, &prompt, &french], &[FILE, &french]);
        // Stripped first, then filled in.
        let again = rules(&["language"], json!({}), json!({"language": "de"}));
        check(&again, &[&french, FILE], &[FILE, &german]);
    }

    #[test]
    fn what_is_put_in_cannot_be_read_as_another_part() {
        let set = rules(&[], json!({"language": "de--user"}), json!({}));
        assert_eq!(set.check("user"), Err(Unclear::Delimiter));
        assert_eq!(set.check("users"), Ok(()));
        let fill = rules(&[], json!({}), json!({"language": "--x"}));
        assert_eq!(fill.check("x"), Err(Unclear::Delimiter));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_form(
            names in prop::collection::vec("a|b|language|language\\[\\]|prompt", 0..6),
            values in prop::collection::vec("[ -,.-~\r\n]{0,12}", 6),
            length in 1usize..40,
        ) {
            let rules = rules(&["a"], json!({"language": "fr"}), json!({"temperature": 1}));
            let parts = names.iter().zip(&values).map(|(name, value)| field("b", name, value));
            let body = parts.collect::<String>() + "--b--";
            prop_assert_eq!(filtered(&rules, &body, length), filtered(&rules, &body, body.len()));
        }
    }
}
