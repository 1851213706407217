//! Starting, watching and ending worker processes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Starts worker processes: a private folder for their sockets and the one
/// thread that spawns. Cloning gives another handle.
#[derive(Clone)]
pub struct Launcher(Arc<()>);

/// What a launcher needs to know.
#[derive(Clone, Debug)]
pub struct LauncherOptions {
    /// The executable; [`LauncherOptions::own`] takes our own.
    pub program: PathBuf,
    /// What stands before the worker's arguments.
    pub leading: Vec<String>,
    /// The folder in which the private folder is made; nothing means
    /// `$XDG_RUNTIME_DIR`, else the folder for temporary files.
    pub runtime: Option<PathBuf>,
}

impl LauncherOptions {
    /// Our own executable in its hidden role `worker`.
    pub fn own() -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            leading: vec!["worker".to_owned()],
            runtime: None,
        })
    }
}

impl Launcher {
    /// Makes the private folder, sweeps what dead runs left, starts the thread.
    pub fn open(options: LauncherOptions) -> io::Result<Self> {
        unimplemented!("{options:?}")
    }
}
