//! The borders of `docs/ARCHITECTURE.md`, held against the sources. A failure
//! names the offending line.

use std::path::{Path, PathBuf};

/// A word, and the places under `src` that may say it.
const BORDERS: &[(&[&str], &[&str])] = &[
    // Only these know what a status is.
    (
        &["StatusCode"],
        &["api", "admin", "access", "worker/serve", "dispatch"],
    ),
    // Only the MLX engine knows MLX.
    (&["mlx_rs", "mlx_sys"], &["engine/mlx"]),
    // Only the compiler of grammars knows the library for them.
    (&["llguidance"], &["engine/constraint"]),
    // Only one file knows the YAML library.
    (&["saphyr"], &["config/file.rs"]),
    // Unsafe code stays at the edges to MLX and to the C library's allocator.
    (
        &["unsafe "],
        &[
            "engine/mlx/native",
            "engine/mlx/packed.rs",
            "platform/allocator.rs",
        ],
    ),
    // Only the way in from the terminal and the roles that are processes end one.
    (&["process::exit"], &["worker/serve", "engine/scripted"]),
];

/// Files that decide: they read no clock, do no I/O and start nothing.
const PURE: &[&str] = &[
    "route.rs",
    "access/limit.rs",
    "access/keys/scope.rs",
    "records/audit/sums.rs",
    "pool/state",
    "pool/evict.rs",
    "pool/eta.rs",
    "pool/ledger.rs",
    "pool/prefetch.rs",
    "pool/residency.rs",
    "registry/change",
    "registry/fit.rs",
    "registry/remote.rs",
    "simulate",
    "dispatch/peek.rs",
    "dispatch/headers.rs",
    "dispatch/json",
    "dispatch/observer.rs",
    "dispatch/upload/form.rs",
    "dispatch/upload/parts.rs",
    "dispatch/relay.rs",
    "dispatch/rules",
    "engine/guide.rs",
    "engine/constraint.rs",
    "engine/constraint/closing.rs",
    "engine/constraint/hints.rs",
    "engine/constraint/place.rs",
    "engine/constraint/strokes.rs",
    "engine/constraint/vocabulary.rs",
    "engine/parts.rs",
    "engine/parts",
    "engine/stop.rs",
    "engine/prefix",
    "engine/stored/index.rs",
    "engine/stored/room.rs",
    "engine/scheduler.rs",
    "engine/speculation",
    "config/draft.rs",
    "config/problem",
    "worker/client/answer.rs",
    "config/upstream.rs",
    "upstream/choice.rs",
    "upstream/health.rs",
    "upstream/residents.rs",
    "upstream/retries.rs",
    "config/walk",
    "config/file.rs",
    "model/estimate.rs",
    "doctor/files.rs",
    "doctor/models.rs",
    "doctor/network.rs",
];

const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::fs::",
    "tokio::spawn",
    "thread::spawn",
    "tokio::net",
];

#[test]
fn every_border_holds() {
    let mut offences = Vec::new();
    for (path, text) in sources() {
        for (number, line) in code(&text) {
            for (words, homes) in BORDERS {
                let at_home = homes.iter().any(|home| under(&path, home));
                if !at_home && words.iter().any(|word| line.contains(word)) {
                    offences.push(format!("src/{}:{number}: {line}", path.display()));
                }
            }
            let pure = PURE.iter().any(|pure| under(&path, pure));
            if pure && IMPURE.iter().any(|word| line.contains(word)) {
                offences.push(format!("src/{}:{number}: {line}", path.display()));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// What has a date may read the clock on the wall: records, the expiry of keys and
/// their days, the answers themselves, files. Everything that waits goes by the monotonic
/// clock, which no change of the wall clock moves.
const DATED: &[&str] = &[
    "admin/requests.rs",
    "api/table.rs",
    "cli/keys.rs",
    "dispatch.rs",
    "doctor/gather.rs",
    "engine/stored/store.rs",
    "model/cache.rs",
    "pool/swaps.rs",
    "records/audit.rs",
    "records/entry.rs",
    "telemetry/json.rs",
    "worker/serve/answer.rs",
];

#[test]
fn f27_only_what_has_a_date_reads_the_clock_on_the_wall() {
    let mut readers: Vec<_> = sources()
        .iter()
        .filter(|(_, text)| {
            code(text)
                .iter()
                .any(|(_, line)| line.contains("SystemTime::now"))
        })
        .map(|(path, _)| path.display().to_string())
        .collect();
    readers.sort();
    assert_eq!(readers, DATED);
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn the_border_test_itself_can_fail() {
    assert!(under(Path::new("engine/mlx/rope.rs"), "engine/mlx"));
    assert!(!under(Path::new("engine/mlxish.rs"), "engine/mlx"));
    assert!(under(Path::new("engine/mlx.rs"), "engine/mlx"));
    let text =
        "//! unsafe \nfn a() {}\nunsafe fn b() {}\n#[cfg(test)]\nmod tests { unsafe fn c() {} }";
    let lines: Vec<_> = code(text).into_iter().map(|(number, _)| number).collect();
    assert_eq!(lines, [2, 3]);
}

/// Whether a file is the module `home` or inside it.
fn under(path: &Path, home: &str) -> bool {
    path == Path::new(home) || path == Path::new(&format!("{home}.rs")) || path.starts_with(home)
}

/// The lines of code: no comments, nothing of a test module at the end.
fn code(text: &str) -> Vec<(usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
        .filter(|(_, line)| !line.trim().is_empty())
        .collect()
}

/// All sources but test modules, with paths relative to `src`.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = std::fs::read_to_string(&path).expect("text");
                found.push((path.strip_prefix(&root).expect("inside").to_owned(), text));
            }
        }
    }
    let tests: Vec<_> = found
        .iter()
        .flat_map(|(path, text)| test_modules(path, text))
        .collect();
    found.retain(|(path, _)| {
        !tests
            .iter()
            .any(|test| path == test || path.starts_with(test.with_extension("")))
    });
    assert!(found.len() > 40, "the sources were not found");
    found
}

/// The files of the modules that a file declares for tests only.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = match path
        .file_stem()
        .is_some_and(|stem| stem == "lib" || stem == "main")
    {
        true => PathBuf::new(),
        false => path.with_extension(""),
    };
    let lines: Vec<_> = text.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[0].trim() == "#[cfg(test)]")
        .filter_map(|pair| pair[1].split_once("mod ")?.1.strip_suffix(';'))
        .map(|name| folder.join(format!("{name}.rs")))
        .collect()
}
