//! A headless Chromium with a profile of its own, ended with the value.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where a browser may be: by its name in the search path, or as an application.
const NAMES: &[&str] = &["chromium", "chromium-browser", "google-chrome"];
const APPLICATIONS: &[&str] = &[
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/// No sandbox, since the tests may run as root in a container; nothing that talks
/// to the outside; and no protection of the browser's own against pages that
/// reach for local ports, because the server must not need it.
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-breakpad",
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,PrivateNetworkAccessSendPreflights,OptimizationHints,MediaRouter",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
];

/// A running browser.
pub struct Chromium {
    child: Child,
    profile: tempfile::TempDir,
}

impl Chromium {
    /// Opens a page.
    pub fn open(url: &str, more: &[&str]) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let log = std::fs::File::create(profile.path().join("log")).expect("a log");
        let child = Command::new(find())
            .args(FLAGS)
            .arg(format!(
                "--user-data-dir={}",
                profile.path().join("data").display()
            ))
            .args(more)
            .arg(url)
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the browser starts");
        Self { child, profile }
    }

    /// What it said, for the message of a failure.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.profile.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The browser of this machine.
fn find() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let named = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = named
        .chain(APPLICATIONS.iter().map(PathBuf::from))
        .find(|candidate| Path::is_file(candidate));
    found.expect("no Chromium: install the package `chromium` (apt-get install chromium)")
}
