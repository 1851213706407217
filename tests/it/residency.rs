//! How long models stay, through the true binary: residency leases, `ttl` and
//! `keep_alive`, a swap that fails, the run before a model is ready.

use reqwest::Method;
use roundhouse::shutdown::Tasks;
use serde_json::{Value, json};

use super::harness::{Answer, Home, Server, question};

/// Two models of which the budget holds one, and more of the configuration.
fn home(pool: &str) -> Home {
    let home = Home::new(&format!(
        "memory: 100MB\npool: {{ {pool} }}\nmodels:\n  t/a: {{ memory: 60MB }}\n  \
         t/b: {{ memory: 60MB }}\n"
    ));
    for id in ["t/a", "t/b"] {
        home.scripted(id, json!({"tokens": 1, "last_body": "body.json"}));
    }
    home
}

/// Calls the inference port, with a key or without.
async fn call(server: &Server, key: &str, method: Method, body: &Value) -> Answer {
    let mut request = server
        .request(method, "/v1/leases")
        .header("content-type", "application/json")
        .body(body.to_string());
    if !key.is_empty() {
        request = request.bearer_auth(key);
    }
    Answer::read(request.send().await.expect("an answer")).await
}

/// What the status says of a model.
fn model<'s>(status: &'s Value, name: &str) -> &'s Value {
    let models = status["models"].as_array().expect("a list");
    models
        .iter()
        .find(|model| model["model"] == name)
        .expect("it is known")
}

