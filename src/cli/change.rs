//! What the commands that edit the file share: the file is read, changed in
//! memory, checked as a whole, and put in the old one's place at once. A running
//! server follows it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{CONFIGURATION, failed};
use crate::config::Config;
use crate::config::edit::{EditError, Edited};
use crate::config::locate::{self, LoadError};
use crate::config::problem::Problems;
use crate::platform::Folders;

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no file, or none that is valid.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// It would not be valid any more.
    #[error("nothing was changed: the configuration would have problems\n{0}")]
    Result(Problems),
    /// Its form leaves no place.
    #[error("{0}")]
    Edit(#[from] EditError),
    /// A pattern of `deny` stands against it.
    #[error("deny has {deny:?}, which wins over allow; remove it from {file} first")]
    Denied {
        /// The pattern.
        deny: String,
        /// The file.
        file: String,
    },
    /// A name that leads to no model.
    #[error("{0}")]
    Name(String),
    /// Somebody else wrote.
    #[error("{file} was changed by somebody else in the meantime; try again")]
    Raced {
        /// The file.
        file: String,
    },
    /// The disk refused.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// The system's words.
        error: io::Error,
    },
}

/// A change that is being made.
pub struct Change {
    /// As it was named: its drop-ins lie beside this name.
    named: PathBuf,
    /// What is written.
    file: PathBuf,
    /// What the file said when the change began.
    pub config: Config,
    before: String,
    text: String,
    said: String,
    folders: Folders,
}

/// Makes a change to the file that `--config` or the search names, and says what
/// was done.
pub fn run(
    flag: Option<&Path>,
    change: impl FnOnce(&mut Change) -> Result<(), Failure>,
) -> ExitCode {
    let Some(folders) = Folders::from_environment() else {
        return failed(1, "there is no home folder");
    };
    let outcome = locate::find(flag, &folders)
        .map_err(Failure::from)
        .and_then(|file| make(&file, &folders, change));
    match outcome {
        Ok(said) => super::print(&said, 0),
        Err(error @ Failure::Load(_)) => failed(CONFIGURATION, error),
        Err(error) => failed(1, error),
    }
}

/// The same for one file.
pub fn make(
    file: &Path,
    folders: &Folders,
    change: impl FnOnce(&mut Change) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let mut made = Change::begin(file, folders)?;
    change(&mut made)?;
    made.end()
}

impl Change {
    fn begin(file: &Path, folders: &Folders) -> Result<Self, Failure> {
        // A link is followed, so that it stays one.
        let named = file.to_owned();
        let file = fs::canonicalize(file).map_err(|error| io_failure(file, error))?;
        let config = locate::read(&named, folders).map_err(LoadError::Problems)?;
        let before = read(&file)?;
        Ok(Self {
            config,
            text: before.clone(),
            before,
            said: String::new(),
            folders: folders.clone(),
            named,
            file,
        })
    }

    /// The file, for messages.
    pub fn file(&self) -> String {
        self.file.display().to_string()
    }

    /// A line of what is said at the end.
    pub fn say(&mut self, line: &str) {
        self.said += &format!("{line}\n");
    }

    /// Makes one edit and says what it did.
    pub fn edit(
        &mut self,
        done: &str,
        edit: impl FnOnce(&str) -> Result<Edited, EditError>,
    ) -> Result<(), Failure> {
        let edited = edit(&self.text)?;
        self.say(&format!(
            "{done} in {} at line {}",
            self.file(),
            edited.line
        ));
        self.text = edited.text;
        Ok(())
    }

    /// Checks the result and puts it in place.
    fn end(self) -> Result<String, Failure> {
        if self.text == self.before {
            return Ok(self.said);
        }
        locate::meaning(&self.named, self.text.clone(), &self.folders).map_err(Failure::Result)?;
        if read(&self.file)? != self.before {
            return Err(Failure::Raced { file: self.file() });
        }
        let written = fs::metadata(&self.file)
            .and_then(|file| replace(&self.file, &self.text, file.permissions()));
        written.map_err(|error| io_failure(&self.file, error))?;
        Ok(self.said + "a running server follows by itself\n")
    }
}

/// The text of a file.
pub fn read(file: &Path) -> Result<String, Failure> {
    locate::text(file).map_err(|error| io_failure(file, io::Error::other(error)))
}

/// The disk's refusal.
pub fn io_failure(file: &Path, error: io::Error) -> Failure {
    Failure::Io {
        file: file.display().to_string(),
        error,
    }
}

/// Writes a new file beside the old one, if there is one, and puts it in its place:
/// whoever reads sees the old text or the new one.
pub fn replace(file: &Path, text: &str, permissions: fs::Permissions) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let written =
        write_new(&beside, text, Some(permissions)).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        // The half-written one is ours; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Writes a file that is not there yet.
pub fn write_new(path: &Path, text: &str, permissions: Option<fs::Permissions>) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)?;
    if let Some(permissions) = permissions {
        file.set_permissions(permissions)?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
