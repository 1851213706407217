//! Which file is the configuration, and its text. The only part of `config`
//! that asks the environment and the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::file::LARGEST;
use super::lock::Lock;
use super::problem::{Problems, Text};
use super::standard::Surroundings;
use super::{Config, Listen, walk};
use crate::platform::Folders;

/// The name of the file, wherever it is looked for.
pub const FILE_NAME: &str = "models.yaml";

/// Most drop-ins of a file.
const MOST_DROP_INS: usize = 100;

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LoadError {
    /// None was given and none lies where they are looked for.
    #[error(
        "no configuration found: looked for {}; `roundhouse init` writes a first one from \
         what is cached, --config FILE or ROUNDHOUSE_CONFIG name another place",
        .searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
    )]
    NotFound {
        /// The places, in their order.
        searched: Vec<PathBuf>,
    },
    /// There is one, and it has problems.
    #[error("the configuration has problems\n{0}")]
    Problems(Problems),
}

/// Finds, reads and checks the configuration: `flag` is what `--config` said.
pub fn load(flag: Option<&Path>, folders: &Folders) -> Result<Config, LoadError> {
    let file = find(flag, folders)?;
    read(&file, folders).map_err(LoadError::Problems)
}

/// The file that [`load`] would read.
pub fn find(flag: Option<&Path>, folders: &Folders) -> Result<PathBuf, LoadError> {
    let variable = std::env::var_os("ROUNDHOUSE_CONFIG")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let given = flag.map(Path::to_owned).or(variable);
    let here = Path::new(".").join(FILE_NAME);
    choose(given, vec![here, folders.config.join(FILE_NAME)])
}

/// Reads and checks a file with its drop-ins.
pub fn read(file: &Path, folders: &Folders) -> Result<Config, Problems> {
    let text = text(file).map_err(|reason| Problems::whole(Some(file), reason.to_string()))?;
    meaning(file, text, folders)
}

/// Reads and checks what is in force once more, or a text as if the file said that. Here
/// a file without a word is refused: so looks one that is being saved, or was cut off, and
/// it would serve nothing.
pub fn read_again(
    file: &Path,
    instead: Option<String>,
    folders: &Folders,
) -> Result<Config, Problems> {
    let text = match instead {
        Some(text) => text,
        None => text(file).map_err(|reason| Problems::whole(Some(file), reason.to_string()))?,
    };
    let is_word = |line: &str| !matches!(line.trim().chars().next(), None | Some('#'));
    if !text.lines().any(is_word) {
        let message =
            "expected keys with values, found an empty file; to serve nothing, write models: {}";
        return Err(Problems::whole(Some(file), message));
    }
    meaning(file, text, folders)
}

/// What a text would mean in a file's place, beside the file's drop-ins.
pub fn meaning(file: &Path, text: String, folders: &Folders) -> Result<Config, Problems> {
    let texts = beside_drop_ins(file, text)?;
    let config = walk::config_of(&texts, &surroundings(file, folders)?)?;
    let lock = lock_text(file)?;
    Ok(Config {
        digest: Some(digest_of(texts.iter().chain(&lock))),
        lock: lock.as_ref().map(Lock::parse).transpose()?,
        ..config
    })
}

/// What tells the texts of a file, its drop-ins and its lock file from others; nothing where they
/// cannot be read.
pub fn digest(file: &Path) -> Option<[u8; 32]> {
    let texts = beside_drop_ins(file, text(file).ok()?).ok()?;
    let lock = lock_text(file).ok()?;
    Some(digest_of(texts.iter().chain(&lock)))
}

/// SHA-256 of the names and texts.
fn digest_of<'t>(texts: impl Iterator<Item = &'t Text>) -> [u8; 32] {
    let mut sum = Sha256::new();
    for Text { file, text } in texts {
        let name = file
            .as_deref()
            .map(|file| file.as_os_str().as_encoded_bytes());
        for part in [name.unwrap_or_default(), text.as_bytes()] {
            sum.update((part.len() as u64).to_le_bytes());
            sum.update(part);
        }
    }
    sum.finalize().into()
}

