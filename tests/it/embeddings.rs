//! `POST /v1/embeddings` through the true binary, with the scripted engine behind
//! it: whoever has a `modules.json` makes vectors.

use serde_json::{Value, json};

use super::harness::{Answer, Home, Server, question};

/// A model for embeddings that plays a script.
pub fn embedder(home: &Home, id: &str, script: Value) {
    let snapshot = home.scripted(id, script);
    std::fs::write(snapshot.join("modules.json"), "[]").expect("written");
}

/// Asks for vectors.
pub async fn embed(server: &Server, body: &Value) -> Answer {
    let response = server.post("/v1/embeddings", body).await;
    Answer::read(response).await
}

/// The vectors of an answer, by their index.
pub fn vectors(answer: &Answer) -> Vec<Vec<f64>> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let data = answer["data"].as_array().expect("a list");
    let vector = |(place, datum): (usize, &Value)| {
        assert_eq!(datum["index"], place, "in order");
        let numbers = datum["embedding"].as_array().expect("numbers");
        let number = |number: &Value| number.as_f64().expect("a number");
        numbers.iter().map(number).collect()
    };
    data.iter().enumerate().map(vector).collect()
}

#[tokio::test]
async fn texts_become_vectors_by_every_name_of_a_model() {
    let home = Home::new(
        "models:\n  t/embed: { aliases: [embedder, {name: any, background: true}] }\n  t/chat: {}\nserver: { limits: { inputs: 3 } }\n",
    );
    embedder(&home, "t/embed", json!({}));
    home.scripted("t/chat", json!({}));
    let server = home.serve();
    let three = json!({"model": "embedder", "input": ["one", "two words", ""], "user": "me"});
    let answer = embed(&server, &three).await;
    let found = vectors(&answer);
    assert_eq!(answer.header("x-roundhouse-model"), Some("t/embed"));
    assert_eq!(answer.header("x-roundhouse-ignored"), Some("user"));
    assert_eq!(answer.json()["model"], "embedder");
    let usage = &answer.json()["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["total_tokens"]),
        (&json!(6), &json!(6))
    );
    // Each is what its text gives alone.
    for (input, expected) in ["one", "two words", ""].iter().zip(&found) {
        let one = embed(&server, &json!({"model": "t/embed", "input": input})).await;
        assert_eq!(vectors(&one), std::slice::from_ref(expected));
    }
    let short = json!({"model": "embedder", "input": "one", "dimensions": 4});
    assert_eq!(vectors(&embed(&server, &short).await)[0].len(), 4);
    // A background name leads to models of the kind alone.
    server.chat(&question("t/chat", "n", false)).await;
    let any = embed(&server, &json!({"model": "any", "input": "x"})).await;
    assert_eq!(any.header("x-roundhouse-model"), Some("t/embed"));
    let check = async |body: Value, param: &str, words: &str| {
        let answer = embed(&server, &body).await;
        let error = &answer.json()["error"];
        let message = error["message"].as_str().expect("a message");
        assert_eq!(
            (answer.status, &error["param"]),
            (400, &json!(param)),
            "{message}"
        );
        assert!(message.contains(words), "{message}");
    };
    let of = |input: Value| json!({"model": "embedder", "input": input});
    check(of(json!(["a", "b", "c", "d"])), "input", "at most 3 texts").await;
    check(of(json!([])), "input", "expected a string or").await;
    check(
        of(json!([[1, 2], [3]])),
        "input",
        "check_embedding_ctx_length=False",
    )
    .await;
    check(
        of(json!([1, 2])),
        "input",
        "check_embedding_ctx_length=False",
    )
    .await;
    check(json!({"model": "embedder"}), "input", "found nothing").await;
    check(of(json!("w ".repeat(5000))), "input", "4096").await;
    let large = json!({"model": "embedder", "input": "a", "dimensions": 17});
    check(large, "dimensions", "at most 16").await;
    // Each kind is asked for what it is for.
    let chat = json!({"model": "t/chat", "input": "a"});
    check(
        chat,
        "model",
        "is for chat and completions, and this asks for embeddings",
    )
    .await;
    let answer = server.chat(&question("embedder", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "invalid_value")
    );
    let message = answer.json()["error"]["message"].to_string();
    assert!(
        message.contains("is for embeddings") && message.contains("asks for chat"),
        "{message}"
    );
    let listed = server.get("/v1/models/t/embed").await.1;
    assert_eq!(listed["kind"], "embeddings");
}

/// Asks for an answer and a vector in turn.
async fn alternate(server: &Server, rounds: usize) {
    for round in 0..rounds {
        let answer = server.chat(&question("t/chat", "n", false)).await;
        assert_eq!(answer.status, 200, "{round}: {answer:?}");
        let body = json!({"model": "t/embed", "input": format!("text {round}")});
        assert_eq!(vectors(&embed(server, &body).await).len(), 1);
    }
}

#[tokio::test]
async fn d22_embeddings_in_a_chat_loop_never_evict_the_chat_model() {
    let home =
        Home::new("memory: 130MB\nmodels: { t/chat: {memory: 60MB}, t/embed: {memory: 60MB} }\n");
    home.scripted("t/chat", json!({"tokens": 1}));
    embedder(&home, "t/embed", json!({"tokens": 0}));
    let server = home.serve();
    alternate(&server, 50).await;
    let status = server.status().await;
    let counters = &status["counters"];
    assert_eq!(
        (&counters["loads"], &counters["swaps"]),
        (&json!(2), &json!(0)),
        "{counters}"
    );
    let ready = |model: &&Value| model["state"] == "ready";
    let models = status["models"].as_array().expect("a list");
    assert_eq!(models.iter().filter(ready).count(), 2, "both stay");
}

#[tokio::test]
async fn d22_without_room_for_both_the_swaps_are_those_that_were_asked_for() {
    let home =
        Home::new("memory: 100MB\nmodels: { t/chat: {memory: 60MB}, t/embed: {memory: 60MB} }\n");
    home.scripted("t/chat", json!({"tokens": 3}));
    embedder(&home, "t/embed", json!({"tokens": 0}));
    let server = home.serve();
    alternate(&server, 3).await;
    let counters = server.status().await["counters"].clone();
    assert_eq!(
        (&counters["loads"], &counters["swaps"]),
        (&json!(6), &json!(5)),
        "{counters}"
    );
    // One that answers is not taken away: the texts wait until it is done.
    let mut busy = question("t/chat", "n", true);
    busy["scripted"] = json!({"tokens": 20, "token_ms": 10});
    let texts = json!({"model": "t/embed", "input": "waits"});
    let (answer, embedded) = tokio::join!(server.chat(&busy), embed(&server, &texts));
    assert_eq!(
        answer.events().last().map(String::as_str),
        Some("[DONE]"),
        "{answer:?}"
    );
    assert_eq!(vectors(&embedded).len(), 1);
}
