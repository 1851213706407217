//! What a request may call a model, and what it gets for it (groups M and J of
//! the security cases, as far as they concern names).

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Home, PATIENCE, question};

const CONFIG: &str = "
allow: [\"good/*\"]
deny: [\"good/denied\"]
models:
  good/first: { aliases: [first, gpt-4o-mini] }
";

fn home() -> Home {
    let home = Home::new(CONFIG);
    for id in ["good/first", "good/second", "good/denied", "other/stranger"] {
        home.scripted(id, json!({"tokens": 2}));
    }
    home
}

/// A request with this `model`, whatever it is; nothing leaves it out.
async fn ask(server: &super::harness::Server, model: Option<Value>) -> super::harness::Answer {
    let mut body = question("x", "n", false);
    match model {
        Some(model) => body["model"] = model,
        None => drop(body.as_object_mut().expect("an object").remove("model")),
    }
    server.chat(&body).await
}

#[tokio::test]
async fn m01_a_missing_or_ill_typed_model_is_400() {
    let home = home();
    let server = home.serve();
    for model in [
        None,
        Some(json!("")),
        Some(json!(null)),
        Some(json!(7)),
        Some(json!([])),
        Some(json!({})),
    ] {
        let answer = ask(&server, model.clone()).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "invalid_model_id"),
            "{model:?}"
        );
        assert_eq!(answer.json()["error"]["param"], "model");
    }
}

#[tokio::test]
async fn m02_to_m05_what_is_no_name_is_400() {
    let home = home();
    let server = home.serve();
    let names = [
        // M-02
        "../..",
        "./.",
        "a/..",
        "../a",
        "good/../other/stranger",
        ".git/b",
        "a/.b",
        // M-03
        "/etc/passwd",
        "C:\\x",
        "a\\b",
        "file:///",
        "https://h/x",
        "~/m",
        "a//b",
        // M-04
        "a%2f..%2f..",
        "%252e",
        "a/b%00",
        "a/b\u{0}",
        "a/b\n",
        " good/first",
        "good/first ",
        // M-05
        "\u{430}/b",
        "\u{ff41}/b",
        "e\u{301}/b",
        "\u{e9}/b",
        "a/\u{200b}b",
        "a/\u{202e}b",
    ];
    for name in names {
        let answer = ask(&server, Some(json!(name))).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "invalid_model_id"),
            "{name:?}"
        );
    }
    assert_eq!(server.status().await["counters"]["loads"], 0);
    let log = server.log();
    assert!(
        !log.contains('\u{202e}') && !log.contains('\u{200b}'),
        "raw characters in the log"
    );
}

#[tokio::test]
async fn m03_a_mistyped_name_is_404_with_the_nearest() {
    let home = home();
    let server = home.serve();
    for (name, hint) in [
        ("gpt-4", "gpt-4o-mini"),
        ("frist", "first"),
        ("good/secnod", "good/second"),
    ] {
        let answer = ask(&server, Some(json!(name))).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "model_not_found"),
            "{name}"
        );
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains(hint), "{message}");
    }
}

/// Where letters of both cases are one folder, the system would answer for either: so
/// it is never asked by the name of a request. What the cache folders list counts, and
/// on a volume that folds case they list one spelling.
#[tokio::test]
async fn m06_another_letter_case_is_another_model_and_not_there() {
    let home = Home::new("allow: [\"good/*\", \"Good/*\"]\nmodels: { GOOD/first: {} }\n");
    home.scripted("good/first", json!({"tokens": 1}));
    // What such a volume would do: the other spelling leads to the same folder.
    let folder = |id: &str| home.cache().join(format!("models--{id}"));
    std::os::unix::fs::symlink(folder("good--first"), folder("Good--first")).expect("linked");
    let server = home.serve();
    for name in ["good/First", "Good/first", "GOOD/first"] {
        let answer = ask(&server, Some(json!(name))).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "model_not_found"),
            "{name}"
        );
    }
    assert_eq!(ask(&server, Some(json!("good/first"))).await.status, 200);
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 1);
    assert_eq!(status["models"].as_array().expect("models").len(), 1);
}

#[tokio::test]
async fn m08_long_names_end_at_96_bytes() {
    let home = home();
    let server = home.serve();
    for (length, status) in [(96, 404), (97, 400), (10_000, 400), (1_000_000, 400)] {
        let answer = ask(&server, Some(json!("a".repeat(length)))).await;
        assert_eq!(answer.status, status, "{length}");
        assert!(
            answer.text.len() < 1000,
            "{length} bytes came back as {}",
            answer.text.len()
        );
    }
    assert!(server.log().len() < 100_000);
}

