//! Which models are up at another server like this one, as its model list tells. Pure:
//! when to look is decided here, the looking is done by whoever holds the way to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::choice::Standing;

/// How old a list may be before the next one is asked for: a fresh look costs the other
/// server less than a request does, and a load takes longer than this.
const PACE: Duration = Duration::from_secs(1);

/// How old a list may be and still be believed while the next one is on its way.
const BELIEVED: Duration = Duration::from_secs(30);

/// What is known of the models there.
#[derive(Debug, Default)]
pub struct Residents {
    seen: Option<(Instant, Arc<Listed>)>,
    /// When it was asked last.
    asked: Option<Instant>,
}

/// The standing of each name that the other server lists.
pub type Listed = HashMap<String, Standing>;

/// What is to be done before a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing: what is known is fresh, or is being asked for.
    No,
    /// Ask, and go by what is known meanwhile.
    Beside,
    /// Ask, and wait for it: nothing is known that counts.
    First,
}

impl Residents {
    /// Whether the list is to be asked for; if so, nobody else does for a while.
    pub fn look(&mut self, now: Instant) -> Look {
        let since = |then: Instant| now.saturating_duration_since(then);
        if self.asked.is_some_and(|then| since(then) < PACE) {
            return Look::No;
        }
        self.asked = Some(now);
        match &self.seen {
            Some((then, _)) if since(*then) < BELIEVED => Look::Beside,
            _ => Look::First,
        }
    }

    /// What the list said; nothing if it could not be had.
    pub fn saw(&mut self, listed: Option<Listed>, now: Instant) {
        if let Some(listed) = listed {
            self.seen = Some((now, Arc::new(listed)));
        }
    }

    /// How a model stands there.
    pub fn standing(&self, model: &str, now: Instant) -> Standing {
        match &self.seen {
            Some((then, listed)) if now.saturating_duration_since(*then) < BELIEVED => {
                listed.get(model).copied().unwrap_or(Standing::Absent)
            }
            _ => Standing::Unloaded,
        }
    }
}

/// Reads a model list. What that server would have to ask of others is absent there:
/// a request that was sent on is not sent on again.
pub fn listed(body: &[u8]) -> Option<Listed> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
        state: Option<String>,
        cached: Option<bool>,
        upstream: Option<serde::de::IgnoredAny>,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    let standing = |model: &Model| match (model.state.as_deref(), model.cached) {
        _ if model.upstream.is_some() => Standing::Absent,
        (Some("ready"), _) => Standing::Ready,
        (Some("loading" | "waiting"), _) => Standing::Coming,
        (_, Some(false)) => Standing::Absent,
        _ => Standing::Unloaded,
    };
    let models = list.data.into_iter();
    Some(
        models
            .map(|model| {
                let standing = standing(&model);
                (model.id, standing)
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_tells_where_models_stand() {
        let list = br#"{"object":"list","data":[
            {"id":"a","state":"ready","cached":true},{"id":"b","state":"loading","cached":true},
            {"id":"c","state":"unloaded","cached":true},{"id":"d","state":"unloaded","cached":false},
            {"id":"e","state":"ready","upstream":"cloud"},{"id":"f"}]}"#;
        let start = Instant::now();
        let mut residents = Residents::default();
        assert_eq!(residents.standing("a", start), Standing::Unloaded);
        residents.saw(listed(list), start);
        for (model, expected) in [
            ("a", Standing::Ready),
            ("b", Standing::Coming),
            ("c", Standing::Unloaded),
            ("d", Standing::Absent),
            ("e", Standing::Absent),
            ("f", Standing::Unloaded),
            ("g", Standing::Absent),
        ] {
            assert_eq!(residents.standing(model, start), expected, "{model}");
        }
        residents.saw(listed(b"<html>"), start);
        assert_eq!(
            residents.standing("a", start + BELIEVED / 2),
            Standing::Ready
        );
        assert_eq!(
            residents.standing("a", start + BELIEVED),
            Standing::Unloaded
        );
    }

    #[test]
    fn a_list_is_asked_for_on_use_and_not_too_often() {
        let start = Instant::now();
        let mut residents = Residents::default();
        assert_eq!(residents.look(start), Look::First);
        assert_eq!(residents.look(start), Look::No);
        residents.saw(Some(Listed::new()), start);
        assert_eq!(residents.look(start + PACE / 2), Look::No);
        assert_eq!(residents.look(start + PACE), Look::Beside);
        assert_eq!(residents.look(start + PACE + BELIEVED), Look::First);
    }
}
