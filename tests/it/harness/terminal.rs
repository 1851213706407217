//! A server whose standard streams are a terminal, as for somebody who starts it by
//! hand.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Client;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{Home, PATIENCE, Server, follow};

/// A pseudo-terminal: what a person sees, and the end that a program gets.
fn terminal() -> (File, OwnedFd) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&person).expect("granted");
    unlockpt(&person).expect("unlocked");
    let name = ptsname(&person, Vec::new()).expect("a name");
    let program = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("opened");
    (File::from(person), program)
}

/// Starts a command on a terminal; answers what that shows, now and later.
fn start(command: &mut Command) -> (std::process::Child, Arc<Mutex<String>>) {
    let (person, program) = terminal();
    let stream = || Stdio::from(program.try_clone().expect("another"));
    let child = command.stdin(stream()).stdout(stream()).stderr(stream());
    let child = child.spawn().expect("started");
    // Nothing but the program holds its end, so that the terminal ends with it.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    (child, follow(person))
}

impl Home {
    /// Starts the server on a terminal, without `--json`, and waits until it has said
    /// where it listens. Its log is all that the terminal shows.
    pub fn serve_on_terminal(&self) -> Server {
        let listen = ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"];
        let args = [&["serve", "--scripted-engine"], &listen[..]].concat();
        let (child, log) = start(&mut self.command(&args));
        let said = |what: &str| {
            let log = log.lock().expect("log");
            let line = log.lines().find_map(|line| line.strip_prefix(what));
            line.map(|line| line.trim().to_owned())
        };
        let begun = Instant::now();
        let management = loop {
            if let Some(url) = said("management ") {
                break url;
            }
            let shown = log.lock().expect("log").clone();
            assert!(begun.elapsed() < PATIENCE, "it never listens: {shown}");
            std::thread::sleep(Duration::from_millis(5));
        };
        Server {
            inference: said("inference ").expect("an address"),
            management,
            control: self.path().join("roundhouse.sock"),
            http: Client::new(),
            child,
            log,
        }
    }

    /// Runs a command to its end on a terminal; answers whether it went well and all
    /// that was shown.
    pub fn run_on_terminal(&self, args: &[&str]) -> (bool, String) {
        let (mut child, shown) = start(&mut self.command(args));
        let well = child.wait().expect("waited").success();
        let begun = Instant::now();
        // The reader ends with the last writer, and lets go of the text.
        while Arc::strong_count(&shown) > 1 && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let shown = shown.lock().expect("shown").clone();
        (well, shown)
    }
}
