//! The file beside the server that runs: what it would do if it followed the file. The
//! server says it, in the words of a reload; here it is asked and its answer shown.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::control::{self, NoAnswer};
use crate::config::{Config, locate};

/// What the server that runs says of the file, or why it says nothing; nothing if none
/// runs.
pub fn ask(config: &Config) -> Option<Value> {
    let text = locate::text(config.source.as_deref()?).ok()?;
    match control::post("/admin/check", &json!({"text": text})) {
        Ok(told) => Some(told),
        Err(NoAnswer::NoServer(_)) => None,
        Err(error) => Some(json!({"error": error.to_string()})),
    }
}

/// The same for people: nothing without a server.
pub fn shown(config: &Config, told: Option<&Value>) -> String {
    let Some(told) = told else {
        return String::new();
    };
    if let Some(error) = told["error"].as_str() {
        return format!("\nthe server that runs says: {error}\n");
    }
    // The server may have found it by another way.
    let real = |file: &Path| std::fs::canonicalize(file).ok();
    let followed = told["file"].as_str().map(Path::new);
    let is_followed = followed.and_then(real) == config.source.as_deref().and_then(real);
    let mut text = match (told["changes"] == true, is_followed, followed) {
        (false, ..) => {
            return format!(
                "\nthe server that runs has this in force (configuration {})\n",
                told["generation"]
            );
        }
        (true, false, Some(file)) => format!(
            "\nfor the server that runs, in the place of {}:\n",
            file.display()
        ),
        _ => "\nfor the server that runs:\n".to_owned(),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {}", words(&told["change"]));
    let details = told["details"].as_array().into_iter().flatten();
    for detail in details {
        let _ = writeln!(text, "  {}", words(detail));
    }
    for unload in told["unloads"].as_array().into_iter().flatten() {
        let busy = match unload["requests"].as_u64() {
            None | Some(0) => "idle".to_owned(),
            Some(1) => "answers 1 request".to_owned(),
            Some(requests) => format!("answers {requests} requests"),
        };
        let _ = writeln!(text, "  {} is loaded now ({busy})", words(&unload["model"]));
    }
    text
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
