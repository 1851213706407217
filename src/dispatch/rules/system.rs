//! What stands before the system prompt of a chat.

use super::scan::{first, members};
use crate::dispatch::payload::Edit;

/// Between the prefix and the prompt that it stands before.
const BETWEEN: &str = "\n\n";

/// The change of the messages that begin at `open`: before the text of the system
/// prompt, or a system prompt of its own. Messages that no engine reads stay as
/// they are, to be refused.
pub(super) fn prefixed(text: &str, open: usize, prefix: &str) -> Option<Edit> {
    let put = |at: usize, with: String| Some(Edit { at: at..at, with });
    let message = first(text, open)?;
    let fields = members(text, message.start)?;
    // Of a key that stands twice the engine takes the last.
    let field = |name: &str| fields.iter().rfind(|field| field.key == name);
    let role = field("role").and_then(|role| {
        let role = text.get(role.value.clone())?;
        serde_json::from_str::<String>(role).ok()
    });
    if !matches!(role.as_deref(), Some("system" | "developer")) {
        let own = serde_json::json!({"role": "system", "content": prefix});
        return put(message.start, format!("{own},"));
    }
    let before = format!("{prefix}{BETWEEN}");
    let content = field("content")?.value.clone();
    match text.as_bytes().get(content.start)? {
        b'"' => {
            let quoted = serde_json::Value::from(before).to_string();
            put(content.start + 1, quoted[1..quoted.len() - 1].to_owned())
        }
        b'[' => {
            let part = serde_json::json!({"type": "text", "text": before});
            let comma = if first(text, content.start).is_some() {
                ","
            } else {
                ""
            };
            put(content.start + 1, format!("{part}{comma}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dispatch::payload::Payload;

    #[test]
    fn the_prefix_comes_before_what_is_there() {
        let check = |messages: &'static str, expected: &str| {
            let edits = prefixed(messages, 0, "Be \"brief\".").into_iter().collect();
            let got = Payload::edited(&Bytes::from_static(messages.as_bytes()), edits);
            let got = String::from_utf8(got.joined().to_vec()).expect("text");
            assert_eq!(got, expected);
        };
        check(
            r#"[{"role":"user","content":"hi"}]"#,
            r#"[{"role":"system","content":"Be \"brief\"."},{"role":"user","content":"hi"}]"#,
        );
        check(
            r#"[ {"content": "You \u0061re.", "role": "system"}]"#,
            r#"[ {"content": "Be \"brief\".\n\nYou \u0061re.", "role": "system"}]"#,
        );
        check(
            r#"[{"role":"user","role":"developer","content":0,"content":""}]"#,
            r#"[{"role":"user","role":"developer","content":0,"content":"Be \"brief\".\n\n"}]"#,
        );
        check(
            r#"[{"role":"system","content":[{"type":"text","text":"a"}]}]"#,
            r#"[{"role":"system","content":[{"type":"text","text":"Be \"brief\".\n\n"},{"type":"text","text":"a"}]}]"#,
        );
        check(
            r#"[{"role":"system","content":[]}]"#,
            r#"[{"role":"system","content":[{"type":"text","text":"Be \"brief\".\n\n"}]}]"#,
        );
        for refused in ["[]", "null", "[3]", r#"[{"role":"system","content":null}]"#] {
            check(refused, refused);
        }
    }
}
