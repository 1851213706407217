//! Adapters as entries: one load with their base, one prompt cache for each, taken up
//! while the base stays loaded. The scripted engine reads none; what the router says of
//! them is the same.

use std::path::Path;

use reqwest::Method;
use roundhouse::model::safetensors::{Dtype, header_for};
use serde_json::{Value, json};

use super::harness::{Answer, Home, Server};
use super::keys::new_key;
use super::prompts::cached;

const YAML: &str = "
models:
  small: {repo: t/a}
  poet: {base: small, adapter: ./poet}
";

/// Writes an adapter as mlx-lm does: layers with their inputs and outputs, of rank 4.
fn write(dir: &Path, layers: &[(String, [u64; 2])], seed: u32) {
    std::fs::create_dir_all(dir).expect("a folder");
    let config = json!({"fine_tune_type": "lora", "num_layers": -1,
        "lora_parameters": {"rank": 4, "scale": 4.0, "dropout": 0.0}});
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).expect("written");
    let named = layers.iter().flat_map(|(layer, [inputs, outputs])| {
        let shapes = [("lora_a", [*inputs, 4]), ("lora_b", [4, *outputs])];
        shapes.map(|(kind, shape)| (format!("{layer}.{kind}"), shape))
    });
    let named: Vec<(String, [u64; 2])> = named.collect();
    let tensors = named
        .iter()
        .map(|(name, shape)| (name.as_str(), Dtype::F32, shape.as_slice()));
    let mut bytes = header_for(tensors);
    let count: u64 = named.iter().map(|(_, shape)| shape[0] * shape[1]).sum();
    let mut state = seed;
    for _ in 0..count {
        // Numerical Recipes' generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let number = state as f32 / u32::MAX as f32 - 0.5;
        bytes.extend((number * 0.2).to_le_bytes());
    }
    std::fs::write(dir.join("adapters.safetensors"), bytes).expect("written");
}

fn one_layer() -> Vec<(String, [u64; 2])> {
    vec![("model.layers.0.self_attn.q_proj".to_owned(), [64, 64])]
}

fn home() -> Home {
    let home = Home::new(YAML);
    home.scripted("t/a", json!({"tokens": 3, "prompt_cache": 1000}));
    write(&home.path().join("poet"), &one_layer(), 1);
    home
}

fn question(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "one two"}]})
}

