//! `models.NAME.request` and `models.NAME.variants`: fields of a request and what
//! they may hold, by the table of the API.

use std::collections::HashSet;

use serde_json::{Map, Number, Value as Json};

use super::values::quoted;
use super::{At, Walker, join, set};
use crate::api::fields::{FIELDS, Field, Shape, Takes};
use crate::config::file::{Node, Pair, Value};
use crate::config::keys::NAME;
use crate::config::problem::{Place, Problem};
use crate::config::request::{
    BOUND, NEWER_BOUND, OWN, Parameters, PromptCache, Rules, limitable, settable,
};

/// How templates are told whether the model is to think.
const THINKING: &str = "enable_thinking";

/// Where they are told.
const KWARGS: &str = "chat_template_kwargs";

/// Longest `system_prefix`, bytes: it is part of every request.
const LONGEST_PREFIX: usize = 64 * 1024;

/// A value that the file gives to a field.
pub(super) struct Given {
    /// `models.small.request.defaults.temperature`
    path: String,
    place: Place,
    field: String,
    value: Json,
    /// Whether it holds whatever else is said.
    fixed: bool,
}

impl Given {
    /// How many stop strings it is.
    pub(super) fn stops(&self) -> usize {
        match (self.field.as_str(), &self.value) {
            ("stop", Json::Array(stops)) => stops.len(),
            _ => 0,
        }
    }
}

