//! What hostile files cost a process of its own: time of the processor and memory,
//! measured and bounded by the system. Linux, where it does both.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::json;

use super::harness::Home;

/// Hundredths of a second, in which Linux counts the time of processes.
const TICK_MS: u64 = 10;

/// Runs `check` on a file with at most so many MB of memory of its own: exit code,
/// what it printed, and the milliseconds that it kept a processor busy.
fn check(home: &Home, file: &str, megabytes: u64) -> (i32, String, u64) {
    let plain = home.command(&["check", file]);
    let environment = plain.get_envs();
    let limit = megabytes * 1024;
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -d {limit} && exec \"$0\" \"$@\"")])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear()
        .envs(environment.filter_map(|(name, value)| Some((name, value?))))
        .current_dir(home.path())
        .stdout(fs::File::create(home.path().join("out")).expect("made"))
        .stderr(fs::File::create(home.path().join("error")).expect("made"))
        .stdin(Stdio::null())
        .spawn()
        .expect("started");
    let pid = Pid::from_child(&child);
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), ended).expect("waited");
    // It has ended and is not forgotten yet: its times are final.
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("readable");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("a number");
    let code = child.wait().expect("waited").code().unwrap_or(-1);
    let said = |name: &str| fs::read_to_string(home.path().join(name)).expect("text");
    let (user, system) = (ticks(11), ticks(12));
    (
        code,
        said("error") + &said("out"),
        (user + system) * TICK_MS,
    )
}

/// The least of a few runs beyond what the same command takes for a harmless file, so
/// that a busy machine does not fail the test.
fn costs_at_most(home: &Home, file: &str, megabytes: u64, most_ms: u64, code: i32, says: &str) {
    let idle = check(home, "harmless.yaml", megabytes).2;
    let mut least = u64::MAX;
    for _ in 0..5 {
        let (exit, said, busy) = check(home, file, megabytes);
        assert_eq!(exit, code, "{says}: {said}");
        assert!(said.contains(says), "{says}: {said}");
        least = least.min(busy.saturating_sub(idle));
        if least <= most_ms {
            return;
        }
    }
    panic!("{says}: {least} ms of a processor");
}

#[test]
fn c04_a_hostile_file_costs_at_most_100_ms_and_64_mb() {
    let home = Home::new("models: {}\n");
    fs::copy(home.config(), home.path().join("harmless.yaml")).expect("copied");
    let check = |text: String, says: &str| {
        home.configure(&text);
        costs_at_most(&home, "models.yaml", 64, 100, 78, says);
    };
    let bomb: String = (1..30)
        .map(|n| format!("k{n}: &a{n} [*a{0}, *a{0}]\n", n - 1))
        .collect();
    check(format!("k0: &a0 x\n{bomb}"), "anchors are not supported");
    check("a: &a [*a]\n".to_owned(), "anchors are not supported");
    check("{a: ".repeat(40_000), "at most 64 levels");
    check("#".repeat(50_000_000), "at most 1000000 bytes");
    check("---\na: b\n".repeat(10_000), "found a second one");
    check(
        "a: !!python/object:os.system x\n".to_owned(),
        "tags are not",
    );
    check("a: {<<: {b: c}}\n".to_owned(), "merge keys are not");
    // The worst that fits: as many keys as there may be, none of them known. Every one is
    // gone through, which takes its time without optimisation.
    let keys: String = (0..24_000).map(|n| format!("k{n}: 1\n")).collect();
    home.configure(&keys);
    let most = if cfg!(debug_assertions) { 1_000 } else { 100 };
    costs_at_most(&home, "models.yaml", 64, most, 78, "unknown key");
}

#[test]
fn m17_hostile_weights_cost_at_most_50_ms_and_120_mb() {
    let home = Home::new("allow: ['t/*']\n");
    fs::write(home.path().join("harmless.yaml"), "models: {}\n").expect("written");
    let snapshot = home.scripted("t/hostile", json!({"tokens": 1}));
    let check = |claimed: u64, header: &str, length: u64, says: &str| {
        let mut bytes = claimed.to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        let path = snapshot.join("model.safetensors");
        fs::write(&path, bytes).expect("written");
        let file = fs::File::options().write(true).open(&path).expect("opened");
        // What is not written takes no room on the disk.
        file.set_len(length).expect("grown");
        costs_at_most(&home, "models.yaml", 120, 50, 0, says);
    };
    let whole = |header: &str| header.len() as u64;
    check(1 << 63, "{}", 100, "claims 9223372036854775808 bytes");
    check(100_000_001, "{}", 200_000_000, "the limit is 25000000");
    check(8, "not json", 16, "not valid");
    let entry = |name: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"U8","shape":[{shape}],"data_offsets":[{from},{to}]}}"#)
    };
    let two = |one: String, other: String| format!("{{{one},{other}}}");
    for (header, says) in [
        (
            two(entry("a", "8", 0, 8), entry("b", "4", 4, 8)),
            "begin at 4",
        ),
        (
            two(entry("a", "4", 0, 4), entry("a", "4", 4, 8)),
            "there twice",
        ),
        (
            two(entry("a", "4", 0, 4), entry("b", "-4", 4, 8)),
            "not valid",
        ),
        (
            two(
                entry("a", "4", 0, 4),
                entry("b", "4294967296,4294967297", 4, 8),
            ),
            "too large",
        ),
        (
            two(entry("a", "4", 0, 4), entry("b", "96", 4, 100)),
            "its header says",
        ),
    ] {
        check(whole(&header), &header, 8 + whole(&header) + 8, says);
    }
}
