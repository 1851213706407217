//! `GET /admin/swaps`: the last swaps with what each cost, and who cost how much.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use serde_json::{Value, json};

use super::requests::milliseconds_ago;
use crate::api::error::{ApiError, Code};
use crate::pool::swaps::Swap;
use crate::service::Service;
use crate::units::parse_duration;

/// Whoever the configuration is: loads that it wants have no caller and no name.
const CONFIGURATION: &str = "configuration";

/// What some swaps cost together.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Sum {
    swaps: u64,
    drain_ms: u64,
    unload_ms: u64,
    load_ms: u64,
    /// The three together.
    lost_ms: u64,
    /// What all who waited for them lost.
    waited_ms: u64,
}

/// The answer. `?since=` is a moment in milliseconds since 1970, or how long ago,
/// such as `1h`.
pub async fn swaps(State(service): State<Service>, uri: Uri) -> Result<Json<Value>, ApiError> {
    let since = since(uri.query().unwrap_or_default())?;
    let (mut swaps, all) = service.dispatch.pool.book().swaps();
    let kept = swaps.len() as u64;
    swaps.retain(|swap| swap.time_ms >= since);
    let unknown = || CONFIGURATION.to_owned();
    Ok(Json(json!({
        "all": all,
        "kept": kept,
        "sum": sum(swaps.iter()),
        "by_caller": grouped(&swaps, |swap| swap.caller.clone().unwrap_or_else(unknown)),
        "by_name": grouped(&swaps, |swap| swap.name.clone().unwrap_or_else(unknown)),
        "swaps": swaps,
    })))
}

/// What the query asks for.
fn since(query: &str) -> Result<u64, ApiError> {
    let mut since = 0;
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if name == "since" {
            let moment = value.parse().ok();
            let ago = || parse_duration(value).ok().map(milliseconds_ago);
            since = moment.or_else(ago).ok_or_else(|| {
                let message = "since: expected milliseconds since 1970 or a duration such as 1h";
                ApiError::new(Code::InvalidValue, message).param("since")
            })?;
        }
    }
    Ok(since)
}

/// The sum of each group, by its name.
fn grouped(swaps: &[Arc<Swap>], of: impl Fn(&Swap) -> String) -> BTreeMap<String, Sum> {
    let mut groups: BTreeMap<String, Vec<&Arc<Swap>>> = BTreeMap::new();
    for swap in swaps {
        groups.entry(of(swap)).or_default().push(swap);
    }
    let sums = groups.into_iter().map(|(name, swaps)| (name, sum(swaps)));
    sums.collect()
}

fn sum<'s>(swaps: impl IntoIterator<Item = &'s Arc<Swap>>) -> Sum {
    swaps.into_iter().fold(Sum::default(), |sum, swap| Sum {
        swaps: sum.swaps + 1,
        drain_ms: sum.drain_ms + swap.drain_ms,
        unload_ms: sum.unload_ms + swap.unload_ms,
        load_ms: sum.load_ms + swap.load_ms,
        lost_ms: sum.lost_ms + swap.lost_ms(),
        waited_ms: sum.waited_ms + swap.waited_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_made_by_caller_and_by_name() {
        let swap = |caller: Option<&str>, name: &str, load_ms| {
            Arc::new(Swap {
                number: 1,
                time_ms: 0,
                model: "t/a".to_owned(),
                request_id: None,
                caller: caller.map(str::to_owned),
                name: Some(name.to_owned()),
                victims: Vec::new(),
                drain_ms: 1,
                unload_ms: 10,
                load_ms,
                waiters: 2,
                waited_ms: 7,
                ready: true,
            })
        };
        let swaps = [
            swap(Some("key-1"), "titles", 100),
            swap(Some("key-1"), "coder", 200),
            swap(None, "titles", 300),
        ];
        let lost = |sums: BTreeMap<String, Sum>| -> Vec<(String, u64, u64)> {
            let rows = sums
                .into_iter()
                .map(|(name, sum)| (name, sum.swaps, sum.lost_ms));
            rows.collect()
        };
        let by_caller = lost(grouped(&swaps, |swap| {
            swap.caller.clone().unwrap_or_default()
        }));
        assert_eq!(
            by_caller,
            [(String::new(), 1, 311), ("key-1".to_owned(), 2, 322)]
        );
        let by_name = lost(grouped(&swaps, |swap| {
            swap.name.clone().unwrap_or_default()
        }));
        assert_eq!(by_name[1], ("titles".to_owned(), 2, 422));
        assert_eq!(sum(&swaps).waited_ms, 21);
    }

    #[test]
    fn since_is_a_moment_or_how_long_ago() {
        assert_eq!(since(""), Ok(0));
        assert_eq!(since("x=1&since=123"), Ok(123));
        let an_hour_ago = || milliseconds_ago(std::time::Duration::from_secs(3600));
        let before = an_hour_ago();
        let told = since("since=1h").expect("a duration");
        assert!((before..=an_hour_ago()).contains(&told), "{before} {told}");
        assert!(since("since=yesterday").is_err());
        assert!(since("since=").is_err());
    }
}
