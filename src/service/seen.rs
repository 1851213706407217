//! What the configuration file with its drop-ins and the cache folders look like, to
//! tell when they are worth reading again. Knows nothing of what is in them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{Config, Source, locate};
use crate::follow::Identity;
use crate::model::cache::fingerprint::Fingerprint;

/// How long after a change the text is read at every look: a clock of a disk may be
/// so coarse that a second change looks like the first.
const COARSEST_CLOCK: Duration = Duration::from_secs(3);

/// How often the text is read in any case: there are network volumes and mounts where
/// a file that has changed looks as before.
const TEXT_EVERY: Duration = Duration::from_secs(10);

/// How often the folders are looked at, at most.
const FOLDERS_EVERY: Duration = Duration::from_secs(2);

/// The looking at folders takes at most this part of the time.
const FOLDERS_PART: u32 = 100;

/// What was seen last.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The file, the folder of its drop-ins, and those.
    files: Vec<(PathBuf, Identity)>,
    /// The digest of their texts; nothing while they cannot be read.
    text: Option<[u8; 32]>,
    /// Until then the text is read at every look.
    text_until: Instant,
    /// Then it is read in any case.
    text_at: Instant,
    folders: Fingerprint,
    /// When the folders are looked at again.
    folders_at: Instant,
}

impl Seen {
    /// What a configuration was read from, and what its folders look like now. To be
    /// made before the folders are scanned: a change in between is seen as one more.
    pub fn of(config: &Config) -> Self {
        let now = Instant::now();
        Self {
            // As if it had changed: so the first look reads the text, and finds
            // whatever has become of it since it was read for the configuration.
            files: Vec::new(),
            text: config.digest,
            text_until: now,
            text_at: now,
            folders: folders(config),
            folders_at: now + FOLDERS_EVERY,
        }
    }

    /// Looks again; answers whether the text or the folders are different. A file
    /// that was written anew with the same text is the same.
    pub fn look(&mut self, config: &Config) -> bool {
        let folders = Instant::now() >= self.folders_at && self.look_at_folders(config);
        self.look_at_file(config) || folders
    }

    /// Takes over what was read and put in force.
    pub fn has_loaded(&mut self, loaded: &Self) {
        self.text = loaded.text;
        self.folders = loaded.folders;
    }

    fn look_at_file(&mut self, config: &Config) -> bool {
        let Some(source) = config.source.as_deref() else {
            return false;
        };
        let now = Instant::now();
        // Before the text: a change in between is seen as one more.
        let before = std::mem::replace(&mut self.files, files(source));
        if self.files != before {
            self.text_until = now + COARSEST_CLOCK;
        } else if now >= self.text_until && now < self.text_at {
            return false;
        }
        self.text_at = now + TEXT_EVERY;
        let text = locate::digest(source);
        text != std::mem::replace(&mut self.text, text)
    }

    fn look_at_folders(&mut self, config: &Config) -> bool {
        let begun = Instant::now();
        let folders = folders(config);
        let pause = begun.elapsed() * FOLDERS_PART;
        self.folders_at = Instant::now() + pause.max(FOLDERS_EVERY);
        folders != std::mem::replace(&mut self.folders, folders)
    }
}

/// A configuration file and what belongs to it, each as it looks now.
fn files(source: &Path) -> Vec<(PathBuf, Identity)> {
    let followed = locate::followed(source).into_iter();
    let identified = followed.map(|path| {
        let identity = Identity::of(&path);
        (path, identity)
    });
    identified.collect()
}

/// What the cache folders, the folders of entries and the pinned snapshots look like.
/// Of the latter every file counts, since its length is pinned.
fn folders(config: &Config) -> Fingerprint {
    let sources = config.models.iter();
    let sources = sources.flat_map(|entry| {
        let adapter = entry.adapter.as_ref().map(|adapted| &adapted.source);
        std::iter::once(&entry.source).chain(adapter)
    });
    let paths = sources.filter_map(|source| match source {
        Source::Path(path) => Some(path.clone()),
        Source::Repository { .. } => None,
    });
    let pinned = config.lock.iter().flat_map(|lock| lock.snapshots());
    let pinned = pinned.flat_map(|below| config.cache.iter().map(move |root| root.join(&below)));
    let folders: Vec<PathBuf> = paths.chain(pinned).collect();
    Fingerprint::of(&config.cache, folders.iter().map(PathBuf::as_path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Folders;

    /// A file and what was seen of it, as it was read.
    fn seen(file: &std::path::Path) -> (Config, Seen) {
        let folder = file.parent().expect("a folder");
        let folders = Folders {
            config: folder.to_owned(),
            state: folder.to_owned(),
            runtime: folder.to_owned(),
            hub_cache: folder.join("hub"),
        };
        let config = locate::read(file, &folders).expect("valid");
        let seen = Seen::of(&config);
        (config, seen)
    }

    #[test]
    fn a_change_is_seen_once_also_between_reading_and_the_first_look() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("models.yaml");
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        write("allow: [a/b]");
        let (config, mut seen) = seen(&file);
        write("allow: [a/c]");
        assert!(seen.look(&config), "before the first look");
        assert!(!seen.look(&config));
        write("allow: [a/c]");
        assert!(!seen.look(&config), "the same text");
        std::fs::remove_file(&file).expect("removed");
        assert!(seen.look(&config), "gone");
        assert!(!seen.look(&config));
        write("allow: [a/c]");
        assert!(seen.look(&config), "there again");
        let drop_in = folder.path().join("models.d");
        std::fs::create_dir(&drop_in).expect("made");
        assert!(!seen.look(&config), "nothing in it");
        std::fs::write(drop_in.join("one.yaml"), "allow: [b/c]").expect("written");
        assert!(seen.look(&config), "a drop-in");
        std::fs::remove_dir_all(&drop_in).expect("removed");
        assert!(seen.look(&config), "gone with its folder");
    }

    #[test]
    fn a_text_is_the_truth_where_its_file_looks_as_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("models.yaml");
        std::fs::write(&file, "allow: [a/b]").expect("written");
        let (config, mut seen) = seen(&file);
        assert!(!seen.look(&config));
        // A disk whose clock stands still.
        std::fs::write(&file, "allow: [a/c]").expect("written");
        seen.files = files(&file);
        assert!(seen.look(&config));
        // A mount that never tells, some time later.
        std::fs::write(&file, "allow: [a/d]").expect("written");
        seen.files = files(&file);
        seen.text_until = Instant::now();
        assert!(!seen.look(&config), "not yet");
        seen.text_at = Instant::now();
        assert!(seen.look(&config));
    }
}
