//! `roundhouse prompts`: what the embedded engine keeps of prompts in the server that
//! runs, in memory and on disk, and forgetting it.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{control, failed, print, table};
use crate::units::ByteSize;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct PromptsArgs {
    /// Forget what is kept: of this model, or of all
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    clear: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &PromptsArgs) -> ExitCode {
    let answer = match &args.clear {
        None => control::get("/admin/prompts"),
        Some(name) => {
            let model = Some(name).filter(|name| !name.is_empty());
            let target = model.map_or(json!({}), |model| json!({"model": model}));
            control::post("/admin/prompts/clear", &target)
        }
    };
    match answer {
        Err(error) => failed(1, error),
        Ok(answer) if args.json => print(&format!("{answer}\n"), 0),
        Ok(answer) if args.clear.is_some() => print(&forgotten(&answer), 0),
        Ok(answer) => print(&kept(&answer), 0),
    }
}

fn forgotten(answer: &Value) -> String {
    let models: Vec<&str> = match answer["models"].as_array() {
        Some(models) => models.iter().filter_map(Value::as_str).collect(),
        None => Vec::new(),
    };
    match models.as_slice() {
        [] => "nothing is kept of prompts\n".to_owned(),
        models => format!("forgotten: {}\n", models.join(", ")),
    }
}

fn kept(answer: &Value) -> String {
    let head = [
        "model",
        "kept",
        "tokens",
        "asked",
        "hits",
        "tokens saved",
        "from disk",
        "on disk",
        "tokens on disk",
    ];
    let row = |told: &Value| {
        let kept = &told["prompt_cache"];
        let number = |name: &str| kept[name].as_u64().unwrap_or_default();
        let disk = |name: &str| told["disk"][name].as_u64().unwrap_or_default();
        vec![
            told["model"].as_str().unwrap_or_default().to_owned(),
            ByteSize(number("bytes")).to_string(),
            number("tokens").to_string(),
            number("asked").to_string(),
            number("hits").to_string(),
            number("saved").to_string(),
            number("restored").to_string(),
            ByteSize(disk("bytes")).to_string(),
            disk("tokens").to_string(),
        ]
    };
    let models = answer["models"].as_array().into_iter().flatten();
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(models.map(row));
    match rows.len() {
        1 => "nothing is kept of prompts\n".to_owned(),
        _ => table::lines(&rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_a_line_for_each_model() {
        let nothing = json!({"models": []});
        assert!(kept(&nothing).starts_with("nothing"));
        let told = json!({"models": [{"model": "a/b", "prompt_cache":
            {"bytes": 0, "tokens": 64, "asked": 3, "hits": 2, "saved": 119, "restored": 55},
            "disk": {"bytes": 0, "tokens": 70}}]});
        let shown = kept(&told);
        let line = shown.lines().nth(1).expect("a line");
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert!(cells.starts_with(&["a/b"]) && cells.contains(&"64"));
        assert!(line.contains("119") && line.contains("55") && cells.ends_with(&["70"]));
        assert_eq!(
            forgotten(&json!({"models": ["a/b", "c/d"]})),
            "forgotten: a/b, c/d\n"
        );
    }
}
