//! What becomes of a request before an engine gets it: the rules of its entry as
//! changes of its bytes. What no rule touches stays byte for byte, and where no
//! rule applies nothing is looked at. Pure.
//!
//! In this order: fields are stripped; what the request does not say is filled in
//! from the defaults; what is set takes the place of either; what is over a limit
//! is lowered. `null` is the same as absent, as it is for the engine.

use std::ops::Range;

use bytes::Bytes;
use serde_json::{Map, Value};

use self::scan::{Found, Member};
use super::payload::{Edit, Payload};
use crate::api::fields::{COMPLETIONS_MAX_TOKENS, Endpoint, known};
use crate::config::request::{BOUND, NEWER_BOUND, Parameters, Rules, fill};

mod scan;
mod system;

/// A request as the engine gets it.
#[derive(Debug)]
pub struct Ruled {
    /// Its body.
    pub payload: Payload,
    /// What a limit lowered or put in: `max_tokens=512`.
    pub limited: Vec<String>,
}

/// What becomes of the name of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming<'n> {
    /// It stays.
    AsSaid,
    /// This one is put in if there is none.
    IfMissing(&'n str),
    /// This one takes its place: the engine has its own name for the model.
    Always(&'n str),
}

impl<'n> Naming<'n> {
    /// The name that is put in where there is none.
    fn name(self) -> Option<&'n str> {
        match self {
            Self::AsSaid => None,
            Self::IfMissing(name) | Self::Always(name) => Some(name),
        }
    }
}

/// Applies the rules of an entry to a body that the router has read, and does to the
/// name of the model what is to be done.
pub fn apply(endpoint: Endpoint, body: &Bytes, rules: &Rules, naming: Naming) -> Ruled {
    let unchanged = || Ruled {
        payload: body.clone().into(),
        limited: Vec::new(),
    };
    if rules.is_empty() {
        return renamed(body, naming).unwrap_or_else(unchanged);
    }
    let Ok(text) = std::str::from_utf8(body) else {
        return unchanged();
    };
    let open = scan::space(body, 0);
    let Some(members) = scan::members(text, open) else {
        return unchanged();
    };
    let mut change = Change {
        text,
        edits: Vec::new(),
        limited: Vec::new(),
    };
    let plan = Plan::of(endpoint, rules, &members, text);
    change.top(endpoint, open, &members, plan, rules, naming);
    Ruled {
        payload: Payload::edited(body, change.edits),
        limited: change.limited,
    }
}

/// The body with nothing but another name of the model, which is what most get; nothing
/// if it has that already. Looks no further than to the name that the body says.
fn renamed(body: &Bytes, naming: Naming) -> Option<Ruled> {
    let name = naming.name()?;
    let open = scan::space(body, 0);
    let found = scan::member(body, open, "model")?;
    if let Found::Value(at) = &found
        && is_said(name, &body[at.clone()])
    {
        return None;
    }
    let name = Value::from(name).to_string();
    let edit = match (found, naming) {
        (Found::Value(at), Naming::Always(_)) if body[at.clone()] != *name.as_bytes() => {
            Edit { at, with: name }
        }
        (Found::Value(_), _) => return None,
        (Found::Nothing { is_empty }, _) => {
            let comma = if is_empty { "" } else { "," };
            Edit {
                at: open + 1..open + 1,
                with: format!("\"model\":{name}{comma}"),
            }
        }
    };
    Some(Ruled {
        payload: Payload::edited(body, vec![edit]),
        limited: Vec::new(),
    })
}

/// Whether a value says this name as it stands. It is not so told of names that have to be
/// written with escapes.
fn is_said(name: &str, value: &[u8]) -> bool {
    let said = value
        .strip_prefix(b"\"")
        .and_then(|it| it.strip_suffix(b"\""));
    said == Some(name.as_bytes()) && !name.contains('\\')
}

