//! `roundhouse keys`: makes, lists and revokes keys. The text of a key is shown
//! once; a running server follows at its next reload.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::failed;
use crate::access::keys::{KeyClass, KeyError, Keys};
use crate::config::locate;
use crate::platform::Folders;

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
    New {
        /// A key for the management port instead of the inference port
        #[arg(long)]
        management: bool,
        /// What you call it
        #[arg(long, default_value = "unnamed")]
        name: String,
    },
    /// List the keys by id, name and class
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
    match act(&args.action, &path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, error),
    }
}

fn act(action: &Action, path: &std::path::Path) -> Result<(), Failure> {
    let mut keys = Keys::read(path)?;
    match action {
        Action::New { management, name } => {
            let class = if *management {
                KeyClass::Management
            } else {
                KeyClass::Inference
            };
            let text = keys.make(class, name)?;
            keys.write(path)?;
            println!("{text}");
            eprintln!(
                "kept as a hash in {}; this is the only time it is shown",
                path.display()
            );
        }
        Action::List { json: true } => {
            let list: Vec<_> = keys
                .iter()
                .map(|key| json!({"id": key.id, "name": key.name, "class": key.class}))
                .collect();
            println!("{}", json!(list));
        }
        Action::List { json: false } => {
            for key in keys.iter() {
                println!("{}  {:<10}  {}", key.id, key.class.as_str(), key.name);
            }
        }
        Action::Revoke { key } => {
            if !keys.revoke(key) {
                return Err(Failure::Unknown(key.clone()));
            }
            keys.write(path)?;
        }
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("there is no key with the id or name {0:?}")]
    Unknown(String),
    #[error(transparent)]
    Keys(#[from] KeyError),
}
