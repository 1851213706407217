//! `POST /v1/rerank` through the true binary, with the scripted engine behind it: whoever
//! lists a `LogitScore` in `modules.json`, or has a head that scores pairs, judges
//! documents. With the embedded engine behind it, small cross-encoders do.

use serde_json::{Value, json};

use super::harness::{Answer, Home, Server};

/// A model that judges documents and plays a script.
fn judge(home: &Home, id: &str) {
    let snapshot = home.scripted(id, json!({}));
    let modules = json!([
        {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {"path": "1_LogitScore", "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"}]);
    std::fs::write(snapshot.join("modules.json"), modules.to_string()).expect("written");
}

async fn rerank(server: &Server, body: &Value) -> Answer {
    Answer::read(server.post("/v1/rerank", body).await).await
}

#[tokio::test]
async fn documents_are_ranked_by_how_well_they_fit() {
    let home = Home::new(
        "models:\n  t/judge: { aliases: [judge] }\n  t/chat: {}\nserver: { limits: { inputs: 3 } }\n",
    );
    judge(&home, "t/judge");
    home.scripted("t/chat", json!({}));
    let server = home.serve();
    let asked = json!({"model": "judge", "query": "red planet", "user": "me",
        "documents": ["a blue planet", {"text": "the red planet"}, "a star"]});
    let answer = rerank(&server, &asked).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-roundhouse-model"), Some("t/judge"));
    assert_eq!(answer.header("x-roundhouse-ignored"), Some("user"));
    let told = answer.json();
    let places: Vec<_> = told["results"].as_array().expect("a list").iter().collect();
    let places: Vec<&Value> = places.iter().map(|result| &result["index"]).collect();
    assert_eq!(places, [1, 0, 2]);
    let scores = told["results"].as_array().expect("a list").iter();
    let scores: Vec<f64> = scores
        .filter_map(|result| result["relevance_score"].as_f64())
        .collect();
    assert!(
        (scores[0] - 0.880_797).abs() < 1e-6 && scores[1] == 0.5,
        "{scores:?}"
    );
    assert_eq!(
        (&told["model"], &told["usage"]["prompt_tokens"]),
        (&json!("judge"), &json!(3 * 3 + 3 + 3 + 2))
    );
    let mut best = asked.clone();
    (best["top_n"], best["return_documents"]) = (json!(1), json!(true));
    let best = rerank(&server, &best).await.json();
    assert_eq!(best["results"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        best["results"][0]["document"],
        json!({"text": "the red planet"})
    );
    let listed = server.get("/v1/models/t/judge").await.1;
    assert_eq!(listed["kind"], "rerank");
}

#[tokio::test]
async fn what_cannot_be_ranked_is_refused_with_its_place() {
    let home =
        Home::new("models:\n  t/judge: {}\n  t/chat: {}\nserver: { limits: { inputs: 3 } }\n");
    judge(&home, "t/judge");
    home.scripted("t/chat", json!({}));
    let server = home.serve();
    let check = async |model: &str, query: Value, documents: Value, param: &str, words: &str| {
        let asked = json!({"model": model, "query": query, "documents": documents});
        let answer = rerank(&server, &asked).await;
        let told = answer.json();
        assert_eq!(
            (answer.status, &told["error"]["param"]),
            (400, &json!(param)),
            "{told}"
        );
        let message = told["error"]["message"].to_string();
        assert!(message.contains(words), "{message}");
    };
    let four = json!(["a", "b", "c", "d"]);
    check("t/judge", json!("q"), four, "documents", "at most 3").await;
    check(
        "t/judge",
        json!("q"),
        json!("a"),
        "documents",
        "found a string",
    )
    .await;
    check(
        "t/judge",
        json!(["q"]),
        json!(["a"]),
        "query",
        "expected a string",
    )
    .await;
    check(
        "t/judge",
        json!("q"),
        json!(["a", {}]),
        "documents[1]",
        "with a text",
    )
    .await;
    check(
        "t/chat",
        json!("q"),
        json!(["a"]),
        "model",
        "this asks for rerank",
    )
    .await;
}

#[tokio::test]
async fn whoever_has_a_head_that_scores_pairs_is_for_ranking_alone() {
    let home = Home::new("models:\n  t/pairs: {}\n");
    let snapshot = home.scripted("t/pairs", json!({}));
    let config = json!({"model_type": "scripted", "max_position_embeddings": 4096,
        "architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}});
    std::fs::remove_file(snapshot.join("config.json")).expect("removed");
    std::fs::write(snapshot.join("config.json"), config.to_string()).expect("written");
    let server = home.serve();
    let asked = json!({"model": "t/pairs", "query": "red", "documents": ["blue", "red"]});
    let told = rerank(&server, &asked).await.json();
    assert_eq!(told["results"][0]["index"], 1);
    let asked = json!({"model": "t/pairs", "input": "red"});
    let refused = Answer::read(server.post("/v1/embeddings", &asked).await).await;
    let error = &refused.json()["error"];
    assert_eq!((refused.status, &error["param"]), (400, &json!("model")));
    let message = error["message"].to_string();
    assert!(
        message.contains("rerank") && message.contains("embeddings"),
        "{message}"
    );
}

/// The embedded engine, on small cross-encoders.
#[cfg(feature = "mlx")]
mod real {
    use std::path::{Path, PathBuf};

    use serde_json::{Value, json};

    use super::super::harness::Home;
    use super::rerank;

    fn folder(name: &str) -> PathBuf {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        fixtures.join("rerankers").join(name)
    }

    /// What sentence-transformers makes of pairs, with the tokens of each.
    fn rows(name: &str) -> Vec<Value> {
        let text = std::fs::read(folder(name).join("scores.json")).expect("read");
        serde_json::from_slice(&text).expect("JSON")
    }

    #[tokio::test]
    async fn small_cross_encoders_score_as_with_sentence_transformers() {
        let names = ["bert", "xlm-roberta", "modernbert"];
        let entry = |name: &&str| {
            let path = folder(name);
            format!("  {name}: {{ path: {path:?} }}\n")
        };
        let entries: String = names.iter().map(entry).collect();
        let home = Home::new(&format!("models:\n{entries}"));
        let server = home.serve();
        for name in names {
            let mut rows = rows(name);
            let query = rows[0]["query"].clone();
            rows.retain(|row| row["query"] == query);
            let documents: Vec<&Value> = rows.iter().map(|row| &row["document"]).collect();
            let asked = json!({"model": name, "query": query, "documents": documents});
            let answer = rerank(&server, &asked).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
            let told = answer.json();
            let results = told["results"].as_array().expect("a list");
            assert_eq!(results.len(), rows.len(), "{name}");
            let mut before = f64::INFINITY;
            for result in results {
                let index = result["index"].as_u64().expect("a place") as usize;
                let score = result["relevance_score"].as_f64().expect("a score");
                let expected = rows[index]["score"].as_f64().expect("a score");
                assert!(
                    (score - expected).abs() <= 1e-4 && score <= before,
                    "{name}, {index}: {score} after {before}, expected {expected}"
                );
                before = score;
            }
            let tokens = rows
                .iter()
                .map(|row| row["tokens"].as_array().map_or(0, Vec::len));
            let tokens: usize = tokens.sum();
            assert_eq!(told["usage"]["prompt_tokens"], tokens, "{name}");
        }
    }
}