/// A text in a file's place, and those of the file's drop-ins.
fn beside_drop_ins(file: &Path, text: String) -> Result<Vec<Text>, Problems> {
    let mut texts = vec![Text {
        file: Some(file.to_owned()),
        text,
    }];
    texts.extend(drop_ins(file)?);
    Ok(texts)
}

/// The folder of a file's drop-ins: `models.d` beside `models.yaml`.
pub fn drop_in_folder(file: &Path) -> PathBuf {
    file.with_extension("d")
}

/// The lock file of a file: `models.lock` beside `models.yaml`.
pub fn lock_file(file: &Path) -> PathBuf {
    file.with_extension("lock")
}

/// The text of a file's lock file. None where there is none; what cannot be read, a
/// link to nothing among it, is a problem: it would be as if nothing were pinned.
fn lock_text(file: &Path) -> Result<Option<Text>, Problems> {
    let lock = lock_file(file);
    match text(&lock) {
        Ok(text) => Ok(Some(Text {
            file: Some(lock),
            text,
        })),
        Err(ReadError::System(_)) if std::fs::symlink_metadata(&lock).is_err() => Ok(None),
        Err(error) => Err(Problems::whole(Some(&lock), error.to_string())),
    }
}

/// Everything that a reading of the configuration depends on: the file, its lock file
/// and the folder of its drop-ins, which may come to be, and those that are there. Also
/// while they have problems. For whoever follows them.
pub fn followed(file: &Path) -> Vec<PathBuf> {
    let mut paths = vec![file.to_owned(), lock_file(file), drop_in_folder(file)];
    paths.extend(drop_in_files(file).unwrap_or_default());
    paths
}

