//! It explains itself: loads say how far they are, swaps what they cost and for
//! whom, requests where they stand; and asking changes nothing.

use std::time::{Duration, Instant};

use reqwest::Method;
use roundhouse::shutdown::Tasks;
use serde_json::{Value, json};

use super::harness::{Answer, Home, PATIENCE, Server, lives, question};

/// Two models of which the budget holds one.
fn one_of_two(server: &str) -> Home {
    let home = Home::new(&format!(
        "memory: 100MB\npool: {{ switch_after: 100ms }}\nserver: {{ {server} }}\nmodels:\n  \
         t/a: {{ memory: 60MB, aliases: [small] }}\n  t/b: {{ memory: 60MB }}\n"
    ));
    home.scripted("t/a", json!({"tokens": 1}));
    home.scripted("t/b", json!({"tokens": 1}));
    home
}

/// Gets JSON over the control socket.
async fn get(server: &Server, path: &str) -> Value {
    let (status, body) = server.control(Method::GET, path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// A request in a task of its own.
fn ask(server: &Server, body: Value, headers: &[(&str, &str)]) -> tokio::task::JoinHandle<Answer> {
    let mut request = server
        .request(Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json")
        .body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Tasks::new().spawn(async move { Answer::read(request.send().await.expect("an answer")).await })
}

#[tokio::test]
async fn a_load_that_moves_outlives_its_limit_and_one_that_stands_still_does_not() {
    let home = Home::new(
        "server: { limits: { load_time: 400ms } }\nmodels: { t/moves: {}, t/stops: {}, t/mute: {} }\n",
    );
    home.scripted("t/moves", json!({"load_ms": 1500, "tokens": 1}));
    let stops = json!({
        "load_ms": 600, "load_told": 620, "hang": {"at": "load"}, "ignore_sigterm": true,
    });
    let stops = home.scripted("t/stops", stops);
    home.scripted("t/mute", json!({"load_ms": 1500, "load_told": 0}));
    let server = home.serve();
    let moves = server.chat(&question("t/moves", "n", false)).await;
    assert_eq!(moves.status, 200, "{moves:?}");
    // What says nothing of itself has the limit for all of its load.
    let mute = server.chat(&question("t/mute", "n", false)).await;
    assert_eq!((mute.status, mute.code().as_str()), (504, "load_timeout"));

    let begun = Instant::now();
    let asked = ask(&server, question("t/stops", "n", false), &[]);
    let stuck = |status: &Value| {
        let stops = &status["models"][2];
        stops["model"] == "t/stops" && stops["loaded_percent"] == 62
    };
    let status = server.until("at 62 %", stuck).await;
    let pid = status["models"][2]["process"].as_u64().expect("a pid") as u32;
    let stopped = asked.await.expect("an answer");
    assert_eq!(
        (stopped.status, stopped.code().as_str()),
        (504, "load_timeout")
    );
    assert!(
        begun.elapsed() > Duration::from_millis(950),
        "from its last step"
    );
    let failed = |status: &Value| status["models"][2]["last_failure"]["in_a_row"] == 1;
    server.until("failed", failed).await;
    let gone = Instant::now();
    while lives(pid) {
        assert!(gone.elapsed() < PATIENCE, "the hung worker lives");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The next request, after the pause, tries anew.
    let mended = json!({"tokens": 1}).to_string();
    std::fs::write(stops.join("scripted.json"), mended).expect("written");
    let start = Instant::now();
    loop {
        let again = server.chat(&question("t/stops", "n", false)).await;
        if again.status == 200 {
            break;
        }
        assert_eq!(again.code(), "load_failed");
        assert!(start.elapsed() < PATIENCE, "never tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn heartbeats_say_how_far_the_load_is_in_the_form_that_is_set() {
    for (form, sign) in [
        ("comment", ": loading t/a "),
        ("empty_delta", "data: {"),
        ("off", ""),
    ] {
        let home = Home::new(&format!(
            "server: {{ heartbeat_after: 100ms, heartbeat_every: 50ms, heartbeat: {form} }}\n\
             models: {{ t/a: {{}} }}\n"
        ));
        home.scripted("t/a", json!({"load_ms": 500, "tokens": 1}));
        let server = home.serve();
        let answer = server.chat(&question("t/a", "n", true)).await;
        assert_eq!(answer.status, 200);
        let before = answer.text.split("\"role\"").next().unwrap_or_default();
        let signs = before.matches(sign).count();
        match form {
            "comment" => {
                assert!(signs >= 2, "{before}");
                assert!(before.contains(" %, ready in "), "{before}");
            }
            "empty_delta" => assert!(signs >= 3 && before.contains("\"delta\":{}"), "{before}"),
            _ => assert!(
                !answer.text.lines().any(|line| line.starts_with(':')),
                "{answer:?}"
            ),
        }
        assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
        // Whoever waited from the start is told his place where headers go out early.
        let position = answer.header("x-roundhouse-queue-position");
        assert_eq!(position, Some("0"), "{form}: {answer:?}");
    }
}

#[tokio::test]
async fn every_swap_is_booked_with_who_it_was_for_and_what_it_cost() {
    let home = one_of_two("drain: 1s");
    home.scripted("t/b", json!({"tokens": 1, "load_ms": 300}));
    let server = home.serve();
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    let none = get(&server, "/admin/swaps").await;
    assert_eq!((&none["all"], &none["swaps"]), (&json!(0), &json!([])));
    let first = ask(
        &server,
        question("t/b", "n", false),
        &[("x-request-id", "one")],
    );
    assert_eq!(first.await.expect("an answer").status, 200);
    let back = ask(
        &server,
        question("small", "n", true),
        &[("x-request-id", "two")],
    );
    assert_eq!(back.await.expect("an answer").status, 200);
    let told = get(&server, "/admin/swaps").await;
    let [one, two] = told["swaps"].as_array().expect("a list").as_slice() else {
        panic!("{told:#}");
    };
    assert_eq!(one["model"], "t/b");
    assert_eq!(
        (&one["request_id"], &one["caller"]),
        (&json!("one"), &json!("local"))
    );
    assert_eq!(one["victims"][0]["model"], "t/a");
    assert!(one["load_ms"].as_u64() >= Some(300), "{one}");
    assert!(
        one["waited_ms"].as_u64() >= one["load_ms"].as_u64(),
        "{one}"
    );
    assert_eq!((&one["waiters"], &one["ready"]), (&json!(1), &json!(true)));
    assert_eq!(
        (&two["name"], &two["model"]),
        (&json!("small"), &json!("t/a"))
    );
    assert_eq!(told["by_caller"]["local"]["swaps"], 2);
    assert_eq!(told["by_name"]["small"]["swaps"], 1);
    let later = two["time_ms"].as_u64().expect("a number");
    let since = get(&server, &format!("/admin/swaps?since={later}")).await;
    assert_eq!(since["sum"]["swaps"], 1, "{since:#}");
    assert_eq!(
        get(&server, "/admin/swaps?since=1h").await["sum"]["swaps"],
        2
    );
    let (status, _) = server
        .control(Method::GET, "/admin/swaps?since=never", None)
        .await;
    assert_eq!(status, 400);
    let metrics = super::records::scrape(&server).await;
    for name in [
        "load_phase_seconds_count{model=\"t/b\",phase=\"unload\"}",
        "worker_exits_total{model=\"t/a\",reason=\"evicted\"}",
        "first_event_seconds_count{model=\"t/a\",start=\"waited\"}",
    ] {
        assert_eq!(
            super::records::value(&metrics, name),
            1.0,
            "{name}\n{metrics}"
        );
    }
    assert_eq!(
        super::records::value(&metrics, "router_overhead_seconds_count"),
        3.0
    );
}

/// A stream of `t/a` with a known id that goes on until it is ended.
async fn endless(server: &Server, id: &str) -> reqwest::Response {
    let mut body = question("t/a", "holds", true);
    body["scripted"] = json!({"tokens": 100_000, "token_ms": 10});
    let mut response = server
        .request(Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json")
        .header("x-request-id", id)
        .body(body.to_string())
        .send()
        .await
        .expect("an answer");
    response.chunk().await.expect("bytes").expect("a piece");
    response
}

#[tokio::test]
async fn the_queue_and_the_requests_are_shown_and_one_is_ended_from_outside() {
    let home = Home::new(
        "memory: 100MB\npool: { switch_after: 10m, queue: 1 }\nmodels:\n  t/a: { memory: 60MB, parallel: 1 }\n  \
         t/b: { memory: 60MB }\n",
    );
    home.scripted("t/a", json!({"journal": "journal"}));
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    let holder = endless(&server, "holder").await;
    let waits = ask(
        &server,
        question("t/b", "n", false),
        &[("x-request-id", "waits")],
    );
    let status = |status: &Value| status["requests"]["waiting"] == 1;
    server.until("waiting", status).await;
    let queue = get(&server, "/admin/queue").await;
    let [waiting] = queue["waiting"].as_array().expect("a list").as_slice() else {
        panic!("{queue:#}");
    };
    assert_eq!(waiting["position"], 0);
    assert_eq!(
        (&waiting["model"], &waiting["request_id"]),
        (&json!("t/b"), &json!("waits"))
    );
    // The load of t/a was measured, and t/b is of its size.
    let eta = waiting["eta_ms"].as_u64().expect("a number");
    assert!((500_000..610_000).contains(&eta), "{waiting}");
    // Whoever finds no place in the line hears when it will be worth asking.
    let full = server.chat(&question("t/b", "n", false)).await;
    assert_eq!((full.status, full.code().as_str()), (429, "queue_full"));
    let eta = full.header("x-roundhouse-eta-ms").expect("an estimate");
    assert!(
        eta.parse::<u64>().is_ok_and(|eta| eta > 500_000),
        "{full:?}"
    );
    let requests = get(&server, "/admin/requests").await;
    let states: Vec<_> = requests["requests"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| (it["request_id"].clone(), it["state"].clone()))
        .collect();
    let expected = [("holder", "running"), ("waits", "waiting")];
    assert_eq!(
        states,
        expected.map(|(id, state)| (json!(id), json!(state)))
    );
    assert!(requests["requests"][0]["tokens"].as_u64() >= Some(1));

    let cancel = async |id: &str| {
        let path = format!("/admin/requests/{id}");
        server.control(Method::DELETE, &path, None).await
    };
    assert_eq!(cancel("nobody").await.0, 404);
    assert_eq!(
        cancel("waits").await,
        (200, json!({"success": true, "id": "waits", "requests": 1}))
    );
    let refused = waits.await.expect("an answer");
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (409, "request_cancelled")
    );
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(get(&server, "/admin/queue").await["waiting"], json!([]));

    assert_eq!(cancel("holder").await.0, 200);
    let ended = Answer::read(holder).await;
    let last: Value = serde_json::from_str(ended.events().last().expect("events")).expect("JSON");
    assert_eq!(last["error"]["code"], "request_cancelled", "{last}");
    assert!(!ended.text.contains("[DONE]"));
    server
        .until("free", |status| status["requests"]["running"] == 0)
        .await;
    // The slot is free: the only place of the model answers somebody else.
    let mut short = question("t/a", "n", false);
    short["scripted"] = json!({"tokens": 1});
    assert_eq!(server.chat(&short).await.status, 200);
    let audit = std::fs::read_to_string(home.path().join(".local/state/roundhouse/audit.jsonl"));
    let audit = audit.expect("an audit");
    assert_eq!(audit.matches("\"action\":\"cancel\"").count(), 2, "{audit}");
}

#[tokio::test]
async fn events_tell_what_happens_as_it_happens_and_end_with_the_server() {
    let home = one_of_two("heartbeat_every: 100ms, drain: 1s");
    home.scripted("t/a", json!({"tokens": 1, "load_ms": 200}));
    // Long enough for a comment, since it says nothing of itself.
    home.scripted("t/b", json!({"tokens": 1, "load_ms": 300, "load_told": 0}));
    let mut server = home.serve();
    let http = reqwest::Client::builder()
        .unix_socket(server.control.as_path())
        .build()
        .expect("a client");
    let follow = http.get("http://localhost/admin/events").send();
    let follow = follow.await.expect("an answer");
    let kind = follow.headers()["content-type"].clone();
    assert_eq!(kind, "text/event-stream");
    let events = Tasks::new().spawn(async move { follow.text().await.expect("a clean end") });
    let secret = "the words of a prompt";
    for model in ["t/a", "t/b"] {
        let mut body = question(model, "n", true);
        body["messages"][0]["content"] = json!(secret);
        assert_eq!(server.chat(&body).await.status, 200);
    }
    home.configure("models: { t/a: {} }\n");
    get_reload(&server).await;
    server
        .until("gone", |status| {
            status["models"].as_array().map(Vec::len) == Some(1)
        })
        .await;
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    let events = events.await.expect("a task");
    for name in [
        "model_status",
        "load_progress",
        "swap",
        "request_start",
        "request_end",
        "queue",
        "config_reload",
        "worker_exit",
    ] {
        let event = format!("event: {name}\ndata: {{");
        assert!(events.contains(&event), "no {name}\n{events}");
    }
    assert!(events.contains(": nothing happens\n\n"), "{events}");
    assert!(!events.contains(secret));
    let data = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    for line in data {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

async fn get_reload(server: &Server) {
    let (status, body) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn asking_why_changes_nothing_and_what_is_said_comes_true() {
    let home = one_of_two("drain: 1s");
    let server = home.serve();
    assert_eq!(
        server.chat(&question("small", "n", false)).await.status,
        200
    );
    server
        .until("idle", |status| status["requests"]["running"] == 0)
        .await;
    let first = get(&server, "/admin/explain?model=t%2Fb").await;
    assert_eq!(
        (&first["route"], &first["model"]),
        (&json!("exact"), &json!("t/b"))
    );
    assert_eq!(
        first["path"],
        json!([{"rule": "entry", "found": true, "says": "models has it"}])
    );
    let now = &first["now"];
    assert_eq!(
        (&now["state"], &now["course"]),
        (&json!("unloaded"), &json!("evict"))
    );
    assert_eq!(now["evicts"][0]["model"], "t/a");
    assert!(now["eta_ms"].is_u64(), "{now}");
    for _ in 0..20 {
        assert_eq!(get(&server, "/admin/explain?model=t/b").await, first);
    }
    assert_eq!(server.status().await["counters"]["loads"], 1);
    let ready = get(&server, "/admin/explain?model=small").await;
    assert_eq!(
        (&ready["route"], &ready["now"]["course"]),
        (&json!("alias"), &json!("answer"))
    );
    assert_eq!(ready["now"]["eta_ms"], 0);
    let unknown = get(&server, "/admin/explain?model=smal").await;
    assert_eq!(
        (&unknown["served"], &unknown["suggestions"][0]),
        (&json!(false), &json!("small"))
    );
    let (status, _) = server.control(Method::GET, "/admin/explain", None).await;
    assert_eq!(status, 400);

    let answer = server
        .request(Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json")
        .header("x-roundhouse-explain", "1")
        .body(question("t/b", "n", false).to_string())
        .send()
        .await
        .expect("an answer");
    let answer = Answer::read(answer).await;
    assert_eq!(answer.status, 200);
    let line = answer.header("x-roundhouse-explain").expect("a line");
    assert!(
        line.starts_with("route=exact t/b; state=unloaded; course=evict; evicts=t/a; before=0"),
        "{line}"
    );
    let plain = server.chat(&question("t/b", "n", false)).await;
    assert_eq!(plain.header("x-roundhouse-explain"), None);
    let swaps = get(&server, "/admin/swaps").await;
    assert_eq!(
        swaps["swaps"][0]["victims"][0]["model"], "t/a",
        "it came true"
    );
}

#[tokio::test]
async fn explain_is_a_command_with_and_without_a_server() {
    let home = one_of_two("drain: 1s");
    let config = home.config();
    let config = config.to_str().expect("text");
    let (code, out, error) = home.run(&["explain", "small", "--config", config]);
    // Without the flag for tests no scripted model can be served.
    assert_eq!(code, 1, "{out}{error}");
    assert!(out.contains("yes, an alias of t/a"), "{out}");
    let server = home.serve();
    let (code, out, error) = home.run(&["explain", "small"]);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("t/a (alias of \"small\")"), "{out}");
    assert!(out.contains("it would be loaded into free room"), "{out}");
    let holder = endless(&server, "holder-1").await;
    let (code, out, _) = home.run(&["explain", "holder-1", "--json"]);
    assert_eq!(code, 0);
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(told["request"]["state"], "running", "{told}");
    assert_eq!(told["model"], "t/a");
    drop(holder);
    let (code, out, _) = home.run(&["explain", "t/nothing"]);
    assert_eq!(code, 1);
    assert!(out.contains("none for \"t/nothing\""), "{out}");
}
