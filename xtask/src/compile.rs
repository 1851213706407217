//! Compiling and linking C++ with the system compiler.
//!
//! Each object lies beside a key file with the hash of everything that it was
//! made from, so that only what changed is compiled again, also after an
//! interruption.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use sha2::{Digest, Sha256};

use crate::Result;
use crate::place::{self, output_of};

/// A compiler call for several sources that share flags and headers.
pub struct Unit<'a> {
    /// Named in progress lines.
    pub label: &'a str,
    pub sources: Vec<PathBuf>,
    pub flags: Vec<String>,
    /// Hashed with every source, beside the source itself: headers, versions.
    pub also_made_from: String,
    /// Where the objects go.
    pub folder: PathBuf,
}

/// The C++ compiler: `CXX` where it is set, else `c++`.
pub fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".into())
}

/// The first line of `compiler --version`, part of every key.
pub fn compiler_version() -> Result<String> {
    let said = output_of(Command::new(compiler()).arg("--version"))
        .map_err(|error| format!("a C++ compiler is needed (tried '{}'): {error}", compiler()))?;
    Ok(said.lines().next().unwrap_or_default().to_string())
}

/// A short name for some content.
pub fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    digest.iter().take(12).map(|b| format!("{b:02x}")).collect()
}

impl Unit<'_> {
    /// Compiles what is missing or outdated, as many at a time as there are
    /// cores, and returns all objects in the order of the sources.
    pub fn objects(&self) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(&self.folder)?;
        let jobs = self.sources.iter().map(|source| self.job(source));
        let jobs = jobs.collect::<Result<Vec<Job>>>()?;
        let outdated: Vec<&Job> = jobs.iter().filter(|job| !job.is_current()).collect();
        let progress = Mutex::new(Progress {
            waiting: outdated.as_slice(),
            done: 0,
            failure: None,
        });
        let workers = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..workers.min(outdated.len()) {
                scope.spawn(|| self.work(&progress, outdated.len()));
            }
        });
        match progress.into_inner().ok().and_then(|state| state.failure) {
            Some(failure) => Err(failure.into()),
            None => Ok(jobs.into_iter().map(|job| job.object).collect()),
        }
    }

    fn job(&self, source: &Path) -> Result<Job> {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let content = fs::read(source)
            .map_err(|error| format!("cannot read {}: {error}", source.display()))?;
        let flags = self.flags.join("\n");
        Ok(Job {
            source: source.to_path_buf(),
            object: self.folder.join(format!("{name}.o")),
            key: key(&[&content, flags.as_bytes(), self.also_made_from.as_bytes()]),
        })
    }

    fn work(&self, progress: &Mutex<Progress<'_, '_>>, total: usize) {
        loop {
            let Ok(mut state) = progress.lock() else {
                return;
            };
            let [job, rest @ ..] = state.waiting else {
                return;
            };
            state.waiting = rest;
            drop(state);
            let outcome = job.compile(&self.flags);
            let Ok(mut state) = progress.lock() else {
                return;
            };
            state.done += 1;
            match outcome {
                Ok(()) => println!(
                    "mlx: compiled {} {}/{total}: {}",
                    self.label,
                    state.done,
                    job.source.file_name().unwrap_or_default().display()
                ),
                Err(error) => {
                    state.waiting = &[];
                    state.failure.get_or_insert(error.to_string());
                }
            }
        }
    }
}

struct Progress<'a, 'b> {
    waiting: &'a [&'b Job],
    done: usize,
    failure: Option<String>,
}

struct Job {
    source: PathBuf,
    object: PathBuf,
    key: String,
}

impl Job {
    fn key_file(&self) -> PathBuf {
        self.object.with_extension("key")
    }

    fn is_current(&self) -> bool {
        self.object.is_file()
            && fs::read_to_string(self.key_file()).is_ok_and(|present| present == self.key)
    }

    fn compile(&self, flags: &[String]) -> Result<()> {
        let temporary = place::temporary_beside(&self.object);
        let mut command = Command::new(compiler());
        command.args(flags).arg("-c").arg(&self.source);
        output_of(command.arg("-o").arg(&temporary))?;
        // The key goes last: an object without its key is compiled again.
        let _ = fs::remove_file(self.key_file());
        fs::rename(&temporary, &self.object)?;
        place::write_whole(&self.key_file(), self.key.as_bytes())
    }
}

/// Makes the static library `path` of `objects`.
pub fn archive(path: &Path, objects: &[PathBuf]) -> Result<()> {
    let temporary = place::temporary_beside(path);
    let _ = fs::remove_file(&temporary);
    output_of(Command::new("ar").arg("crs").arg(&temporary).args(objects))?;
    fs::rename(&temporary, path)?;
    Ok(())
}

/// Links the shared library `path`, named after its file, of `arguments`.
pub fn shared_library(path: &Path, arguments: &[String]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = place::temporary_beside(path);
    let mut command = Command::new(compiler());
    command
        .args(["-shared", "-Wl,-z,defs", "-Wl,--no-as-needed"])
        .arg(format!("-Wl,-soname,{name}"))
        .arg("-o")
        .arg(&temporary)
        .args(arguments);
    output_of(&mut command)?;
    fs::rename(&temporary, path)?;
    Ok(())
}