/// What is going to be done to the fields of one request.
struct Plan {
    /// What holds where the request does not say.
    fill: Parameters,
    /// What holds whatever it says.
    set: Parameters,
    /// What is taken out.
    strip: Vec<String>,
    /// Whether the bound that is filled in is the limit.
    is_bounded: bool,
}

impl Plan {
    fn of(endpoint: Endpoint, rules: &Rules, members: &[Member<'_>], text: &str) -> Self {
        let fits = |(name, value): &(&String, &Value)| {
            known(endpoint, name).is_some_and(|field| field.check(value).is_ok())
        };
        let of = |values: &Parameters| -> Parameters {
            let values = values.iter().filter(fits);
            values
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
        let mut plan = Self {
            fill: of(&rules.defaults),
            set: of(&rules.set),
            strip: rules.strip.clone(),
            is_bounded: false,
        };
        if plan.strip.iter().any(|name| name == BOUND) || plan.set.contains_key(BOUND) {
            plan.strip.push(NEWER_BOUND.to_owned());
        }
        if plan
            .set
            .get("chat_template_kwargs")
            .is_some_and(|kwargs| !kwargs["enable_thinking"].is_null())
        {
            // It would count for more than the variable of the template.
            plan.strip.push("enable_thinking".to_owned());
        }
        let says = |name: &str| {
            let is_kept = !plan.strip.iter().any(|stripped| stripped == name);
            let mut members = members.iter();
            is_kept
                && members.any(|member| member.key == name && &text[member.value.clone()] != "null")
        };
        if says(BOUND) || says(NEWER_BOUND) {
            plan.fill.remove(BOUND);
        } else if let Some(limit) = rules.limits.get(BOUND)
            && known(endpoint, BOUND).is_some()
        {
            // Where nobody says a bound there is one nonetheless, at some engines.
            let usual =
                (endpoint == Endpoint::Completions).then_some(COMPLETIONS_MAX_TOKENS.into());
            let is_under = usual.is_some_and(|usual: u64| limit.as_u64() >= Some(usual));
            if !is_under && !plan.fill.contains_key(BOUND) && !plan.set.contains_key(BOUND) {
                plan.is_bounded = true;
                plan.fill.insert(BOUND.to_owned(), limit.clone().into());
            }
        }
        plan
    }

    /// What becomes of fields that the request does not say.
    fn all(&self) -> Parameters {
        let mut all = self.set.clone();
        fill(&mut all, &self.fill);
        all
    }

    /// What becomes of this one.
    fn given(&self, name: &str) -> Option<Value> {
        let is_ruled = self.set.contains_key(name) || self.fill.contains_key(name);
        is_ruled.then(|| self.all().shift_remove(name)).flatten()
    }
}

/// The changes of one text.
struct Change<'t> {
    text: &'t str,
    edits: Vec<Edit>,
    limited: Vec<String>,
}

impl Change<'_> {
    /// The body itself.
    fn top(
        &mut self,
        endpoint: Endpoint,
        open: usize,
        members: &[Member<'_>],
        plan: Plan,
        rules: &Rules,
        naming: Naming,
    ) {
        let is_stripped = |member: &Member<'_>| {
            let name = member.key.as_ref();
            // Stripped and set: its value is another, its place stays.
            plan.strip.iter().any(|stripped| stripped == name) && !plan.set.contains_key(name)
        };
        if plan.is_bounded {
            self.limited.push(format!("{BOUND}={}", plan.fill[BOUND]));
        }
        let mut missing = Map::new();
        if let Some(model) = naming.name() {
            missing.insert("model".to_owned(), model.into());
        }
        missing.extend(plan.all());
        for member in members {
            let name = member.key.as_ref();
            if is_stripped(member) {
                continue;
            }
            missing.shift_remove(name);
            if let ("model", Naming::Always(model)) = (name, naming) {
                self.replace(&member.value, &model.into());
                continue;
            }
            if (endpoint, name) == (Endpoint::Chat, "messages")
                && let Some(prefix) = &rules.system_prefix
            {
                self.edits
                    .extend(system::prefixed(self.text, member.value.start, prefix));
            }
            let is_absent = &self.text[member.value.clone()] == "null";
            let (fill, set) = (plan.fill.get(name), plan.set.get(name));
            match is_absent.then(|| plan.given(name)).flatten() {
                Some(given) => self.replace(&member.value, &given),
                None => self.value(&member.value, fill, set),
            }
            if set.is_none() {
                self.lower(name, &member.value, rules);
            }
        }
        self.strip(members, &is_stripped);
        let is_empty = members.iter().all(is_stripped);
        self.insert(open, &missing, is_empty);
    }

