//! The folder with the prompts of all models: what lies there, and removing of it what
//! is too much, of another version, or not wanted any more. Needs no worker.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rand::TryRng;
use rand::rngs::SysRng;

use super::room::{Lying, Quota, surplus};
use crate::records::private;

/// Bytes of the salt.
pub const SALT: usize = 32;

/// What the files of pieces end in.
const ENDING: &str = ".safetensors";

/// What the names of folders begin with that are being removed; no model's does.
const GONE: &str = ".gone-";

/// The prompts of all models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where they lie.
    pub path: PathBuf,
    /// How much may lie there; nothing at all is wanted without one.
    pub quota: Option<Quota>,
}

/// What lies there of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Bytes of all files.
    pub bytes: u64,
    /// Tokens of all pieces.
    pub tokens: u64,
}

/// The file of a piece.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// The folder of its model.
    pub model: String,
    /// Tokens ahead of its own, and its own.
    pub tokens: (u64, u64),
    /// Its bytes.
    pub bytes: u64,
    /// When it was used last.
    pub used: SystemTime,
}

impl Folder {
    /// The folder of a model; nothing if its name could not be one.
    pub fn of_model(&self, model: &str) -> Option<PathBuf> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        let is_name = !model.is_empty()
            && model.len() <= 200
            && model.bytes().all(fits)
            && !model.starts_with('.')
            && model
                .split('/')
                .all(|part| !["", ".", ".."].contains(&part));
        is_name.then(|| self.path.join(model.replace('/', "+")))
    }

    /// Makes it ready for a server: removes what another version wrote, what a writer did
    /// not come to the end of, and what is beyond the quotas; all of it if none is wanted.
    ///
    /// # Errors
    /// Those of the system.
    pub fn prepare(&self) -> io::Result<()> {
        let Some(quota) = self.quota else {
            return self.clear(None);
        };
        private::create_folder(&self.path)?;
        salt(&self.path)?;
        remove_gone(&self.path)?;
        for model in folders(&self.path)? {
            remove_gone(&model)?;
            for form in folders(&model)? {
                let name = form
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let (version, _) = name.rsplit_once('-').unwrap_or_default();
                if version != env!("CARGO_PKG_VERSION") {
                    remove_folder(&form)?;
                    continue;
                }
                for caller in folders(&form)? {
                    remove_unfinished(&caller)?;
                }
            }
        }
        remove_surplus(&self.path, quota, None)?;
        Ok(())
    }

    /// What lies there, by model.
    ///
    /// # Errors
    /// Those of the system.
    pub fn usage(&self) -> io::Result<BTreeMap<String, Usage>> {
        let mut models: BTreeMap<String, Usage> = BTreeMap::new();
        for found in pieces(&self.path)? {
            let usage = models.entry(found.model.replace('+', "/")).or_default();
            usage.bytes += found.bytes;
            usage.tokens += found.tokens.1;
        }
        Ok(models)
    }

    /// Removes the prompts of a model, or of all. A worker that is just writing some finds
    /// its folder gone and writes no more.
    ///
    /// # Errors
    /// Those of the system.
    pub fn clear(&self, model: Option<&str>) -> io::Result<()> {
        match model {
            Some(model) => self
                .of_model(model)
                .map_or(Ok(()), |path| remove_folder(&path)),
            None => {
                remove_gone(&self.path)?;
                folders(&self.path)?
                    .iter()
                    .try_for_each(|path| remove_folder(path))
            }
        }
    }
}

/// The salt of the digests, made if it is not there.
pub(super) fn salt(root: &Path) -> io::Result<[u8; SALT]> {
    let path = root.join("salt");
    let mut salt = [0; SALT];
    match fs::read(&path) {
        Ok(bytes) if bytes.len() == SALT => {
            salt.copy_from_slice(&bytes);
            Ok(salt)
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            SysRng.try_fill_bytes(&mut salt).map_err(io::Error::other)?;
            private::replace(&path, &salt)?;
            Ok(salt)
        }
    }
}

/// Removes what has been used longest ago until the quotas hold with so many bytes of
/// a model more. Answers how many files went.
pub(super) fn remove_surplus(
    root: &Path,
    quota: Quota,
    coming: Option<(&str, u64)>,
) -> io::Result<usize> {
    let found = pieces(root)?;
    let mut models: Vec<&str> = found.iter().map(|found| found.model.as_str()).collect();
    models.extend(coming.map(|(model, _)| model));
    models.sort_unstable();
    models.dedup();
    let number = |model: &str| models.binary_search(&model).unwrap_or_default();
    let lying = found.iter().map(|found| Lying {
        model: number(&found.model),
        bytes: found.bytes,
        used: nanoseconds(found.used),
        from: found.tokens.0,
    });
    let lying: Vec<Lying> = lying.collect();
    let coming = coming.map(|(model, bytes)| (number(model), bytes));
    let goes = surplus(&lying, quota, coming);
    for place in &goes {
        remove_file(&found[*place].path)?;
    }
    Ok(goes.len())
}

fn nanoseconds(time: SystemTime) -> u128 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos())
}

/// The files of all pieces.
fn pieces(root: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for model in folders(root)? {
        let name = model
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for form in folders(&model)? {
            for caller in folders(&form)? {
                for path in entries(&caller)? {
                    let Some((tokens, _)) = parts_of(&path) else {
                        continue;
                    };
                    let about = match fs::symlink_metadata(&path) {
                        Ok(about) => about,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(error),
                    };
                    found.push(Found {
                        path,
                        model: name.clone(),
                        tokens,
                        bytes: about.len(),
                        used: about.modified()?,
                    });
                }
            }
        }
    }
    Ok(found)
}