async fn answered(server: &Server, model: &str) -> Answer {
    let answer = server.chat(&question(model)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// The workers that there are: of each its model and its process.
async fn workers(server: &Server) -> Vec<(String, u64)> {
    let status = server.status().await;
    let models = status["models"].as_array().expect("models").iter();
    let loaded = models.filter_map(|model| {
        let pid = model["process"].as_u64()?;
        Some((model["model"].as_str()?.to_owned(), pid))
    });
    loaded.collect()
}

#[tokio::test]
async fn e181_an_adapter_is_a_model_of_its_own_in_the_load_of_its_base() {
    let home = home();
    let server = home.serve();
    let (_, list) = server.get("/v1/models").await;
    let listed: Vec<_> = list["data"].as_array().expect("a list").iter().collect();
    let names: Vec<_> = listed.iter().map(|it| (&it["id"], &it["parent"])).collect();
    let (small, poet) = (json!("small"), json!("poet"));
    assert_eq!(names, [(&small, &Value::Null), (&poet, &small)]);
    for name in ["poet", "small", "poet"] {
        let answer = answered(&server, name).await;
        assert_eq!(answer.json()["model"], name);
        assert_eq!(answer.header("x-roundhouse-model"), Some("t/a"));
    }
    let before = workers(&server).await;
    assert_eq!(before.len(), 1, "{before:?}");

    // What the file says of adapters while the base is loaded loads nothing.
    write(&home.path().join("clerk"), &one_layer(), 2);
    home.configure(&format!(
        "{YAML}  clerk: {{base: small, adapter: ./clerk}}\n"
    ));
    let (status, change) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(status, 200, "{change}");
    assert_eq!(answered(&server, "clerk").await.json()["model"], "clerk");
    assert_eq!(workers(&server).await, before);

    // One that is gone is gone alone.
    std::fs::remove_file(home.path().join("poet/adapters.safetensors")).expect("removed");
    let (status, _) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(status, 200);
    let gone = server.chat(&question("poet")).await;
    assert_eq!(
        (gone.status, gone.code()),
        (404, "model_not_found".to_owned())
    );
    let message = gone.json()["error"]["message"].to_string();
    assert!(
        message.contains("adapters.safetensors is missing (its adapter)")
            && !message.contains(&home.path().display().to_string()),
        "{message}"
    );
    answered(&server, "clerk").await;
    answered(&server, "small").await;
    assert_eq!(workers(&server).await, before);

    // Whoever unloads one of them unloads the load.
    let target = Some(json!({"model": "clerk"}));
    let (status, _) = server
        .control(Method::POST, "/admin/models/unload", target)
        .await;
    assert_eq!(status, 200);
    server
        .until("nothing is loaded", |status| {
            let mut models = status["models"].as_array().into_iter().flatten();
            models.all(|model| model["process"].is_null())
        })
        .await;
}

#[tokio::test]
async fn e181_prompts_are_kept_for_each_adapter_apart() {
    let home = home();
    let key = new_key(&home, &[]);
    let server = home.serve();
    let text = "one two three four five";
    for turn in 0..3 {
        for model in ["small", "poet"] {
            let expected = if turn == 0 { 0 } else { 5 };
            let found = cached(&server, &key, model, text, turn == 1).await;
            assert_eq!(found, expected, "{model}, turn {turn}");
        }
    }
    // An adapter that has changed is another one.
    write(&home.path().join("poet"), &one_layer(), 3);
    let (status, _) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(status, 200);
    assert_eq!(cached(&server, &key, "poet", text, false).await, 0);
    assert_eq!(cached(&server, &key, "small", text, false).await, 5);
}

/// The embedded engine, on a real model.
#[cfg(feature = "mlx")]
mod real {
    use serde_json::json;

    use super::super::demo::{self, FOUR, ask};
    use super::{one_layer, workers, write};

    /// Adapters for every layer's queries and values of the demo models.
    fn of_smollm2() -> Vec<(String, [u64; 2])> {
        let layers = (0..30).flat_map(|layer| {
            let at = |name: &str| format!("model.layers.{layer}.self_attn.{name}");
            [(at("q_proj"), [576, 576]), (at("v_proj"), [576, 192])]
        });
        layers.collect()
    }

    #[tokio::test]
    async fn e182_adapters_of_a_real_model_answer_in_one_load() {
        let home = demo::home(&format!(
            "models:
      small: {{ repo: {FOUR} }}
      one: {{ base: small, adapter: ./one }}
      two: {{ base: small, adapter: ./two }}
      strange: {{ base: small, adapter: ./strange }}
    "
        ));
        for (name, seed) in [("one", 1), ("two", 2)] {
            write(&home.path().join(name), &of_smollm2(), seed);
        }
        write(&home.path().join("strange"), &one_layer(), 1);
        let server = home.serve();
        let content = async |model: &str| {
            let body = ask(model, "Tell me of trains.", json!({}));
            let answer = server.chat(&body).await;
            assert_eq!(answer.status, 200, "{model}: {answer:?}");
            answer.content()
        };
        let names = ["small", "one", "two"];
        let mut alone = Vec::new();
        for name in names {
            alone.push(content(name).await);
        }
        let before = workers(&server).await;
        assert!(alone[0] != alone[1] && alone[1] != alone[2], "{alone:?}");
        // Side by side in one batch each says what it says alone.
        let (small, one, two) = tokio::join!(content("small"), content("one"), content("two"));
        assert_eq!([small, one, two].as_slice(), alone);
        // What does not belong to the model is told, and nobody else notices.
        let strange = server.chat(&ask("strange", "Hello.", json!({}))).await;
        assert!(strange.status >= 500, "{strange:?}");
        assert_eq!(content("one").await, alone[1]);
        assert_eq!(workers(&server).await, before);
        // To read an adapter takes far less than to load its base.
        let line = server.logged(&["an adapter was read", "took_ms"]);
        let took = line.split("took_ms=").nth(1).expect("a time");
        let took: String = took.chars().take_while(char::is_ascii_digit).collect();
        let took: u64 = took.parse().expect("milliseconds");
        let load = &server.status().await["models"][0]["load_milliseconds"][0];
        let load = load.as_u64().expect("milliseconds");
        println!("a load took {load} ms, an adapter {took} ms");
        assert!(took * 4 < load, "{took} ms of {load} ms");
    }
}
