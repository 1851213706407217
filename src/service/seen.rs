//! What the configuration file and the cache folders look like, to tell when they
//! are worth reading again. Knows nothing of what is in them.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::config::{Config, Source, locate};
use crate::follow::Identity;
use crate::model::cache::fingerprint::Fingerprint;

/// How often the folders are looked at, at most.
const FOLDERS_EVERY: Duration = Duration::from_secs(2);

/// The looking at folders takes at most this part of the time.
const FOLDERS_PART: u32 = 100;

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The text of the file.
    File,
    /// What lies in the folders.
    Folders,
}

/// What was seen last.
#[derive(Clone, Debug)]
pub struct Seen {
    file: Identity,
    /// The digest of its text; nothing while it cannot be read.
    text: Option<[u8; 32]>,
    folders: Fingerprint,
    /// When the folders are looked at again.
    folders_at: Instant,
}

impl Seen {
    /// What is there now.
    pub fn of(config: &Config) -> Self {
        let source = config.source.as_deref();
        Self {
            // Before the text: a change in between is seen as one more.
            file: source.map_or_else(Identity::default, Identity::of),
            text: text(config),
            folders: folders(config),
            folders_at: Instant::now() + FOLDERS_EVERY,
        }
    }

    /// Looks again. A file that was written anew with the same text is the same.
    pub fn look(&mut self, config: &Config) -> Option<Difference> {
        let mut found = None;
        let begun = Instant::now();
        if begun >= self.folders_at {
            let folders = folders(config);
            if folders != std::mem::replace(&mut self.folders, folders) {
                found = Some(Difference::Folders);
            }
            let pause = begun.elapsed() * FOLDERS_PART;
            self.folders_at = Instant::now() + pause.max(FOLDERS_EVERY);
        }
        let source = config.source.as_deref();
        let file = source.map_or_else(Identity::default, Identity::of);
        if file != std::mem::replace(&mut self.file, file) {
            let text = text(config);
            if text != std::mem::replace(&mut self.text, text) {
                found = Some(Difference::File);
            }
        }
        found
    }
}

/// The digest of the file's text.
fn text(config: &Config) -> Option<[u8; 32]> {
    let text = locate::text(config.source.as_deref()?).ok()?;
    Some(Sha256::digest(text).into())
}

/// What the cache folders and the folders of entries look like.
fn folders(config: &Config) -> Fingerprint {
    let paths = config
        .models
        .iter()
        .filter_map(|entry| match &entry.source {
            Source::Path(path) => Some(path.as_path()),
            Source::Repository { .. } => None,
        });
    Fingerprint::of(&config.cache, paths)
}
