//! Every route of both ports and of the control socket, with every credential,
//! method and spelling, held to what the program itself says of them; and what a
//! connection meets that has no key at all.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{Home, PATIENCE, Server, long};

/// A row of `roundhouse access --json`.
struct Row {
    place: String,
    path: String,
    methods: Vec<String>,
    access: String,
}

/// Where requests go.
#[derive(Clone)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

/// What came back.
#[derive(Debug)]
struct Told {
    status: u16,
    head: String,
    body: String,
}

impl Told {
    /// The methods of the header that a wrong one is answered with (RFC 9110, 15.5.6).
    fn allowed(&self) -> Vec<String> {
        let allow = self
            .head
            .lines()
            .find_map(|line| line.strip_prefix("allow: "));
        let methods = allow.unwrap_or_default().split(',');
        methods.map(str::to_ascii_uppercase).collect()
    }

    fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(address: &Address) -> Box<dyn Stream> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).expect("connected");
            stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
            Box::new(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).expect("connected");
            stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
            Box::new(stream)
        }
    }
}

/// Whether what has come is the head of an answer that has no end.
fn is_endless(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    text.split_once("\r\n\r\n")
        .is_some_and(|(head, _)| head.contains("content-type: text/event-stream"))
}

/// Sends bytes as they are and reads until the other side closes, or goes on for ever.
fn send(address: &Address, request: &[u8]) -> Told {
    let mut stream = connect(address);
    stream.write_all(request).expect("sent");
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !is_endless(&answer) {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            // What was not read of a request makes the system reset the connection.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Told {
        status: status.unwrap_or_else(|| panic!("no status: {answer:?}")),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// A request without a body.
fn request(method: &str, path: &str, key: Option<&str>) -> Vec<u8> {
    let key = key.map_or_else(String::new, |key| format!("x-api-key: {key}\r\n"));
    let length = if method == "POST" {
        "Content-Length: 0\r\n"
    } else {
        ""
    };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{key}{length}Connection: close\r\n\r\n")
        .into_bytes()
}

/// Whether a path, as its bytes are, is one of a row's pattern.
fn matches(pattern: &str, path: &str) -> bool {
    match (pattern.split_once("{*"), pattern.split_once('{')) {
        (Some((before, "rest}")), _) => path.strip_prefix(before).is_some_and(|rest| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
            let mut parts = rest.split('/');
            parts.all(|part| part.chars().all(is_plain) && !part.chars().all(|c| c == '.'))
        }),
        (Some((before, _)), _) => path
            .strip_prefix(before)
            .is_some_and(|rest| !rest.is_empty()),
        (None, Some((before, _))) => path
            .strip_prefix(before)
            .is_some_and(|rest| !rest.is_empty() && !rest.contains('/')),
        (None, None) => pattern == path,
    }
}

/// The row that has a path; of several the one that names it most exactly.
fn row<'r>(rows: &'r [&Row], path: &str) -> Option<&'r Row> {
    let found = rows.iter().filter(|row| matches(&row.path, path));
    found
        .max_by_key(|row| (!row.path.contains('{'), row.path.len()))
        .copied()
}

/// The status and code that a request must get, by the table alone; nothing
/// where its handler answers.
fn expected(
    row: Option<&Row>,
    place: &str,
    method: &str,
    key: &str,
) -> Option<(u16, &'static str)> {
    let Some(row) = row else {
        return Some((404, "not_found"));
    };
    let wanted = match row.access.as_str() {
        "open" => None,
        "management" if place == "control" => None,
        class => Some(class),
    };
    match (wanted, key) {
        (Some(_), "none" | "wrong") => Some((401, "invalid_api_key")),
        (Some(wanted), key) if wanted != key => Some((403, "wrong_key_class")),
        // What a text would do tells what lies on the disk: for the owner alone.
        (Some(_), _) if row.path == "/admin/check" && method == "POST" => {
            Some((403, "insufficient_scope"))
        }
        _ if row.methods.iter().any(|known| known == method) => None,
        // It has no path of its own that another method could be wrong for.
        _ if row.path.ends_with("{*rest}") => Some((404, "not_found")),
        _ => Some((405, "method_not_allowed")),
    }
}