    /// A value inside of which something may be filled in or set.
    fn value(&mut self, at: &Range<usize>, fills: Option<&Value>, set: Option<&Value>) {
        if set.is_none() && !fills.is_some_and(Value::is_object) {
            return;
        }
        let none = Map::new();
        let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
        match (scan::members(self.text, at.start), fills, set) {
            (Some(members), fills, set) if set.is_none_or(Value::is_object) => {
                let fills = object(fills).unwrap_or_else(|| none.clone());
                let set = object(set).unwrap_or(none);
                let mut missing = set.clone();
                fill(&mut missing, &fills);
                for member in &members {
                    let name = member.key.as_ref();
                    missing.shift_remove(name);
                    self.value(&member.value, fills.get(name), set.get(name));
                }
                self.insert(at.start, &missing, members.is_empty());
            }
            // What it says is no object, so nothing was filled in.
            (_, _, Some(set)) => self.replace(at, set),
            (_, _, None) => {}
        }
    }

    /// Lowers a number that is over its limit.
    fn lower(&mut self, name: &str, at: &Range<usize>, rules: &Rules) {
        let limit = match name {
            NEWER_BOUND => rules.limits.get(BOUND),
            name => rules.limits.get(name),
        };
        let number = self.text[at.clone()].parse::<f64>().ok();
        let (Some(limit), Some(number)) = (limit, number) else {
            return;
        };
        if limit.as_f64().is_some_and(|limit| number > limit) {
            self.replace(at, &Value::Number(limit.clone()));
            let name = if name == NEWER_BOUND { BOUND } else { name };
            let told = format!("{name}={limit}");
            if !self.limited.contains(&told) {
                self.limited.push(told);
            }
        }
    }

    fn replace(&mut self, at: &Range<usize>, value: &Value) {
        self.edits.push(Edit {
            at: at.clone(),
            with: value.to_string(),
        });
    }

    /// Takes members out, each with the comma after it; the last ones with the comma
    /// before them.
    fn strip(&mut self, members: &[Member<'_>], is_stripped: &dyn Fn(&Member<'_>) -> bool) {
        let kept = members.iter().rposition(|member| !is_stripped(member));
        let tail = kept.map_or(0, |kept| kept + 1);
        let gone = |start: usize, end: usize| Edit {
            at: start..end,
            with: String::new(),
        };
        for pair in members[..tail].windows(2) {
            if is_stripped(&pair[0]) {
                self.edits.push(gone(pair[0].start, pair[1].start));
            }
        }
        if let (Some(first), Some(last)) = (members.get(tail), members.last()) {
            let start = kept.map_or(first.start, |kept| members[kept].value.end);
            self.edits.push(gone(start, last.value.end));
        }
    }

    /// Puts members at the beginning of the object that begins at `open`.
    fn insert(&mut self, open: usize, members: &Parameters, is_empty: bool) {
        if members.is_empty() {
            return;
        }
        let mut with = Value::Object(members.clone()).to_string();
        // Without its braces.
        with.pop();
        with.remove(0);
        if !is_empty {
            with.push(',');
        }
        let at = open + 1;
        self.edits.push(Edit { at: at..at, with });
    }
}

#[cfg(test)]
mod tests;
