//! What a key may do within its class: which models, how often, how many at
//! once, how much in a day, until when.

use std::num::NonZeroU32;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::KeyClass;
use crate::config::Pattern;
use crate::pool::Priority;

/// The limits of one key; nothing means that there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// Patterns of the served names that may be used, as in `allow`; an alias is
    /// judged by the name it leads to.
    #[serde(skip_serializing_if = "Option::is_none", with = "patterns")]
    pub models: Option<Vec<Pattern>>,
    /// Requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<NonZeroU32>,
    /// Requests at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
    /// Tokens of prompts and answers together in a day of UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
    /// The class of its requests while they wait for a model; they may ask for a
    /// lower one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Seconds since 1970 after which it is no key any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Whether it may hold models by residency leases.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pool: bool,
}

impl Scope {
    /// Whether a model with this served name may be used and seen.
    pub fn permits(&self, served: &str) -> bool {
        self.models
            .as_ref()
            .is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(served)))
    }

    /// The class of a request that asks for one, or for none.
    pub fn priority(&self, asked: Option<Priority>) -> Priority {
        // The order of classes is that in which they are served.
        asked.max(self.priority).unwrap_or_default()
    }

    /// Whether its time is over.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| seconds(now) >= expires)
    }

    /// What makes no sense for a class: limits on the use of models, for a key
    /// that cannot use any.
    pub fn misplaced(&self, class: KeyClass) -> Option<&'static str> {
        if class == KeyClass::Inference {
            return None;
        }
        [
            (self.models.is_some(), "models"),
            (self.tokens_per_day.is_some(), "tokens_per_day"),
            (self.priority.is_some(), "priority"),
            (self.pool, "pool"),
        ]
        .into_iter()
        .find_map(|(is_set, name)| is_set.then_some(name))
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Patterns as the texts they were typed as.
mod patterns {
    use super::*;

    pub fn serialize<S: Serializer>(
        patterns: &Option<Vec<Pattern>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let texts = patterns.iter().flatten().map(Pattern::as_str);
        serializer.collect_seq(texts)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<Pattern>>, D::Error> {
        let texts = Option::<Vec<String>>::deserialize(deserializer)?;
        let patterns = texts.map(|texts| texts.iter().map(|text| Pattern::parse(text)).collect());
        patterns.transpose().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_scope_is_read_as_it_is_written_and_nothing_unknown_is_passed_over() {
        let check = |text: &str, expected: Result<Scope, &str>| {
            let got = serde_json::from_str::<Scope>(text).map_err(|error| error.to_string());
            match (got, expected) {
                (Ok(got), Ok(expected)) => {
                    assert_eq!(got, expected, "{text}");
                    let again = serde_json::to_string(&got).expect("text");
                    assert_eq!(
                        serde_json::from_str::<Scope>(&again).ok(),
                        Some(got),
                        "{again}"
                    );
                }
                (Err(got), Err(expected)) => assert!(got.contains(expected), "{text}: {got}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        };
        check("{}", Ok(Scope::default()));
        let all = Scope {
            models: Some(vec![Pattern::parse("a/*").expect("a pattern")]),
            rate: NonZeroU32::new(60),
            concurrency: NonZeroU32::new(2),
            tokens_per_day: Some(1000),
            priority: Some(Priority::Low),
            expires: Some(2_000_000_000),
            pool: true,
        };
        check(
            r#"{"models":["a/*"],"rate":60,"concurrency":2,"tokens_per_day":1000,"priority":"low","expires":2000000000,"pool":true}"#,
            Ok(all),
        );
        check(r#"{"ratio":1}"#, Err("unknown field `ratio`"));
        check(r#"{"rate":0}"#, Err("nonzero"));
        check(r#"{"models":["a b"]}"#, Err("a pattern of letters"));
        check(r#"{"models":"a/*"}"#, Err("sequence"));
        check(r#"{"priority":"first"}"#, Err("unknown variant"));
    }

    #[test]
    fn no_list_of_models_is_all_and_an_empty_one_is_none() {
        let check = |patterns: Option<&[&str]>, name: &str, expected: bool| {
            let models = patterns.map(|patterns| {
                let parsed = patterns
                    .iter()
                    .map(|text| Pattern::parse(text).expect("a pattern"));
                parsed.collect()
            });
            let scope = Scope {
                models,
                ..Scope::default()
            };
            assert_eq!(scope.permits(name), expected, "{patterns:?} {name}");
        };
        check(None, "a/b", true);
        check(Some(&[]), "a/b", false);
        check(Some(&["a/*"]), "a/b", true);
        check(Some(&["a/*"]), "b/b", false);
        check(Some(&["*"]), "a/b", false);
        check(Some(&["small", "a/*"]), "small", true);
    }

    #[test]
    fn a_request_may_be_less_urgent_than_its_key_and_never_more() {
        use Priority::{High, Low, Normal};
        let check = |class: Option<Priority>, asked: Option<Priority>, expected: Priority| {
            let scope = Scope {
                priority: class,
                ..Scope::default()
            };
            assert_eq!(scope.priority(asked), expected, "{class:?} {asked:?}");
        };
        check(None, None, Normal);
        check(None, Some(High), High);
        check(Some(High), None, High);
        check(Some(High), Some(Low), Low);
        check(Some(Normal), Some(High), Normal);
        check(Some(Low), None, Low);
        check(Some(Low), Some(High), Low);
    }

    #[test]
    fn a_key_ends_at_its_second() {
        let scope = Scope {
            expires: Some(100),
            ..Scope::default()
        };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!scope.has_expired(at(99)) && scope.has_expired(at(100)));
        assert!(!Scope::default().has_expired(at(u32::MAX.into())));
    }
}