#[tokio::test]
async fn m09_what_is_allowed_and_not_cached_is_404_and_nothing_changes() {
    let home = home();
    let server = home.serve();
    let before = tree(&home.cache());
    let answer = ask(&server, Some(json!("good/absent"))).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "model_not_found")
    );
    assert!(
        answer.json()["error"]["message"]
            .to_string()
            .contains("not cached"),
        "{answer:?}"
    );
    assert_eq!(tree(&home.cache()), before);
}

#[tokio::test]
async fn m10_outside_the_allowlist_existing_and_absent_look_alike() {
    let home = home();
    let server = home.serve();
    let shape = async |name: &str| {
        let answer = ask(&server, Some(json!(name))).await;
        (
            answer.status,
            answer.code(),
            answer.text.replace(name, "NAME"),
        )
    };
    let absent = shape("other/nothere8").await;
    assert_eq!(shape("other/stranger").await, absent);
    assert_eq!(absent.0, 404);
    assert_eq!(shape("good/denied").await.0, 404);
}

/// What a refusal costs cannot tell what is on the disk, because nothing looks there:
/// every call with a path is counted by `strace` (Debian's package of that name), and
/// none of them leads into the cache.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn m02_m10_a_name_that_is_refused_touches_no_file_of_the_cache() {
    let home = home();
    let key = home.run(&["keys", "new", "--models", "good/first"]).1;
    let all = home.run(&["keys", "new"]).1;
    let server =
        home.serve_after("exec strace -D -f -qq -e trace=%file -o touched \"$0\" \"$@\"; exit 1");
    let calls = |under: &str| {
        let calls = std::fs::read_to_string(home.path().join("touched")).expect("calls");
        let under = format!("{}{under}", home.cache().display());
        calls.lines().filter(|call| call.contains(&under)).count()
    };
    // The folders are followed, asked about or not. So what is asked about has to be
    // touched exactly as often as what looks the same and is never asked about.
    let as_often = async |asked: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counts = (calls(asked), calls("/models--good--denied"));
            if counts.0 == counts.1 {
                return counts.0;
            }
            assert!(Instant::now() < deadline, "{asked}: {counts:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let refused = async |key: &str, name: &str, status: u16| {
        let body = question(name, "n", false).to_string();
        let chat = server
            .request(Method::POST, "/v1/chat/completions")
            .header("content-type", "application/json")
            .body(body);
        let one = server.request(Method::GET, &format!("/v1/models/{name}"));
        for (request, expected) in [(chat, [status; 2]), (one, [400, 404])] {
            let answer = request.header("x-api-key", key.trim()).send().await;
            let got = answer.expect("an answer").status().as_u16();
            assert!(expected.contains(&got), "{name}: {got}");
        }
    };
    let present = ["/models--good--second", "/models--other--stranger"];
    let mut before = 0;
    for asked in present {
        before = as_often(asked).await;
        assert!(before > 0, "the start reads the cache");
    }
    let (begun, root) = (Instant::now(), calls("\""));
    // Served to others, on disk and not allowed, allowed to others and missing, nowhere.
    for name in [
        "good/second",
        "other/stranger",
        "good/missing8",
        "other/nothere8",
    ] {
        refused(&key, name, 404).await;
    }
    // Allowed and missing; and what is no name.
    refused(&all, "good/missing8", 404).await;
    for name in ["..%2f..", "~/models"] {
        refused(&all, name, 400).await;
    }
    for asked in present {
        as_often(asked).await;
    }
    for asked in ["/models--good--missing8", "/models--other--nothere8"] {
        assert_eq!(calls(asked), 0, "{asked}");
    }
    // The cache folder itself: as often as it is followed, two calls each time.
    let looks = begun.elapsed().as_secs() / 2 + 2;
    let listed = calls("\"") - root;
    assert!(
        listed as u64 <= 2 * looks,
        "{listed} calls in {looks} looks"
    );
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    assert!(as_often(present[0]).await > before, "calls are counted");
}

