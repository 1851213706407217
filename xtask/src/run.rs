//! The first run: a configuration for the demo models, a server with it, and a
//! line to try it with.

use std::convert::Infallible;
use std::fs;
use std::io::{self, BufRead};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Result;
use crate::demo;
use crate::place::{self, Profile, output_of};

/// The hidden command that reads what the server prints.
pub const WELCOME: &str = "welcome";

/// Answers the question of the printed line; the 4-bit one is weaker.
const ASKED: &str = demo::MODELS[1].0;

/// Becomes a server of the demo models. `options` go to `roundhouse serve`.
pub fn serve(options: &[&str]) -> Result<()> {
    demo::cache(Profile::Release)?;
    let file = place::data().join("models.yaml");
    if !file.is_file() {
        place::write_whole(&file, configuration(user_cache().as_deref()).as_bytes())?;
    }
    tell_of_other_models(&file)?;
    match become_server(&file, options)? {}
}

/// Replaces this process by the server, so that signals reach it directly. What
/// it prints goes through a second process, which knows how to say it.
fn become_server(file: &Path, options: &[&str]) -> Result<Infallible> {
    let (reader, writer) = io::pipe()?;
    Command::new(std::env::current_exe()?)
        .arg(WELCOME)
        .stdin(reader)
        .spawn()?;
    let error = Command::new(place::program(Profile::Release)?)
        .args(["serve", "--json", "--config"])
        .arg(file)
        .args(options)
        .stdin(Stdio::null())
        .stdout(writer)
        .exec();
    Err(format!("cannot start the server: {error}").into())
}

/// Says in words where the server listens, and how to try it.
pub fn welcome() -> Result<()> {
    let mut lines = io::stdin().lock().lines();
    // No line: the server has said on standard error why it did not start.
    let Some(first) = lines.next() else {
        return Ok(());
    };
    let said: Value = serde_json::from_str(&first?)?;
    let address = |of: &str| said[of].as_str().unwrap_or("nowhere").to_string();
    println!(
        "\n{}",
        instructions(&address("inference"), &address("management"))
    );
    for line in lines {
        println!("{}", line?);
    }
    Ok(())
}

fn instructions(inference: &str, management: &str) -> String {
    format!(
        "management: {management}\n\
         inference:  {inference}/v1\n\
         curl -s {inference}/v1/chat/completions -H 'Content-Type: application/json' \
         -d '{{\"model\":\"{ASKED}\",\"temperature\":0,\"messages\":\
         [{{\"role\":\"user\",\"content\":\"What is the capital of France?\"}}]}}'"
    )
}

/// The demo models, from the folder beside the file, and the cache that other
/// programs fill, of which nothing is served until it is allowed.
fn configuration(user_cache: Option<&Path>) -> String {
    let mut text = String::from(
        "# Written once by `make run`; yours from then on. Every key is explained in the\n\
         # models.yaml at the top of the repository.\n",
    );
    let mut caches = vec!["hub".to_string()];
    caches.extend(user_cache.map(|path| path.to_string_lossy().into_owned()));
    text += "cache:\n";
    for cache in caches {
        // A JSON string is a YAML string as well.
        text += &format!("  - {}\n", Value::String(cache));
    }
    text += &format!("default: {ASKED}\nallow:\n");
    for id in demo::MODELS
        .map(|(id, _)| id)
        .iter()
        .chain([&demo::ENCODER])
    {
        text += &format!("  - {id}\n");
    }
    text
}

/// Where the hub's own client keeps its files, if there is anything.
fn user_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = variable("HF_HUB_CACHE")
        .map(PathBuf::from)
        .or_else(|| variable("HF_HOME").map(|home| Path::new(&home).join("hub")))
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache/huggingface/hub")))?;
    fs::canonicalize(cache).ok().filter(|path| path.is_dir())
}

/// Names what is cached and not allowed, with the command that allows it.
fn tell_of_other_models(file: &Path) -> Result<()> {
    let program = place::program(Profile::Release)?;
    let mut command = Command::new(&program);
    command
        .args(["models", "--why", "--json", "--config"])
        .arg(file);
    let answer: Value = serde_json::from_str(&output_of(&mut command)?)?;
    let ids = not_allowed(&answer);
    if !ids.is_empty() {
        println!(
            "cached and not allowed: {}\nto serve them too: {} allow --config {} {}",
            ids.join(", "),
            program.display(),
            file.display(),
            ids.join(" ")
        );
    }
    Ok(())
}

/// The ids that `roundhouse allow` would make servable.
fn not_allowed(answer: &Value) -> Vec<String> {
    let models = answer["models"].as_array().into_iter().flatten();
    let allowable = models.filter(|model| {
        let mend = model["mend"].as_str().unwrap_or_default();
        mend.starts_with("roundhouse allow")
    });
    allowable
        .filter_map(|model| model["id"].as_str().map(str::to_string))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::{configuration, instructions, not_allowed};

    #[test]
    fn only_what_allowing_mends_is_named() {
        let answer = json!({"models": [
            {"id": "a/served", "served_as": ["a/served"], "mend": null},
            {"id": "b/other", "served_as": [], "mend": "roundhouse allow b/other"},
            {"id": "c/broken", "served_as": [], "mend": "download it again"},
        ]});
        assert_eq!(not_allowed(&answer), ["b/other"]);
        assert!(not_allowed(&json!({})).is_empty());
    }

    #[test]
    fn the_configuration_names_both_caches() {
        let text = configuration(Some(Path::new("/home/a \"b\"/hub")));
        assert!(
            text.contains("cache:\n  - \"hub\"\n  - \"/home/a \\\"b\\\"/hub\"\n"),
            "{text}"
        );
        assert!(!configuration(None).contains("home"));
    }

    #[test]
    fn the_last_line_is_one_command() {
        let text = instructions("http://127.0.0.1:1", "http://127.0.0.1:2");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("curl -s http://127.0.0.1:1/v1/"), "{last}");
        assert_eq!(last.matches('\'').count(), 4, "{last}");
    }
}