#[tokio::test]
async fn a_held_model_stays_until_it_is_given_back() {
    let home = home("switch_after: 50ms");
    let server = home.serve();
    let held = call(
        &server,
        "",
        Method::POST,
        &json!({"model": "t/a", "seconds": 600}),
    )
    .await;
    assert_eq!(held.status, 200, "{held:?}");
    let held = held.json();
    assert_eq!(
        (&held["model"], &held["seconds"], &held["limited"]),
        (&json!("t/a"), &json!(600.0), &json!(false))
    );
    let request = server
        .request(Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json")
        .body(question("t/b", "n", false).to_string());
    let waits = Tasks::new()
        .spawn(async move { Answer::read(request.send().await.expect("an answer")).await });
    let status = server
        .until("held up", |status| {
            model(status, "t/b")["held_up_seconds"]
                .as_f64()
                .is_some_and(|left| left > 500.0)
        })
        .await;
    let lease = &model(&status, "t/a")["residency_leases"][0];
    assert_eq!(
        (&lease["id"], &lease["holder"]),
        (&held["id"], &json!("local"))
    );
    // So that whoever waits for b, and was seen to, has waited `switch_after`.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    // The one who holds it is served meanwhile; no second lease while b waits.
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    let chain = call(
        &server,
        "",
        Method::POST,
        &json!({"model": "t/a", "seconds": 1}),
    )
    .await;
    assert_eq!((chain.status, chain.code().as_str()), (409, "conflict"));
    let unload = json!({"model": "t/a"});
    let unload = server
        .control(Method::POST, "/admin/models/unload", Some(unload))
        .await;
    assert_eq!(unload.0, 409, "{unload:?}");
    let done = call(&server, "", Method::DELETE, &json!({"id": held["id"]})).await;
    assert_eq!(done.json(), json!({"success": true, "model": "t/a"}));
    let answer = waits.await.expect("an answer");
    assert_eq!(answer.told()["model"], "t/b");
    let twice = call(&server, "", Method::DELETE, &json!({"id": held["id"]})).await;
    assert_eq!((twice.status, twice.code().as_str()), (404, "not_found"));
    assert_eq!(server.status().await["counters"]["loads"], 2);
    let audit = home.path().join(".local/state/roundhouse/audit.jsonl");
    let audit = std::fs::read_to_string(audit).expect("an audit");
    for action in ["leases.hold", "leases.let_go"] {
        assert!(audit.contains(action), "{audit}");
    }
}

#[tokio::test]
async fn a_residency_lease_ends_by_itself_at_its_ceiling() {
    let home = home("switch_after: 50ms, lease_ceiling: 400ms");
    let server = home.serve();
    let wanted = json!({"model": "t/a", "seconds": 3600});
    let (status, held) = server
        .control(Method::POST, "/admin/leases", Some(wanted))
        .await;
    assert_eq!(status, 200, "{held}");
    assert_eq!(
        (&held["seconds"], &held["limited"]),
        (&json!(0.4), &json!(true))
    );
    let answer = server.chat(&question("t/b", "n", false)).await;
    assert_eq!(answer.told()["model"], "t/b");
    let waited: u64 = answer
        .header("x-roundhouse-wait-ms")
        .expect("a header")
        .parse()
        .expect("a number");
    assert!(waited >= 100, "{waited} ms");
    for (body, code) in [
        (json!({"model": "t/a", "seconds": 0}), "invalid_value"),
        (json!({"model": "t/a", "secs": 1}), "invalid_value"),
        (json!({"model": "t/none"}), "model_not_found"),
    ] {
        let (_, refused) = server
            .control(Method::POST, "/admin/leases", Some(body))
            .await;
        assert_eq!(refused["error"]["code"], code, "{refused}");
    }
}

#[tokio::test]
async fn with_a_key_holding_takes_the_scope_pool_and_gives_no_right_to_that_of_others() {
    let home = home("max_models: 2");
    let key = |args: &[&str]| {
        let (code, out, error) = home.run(&[&["keys", "new"], args].concat());
        assert_eq!(code, 0, "{error}");
        out.trim().to_owned()
    };
    let (plain, pool) = (key(&[]), key(&["--pool", "--models", "t/a"]));
    let other = key(&["--pool"]);
    let server = home.serve();
    let wanted = json!({"model": "t/a", "seconds": 60});
    let refused = call(&server, &plain, Method::POST, &wanted).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "insufficient_scope")
    );
    assert_eq!(server.status().await["counters"]["loads"], 0);
    let outside = call(&server, &pool, Method::POST, &json!({"model": "t/b"})).await;
    assert_eq!(
        (outside.status, outside.code().as_str()),
        (404, "model_not_found")
    );
    let held = call(&server, &pool, Method::POST, &wanted).await;
    assert_eq!(held.status, 200, "{held:?}");
    let id = json!({"id": held.json()["id"]});
    assert_eq!(call(&server, &other, Method::DELETE, &id).await.status, 404);
    assert_eq!(call(&server, &plain, Method::DELETE, &id).await.status, 403);
    let (status, _) = server
        .control(Method::DELETE, "/admin/leases", Some(id))
        .await;
    assert_eq!(status, 200, "management gives back any");
}

#[tokio::test]
async fn ttl_and_keep_alive_move_the_idle_unload() {
    let home = home("idle_unload: 10m");
    let server = home.serve();
    let ask = async |field: &str, value: Value| {
        let mut body = question("t/a", "n", false);
        body[field] = value;
        server.chat(&body).await
    };
    for (field, value, range) in [
        ("ttl", json!(60), 50.0..60.1),
        ("keep_alive", json!("2m"), 110.0..120.1),
        ("keep_alive", json!("3h"), 590.0..600.1),
        ("ttl", json!(60), 50.0..60.1),
        ("keep_alive", json!(-1), 590.0..600.1),
        ("ttl", json!(60), 50.0..60.1),
        ("ttl", Value::Null, 590.0..600.1),
    ] {
        let answer = ask(field, value.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let ignored = answer.header("x-roundhouse-ignored");
        assert_eq!(ignored, None, "{field} has an effect");
        let what = format!("moved by {field} {value}");
        let moved = |status: &Value| {
            let left = model(status, "t/a")["unload_in_seconds"].as_f64();
            left.is_some_and(|left| range.contains(&left))
        };
        server.until(&what, moved).await;
    }
    assert_eq!(ask("keep_alive", json!(0)).await.status, 200);
    let gone = |status: &Value| status["counters"]["unloads"]["idle"] == 1;
    server.until("unloaded", gone).await;
    for (field, value) in [("ttl", json!("5m")), ("keep_alive", json!("soon"))] {
        let refused = ask(field, value).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "invalid_value")
        );
        assert_eq!(refused.json()["error"]["param"], field);
    }
    assert_eq!(server.status().await["counters"]["loads"], 1);
}