impl Walker<'_> {
    /// `request`. What it gives is added to `given`.
    pub(super) fn rules(&mut self, at: At, given: &mut Vec<Given>) -> Rules {
        let mut rules = Rules::default();
        let section = format!("models.{NAME}.request");
        for pair in self.pairs(at.path, &section, at.node) {
            let path = join(at.path, &pair.key);
            let at = At {
                path: &path,
                node: &pair.node,
            };
            match pair.key.as_str() {
                "defaults" => rules.defaults = self.parameters(at, false, given),
                "set" => rules.set = self.parameters(at, true, given),
                "limits" => rules.limits = self.most(at).into_iter().collect(),
                "strip" => {
                    let read = |walker: &mut Self, at: At| walker.stripped(at);
                    set(&mut rules.strip, self.list(at, "a list of fields", read));
                }
                "system_prefix" => rules.system_prefix = self.system_prefix(at),
                "prompt_cache" => {
                    let expected = "private, shared or off";
                    let word = self.choice(at, expected, &PromptCache::ALL);
                    set(&mut rules.prompt_cache, word);
                }
                _ => {}
            }
        }
        rules
    }

    /// Fields with their values, `fixed` or not.
    pub(super) fn parameters(&mut self, at: At, fixed: bool, given: &mut Vec<Given>) -> Parameters {
        let mut parameters = Parameters::new();
        for pair in self.unique(at.path, at.node) {
            let Some(value) = self.parameter(at.path, pair) else {
                continue;
            };
            given.push(Given {
                path: join(at.path, &pair.key),
                place: pair.place,
                field: pair.key.clone(),
                value: value.clone(),
                fixed,
            });
            if pair.key == THINKING {
                // A field of its own would count for more than what a request says
                // among the variables of the template.
                let kwargs = parameters
                    .entry(KWARGS)
                    .or_insert_with(|| Map::new().into());
                kwargs[THINKING] = value;
                continue;
            }
            match (parameters.get_mut(&pair.key), value) {
                (Some(Json::Object(there)), Json::Object(more)) => there.extend(more),
                (_, value) => drop(parameters.insert(pair.key.clone(), value)),
            }
        }
        parameters
    }

    /// The value of one field.
    fn parameter(&mut self, shown: &str, pair: &Pair) -> Option<Json> {
        let rows = self.rows(shown, pair, &settable)?;
        let path = join(shown, &pair.key);
        let (mut value, mut wrong) = (None, None);
        for field in rows {
            let at = At {
                path: &path,
                node: &pair.node,
            };
            let read = self.json(at, &field.takes)?;
            match field.check(&read) {
                _ if read.is_null() => {
                    self.expected(&path, &pair.node, &field.takes.expected());
                    return None;
                }
                Ok(()) => value = value.or(Some(read)),
                Err(refusal) => wrong = wrong.or(Some(refusal.message)),
            }
        }
        if let (None, Some(message)) = (&value, wrong) {
            let message = format!("{shown}.{message}");
            self.problem(Problem::at(pair.node.place, message));
        }
        value
    }

    /// The rows of a field that a rule may speak of; others are reported.
    fn rows(
        &mut self,
        shown: &str,
        pair: &Pair,
        fits: &dyn Fn(&Field) -> bool,
    ) -> Option<Vec<&'static Field>> {
        let key = pair.key.as_str();
        let fields = FIELDS.iter().filter(|field| fits(field));
        let rows: Vec<_> = fields.clone().filter(|field| field.name == key).collect();
        if !rows.is_empty() {
            return Some(rows);
        }
        if let Some(problem) = not_for_rules(&join(shown, key), key, pair.place) {
            self.problem(problem);
            return None;
        }
        let mut known: Vec<_> = fields.map(|field| field.name).collect();
        let mut seen = HashSet::new();
        known.retain(|name| seen.insert(*name));
        self.unknown(shown, &known, pair);
        None
    }

    /// `limits`: fields that are numbers, with the most they may be.
    fn most(&mut self, at: At) -> Vec<(String, Number)> {
        let mut limits = Vec::new();
        for pair in self.unique(at.path, at.node) {
            let Some(rows) = self.rows(at.path, pair, &limitable) else {
                continue;
            };
            let path = join(at.path, &pair.key);
            let value_at = At {
                path: &path,
                node: &pair.node,
            };
            let Some(value) = self.json(value_at, &rows[0].takes) else {
                continue;
            };
            match (rows[0].check(&value), value) {
                (Ok(()), Json::Number(number)) => limits.push((pair.key.clone(), number)),
                _ => self.expected(&path, &pair.node, &rows[0].takes.expected()),
            }
        }
        limits
    }

    /// One name of `strip`. Fields that no table knows may be taken out too.
    fn stripped(&mut self, at: At) -> Option<String> {
        let name = self.read(at, "the name of a field", |text| {
            Ok::<_, String>(text.to_owned())
        })?;
        match not_for_rules(at.path, &name, at.node.place) {
            Some(problem) => {
                self.problem(problem);
                None
            }
            None => Some(name),
        }
    }

    /// `system_prefix`
    fn system_prefix(&mut self, at: At) -> Option<String> {
        self.read(at, "a text", |text| match text.len() {
            0..=LONGEST_PREFIX => Ok(text.to_owned()),
            length => Err(format!(
                "expected at most {LONGEST_PREFIX} bytes, found {length}"
            )),
        })
    }

    /// A value as JSON. What is no number, no switch and not nothing is a text, and
    /// so is everything in quotes and everything where only texts fit.
    fn json(&mut self, at: At, takes: &Takes) -> Option<Json> {
        let only_texts = matches!(
            takes,
            Takes::Text | Takes::Words(..) | Takes::Shape(Shape::Stops)
        );
        match &at.node.value {
            Value::Refused => None,
            Value::Nothing => Some(Json::Null),
            Value::Text(text) if only_texts || at.node.is_quoted() => Some(text.as_str().into()),
            Value::Text(text) => Some(scalar(text)),
            Value::List { items, .. } => {
                let items = items.iter().map(|node| self.json(At { node, ..at }, takes));
                items.collect::<Option<Vec<_>>>().map(Json::Array)
            }
            Value::Map(_) => {
                let pairs = self.unique(at.path, at.node);
                let members = pairs.into_iter().map(|pair| {
                    let node: &Node = &pair.node;
                    Some((pair.key.clone(), self.json(At { node, ..at }, takes)?))
                });
                members.collect::<Option<Map<_, _>>>().map(Json::Object)
            }
        }
    }

    /// What the rules of one entry say of each other: nothing is given that a limit
    /// forbids or that a fixed value takes away again.
    pub(super) fn check_rules(&mut self, rules: &Rules, given: &[Given]) {
        for given in given {
            let limit = rules.limits.get(&given.field);
            if let (Some(limit), Json::Number(value)) = (limit, &given.value)
                && value.as_f64() > limit.as_f64()
            {
                let message = format!(
                    "{}: expected at most {limit}, as request.limits says, found {value}",
                    given.path
                );
                self.problem(Problem::at(given.place, message));
            }
            let is_set = rules.set.contains_key(&given.field) && !given.value.is_object();
            if is_set && !given.fixed {
                let message = format!("{}: has no effect beside request.set", given.path);
                self.problem(Problem::at(given.place, message).help("remove one of them"));
            }
        }
    }

    /// More stop strings than a request may have.
    pub(super) fn check_stops(&mut self, most: usize, given: &[Given]) {
        for given in given.iter().filter(|given| given.stops() > most) {
            let message = format!(
                "{}: expected at most {most} strings, as server.limits.stops says, found {}",
                given.path,
                given.stops()
            );
            self.problem(Problem::at(given.place, message));
        }
    }
}

/// The problem of a field that no rule may speak of.
fn not_for_rules(path: &str, field: &str, place: Place) -> Option<Problem> {
    if field == NEWER_BOUND {
        let message = format!("{path}: {BOUND} stands for {NEWER_BOUND} as well");
        return Some(Problem::at(place, message).help(format!("write {BOUND}")));
    }
    if !OWN.contains(&field) {
        return None;
    }
    let message = format!("{path}: {} is the request's own", quoted(field));
    let problem = Problem::at(place, message);
    Some(match field {
        "ttl" | "keep_alive" => problem.help("write idle_unload beside request"),
        "messages" => problem.help("write system_prefix under request"),
        "n" => problem.help("write it under request.limits"),
        _ => problem,
    })
}

/// A scalar without quotes.
fn scalar(text: &str) -> Json {
    let digits = text.strip_prefix('-').unwrap_or(text);
    // No exponents, as everywhere else in the file.
    let is_number = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text {
        "true" => true.into(),
        "false" => false.into(),
        _ if is_number => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        _ => text.into(),
    }
}
