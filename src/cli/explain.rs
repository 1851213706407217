//! `roundhouse explain`: why a name means its model, where that stands and what would
//! be done for a request now; or the same of a request that is under way. Without a
//! server it says what the configuration alone tells.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::control::{self, NoAnswer};
use super::{CONFIGURATION, check};
use crate::admin::explain::resolved;
use crate::units::ByteSize;

/// What `explain` understands.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A name as requests say it, or the id of a request that waits or is answered
    #[arg(value_name = "NAME|REQUEST-ID")]
    asked: String,
    /// The configuration, for when no server runs
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ExplainArgs) -> ExitCode {
    let told = match told(args) {
        Ok(told) => told,
        Err(exit) => return exit,
    };
    let text = match args.json {
        true => format!("{told}\n"),
        false => shown(&told),
    };
    super::print(&text, if told["served"] == true { 0 } else { 1 })
}

/// The server's word on a request of this id, else on the name; without a server
/// that of the configuration.
fn told(args: &ExplainArgs) -> Result<Value, ExitCode> {
    let asked = escaped(&args.asked);
    let answer = match control::get(&format!("/admin/explain?request={asked}")) {
        Err(NoAnswer::Refused { status: 404, .. }) => {
            control::get(&format!("/admin/explain?model={asked}"))
        }
        answer => answer,
    };
    match answer {
        Ok(told) => Ok(told),
        Err(NoAnswer::NoServer(_)) => {
            let snapshot = check::snapshot(args.config.as_deref());
            let snapshot = snapshot.map_err(|error| super::failed(CONFIGURATION, error))?;
            Ok(resolved(&snapshot, Some(&args.asked)))
        }
        Err(error) => Err(super::failed(1, error)),
    }
}

/// What may stand in a query as it is, and the rest as `%2F` and its like.
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(byte);
    let bytes = text.bytes().map(|byte| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// For people.
fn shown(told: &Value) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<10}{text}\n"));
    if let Some(request) = told.get("request") {
        line("request", request_line(request));
    }
    let name = words(&told["name"]);
    match told["model"].as_str() {
        Some(model) => line(
            "model",
            format!("{model} ({} of \"{name}\")", words(&told["route"])),
        ),
        None => line(
            "model",
            format!("none for \"{name}\": {}", words(&told["reason"])),
        ),
    }
    if let Some(adapter) = told["adapter"].as_str() {
        line(
            "adapter",
            format!("{adapter} beside {}", words(&told["base"])),
        );
    }
    if let Some(upstream) = told["upstream"].as_str() {
        line(
            "upstream",
            format!("{upstream}; requests leave this machine"),
        );
    }
    if let Some(fallback) = told["fallback"].as_str() {
        line(
            "fallback",
            format!("{fallback}, where this machine cannot answer"),
        );
    }
    for step in list(&told["path"]) {
        let mark = if step["found"] == true { "yes" } else { "no" };
        let text = format!("{mark}, {}", words(&step["says"]));
        line(&format!("  {}", words(&step["rule"])), text);
    }
    if let Some(mend) = told["mend"].as_str() {
        line("mend", mend.to_owned());
    }
    let near: Vec<_> = list(&told["suggestions"]).map(words).collect();
    if !near.is_empty() {
        line("perhaps", near.join(", "));
    }
    if let Some(estimate) = told.get("estimate") {
        let text = format!(
            "{} for a load, of which {} for caches; {} of files",
            bytes(&estimate["load_bytes"]),
            bytes(&estimate["kv_bytes"]),
            bytes(&estimate["files_bytes"]),
        );
        line("estimate", text);
    }
    match told.get("now").filter(|now| now.is_object()) {
        Some(now) => {
            line("state", state_line(now));
            line("now", course_line(now));
        }
        None if told["upstream"].is_string() => {}
        None if told["served"] == true => line("state", "no server runs".to_owned()),
        None => {}
    }
    lines.concat()
}

fn request_line(request: &Value) -> String {
    let mut text = format!(
        "{} of {}, {} for {} ms",
        words(&request["request_id"]),
        words(&request["caller"]),
        words(&request["state"]),
        request["age_ms"],
    );
    // Writing to a string cannot fail.
    if let Some(tokens) = request["tokens"].as_u64() {
        let _ = write!(text, ", {tokens} events sent");
    }
    text
}

fn state_line(now: &Value) -> String {
    let mut text = words(&now["state"]);
    if let Some(percent) = now["loaded_percent"].as_u64() {
        let _ = write!(text, " {percent} %");
    }
    let _ = write!(
        text,
        "; {} of {} reserved, it needs {}",
        bytes(&now["reserved_bytes"]),
        bytes(&now["budget_bytes"]),
        bytes(&now["need_bytes"]),
    );
    if now["observed_bytes"].is_u64() {
        let _ = write!(text, " (observed {})", bytes(&now["observed_bytes"]));
    }
    text
}

fn course_line(now: &Value) -> String {
    let mut text = match words(&now["course"]).as_str() {
        "answer" => "it answers at once".to_owned(),
        "join" => "a request joins the load that runs".to_owned(),
        "load" => "it would be loaded into free room".to_owned(),
        "evict" => "it would be loaded in the place of idle models".to_owned(),
        "drain" => "it would wait for busy models to end and take their place".to_owned(),
        "wait" => "a request stands behind others that wait for it".to_owned(),
        _ => format!("a request is refused: {}", words(&now["refusal"])),
    };
    let victims = list(&now["evicts"]).map(|victim| {
        let busy = if victim["busy"] == true { ", busy" } else { "" };
        format!(
            "{} ({}{busy})",
            words(&victim["model"]),
            bytes(&victim["bytes"])
        )
    });
    let victims: Vec<_> = victims.collect();
    if !victims.is_empty() {
        let _ = write!(text, "; evicts {}", victims.join(", "));
    }
    if let Some(before) = now["before"].as_u64().filter(|before| *before > 0) {
        let _ = write!(text, "; {before} before it");
    }
    match now["eta_ms"].as_u64() {
        Some(0) => {}
        Some(eta) => {
            let _ = write!(text, "; ready in about {} s", eta.div_ceil(1000));
        }
        None if now["course"] != "refuse" => text.push_str("; no load was measured yet"),
        None => {}
    }
    text
}

fn words(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn bytes(value: &Value) -> String {
    ByteSize(value.as_u64().unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_read_the_same_as_programs() {
        let told = json!({
            "name": "small", "served": true, "route": "alias", "model": "a/b",
            "path": [{"rule": "entry", "found": false, "says": "models has no such key"}],
            "estimate": {"load_bytes": 3_000_000, "kv_bytes": 1_000_000, "files_bytes": 2_000_000},
            "now": {
                "state": "unloaded", "course": "evict", "need_bytes": 3_000_000,
                "budget_bytes": 8_000_000, "reserved_bytes": 7_000_000, "before": 2,
                "evicts": [{"model": "a/c", "bytes": 4_000_000, "busy": false}],
                "eta_ms": 8_100,
            },
        });
        let text = shown(&told);
        for part in [
            "a/b (alias of \"small\")",
            "no, models has no such key",
            "place of idle models; evicts a/c (",
            "; 2 before it; ready in about 9 s",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_query_holds_any_name() {
        assert_eq!(escaped("a/b:thinking"), "a/b:thinking");
        assert_eq!(escaped("x&request=1 é"), "x%26request%3D1%20%C3%A9");
    }
}