/// Other ways to write a path, some of which a careless reader takes for the same.
fn spellings(path: &str) -> Vec<String> {
    let last = path.rfind('/').expect("a slash");
    let encoded = |index: usize| {
        let byte = path.as_bytes()[index];
        format!("{}%{byte:02x}{}", &path[..index], &path[index + 1..])
    };
    let mut all = vec![
        path.to_owned(),
        format!("{path}/"),
        format!("/{path}"),
        format!("{}/{}", &path[..last], &path[last..]),
        path.to_ascii_uppercase(),
        format!("{}/%2e{}", &path[..last], &path[last..]),
        format!("{}/x/%2e%2e{}", &path[..last], &path[last..]),
        format!("/%2e%2e{path}"),
        format!("{path}?a=/admin/status"),
    ];
    if path.len() > 1 {
        all.extend([
            encoded(1),
            encoded(path.len() - 1),
            path.replace("/", "%2f").replacen("%2f", "/", 1),
        ]);
    }
    all
}

fn table(home: &Home) -> Vec<Row> {
    let (code, out, _) = home.run(&["access", "--json"]);
    assert_eq!(code, 0);
    let rows: Vec<Value> = serde_json::from_str(&out).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    rows.iter()
        .map(|row| Row {
            place: text(&row["place"]),
            path: text(&row["path"]),
            methods: row["methods"]
                .as_array()
                .expect("a list")
                .iter()
                .map(text)
                .collect(),
            access: text(&row["access"]),
        })
        .collect()
}

fn key(home: &Home, args: &[&str]) -> String {
    let (code, out, _) = home.run(&[&["keys", "new"], args].concat());
    assert_eq!(code, 0);
    out.trim().to_owned()
}

fn address(url: &str) -> Address {
    Address::Tcp(url.trim_start_matches("http://").to_owned())
}