/// The drop-ins of a file, by name. No folder is no drop-ins.
fn drop_in_files(file: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match std::fs::read_dir(drop_in_folder(file)) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in folder {
        let path = entry?.path();
        // Files that begin with a dot are editors'.
        let is_hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        let ends = path.extension().and_then(|end| end.to_str());
        if matches!(ends, Some("yaml" | "yml")) && !path.file_name().is_some_and(is_hidden) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The texts of a file's drop-ins.
fn drop_ins(file: &Path) -> Result<Vec<Text>, Problems> {
    let folder = drop_in_folder(file);
    let whole = |path: &Path, reason: String| Problems::whole(Some(path), reason);
    let files = drop_in_files(file).map_err(|error| whole(&folder, error.to_string()))?;
    if files.len() > MOST_DROP_INS {
        let found = files.len();
        let reason = format!("expected at most {MOST_DROP_INS} drop-ins, found {found}");
        return Err(whole(&folder, reason));
    }
    let read = |path: PathBuf| {
        if path.extension().is_some_and(|end| end == "yml") {
            return Err(whole(
                &path,
                "expected a name that ends with .yaml".to_owned(),
            ));
        }
        let text = text(&path).map_err(|reason| whole(&path, reason.to_string()))?;
        Ok(Text {
            file: Some(path),
            text,
        })
    };
    files.into_iter().map(read).collect()
}

/// What the meaning of a file depends on.
pub fn surroundings(file: &Path, folders: &Folders) -> Result<Surroundings, Problems> {
    let absolute = std::path::absolute(file)
        .map_err(|error| Problems::whole(Some(file), error.to_string()))?;
    Ok(Surroundings {
        folder: absolute.parent().unwrap_or(Path::new("/")).to_owned(),
        home: etcetera::home_dir().ok(),
        hub_cache: folders.hub_cache.clone(),
        state: folders.state.clone(),
    })
}

/// An address of the command line: as in the file, relative to the current folder.
pub fn parse_listen(text: &str) -> Result<Listen, String> {
    walk::parse_listen(text, |path| std::path::absolute(path).ok())
}

/// The order of the search: what was given, else the first place that has something.
fn choose(given: Option<PathBuf>, places: Vec<PathBuf>) -> Result<PathBuf, LoadError> {
    // A thing that is there and cannot be read is told, not passed over.
    let is_there = |path: &&PathBuf| std::fs::symlink_metadata(path).is_ok();
    match given.or_else(|| places.iter().find(is_there).cloned()) {
        Some(file) => Ok(file),
        None => Err(LoadError::NotFound { searched: places }),
    }
}

/// Why a file's text could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("{0}")]
    System(#[from] io::Error),
    /// A folder, a pipe, a device.
    #[error("expected a file, found {0}")]
    NotFile(&'static str),
    /// Over the limit.
    #[error("expected at most {LARGEST} bytes, found more")]
    TooLarge,
    /// Not text.
    #[error("expected UTF-8 text, found another byte at offset {0}")]
    NotText(usize),
}

/// The text of a file. Pipes and devices are refused without reading them, and
/// nothing beyond the limit is read.
pub fn text(file: &Path) -> Result<String, ReadError> {
    // Without O_NONBLOCK the opening itself would wait for a pipe's other end.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(file)?;
    let kind = opened.metadata()?;
    if !kind.is_file() {
        return Err(ReadError::NotFile(kind_name(&opened)));
    }
    let mut bytes = Vec::new();
    opened.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    decode(bytes)
}

/// The text that the bytes of a file are, if they are text within the limit.
pub fn decode(bytes: Vec<u8>) -> Result<String, ReadError> {
    if bytes.len() > LARGEST {
        return Err(ReadError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|error| ReadError::NotText(error.utf8_error().valid_up_to()))
}

/// What a thing that is no file is.
fn kind_name(file: &File) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match file.metadata().map(|metadata| metadata.file_type()) {
        Ok(kind) if kind.is_dir() => "a folder",
        Ok(kind) if kind.is_fifo() => "a pipe",
        Ok(kind) if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn c08_only_files_of_text_are_read_and_nothing_hangs() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("folder")).expect("created");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).expect("created");
        std::os::unix::fs::symlink(at("loop"), at("loop")).expect("created");
        std::os::unix::fs::symlink("/dev/zero", at("zero")).expect("created");
        std::fs::write(at("large"), vec![b' '; LARGEST + 1]).expect("written");
        std::fs::write(at("limit"), vec![b' '; LARGEST]).expect("written");
        std::fs::write(at("latin"), b"a: \xe9").expect("written");
        let check = |name: &str, expected: &str| {
            let start = Instant::now();
            let got = match text(&at(name)) {
                Ok(text) => format!("{} bytes", text.len()),
                Err(error) => error.to_string(),
            };
            assert!(got.contains(expected), "{name}: {got}");
            assert!(start.elapsed() < Duration::from_secs(1), "{name} hangs");
        };
        check("folder", "expected a file, found a folder");
        check("pipe", "expected a file, found a pipe");
        check("zero", "expected a file, found a device");
        check("loop", "symbolic link");
        check("missing", "No such file");
        check("large", "expected at most 1000000 bytes");
        check("limit", "1000000 bytes");
        check("latin", "another byte at offset 3");
    }

    #[test]
    fn the_search_has_an_order_and_says_where_it_looked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (here, home) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        let places = vec![here.clone(), home.clone()];
        let chosen = |given: Option<&str>| choose(given.map(PathBuf::from), places.clone());
        let text = chosen(None).expect_err("none is there").to_string();
        assert!(text.contains("a.yaml") && text.contains("b.yaml"), "{text}");
        std::fs::write(&home, "").expect("written");
        assert_eq!(chosen(None), Ok(home));
        std::fs::create_dir(&here).expect("created");
        assert_eq!(chosen(None), Ok(here), "a broken one is told");
        assert_eq!(chosen(Some("c")), Ok(PathBuf::from("c")));
    }
}
