//! `roundhouse keys`: makes, lists and revokes keys. The text of a key is shown
//! once; a running server follows the file by itself.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{failed, table};
use crate::access::keys::{Key, KeyClass, KeyError, Scope, file, seconds};
use crate::config::{Pattern, locate};
use crate::platform::Folders;
use crate::pool::Priority;
use crate::units::parse_duration;

/// What `keys` understands.
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// The configuration that names the keys file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it, once
    New(NewArgs),
    /// List the keys: id, class, name and limits
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key by id or name
    Revoke {
        /// Its id or name
        key: String,
    },
}

/// What a new key may do; without a limit, everything its class may.
#[derive(Debug, Args)]
struct NewArgs {
    /// A key for the management port instead of the inference port
    #[arg(long, conflicts_with_all = ["models", "tokens_per_day", "priority", "pool"])]
    management: bool,
    /// What you call it; its id, if you do not
    #[arg(long)]
    name: Option<String>,
    /// Only models whose names match, such as small or mlx-community/*; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = Pattern::parse)]
    models: Vec<Pattern>,
    /// Requests in a minute
    #[arg(long, value_name = "NUMBER")]
    rate: Option<NonZeroU32>,
    /// Requests at once
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<NonZeroU32>,
    /// Tokens of prompts and answers in a day of UTC
    #[arg(long, value_name = "NUMBER")]
    tokens_per_day: Option<u64>,
    /// The class of its requests while they wait for a model: high, normal or low
    #[arg(long, value_name = "CLASS")]
    priority: Option<Priority>,
    /// How long it is valid, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = valid_for)]
    expires: Option<u64>,
    /// Kept for a later version: it may unload models and hold them
    #[arg(long)]
    pool: bool,
    /// The key and what it may do, as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &KeysArgs) -> ExitCode {
    let Some(folders) = Folders::from_environment() else {
        return failed(1, "there is no home folder");
    };
    // Without a configuration the default place of the keys file holds.
    let path = match locate::load(args.config.as_deref(), &folders) {
        Ok(config) => config.keys_file,
        Err(locate::LoadError::NotFound { .. }) => folders.state.join("keys.json"),
        Err(error) => return failed(super::CONFIGURATION, error),
    };
    let done = match &args.action {
        Action::New(args) => new(args, &path),
        Action::List { json } => list(*json, &path),
        Action::Revoke { key } => {
            file::change(&path, |keys| keys.revoke(key)).map(|_| ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| failed(1, error))
}

fn new(args: &NewArgs, path: &Path) -> Result<ExitCode, KeyError> {
    let class = match args.management {
        true => KeyClass::Management,
        false => KeyClass::Inference,
    };
    let scope = Scope {
        models: Some(args.models.clone()).filter(|models| !models.is_empty()),
        rate: args.rate,
        concurrency: args.concurrency,
        tokens_per_day: args.tokens_per_day,
        priority: args.priority,
        expires: args.expires,
        pool: args.pool,
    };
    let make = |keys: &mut crate::access::keys::Keys| keys.make(class, args.name.as_deref(), scope);
    let (key, text) = file::change(path, make)?;
    eprintln!(
        "{} is kept as a hash in {}; this is the only time its text is shown",
        key.name,
        path.display()
    );
    let shown = match args.json {
        true => {
            let mut told = key.told();
            told["key"] = json!(text.expose());
            told.to_string()
        }
        false => text.expose().to_owned(),
    };
    Ok(super::print(&format!("{shown}\n"), 0))
}

fn list(as_json: bool, path: &Path) -> Result<ExitCode, KeyError> {
    let keys = file::read(path)?.unwrap_or_default();
    let text = match as_json {
        true => format!(
            "{}\n",
            json!(keys.iter().map(Key::told).collect::<Vec<_>>())
        ),
        false => {
            let now = SystemTime::now();
            let rows: Vec<_> = keys.iter().map(|key| row(key, now)).collect();
            table::lines(&rows)
        }
    };
    Ok(super::print(&text, 0))
}

fn row(key: &Key, now: SystemTime) -> Vec<String> {
    let name = key.name.clone();
    vec![
        key.id.clone(),
        key.class.as_str().to_owned(),
        name,
        limits(&key.scope, now),
    ]
}

/// The limits of a key in one line.
fn limits(scope: &Scope, now: SystemTime) -> String {
    let mut told = Vec::new();
    if let Some(models) = &scope.models {
        let patterns: Vec<_> = models.iter().map(Pattern::as_str).collect();
        told.push(patterns.join(","));
    }
    told.extend(scope.rate.map(|rate| format!("{rate} a minute")));
    told.extend(scope.concurrency.map(|most| format!("{most} at once")));
    told.extend(
        scope
            .tokens_per_day
            .map(|tokens| format!("{tokens} tokens a day")),
    );
    told.extend(
        scope
            .priority
            .map(|priority| format!("priority {}", priority.as_str())),
    );
    if scope.pool {
        told.push("pool".to_owned());
    }
    if let Some(expires) = scope.expires {
        told.push(match expires.saturating_sub(seconds(now)) {
            0 => "expired".to_owned(),
            left @ 1..3600 => format!("expires in {}m", left.div_ceil(60)),
            left @ 3600..86_400 => format!("expires in {}h", left / 3600),
            left => format!("expires in {}d", left / 86_400),
        });
    }
    told.join("; ")
}

/// The second at which a key ends that is valid for a duration from now.
fn valid_for(text: &str) -> Result<u64, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    let ends = SystemTime::now().checked_add(duration);
    match ends.filter(|_| duration.as_secs() > 0) {
        Some(ends) => Ok(seconds(ends)),
        None => Err("expected at least a second, and less than for ever".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn limits_are_told_in_one_line() {
        let check = |scope: Scope, expected: &str| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
            assert_eq!(limits(&scope, now), expected);
        };
        let expires = |seconds| Scope {
            expires: Some(seconds),
            ..Scope::default()
        };
        check(Scope::default(), "");
        check(expires(999_999), "expired");
        check(expires(1_000_001), "expires in 1m");
        check(expires(1_086_400), "expires in 1d");
        check(
            Scope {
                models: Some(vec![Pattern::parse("a/*").expect("a pattern")]),
                rate: NonZeroU32::new(60),
                concurrency: NonZeroU32::new(2),
                tokens_per_day: Some(1000),
                priority: Some(Priority::Low),
                expires: None,
                pool: true,
            },
            "a/*; 60 a minute; 2 at once; 1000 tokens a day; priority low; pool",
        );
    }
}
