//! Keys of the environment: one of each class, as a variable or as a file that a
//! variable names. They are chosen by people, so here it is checked that they are
//! no words.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Key, KeyClass, KeyError, Scope};
use crate::config::locate;
use crate::secret::Secret;

/// Each class, the variable with its key, and the variable with the key's file.
pub const VARIABLES: [(KeyClass, &str, &str); 2] = [
    (
        KeyClass::Inference,
        "ROUNDHOUSE_INFERENCE_KEY",
        "ROUNDHOUSE_INFERENCE_KEY_FILE",
    ),
    (
        KeyClass::Management,
        "ROUNDHOUSE_MANAGEMENT_KEY",
        "ROUNDHOUSE_MANAGEMENT_KEY_FILE",
    ),
];

/// The key that stands in the documentation; everybody knows it.
pub const EXAMPLE: &str = "rh-inference-an-example-that-opens-nothing";

/// The shortest key, characters.
const SHORTEST: usize = 20;

/// The keys that the environment gives.
pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Vec<Key>, KeyError> {
    let mut keys: Vec<Key> = Vec::new();
    for (class, direct, file) in VARIABLES {
        let (setting, text) = match (variable(direct), variable(file)) {
            (None, None) => continue,
            (Some(_), Some(_)) => return Err(KeyError::Both(direct, file)),
            (Some(text), None) => (direct, text.into_string().map(Secret::new).ok()),
            (None, Some(path)) => (file, Some(read_file(file, Path::new(&path))?)),
        };
        let expected = match &text {
            Some(text) => weakness(text.expose()),
            None => Some("ASCII"),
        };
        if let Some(expected) = expected {
            return Err(KeyError::Weak { setting, expected });
        }
        if let Some(text) = text {
            let mut key = Key::of(text.expose(), Some(setting), class, Scope::default());
            key.given = true;
            keys.push(key);
        }
    }
    super::Keys::default().joined(&keys)?;
    Ok(keys)
}

/// The key in a file that its owner alone may read; one line end after it is not
/// part of it.
fn read_file(setting: &'static str, path: &Path) -> Result<Secret, KeyError> {
    let fail = |reason: String| KeyError::GivenFile { setting, reason };
    let facts = fs::metadata(path).map_err(|error| fail(error.to_string()))?;
    let mode = facts.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(fail(format!(
            "the file may be read by others (mode {mode:o}); run chmod 600 on it"
        )));
    }
    let text = locate::text(path).map_err(|error| fail(error.to_string()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(
        line.strip_suffix('\r').unwrap_or(line).to_owned(),
    ))
}

/// What a text lacks to be a key; nothing if it may be one.
fn weakness(text: &str) -> Option<&'static str> {
    let checks = [
        (!text.is_ascii(), "ASCII"),
        (
            !text.bytes().all(|byte| byte.is_ascii_graphic()),
            "no blanks and no control characters",
        ),
        (text.len() < SHORTEST, "at least 20 characters"),
        (
            text.to_ascii_lowercase().contains("changeme"),
            "a key of your own, such as `openssl rand -hex 32` prints",
        ),
        (
            text == EXAMPLE,
            "a key of your own, not the one of the documentation",
        ),
    ];
    checks
        .into_iter()
        .find_map(|(lacks, expected)| lacks.then_some(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a17_what_is_no_key_is_refused_with_what_is_expected() {
        let check = |text: &str, expected: Option<&str>| {
            let got = read(|name| (name == "ROUNDHOUSE_INFERENCE_KEY").then(|| text.into()));
            match (got, expected) {
                (Ok(keys), None) => {
                    assert_eq!(keys.len(), 1);
                    assert_eq!(keys[0].name, "ROUNDHOUSE_INFERENCE_KEY");
                    assert!(keys[0].given && !format!("{keys:?}").contains(text));
                }
                (Err(error), Some(expected)) => {
                    let told = error.to_string();
                    assert!(told.contains(expected), "{text}: {told}");
                    assert!(text.is_empty() || !told.contains(text), "{told}");
                }
                (got, _) => panic!("{text}: {got:?}"),
            }
        };
        check("abcdefghij0123456789", None);
        check("abcdefghij012345678", Some("at least 20"));
        check("", Some("at least 20"));
        check("changeme-changeme-changeme", Some("openssl rand"));
        check("my-ChangeMe-0123456789-key", Some("openssl rand"));
        check(EXAMPLE, Some("documentation"));
        check("abcdefghij 0123456789", Some("no blanks"));
        check("abcdefghij0123456789\n", Some("no blanks"));
        check("abcdefghij\t0123456789", Some("no blanks"));
        check("abcdefghij0123456789\u{e9}", Some("ASCII"));
    }

    #[test]
    fn a05_two_settings_with_one_text_are_refused_by_name() {
        let error = read(|name| (!name.ends_with("_FILE")).then(|| "abcdefghij0123456789".into()));
        let told = error.expect_err("refused").to_string();
        assert!(
            told.contains("ROUNDHOUSE_INFERENCE_KEY and ROUNDHOUSE_MANAGEMENT_KEY"),
            "{told}"
        );
        assert!(!told.contains("abcdefghij"), "{told}");
    }

    #[test]
    fn a_key_comes_from_one_place_and_its_file_is_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let variable = "ROUNDHOUSE_MANAGEMENT_KEY_FILE";
        let from_file = || read(|name| (name == variable).then(|| path.clone().into()));
        assert!(
            matches!(from_file(), Err(KeyError::GivenFile { .. })),
            "not there"
        );
        fs::write(&path, "abcdefghij0123456789\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mode");
        let told = from_file().expect_err("too open").to_string();
        assert!(told.contains("mode 640"), "{told}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("mode");
        let keys = from_file().expect("a key");
        assert_eq!(
            (keys[0].class, keys[0].name.as_str()),
            (KeyClass::Management, variable)
        );
        let keys = super::super::Keys::default().joined(&keys).expect("keys");
        assert!(
            keys.find("abcdefghij0123456789").is_some(),
            "without the line end"
        );
        assert!(matches!(
            read(|_| Some("x".into())),
            Err(KeyError::Both(..))
        ));
    }
}