#[tokio::test]
async fn every_permitted_name_reaches_its_own_model_and_says_why() {
    let home = home();
    let server = home.serve();
    for (name, model, why) in [
        ("good/first", "good/first", "exact"),
        ("first", "good/first", "alias"),
        ("gpt-4o-mini", "good/first", "alias"),
        ("good/second", "good/second", "allowed"),
    ] {
        let answer = ask(&server, Some(json!(name))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.told()["model"], model);
        assert_eq!(answer.header("x-roundhouse-model"), Some(model));
        assert_eq!(answer.header("x-roundhouse-route"), Some(why));
        assert_eq!(answer.json()["model"], name, "the served name is echoed");
    }
}

#[tokio::test]
async fn a_name_with_a_date_reaches_the_wildcard_that_says_most_of_it() {
    let config = "
models:
  good/first: { aliases: ['claude-*', claude-haiku-4-5-latest] }
  good/second: { aliases: ['claude-haiku-*'] }
";
    let home = Home::new(config);
    home.scripted("good/first", json!({"tokens": 2}));
    home.scripted("good/second", json!({"tokens": 2}));
    let server = home.serve();
    for (name, model, why) in [
        ("claude-haiku-4-5-20251001", "good/second", "wildcard"),
        ("claude-opus-4-20250514", "good/first", "wildcard"),
        ("claude-haiku-4-5-latest", "good/first", "alias"),
    ] {
        let answer = ask(&server, Some(json!(name))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.told()["model"], model, "{name}");
        assert_eq!(answer.header("x-roundhouse-route"), Some(why), "{name}");
        assert_eq!(answer.json()["model"], name, "the served name is echoed");
    }
    let other = ask(&server, Some(json!("claude/haiku"))).await;
    assert_eq!(other.status, 404, "a * never stands for /");
}

#[tokio::test]
async fn a_default_answers_a_missing_name_and_only_that() {
    let home = Home::new("models: { good/first: {} }\ndefault: good/first\n");
    home.scripted("good/first", json!({"tokens": 1}));
    let server = home.serve();
    let answer = ask(&server, None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-roundhouse-route"), Some("default"));
    assert_eq!(ask(&server, Some(json!("gone"))).await.status, 404);
}

#[tokio::test]
async fn the_list_tells_cached_entries_from_others() {
    let home = Home::new("models: { good/first: {}, good/absent: { aliases: [away] } }\n");
    home.scripted("good/first", json!({"tokens": 1}));
    let server = home.serve();
    let (_, list) = server.get("/v1/models").await;
    let told: Vec<_> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| {
            (
                model["id"].as_str().expect("an id"),
                model["cached"] == true,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("good/first", true),
            ("good/absent", false),
            ("away", false)
        ]
    );
    let answer = ask(&server, Some(json!("away"))).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "model_not_found")
    );
    assert!(answer.text.contains("not cached"), "{answer:?}");
}

#[tokio::test]
async fn the_list_holds_what_may_be_asked_for() {
    let home = home();
    let server = home.serve();
    let (status, list) = server.get("/v1/models").await;
    assert_eq!(status, 200);
    let ids: Vec<_> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| m["id"].clone())
        .collect();
    assert_eq!(ids, ["good/first", "good/second", "first", "gpt-4o-mini"]);
    assert_eq!(list["data"][2]["alias_of"], "good/first");
    assert_eq!(list["data"][0]["state"], "unloaded");
    assert!(list["data"][0]["created"].as_u64().expect("a time") > 0);
    for path in [
        "/v1/models/good/first",
        "/v1/models/good%2Ffirst",
        "/v1/models/first",
    ] {
        let (status, model) = server.get(path).await;
        assert_eq!((status, &model["object"]), (200, &json!("model")), "{path}");
    }
    for path in [
        "/v1/models/other/stranger",
        "/v1/models/good/denied",
        "/v1/models/nothing",
    ] {
        let (status, error) = server.get(path).await;
        assert_eq!(
            (status, &error["error"]["code"]),
            (404, &json!("model_not_found")),
            "{path}"
        );
    }
    assert_eq!(server.get("/v1/models/a%2F..%2F..").await.0, 400);
    ask(&server, Some(json!("good/first"))).await;
    let (_, model) = server.get("/v1/models/good/first").await;
    assert_eq!(model["state"], "ready");
    assert_eq!(
        server.status().await["counters"]["loads"],
        1,
        "listing loads nothing"
    );
}

/// Every path below a folder.
fn tree(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
    {
        found.push(entry.path());
        if entry.file_type().expect("a type").is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
}
