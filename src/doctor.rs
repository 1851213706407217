//! What is wrong with a setup, before somebody finds out by a server that does
//! not start or a model that does not come. The checks here are pure: facts in,
//! findings out; `gather` finds the facts and changes nothing.

pub mod gather;

mod files;
mod models;
mod network;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::access::keys::{KeyError, Keys};
use crate::config::Listen;
use crate::config::locate::LoadError;
use crate::registry::{MachineMemory, Snapshot};
use crate::units::ByteSize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something will not work, or others get in.
    Fault,
    /// Worth knowing.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The same word for the same thing, for programs.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub message: String,
    /// What mends it, where that can be said.
    pub mend: Option<String>,
}

impl Finding {
    fn fault(name: &'static str, message: impl Into<String>) -> Self {
        Self {
            name,
            severity: Severity::Fault,
            message: message.into(),
            mend: None,
        }
    }

    fn note(name: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::fault(name, message)
        }
    }

    fn mend(self, mend: impl Into<String>) -> Self {
        Self {
            mend: Some(mend.into()),
            ..self
        }
    }
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Missing,
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A socket, and whether anybody answers there.
    Socket(bool),
    /// Something else.
    Other,
}

/// What is known of a path.
#[derive(Clone, Debug)]
pub struct PathFact {
    /// The path.
    pub path: PathBuf,
    /// What is there, links followed.
    pub kind: Kind,
    /// The mode bits, with the sticky one; zero where nothing is.
    pub mode: u32,
    /// Whether this user may read it.
    pub readable: bool,
    /// Whether this user may write it or, where nothing is, make it.
    pub writable: bool,
}

/// An address of the configuration.
#[derive(Clone, Debug)]
pub struct AddressFact {
    /// `server.listen` or `server.management`.
    pub setting: &'static str,
    /// The address.
    pub listen: Listen,
    /// Why it cannot be listened on now.
    pub refused: Option<std::io::ErrorKind>,
}

/// Everything that was found out.
#[derive(Debug)]
pub struct Facts {
    /// What the clock says.
    pub now: SystemTime,
    /// Most descriptors that this process may ask for; nothing means no limit.
    pub descriptors: Option<u64>,
    /// The folder for keys, audit and state.
    pub state: PathFact,
    /// Room on the disk under it, where the system tells.
    pub free: Option<ByteSize>,
    /// The control socket.
    pub control: PathFact,
    /// The folder it is in.
    pub runtime: PathFact,
    /// The folder in which workers get theirs.
    pub workers: PathFact,
    /// Whether this build has the embedded engine.
    pub engine: bool,
    /// What the configuration makes of this machine.
    pub setup: Result<Setup, LoadError>,
}

/// A configuration that could be read.
#[derive(Debug)]
pub struct Setup {
    /// Its file.
    pub file: PathFact,
    /// What a server would begin with.
    pub snapshot: Arc<Snapshot>,
    /// The machine's memory.
    pub machine: MachineMemory,
    /// The keys, as a server would read them.
    pub keys: Result<Arc<Keys>, KeyError>,
    /// The audit file.
    pub audit: PathFact,
    /// The cache folders.
    pub caches: Vec<PathFact>,
    /// Why the certificate of `server.tls` cannot be used.
    pub certificate: Option<String>,
    /// The addresses of both ports.
    pub addresses: Vec<AddressFact>,
}

/// Every check.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(files::state(facts));
    found.extend(network::descriptors(facts));
    found.extend(network::sockets(facts));
    match &facts.setup {
        Ok(setup) => {
            found.extend(files::configured(setup));
            found.extend(network::addresses(facts, setup));
            found.extend(models::models(facts.engine, setup));
        }
        Err(error) => found.extend(configuration(error)),
    }
    found.sort_by_key(|finding| finding.severity == Severity::Note);
    found
}

/// A configuration that is not there, or each of its problems.
fn configuration(error: &LoadError) -> Vec<Finding> {
    let LoadError::Problems(problems) = error else {
        return vec![Finding::fault("configuration-missing", error.to_string())];
    };
    let told = problems.list.iter().map(|problem| {
        let file = problems.file_of(problem);
        let file = file.map_or_else(String::new, |file| format!("{}:", file.display()));
        let place = problem
            .place
            .map(|place| format!("{}:{}:", place.line, place.column));
        let place = place.unwrap_or_default();
        Finding {
            mend: problem.help.clone(),
            ..Finding::fault(
                "configuration-invalid",
                format!("{file}{place} {}", problem.message)
                    .trim()
                    .to_owned(),
            )
        }
    });
    told.collect()
}

#[cfg(test)]
mod tests;
