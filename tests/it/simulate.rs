//! The simulator as a command: what the traces of `benches/traces` come to, and
//! that a recording comes to what the server did.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::harness::{Home, question};
use super::records::{state, until_lines};

/// A trace that the project ships.
fn trace(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/traces/{name}.jsonl"))
}

/// The figures of one policy.
#[derive(Debug)]
struct Figures(Value);

impl Figures {
    fn number(&self, name: &str) -> u64 {
        let number = self.0[name].as_u64();
        number.unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }
}

/// What every policy makes of a file. Nobody may be refused, cut off or forgotten.
fn simulated(home: &Home, file: &Path, more: &[&str]) -> BTreeMap<String, Figures> {
    let file = file.to_str().expect("a path");
    let mut args = vec!["simulate", file, "--json"];
    args.extend(more);
    let (code, out, error) = home.run(&args);
    assert_eq!(code, 0, "{error}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    let policies = report["policies"].as_array().expect("policies");
    let figures = policies.iter().map(|policy| {
        let figures = Figures(policy.clone());
        for lost in ["refused", "cut", "unanswered"] {
            assert_eq!(figures.number(lost), 0, "{lost}: {figures:?}");
        }
        let budget = report["budget_bytes"].as_u64().expect("a budget");
        assert!(figures.number("peak_bytes") <= budget, "{figures:?}");
        let name = policy["policy"].as_str().expect("a name");
        (name.to_owned(), figures)
    });
    figures.collect()
}

/// The same of a trace that the project ships.
fn shipped(name: &str) -> BTreeMap<String, Figures> {
    simulated(&Home::new(""), &trace(name), &[])
}

#[test]
fn the_queue_of_the_demands_takes_two_swaps_beyond_the_first_load() {
    let figures = shipped("queue");
    let [pool, fifo] = ["roundhouse", "fifo-lru"].map(|name| &figures[name]);
    assert_eq!((pool.number("served"), pool.number("swaps")), (8, 2));
    assert_eq!(fifo.number("swaps"), 6);
    // switch_after, a drain of 2.5 s and a load of 5.5 s.
    assert!(
        pool.number("wait_max_ms") <= 30_000 + 2_500 + 5_500,
        "{pool:?}"
    );
}

#[test]
fn concurrent_agents_swap_a_third_as_often_as_fifo_lru_and_wait_no_longer() {
    for name in ["fan-out", "titles-busy", "batch", "agents-8"] {
        swap_less(name, 30);
    }
}

/// Here three times as seldom is what is wanted, and not reached: see
/// `docs/BENCHMARKS.md`. What is reached does not get less.
#[test]
fn agents_that_keep_no_step_swap_and_wait_less_too() {
    for (name, tenths) in [("agents-4", 24), ("titles", 14)] {
        swap_less(name, tenths);
    }
}

/// Titles that come by a background alias are answered by the chat model that is up:
/// nothing is ever swapped for them, in the trace where as names of their own they
/// cannot come to a third of the swaps.
#[test]
fn titles_by_a_background_alias_cause_no_swap() {
    for name in ["titles-background", "titles-busy-background"] {
        swap_less(name, 30);
        let figures = shipped(name);
        let pool = &figures["roundhouse"];
        assert_eq!((pool.number("swaps"), pool.number("loads")), (0, 1));
    }
}

/// The pool swaps so many tenths times as seldom as FIFO-LRU, and of a hundred
/// requests ninety-five wait no longer.
fn swap_less(name: &str, tenths: u64) {
    let figures = shipped(name);
    let [pool, fifo] = ["roundhouse", "fifo-lru"].map(|name| &figures[name]);
    let [swaps, plain] = [pool, fifo].map(|figures| figures.number("swaps"));
    assert!(tenths * swaps <= 10 * plain, "{name}: {figures:#?}");
    let [wait, plain] = [pool, fifo].map(|figures| figures.number("wait_p95_ms"));
    assert!(wait <= plain, "{name}: {figures:#?}");
}

#[test]
fn a_client_alone_never_swaps_more_than_fifo_lru() {
    for name in ["alternating", "runs", "three-in-two"] {
        let figures = shipped(name);
        let [pool, fifo] = ["roundhouse", "fifo-lru"].map(|name| &figures[name]);
        assert!(fifo.number("swaps") > 0, "{name}: {figures:#?}");
        assert!(
            pool.number("swaps") <= fifo.number("swaps"),
            "{name}: {figures:#?}"
        );
        assert!(
            pool.number("wait_p95_ms") <= fifo.number("wait_p95_ms"),
            "{name}: {figures:#?}"
        );
    }
}

#[tokio::test]
async fn a_recording_comes_to_the_loads_of_the_server() {
    let home = Home::new(
        "memory: 100MB\nrequest_log: true\nmodels:\n  t/a: { memory: 60MB }\n  \
         t/b: { memory: 60MB }\n  t/c: { memory: 60MB }\n",
    );
    // A load takes far longer than it takes all of the crowd to be heard, so that who
    // of them came first changes nothing.
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"load_ms": 1000, "tokens": 2, "token_ms": 1}));
    }
    let server = home.serve();
    let alone = ["t/a", "t/a", "t/b", "t/a", "t/c", "t/c"];
    for model in alone {
        assert_eq!(server.chat(&question(model, "n", false)).await.status, 200);
    }
    let at_once = (0..12).map(|round| {
        let asked = question(["t/a", "t/b"][round % 2], "n", round % 3 == 0);
        let server = &server;
        async move { server.chat(&asked).await.status }
    });
    let statuses = join_all(at_once).await;
    assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
    let log = state(&home, "requests.jsonl");
    until_lines(&log, alone.len() + statuses.len()).await;
    let status = server.status().await;
    let loads = status["counters"]["loads"].as_u64().expect("a number");
    assert_eq!(loads, 6, "{status}");
    let config = home.config();
    let config = config.to_str().expect("a path");
    for pace in [&[][..], &["--as-answered"]] {
        let mut more = vec!["--config", config, "--scripted-engine"];
        more.extend(pace);
        let figures = simulated(&home, &log, &more);
        assert_eq!(figures["roundhouse"].number("served"), 18, "{figures:#?}");
        assert_eq!(
            figures["roundhouse"].number("loads"),
            loads,
            "{pace:?}: {figures:#?}"
        );
    }
}

