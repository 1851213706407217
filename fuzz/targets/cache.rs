//! A cache folder from a description, for the scanner. Each line of a description
//! changes a tree in which one complete model stands already, so that a single
//! hostile line reaches what is looked at last:
//!
//! ```text
//! d PATH            a folder
//! f PATH CONTENT    a file
//! w PATH N HEADER   a weight file: the header's length, the header, N bytes
//! l PATH TARGET     a link; @ in it is a folder outside the cache
//! p PATH            a pipe
//! x PATH            nothing: what is there is removed
//! ```
//!
//! A `$` at the start of a path is the snapshot. Lines that make no sense are
//! passed over. Bytes stay what they are, since names of files need not be text.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use roundhouse::model::cache::CacheIndex;
use roundhouse::model::id::ModelId;
use roundhouse::model::kind::Kind;
use roundhouse::model::manifest::{Manifest, Rules};

/// The snapshot that is complete before the first line.
const SNAPSHOT: &str = "models--a--b/snapshots/0123abcd";

/// Most lines of a description.
const MOST_LINES: usize = 64;

/// Most bytes of the data of a weight file.
const MOST_DATA: usize = 4096;

const CONFIG: &[u8] = br#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 8,
"num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9, "max_position_embeddings": 64}"#;

const HEADER: &[u8] = br#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#;

const RULES: Rules = Rules {
    architectures: &[("llama", Kind::Chat)],
    trust_remote_code: false,
};

/// Scans the described folder: every judgement is made, none is about anything but
/// the folder, and nothing that lies elsewhere is opened.
pub fn cache(data: &[u8]) {
    // In memory where the system has that; the folder goes when it is dropped.
    let place = Path::new("/dev/shm");
    let base = match place.is_dir() {
        true => tempfile::tempdir_in(place),
        false => tempfile::tempdir(),
    };
    let base = base.expect("a folder");
    let tree = Tree::of_a_model(&base.path().join("hub"), &base.path().join("outside"));
    for line in data.split(|&byte| byte == b'\n').take(MOST_LINES) {
        let _ = tree.apply(line);
    }
    let guard = Guard::over(&tree.outside);
    let roots = [tree.root.clone()];
    let index = CacheIndex::scan(&roots, RULES);
    let real = tree.root.canonicalize();
    for model in index.models() {
        assert!(model.repository.starts_with(&tree.root));
        assert_eq!(ModelId::parse(model.id.as_str()).as_ref(), Ok(&model.id));
        match &model.state {
            Ok(manifest) => judge(manifest, real.as_ref().expect("a cache folder")),
            Err(reason) => {
                assert!(reason.to_string().starts_with(reason.code()), "{reason}");
                drop(reason.remedy(&model.id, None));
            }
        }
        for revision in ["main", "0123abcd", "pr/1", "../../x", ""] {
            let found = index.snapshot(&model.id, Some(revision), &RULES);
            if let Ok(manifest) = found.expect("it is in the index") {
                judge(&manifest, real.as_ref().expect("a cache folder"));
            }
        }
    }
    for stranger in &index.strangers {
        assert!(stranger.path.starts_with(&tree.root) && !stranger.why.is_empty());
    }
    guard.saw_nothing();
    for again in [CacheIndex::scan(&roots, RULES), index.scan_again(&roots)] {
        assert!(index.models().eq(again.models()), "two judgements");
    }
}

/// What is offered lies in the cache folder, whole.
fn judge(manifest: &Manifest, root: &Path) {
    assert!(manifest.dir.starts_with(root), "{manifest:?}");
    let mut bytes = 0;
    for file in &manifest.weight_files {
        let real = manifest.dir.join(&file.name).canonicalize();
        let real = real.expect("an offered file is there");
        assert!(real.starts_with(root), "{real:?}");
        assert_eq!(real.metadata().expect("a file").len(), file.len);
        bytes += file.len;
    }
    assert!(manifest.scripted || manifest.weight_bytes <= bytes);
}

/// A cache folder and a folder beside it that nobody may open.
struct Tree {
    root: PathBuf,
    outside: PathBuf,
}