#[tokio::test]
async fn the_old_model_comes_back_when_the_new_one_does_not_load() {
    let home = home("idle_unload: 10m");
    home.scripted(
        "t/b",
        json!({"load_ms": 50, "load_fail": "the weights are made of cheese"}),
    );
    let server = home.serve();
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    let failed = server.chat(&question("t/b", "n", false)).await;
    assert_eq!(
        (failed.status, failed.code().as_str()),
        (503, "load_failed")
    );
    let status = server
        .until("back", |status| model(status, "t/a")["state"] == "ready")
        .await;
    assert_eq!(status["counters"]["rollbacks"], 1);
    assert_eq!(status["counters"]["loads"], 3);
    server.logged(&["t/a comes back", "t/b"]);
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    assert_eq!(
        server.status().await["counters"]["loads"],
        3,
        "nothing is loaded for it"
    );
}

#[tokio::test]
async fn a_model_is_warmed_up_before_it_is_ready_and_a_failing_run_is_a_failing_load() {
    let home =
        Home::new("models:\n  t/a: { warmup: true }\n  t/cold: {}\n  t/broken: { warmup: true }\n");
    let journal = |id: &str, script: Value| {
        let mut script = script;
        script["journal"] = json!("journal");
        home.scripted(id, script).join("journal")
    };
    let warm = journal("t/a", json!({"tokens": 3}));
    let cold = journal("t/cold", json!({"tokens": 3}));
    let broken = journal("t/broken", json!({"crash": {"at": "token", "how": "exit"}}));
    let server = home.serve();
    for id in ["t/a", "t/cold"] {
        assert_eq!(server.chat(&question(id, "first", false)).await.status, 200);
    }
    let lines = |path| std::fs::read_to_string(path).expect("a journal");
    let run = "started warmup\nfinished warmup after 1\n";
    assert!(lines(&warm).starts_with(run), "{}", lines(&warm));
    assert!(!lines(&cold).contains("warmup"), "{}", lines(&cold));
    let failed = server.chat(&question("t/broken", "n", false)).await;
    assert_eq!(
        (failed.status, failed.code().as_str()),
        (503, "load_failed")
    );
    assert_eq!(lines(&broken), "started warmup\n");
}

#[tokio::test]
async fn models_that_are_never_together_take_turns_though_there_is_room() {
    let models = |rivals: &str| {
        format!(
            "memory: 1GB\nmodels:\n  t/a: {{ never_with: [{rivals}] }}\n  t/b: {{}}\n  t/c: {{}}\n"
        )
    };
    let home = Home::new(&models("t/b"));
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"tokens": 1}));
    }
    let server = home.serve();
    let ask = async |names: [&str; 3]| {
        for name in names {
            let answer = server.chat(&question(name, "n", false)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let status = server.status().await;
        ["t/a", "t/b", "t/c"].map(|name| model(&status, name)["state"] == "ready")
    };
    assert_eq!(ask(["t/b", "t/c", "t/a"]).await, [true, false, true]);
    assert_eq!(ask(["t/a", "t/c", "t/b"]).await, [false, true, true]);
    let config = home.config();
    let config = config.to_str().expect("UTF-8");
    let (code, told, _) = home.run(&["check", config, "--scripted-engine"]);
    assert_eq!(code, 0);
    for line in ["t/a and t/c fit together", "t/b and t/c fit together"] {
        assert!(told.contains(line), "{told}");
    }
    // Taken back while it runs.
    home.configure(&models(""));
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    assert_eq!(ask(["t/b", "t/c", "t/a"]).await, [true, true, true]);
}