fn places(server: &Server) -> [(&'static str, Address); 3] {
    [
        ("inference", address(&server.inference)),
        ("management", address(&server.management)),
        ("control", Address::Unix(server.control.clone())),
    ]
}

/// What the pool has done.
async fn loads(server: &Server) -> Value {
    server.status().await["counters"]["loads"].clone()
}

#[tokio::test]
async fn a04_a09_a10_every_route_asks_what_the_table_says_however_it_is_spelt() {
    // Every refusal of this walk is wanted, so none may be one of too many.
    let home = Home::new("server: { limits: { wrong_keys: 1000000 } }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let (inference, management) = (key(&home, &["--pool"]), key(&home, &["--management"]));
    let rows = table(&home);
    let server = home.serve();
    let wrong = format!("{}x", &inference[..inference.len() - 1]);
    let keys = [
        ("none", None),
        ("wrong", Some(wrong.as_str())),
        ("inference", Some(inference.as_str())),
        ("management", Some(management.as_str())),
    ];
    let methods = ["GET", "POST", "HEAD", "OPTIONS", "DELETE", "BREW"];
    let mut asked = 0;
    for (place, address) in places(&server) {
        let own: Vec<&Row> = rows.iter().filter(|row| row.place == place).collect();
        assert!(!own.is_empty(), "{place} has no routes");
        // The paths of the other port too: they are nothing here.
        let paths = rows.iter().map(|row| row.path.as_str());
        let mut paths: Vec<String> = paths
            .chain(["/admin", "/v1", "/dashboard"])
            .map(|path| {
                path.replace("{*id}", "t/a")
                    .replace("{*rest}", "any/path")
                    .replace("{id}", "nobody")
            })
            .flat_map(|path| spellings(&path))
            .collect();
        paths.sort();
        paths.dedup();
        for path in &paths {
            let plain = path.split('?').next().expect("a path");
            let row = row(&own, plain);
            for (name, key) in keys {
                // Of what no row has, all is one: every other method is left to the long run.
                let methods = match (row, long()) {
                    (None, false) => &methods[..2],
                    _ => &methods[..],
                };
                for method in methods {
                    let told = send(&address, &request(method, path, key));
                    asked += 1;
                    let what = format!("{place}: {method} {path} with {name}: {told:?}");
                    match expected(row, place, method, name) {
                        Some((status, code)) => {
                            assert_eq!(told.status, status, "{what}");
                            assert!(*method == "HEAD" || told.code() == code, "{what}");
                        }
                        None => assert!(![401, 403, 405, 500].contains(&told.status), "{what}"),
                    }
                    if told.status == 405 {
                        let known = row.map(|row| row.methods.as_slice());
                        assert_eq!(told.allowed(), known.unwrap_or_default(), "{what}");
                    }
                }
            }
        }
    }
    assert!(asked > 2000, "{asked}");
    assert_eq!(loads(&server).await, 0, "nothing of it loaded a model");
}

#[test]
fn the_matcher_of_this_test_can_tell_paths_apart() {
    let check = |pattern: &str, path: &str, expected: bool| {
        assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
    };
    check("/v1/models", "/v1/models", true);
    check("/v1/models", "/v1/models/", false);
    check("/v1/models/{*id}", "/v1/models/a/b", true);
    check("/v1/models/{*id}", "/v1/models/", false);
    check("/admin/keys/{id}", "/admin/keys/a", true);
    check("/admin/keys/{id}", "/admin/keys/a/b", false);
    assert_eq!(
        expected(None, "inference", "GET", "none"),
        Some((404, "not_found"))
    );
}

#[test]
fn the_access_table_is_for_people_too() {
    let home = Home::new("");
    let (code, out, _) = home.run(&["access"]);
    assert_eq!(code, 0);
    let has = |pieces: &[&str]| {
        let line = out
            .lines()
            .find(|line| pieces.iter().all(|piece| line.contains(piece)));
        assert!(line.is_some(), "{pieces:?}: {out}");
    };
    has(&["WHERE", "METHODS", "PATH", "ASKS FOR"]);
    has(&["inference", "GET HEAD", "/health", "nothing"]);
    has(&[
        "inference",
        "POST",
        "/v1/chat/completions",
        "an inference key",
    ]);
    has(&[
        "management",
        "GET HEAD POST",
        "/admin/keys",
        "a management key",
    ]);
    has(&["control socket", "DELETE", "/admin/keys/{id}", "the owner"]);
}

#[tokio::test]
async fn a01_a02_no_key_and_a_wrong_one_get_the_same_bytes_on_every_route() {
    let home = Home::new("server: { limits: { wrong_keys: 1000000 } }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let (right, _) = (key(&home, &[]), key(&home, &["--management"]));
    let rows = table(&home);
    let server = home.serve();
    let same = |told: &Told| {
        let lines = told.head.lines();
        let head =
            lines.filter(|line| !line.starts_with("x-request-id:") && !line.starts_with("date:"));
        format!("{}\n{}", head.collect::<Vec<_>>().join("\n"), told.body)
    };
    let mut open = Vec::new();
    let mut answers = std::collections::BTreeSet::new();
    for (place, address) in &places(&server)[..2] {
        for row in rows.iter().filter(|row| row.place == *place) {
            let path = row.path.replace("{*id}", "t/a").replace("{id}", "nobody");
            let path = path.replace("{*rest}", "any/path");
            let method = row.methods.iter().find(|method| *method != "HEAD");
            let method = method.map_or("HEAD", String::as_str);
            let without = send(address, &request(method, &path, None));
            if without.status == 200 {
                open.push(format!("{method} {path}"));
                continue;
            }
            assert_eq!(without.code(), "invalid_api_key", "{method} {path}");
            assert!(
                without.head.contains("www-authenticate: bearer"),
                "{without:?}"
            );
            let wrong = "x".repeat(right.len());
            for wrong in [wrong.as_str(), "short"] {
                let told = send(address, &request(method, &path, Some(wrong)));
                assert_eq!(same(&told), same(&without), "{method} {path}");
            }
            answers.insert(same(&without));
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    open.sort();
    assert_eq!(open, ["GET /health", "GET /ready", "HEAD /"]);
    assert_eq!(loads(&server).await, 0);
}

#[tokio::test]
async fn a15_without_a_key_a_body_is_not_read() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    key(&home, &[]);
    let server = home.serve();
    let resident = || {
        roundhouse::platform::resident_memory(server.pid())
            .expect("a figure")
            .0
    };
    let Address::Tcp(address) = address(&server.inference) else {
        unreachable!("a TCP port");
    };
    let before = resident();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(&address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream
            .set_write_timeout(Some(Duration::from_secs(5)))
            .expect("a limit");
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\
                    Content-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        // The answer is there before any of the body.
        let mut begun = [0; 12];
        stream.read_exact(&mut begun).expect("an answer");
        assert_eq!(&begun, b"HTTP/1.1 401");
        // However much is sent now, the connection ends.
        let sent = (0..64).try_for_each(|_| stream.write_all(&[b'x'; 16 * 1024]));
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let reset = |error: &std::io::Error| {
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            )
        };
        assert!(sent.as_ref().err().is_none_or(reset), "{sent:?}");
        assert!(ended.as_ref().err().is_none_or(reset), "{ended:?}");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 8_000_000, "{grown} bytes for bodies nobody wanted");
}