impl Tree {
    fn of_a_model(root: &Path, outside: &Path) -> Self {
        let tree = Self {
            root: root.to_owned(),
            outside: outside.to_owned(),
        };
        fs::create_dir(outside).expect("a folder");
        for (name, content) in [("main", b"0123abcd" as &[u8]), ("config.json", CONFIG)] {
            fs::write(outside.join(name), content).expect("written");
        }
        let snapshot = root.join(SNAPSHOT);
        let repository = root.join("models--a--b");
        fs::create_dir_all(&snapshot).expect("a folder");
        for folder in ["blobs", "refs"] {
            fs::create_dir(repository.join(folder)).expect("a folder");
        }
        fs::write(repository.join("refs/main"), "0123abcd").expect("written");
        let files = [
            ("config.json", CONFIG.to_vec()),
            ("tokenizer.json", b"{}".to_vec()),
            ("model.safetensors", weights(8, HEADER)),
        ];
        for (name, content) in files {
            let blob = format!("of-{name}");
            fs::write(repository.join("blobs").join(&blob), content).expect("written");
            symlink(format!("../../blobs/{blob}"), snapshot.join(name)).expect("linked");
        }
        tree
    }

    /// One line. Nothing if it makes no sense or the system refuses.
    fn apply(&self, line: &[u8]) -> Option<()> {
        let (kind, rest) = word(line);
        let (path, rest) = word(rest);
        let path = self.path(path)?;
        self.remove(&path);
        if kind != b"x" {
            fs::create_dir_all(path.parent()?).ok()?;
        }
        match kind {
            b"d" => fs::create_dir(path).ok(),
            b"f" => fs::write(path, rest).ok(),
            b"w" => {
                let (count, header) = word(rest);
                let count = std::str::from_utf8(count).ok()?.parse().ok()?;
                fs::write(path, weights(count, header)).ok()
            }
            b"l" => symlink(self.target(rest), path).ok(),
            b"p" => pipe(&path),
            _ => None,
        }
    }

    /// A place in the tree, by names only. No link is followed on the way to it, so
    /// that the description itself cannot write outside.
    fn path(&self, typed: &[u8]) -> Option<PathBuf> {
        let typed = match typed.strip_prefix(b"$") {
            Some(rest) => [SNAPSHOT.as_bytes(), rest].concat(),
            None => typed.to_owned(),
        };
        let mut path = self.root.clone();
        for part in typed.split(|&byte| byte == b'/') {
            if path.is_symlink() || matches!(part, b"" | b"." | b"..") || part.contains(&0) {
                return None;
            }
            path.push(OsStr::from_bytes(part));
        }
        Some(path)
    }

    /// Where a link leads: anywhere.
    fn target(&self, typed: &[u8]) -> PathBuf {
        let outside = self.outside.as_os_str().as_bytes();
        let parts: Vec<_> = typed.split(|&byte| byte == b'@').collect();
        PathBuf::from(OsStr::from_bytes(&parts.join(outside)))
    }

    fn remove(&self, path: &Path) {
        let _ = match path.symlink_metadata() {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            _ => fs::remove_file(path),
        };
    }
}

/// The first word and what comes after one blank.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| byte == b' ');
    let end = end.unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

fn weights(count: usize, header: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + count.min(MOST_DATA), 0);
    file
}

#[cfg(target_os = "linux")]
fn pipe(path: &Path) -> Option<()> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).ok()
}

#[cfg(not(target_os = "linux"))]
fn pipe(_: &Path) -> Option<()> {
    None
}

/// Ears on a folder: the system tells whoever opens it or what is in it.
#[cfg(target_os = "linux")]
struct Guard(rustix::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl Guard {
    fn over(folder: &Path) -> Self {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let ears = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("ears");
        let what = WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::MODIFY;
        add_watch(&ears, folder, what).expect("a watch");
        Self(ears)
    }

    fn saw_nothing(self) {
        use rustix::fs::inotify::Reader;
        let mut room = [std::mem::MaybeUninit::uninit(); 512];
        let mut reader = Reader::new(self.0, &mut room);
        if let Ok(event) = reader.next() {
            panic!("opened outside of the cache: {event:?}");
        }
    }
}

#[cfg(not(target_os = "linux"))]
struct Guard;

#[cfg(not(target_os = "linux"))]
impl Guard {
    fn over(_: &Path) -> Self {
        Self
    }

    fn saw_nothing(self) {}
}
