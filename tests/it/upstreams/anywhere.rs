//! No text of any request, on any route, leads this server to a place that the file does
//! not name: URLs of a listener that nobody may call stand in every field, header and
//! parameter.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::super::harness::{Home, Server, long};
use super::fake::{Canary, Fake, chat};
use super::serve;

/// Fields that some program somewhere takes for the address of something, and those
/// that are known here.
const FIELDS: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "input",
    "query",
    "documents",
    "stream",
    "url",
    "api_base",
    "base_url",
    "endpoint",
    "proxy",
    "provider",
    "callback",
    "webhook",
    "image_url",
    "file",
    "file_url",
    "path",
    "repo",
    "source",
    "host",
    "upstream",
    "target",
    "config",
    "text",
    "key",
    "name",
    "id",
    "action",
    "mode",
    "tools",
    "tool_choice",
    "response_format",
    "metadata",
    "adapters",
    "draft_model",
    "chat_template",
    "extra_body",
    "engine",
    "voice",
    "user",
];

const HEADERS: &[&str] = &[
    "x-upstream",
    "x-portkey-custom-host",
    "x-forwarded-host",
    "x-original-url",
    "forwarded",
    "x-api-base",
    "referer",
    "x-rewrite-url",
    "x-forwarded-for",
    "via",
    "x-proxy",
];

/// Numbers that look like chance and are the same in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self, most: usize) -> usize {
        // splitmix64, as its authors publish it.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % most as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.next(all.len())]
    }
}

/// A URL of the canary, in one of the forms that are followed somewhere.
fn lure(chance: &mut Chance, canary: &str) -> String {
    let place = canary.trim_start_matches("http://");
    match chance.next(6) {
        0 => format!("//{place}"),
        1 => place.to_owned(),
        2 => format!("https://{place}"),
        3 => format!("http://user@{place}?x=1#y"),
        4 => format!("hf://{place}"),
        _ => canary.to_owned(),
    }
}

fn value(chance: &mut Chance, canary: &str) -> Value {
    let lure = lure(chance, canary);
    match chance.next(8) {
        0 => json!({"url": lure}),
        1 => json!([lure]),
        2 => {
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": lure}}]}])
        }
        3 => json!({"type": "json_schema", "json_schema": {"schema": {"$ref": lure}}}),
        _ => json!(lure),
    }
}

/// A body whose model is often one that is there.
fn body(chance: &mut Chance, canary: &str) -> Value {
    let mut body = Map::new();
    for _ in 0..1 + chance.next(6) {
        body.insert(chance.of(FIELDS).to_owned(), value(chance, canary));
    }
    let model = chance.of(&["t/a", "cloud-x", "", "as it is"]);
    if chance.next(4) > 0 && !model.is_empty() {
        body.insert("model".to_owned(), json!(model));
        let content = json!([{"role": "user", "content": lure(chance, canary)}]);
        body.insert("messages".to_owned(), content);
    }
    body.into()
}

/// The routes of a port with their methods.
fn routes(home: &Home, place: &str) -> Vec<(Method, String)> {
    let (code, out, error) = home.run(&["access", "--json"]);
    assert_eq!(code, 0, "{error}");
    let rows: Vec<Value> = serde_json::from_str(&out).expect("JSON");
    let rows = rows.iter().filter(|row| row["place"] == place);
    let each = rows.flat_map(|row| {
        let path = row["path"].as_str().expect("a path");
        let methods = row["methods"].as_array().expect("methods").iter();
        methods.map(move |method| {
            let method = method.as_str().expect("text").parse().expect("a method");
            (method, path.to_owned())
        })
    });
    // That one has no end.
    each.filter(|(_, path)| path != "/admin/events").collect()
}

async fn lure_by_inference(
    server: &Server,
    method: &Method,
    path: &str,
    chance: &mut Chance,
    canary: &str,
) {
    let name = lure(chance, canary).replace(['?', '#'], "");
    let path = path
        .replace("{*id}", &name)
        .replace("{*rest}", "files/fetch");
    let url = format!("{path}?{}={canary}", chance.of(FIELDS));
    let mut request = server
        .request(method.clone(), &url)
        .header("content-type", "application/json")
        .header(chance.of(HEADERS), lure(chance, canary));
    if *method == Method::POST {
        request = request.body(body(chance, canary).to_string());
    }
    let answer = request.send().await.expect("an answer");
    assert_ne!(answer.status(), 500, "{method} {url}");
    drop(answer.bytes().await);
}

#[tokio::test]
async fn u02_no_text_of_any_request_on_any_route_leads_anywhere() {
    let canary = Canary::new();
    let cloud = Fake::start(|asked| chat(asked, "theirs"));
    let home = Home::new(&format!(
        "upstreams: {{ cloud: {{ url: '{}', models: ['cloud-*'] }} }}\nmodels: {{ t/a: {{}} }}\n",
        cloud.url()
    ));
    home.scripted("t/a", json!({"tokens": 1}));
    let server = serve(&home);
    let mut chance = Chance(7);
    let rounds = if long() { 400 } else { 12 };
    let url = canary.url();
    for _ in 0..rounds {
        for (method, path) in &routes(&home, "inference")[..] {
            lure_by_inference(&server, method, path, &mut chance, &url).await;
        }
    }
    for (method, path) in routes(&home, "control") {
        for _ in 0..rounds.min(4) {
            let path = path.replace("{id}", "none");
            let path = format!("{path}?{}={url}", chance.of(FIELDS));
            let mut sent = body(&mut chance, &url);
            sent["text"] = json!(format!(
                "upstreams: {{ a: {{ url: '{url}', models: [a] }} }}"
            ));
            server.control(method.clone(), &path, Some(sent)).await;
        }
    }
    canary.assert_untouched();
    assert!(
        !cloud.asked().is_empty(),
        "nothing of it got as far as an upstream"
    );
}
