//! Header fields of an engine's answer and of a request to one.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use roundhouse::dispatch::headers;

/// Fields that may reach a client, said a second time.
const MAY_PASS: [&str; 5] = [
    "cache-control",
    "retry-after",
    "x-roundhouse-ignored",
    "x-roundhouse-limited",
    "x-should-retry",
];

/// Lines of a head: what passes is what may, unchanged, once, and nothing that is of
/// the connection; a request has our fields and no other.
pub fn headers(data: &[u8]) {
    let mut from = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n') {
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            from.append(name, value);
        }
    }
    let nominated: Vec<String> = from
        .get_all("connection")
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase())
        .collect();
    let nominated: Vec<&str> = nominated.iter().flat_map(|all| all.split(',')).collect();
    let is_nominated = |name: &str| nominated.iter().any(|one| one.trim() == name);

    let passed = headers::to_client(&from);
    for name in passed.keys() {
        let values: Vec<_> = passed.get_all(name).iter().collect();
        assert!(MAY_PASS.contains(&name.as_str()), "{name} passed");
        assert!(!is_nominated(name.as_str()), "{name} is of the connection");
        let [value] = values[..] else {
            panic!("{name} passed {} times", values.len());
        };
        let given = from.get(name).expect("nothing is made up");
        if name == "retry-after" {
            let number = |value: &HeaderValue| value.to_str().ok()?.parse::<u64>().ok();
            let given = number(given).expect("a number of seconds");
            assert_eq!(number(value), Some(given.min(120)));
        } else {
            assert_eq!(value, given, "{name} was changed");
        }
    }
    for name in ["cache-control", "x-roundhouse-ignored"] {
        if let Some(given) = from.get(name) {
            let may_pass = given.len() <= 4096 && !is_nominated(name);
            assert_eq!(passed.contains_key(name), may_pass, "{name}");
        }
    }

    let text = |name: &str| from.get(name).and_then(|value| value.to_str().ok());
    let id = text("x-request-id").unwrap_or("ours");
    let kind = HeaderValue::from_static("application/json");
    let sent = headers::to_engine(kind.clone(), id);
    let sent: Vec<_> = sent
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let id = HeaderValue::from_str(id).expect("it was a value");
    assert_eq!(sent, [("content-type", &kind), ("x-request-id", &id)]);
}
