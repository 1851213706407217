//! The one change to a body: a `model` where there is none.

/// Puts a `model` into a body that has none. The rest stays byte for byte.
pub fn insert_model(body: &[u8], model: &str) -> Vec<u8> {
    let start = body
        .iter()
        .position(|&byte| byte == b'{')
        .map_or(0, |at| at + 1);
    let (head, rest) = body.split_at(start);
    let empty = rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    let field = serde_json::Value::from(model);
    let comma = if empty { "" } else { "," };
    [head, format!("\"model\":{field}{comma}").as_bytes(), rest].concat()
}