/// The name of a piece's file.
pub(super) fn name_of(from: u64, tokens: usize, key: &str) -> String {
    format!("{from}-{tokens}-{key}{ENDING}")
}

/// What the name of a file says of its piece: tokens ahead of it, its tokens, its key.
pub(super) fn parts_of(path: &Path) -> Option<((u64, u64), &str)> {
    let name = path.file_name()?.to_str()?.strip_suffix(ENDING)?;
    let mut parts = name.splitn(3, '-');
    let (from, tokens, key) = (parts.next()?, parts.next()?, parts.next()?);
    Some(((from.parse().ok()?, tokens.parse().ok()?), key))
}

/// Removes what a writer did not come to the end of.
pub(super) fn remove_unfinished(folder: &Path) -> io::Result<()> {
    let unfinished = |path: &PathBuf| path.extension().is_some_and(|end| end == "part");
    let mut paths = entries(folder)?.into_iter().filter(unfinished);
    paths.try_for_each(|path| remove_file(&path))
}

/// The folders in a folder; links are none, and what is being removed is none. None if it
/// is not there.
pub(super) fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = entries(folder)?;
    found.retain(|path| is_folder(path) && !is_gone(path));
    Ok(found)
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
}

fn is_gone(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(GONE)
}

/// Goes on with what somebody began to remove.
fn remove_gone(folder: &Path) -> io::Result<()> {
    let mut gone = entries(folder)?;
    gone.retain(|path| is_gone(path) && is_folder(path));
    gone.iter()
        .try_for_each(|path| or_gone(fs::remove_dir_all(path)))
}

/// What is in a folder; nothing if it is not there.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removes a folder under a name that nobody writes to; one that is gone is as good.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!("{GONE}{}-{name}", std::process::id()));
    let removed = fs::rename(folder, &aside).and_then(|()| fs::remove_dir_all(&aside));
    or_gone(removed)
}

/// Removes a file; one that is gone is as good.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    or_gone(fs::remove_file(path))
}

fn or_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn put(root: &Path, place: &str, bytes: usize, used: u64) -> PathBuf {
        let path = root.join(place);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, vec![0; bytes]).expect("written");
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
        super::super::file::touch(&path, used).expect("touched");
        path
    }

    #[test]
    fn a_models_folder_is_one_name_of_its_own() {
        let folder = Folder {
            path: PathBuf::from("/p"),
            quota: None,
        };
        let check = |model: &str, expected: Option<&str>| {
            assert_eq!(
                folder.of_model(model),
                expected.map(PathBuf::from),
                "{model}"
            );
        };
        check("org/name", Some("/p/org+name"));
        check("name:tag", Some("/p/name:tag"));
        for wrong in ["", "..", "a/../b", "/a", "a//b", "a+b", "a b", "a\0"] {
            check(wrong, None);
        }
    }

    #[test]
    fn d20_a_start_leaves_what_this_version_wrote_within_the_quotas() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("prompts");
        let own = concat!(env!("CARGO_PKG_VERSION"), "-00ff");
        let old = put(&root, &format!("a+b/{own}/c/0-64-aa.safetensors"), 100, 1);
        let end = put(&root, &format!("a+b/{own}/c/64-9-bb.safetensors"), 100, 1);
        let new = put(&root, &format!("a+b/{own}/c/0-64-cc.safetensors"), 100, 3);
        let other = put(&root, &format!("d/{own}/c/0-64-dd.safetensors"), 100, 2);
        let part = put(&root, &format!("d/{own}/c/0-64-ee.77.part"), 100, 9);
        let foreign = put(&root, "d/0.0.0-00ff/c/0-64-ff.safetensors", 100, 9);
        let folder = |each, all| Folder {
            path: root.clone(),
            quota: Some(Quota { each, all }),
        };
        folder(300, 400).prepare().expect("prepared");
        assert!(!part.exists() && !foreign.exists());
        let usage = folder(300, 400).usage().expect("told");
        let expected = |bytes, tokens| Usage { bytes, tokens };
        assert_eq!(usage["a/b"], expected(300, 137));
        assert_eq!(usage["d"], expected(100, 64));
        folder(200, 300).prepare().expect("prepared");
        assert!(old.exists() && !end.exists() && new.exists() && other.exists());
        folder(200, 100).prepare().expect("prepared");
        assert!(!old.exists() && new.exists() && !other.exists());
        let before = salt(&root).expect("a salt");
        assert_eq!(salt(&root).expect("a salt"), before);
        folder(200, 100).clear(Some("x/y")).expect("nothing to do");
        assert!(new.exists());
        folder(200, 100).clear(Some("a/b")).expect("cleared");
        assert!(!new.exists());
        let new = put(&root, &format!("a+b/{own}/c/0-64-cc.safetensors"), 100, 3);
        let unwanted = Folder {
            path: root.clone(),
            quota: None,
        };
        unwanted.prepare().expect("prepared");
        assert!(!new.exists() && unwanted.usage().expect("told").is_empty());
        let nowhere = Folder {
            path: root.join("nowhere"),
            quota: None,
        };
        nowhere.prepare().expect("nothing to do");
    }
}
