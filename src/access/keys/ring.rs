//! The keys in force: those of the file and those of the environment, replaced
//! as a whole. What cannot be read replaces nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::{Key, KeyError, Keys, file};
use crate::follow::{self, Identity};
use crate::shutdown::Tasks;

/// Holds the keys in force.
#[derive(Debug)]
pub struct KeyRing {
    file: PathBuf,
    given: Vec<Key>,
    current: ArcSwap<Keys>,
    /// Held while the file is read, so that an older state never replaces a newer one.
    reading: Mutex<()>,
}

impl KeyRing {
    /// Reads the file, which need not be there, and adds the keys of the environment.
    pub fn open(path: PathBuf, given: Vec<Key>) -> Result<Self, KeyError> {
        let keys = file::read(&path)?.unwrap_or_default().joined(&given)?;
        Ok(Self {
            file: path,
            given,
            current: ArcSwap::from_pointee(keys),
            reading: Mutex::new(()),
        })
    }

    /// The keys in force now.
    pub fn load(&self) -> Arc<Keys> {
        self.current.load_full()
    }

    /// The file of the keys.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Reads the file again; answers whether anything is different. On an error
    /// the keys stay as they were.
    pub fn refresh(&self) -> Result<bool, KeyError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.load();
        let read = match file::read(&self.file)? {
            None if before.iter().any(|key| !key.given) => {
                return Err(KeyError::Gone(self.file.clone()));
            }
            read => read.unwrap_or_default().joined(&self.given)?,
        };
        let is_different = read != *before;
        if is_different {
            self.current.store(Arc::new(read));
        }
        Ok(is_different)
    }

    /// Changes the file and puts the change in force.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Keys) -> Result<T, KeyError>,
    ) -> Result<T, KeyError> {
        let changed = file::change(&self.file, change)?;
        self.refresh()?;
        Ok(changed)
    }

    /// Removes a key by id or name; one of the environment stays.
    pub fn revoke(&self, id_or_name: &str) -> Result<Key, KeyError> {
        let given = self
            .given
            .iter()
            .find(|key| key.id == id_or_name || key.name == id_or_name);
        match given {
            Some(key) => Err(KeyError::Given(key.name.clone())),
            None => self.change(|keys| keys.revoke(id_or_name)),
        }
    }

    /// Follows the file: what another process changes is in force within a second.
    pub fn follow(self: &Arc<Self>, tasks: &Tasks) {
        let ring = self.clone();
        let changed = move || match ring.refresh() {
            Ok(true) => tracing::info!("the keys have changed"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(
                    ?error,
                    "the keys were not read again; those before stay in force"
                )
            }
        };
        // Taken after the first reading: if it changed in between, nothing is told
        // of it, so it is read once more.
        let seen = Identity::of(&self.file);
        changed();
        let path = self.file.clone();
        tasks.spawn(follow::follow(
            path,
            seen,
            follow::EVERY,
            tasks.stop_signal(),
            changed,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KeyClass, Scope};
    use super::*;

    fn ring(path: &Path) -> KeyRing {
        KeyRing::open(path.to_owned(), Vec::new()).expect("opened")
    }

    #[test]
    fn a_damaged_or_missing_file_leaves_the_last_good_keys() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        let ring = ring(&path);
        let make = |keys: &mut Keys| keys.make(KeyClass::Inference, Some("a"), Scope::default());
        let (_, text) = ring.change(make).expect("made");
        let whole = std::fs::read(&path).expect("read");
        let in_force = || ring.load().find(text.expose()).is_some();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).expect("written");
            assert!(
                matches!(ring.refresh(), Err(KeyError::Malformed { .. })),
                "{end} bytes"
            );
            assert!(in_force(), "{end} bytes");
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(ring.refresh(), Err(KeyError::Gone(_))) && in_force());
        std::fs::create_dir(&path).expect("made");
        assert!(ring.refresh().is_err() && in_force());
        std::fs::remove_dir(&path).expect("removed");
        std::fs::write(&path, r#"{"keys":[]}"#).expect("written");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&path, open).expect("mode");
        assert!(ring.refresh().is_err() && in_force(), "others may read it");
        file::change(&path, |_| Ok(())).expect_err("nor is it changed");
        std::fs::remove_file(&path).expect("removed");
        file::change(&path, |_| Ok(())).expect("an empty file");
        assert!(ring.refresh().expect("read") && !in_force());
    }

    #[test]
    fn keys_of_the_environment_stand_beside_the_file_and_are_not_revoked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        let text = "abcdefghij0123456789";
        let given = super::super::given::read(|name| {
            (name == "ROUNDHOUSE_MANAGEMENT_KEY").then(|| text.into())
        });
        let ring = KeyRing::open(path.clone(), given.expect("a key")).expect("opened");
        let id = ring.load().find(text).expect("in force").id.clone();
        for name in [id.as_str(), "ROUNDHOUSE_MANAGEMENT_KEY"] {
            assert!(
                matches!(ring.revoke(name), Err(KeyError::Given(_))),
                "{name}"
            );
        }
        let make = |keys: &mut Keys| keys.make(KeyClass::Inference, Some("a"), Scope::default());
        ring.change(make).expect("made");
        assert_eq!(ring.load().iter().count(), 2);
        let kept = std::fs::read_to_string(&path).expect("text");
        assert!(!kept.contains("ROUNDHOUSE_MANAGEMENT_KEY"), "{kept}");
        ring.revoke("a").expect("revoked");
        assert!(!ring.refresh().expect("read"), "the same as before");
    }

    #[test]
    fn changes_of_many_at_once_are_all_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for number in 0..5 {
                        let name = format!("{writer}.{number}");
                        let make = |keys: &mut Keys| {
                            keys.make(KeyClass::Inference, Some(&name), Scope::default())
                        };
                        file::change(path, make).expect("made");
                    }
                });
            }
        });
        assert_eq!(ring(&path).load().iter().count(), 20);
    }
}