#[test]
fn what_cannot_be_played_is_told_with_its_place() {
    let home = Home::new("models: { t/a: {} }\n");
    let file = home.path().join("trace.jsonl");
    let path = file.to_str().expect("a path");
    let check = |text: &str, expected: &str| {
        std::fs::write(&file, text).expect("written");
        let (code, out, error) = home.run(&["simulate", path]);
        assert_eq!((code, out.as_str()), (1, ""), "{error}");
        assert!(error.contains(expected), "{expected:?}: {error}");
    };
    check("", "the trace has no requests");
    check(
        "{}",
        "line 1: not a line of the request log: missing field `time_ms`",
    );
    check(
        "{\"kind\":\"trace\",\"version\":1,\"budgets\":1}",
        "line 1: \"budgets\" is not a field",
    );
    let used = json!({"time_ms": 1, "model": "t/z", "wait_ms": 0, "duration_ms": 5});
    check(
        &used.to_string(),
        "the trace uses t/z, and the configuration does not say",
    );
    let (code, _, error) = home.run(&["simulate", "nowhere.jsonl"]);
    assert!(code == 1 && error.contains("nowhere.jsonl: "), "{error}");
    let (code, _, error) = home.run(&["simulate", path, "--config", "nowhere.yaml"]);
    assert_eq!(code, 78, "{error}");
}

#[test]
fn the_table_is_for_people() {
    let home = Home::new("");
    let file = trace("queue");
    let file = file.to_str().expect("a path");
    let (code, out, error) = home.run(&["simulate", file, "--budget", "40GB"]);
    assert_eq!(code, 0, "{error}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "budget 40.0 GB, 3 models, 8 agents");
    assert!(
        lines[2].starts_with("policy      served  loads  swaps  wait p50"),
        "{out}"
    );
    let first: Vec<_> = lines[3].split_whitespace().take(4).collect();
    assert_eq!(first, ["roundhouse", "8", "3", "0"], "{out}");
    assert_eq!(lines.len(), 6, "{out}");
}
