use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

fn made(keys: &mut Keys, class: KeyClass, name: &str) -> Secret {
    let made = keys.make(class, Some(name), Scope::default());
    made.expect("a key").1
}

fn mode(path: &Path) -> u32 {
    let facts = std::fs::metadata(path).expect("metadata");
    facts.permissions().mode() & 0o777
}

#[test]
fn keys_survive_the_file_without_their_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state/keys.json");
    assert_eq!(file::read(&path).expect("no file"), None);
    let scope = Scope {
        rate: NonZeroU32::new(7),
        ..Scope::default()
    };
    let make = |keys: &mut Keys| keys.make(KeyClass::Management, Some("laptop"), scope);
    let (key, text) = file::change(&path, make).expect("made");
    let again = file::read(&path).expect("read").expect("a file");
    assert_eq!(again.find(text.expose()), Some(&key));
    assert!(again.find(&text.expose()[1..]).is_none());
    let kept = std::fs::read_to_string(&path).expect("text");
    assert!(!kept.contains(text.expose()));
    for file in ["keys.json", "keys.lock"] {
        assert_eq!(mode(&path.with_file_name(file)), 0o600, "{file}");
    }
}

#[test]
fn a_file_of_a_version_without_scopes_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.json");
    let check = |more: &str, is_read: bool| {
        let text = format!(
            r#"{{"keys":[{{"id":"key-00000000","name":"a b","class":"inference","sha256":"00"{more}}}]}}"#
        );
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        assert_eq!(file::read(&path).is_ok(), is_read, "{more}");
    };
    check("", true);
    check(r#","scope":{"rate":3}"#, true);
    check(r#","scope":{"rates":3}"#, false);
    check(r#","scopes":{}"#, false);
}

#[test]
fn of_several_keys_with_one_name_none_is_revoked_by_it() {
    let one = Key::of(
        "one",
        Some("unnamed"),
        KeyClass::Inference,
        Scope::default(),
    );
    let two = Key::of(
        "two",
        Some("unnamed"),
        KeyClass::Inference,
        Scope::default(),
    );
    let mut keys = Keys::default().joined(&[one.clone(), two]).expect("keys");
    assert!(matches!(keys.revoke("unnamed"), Err(KeyError::Several(_))));
    assert_eq!(keys.revoke(&one.id).expect("revoked"), one);
    assert!(keys.revoke("unnamed").is_ok() && keys.iter().next().is_none());
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.json");
    file::change(&path, |_| Ok(())).expect("written");
    for mode in [0o640, 0o604, 0o620, 0o660] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        let told = file::read(&path).expect_err("refused").to_string();
        assert!(told.contains(&format!("{mode:o}")), "{told}");
    }
}

#[test]
fn a_revoked_key_is_gone() {
    let mut keys = Keys::default();
    let text = made(&mut keys, KeyClass::Inference, "old");
    assert_eq!(keys.revoke("old").expect("revoked").name, "old");
    assert!(matches!(keys.revoke("old"), Err(KeyError::Unknown(_))));
    assert!(keys.find(text.expose()).is_none() && !keys.any(KeyClass::Inference));
}

#[test]
fn a_name_means_one_key_and_can_stand_in_any_log() {
    let mut keys = Keys::default();
    let mut check = |name: Option<&str>, expected: &str| {
        let got = keys.make(KeyClass::Inference, name, Scope::default());
        let got = got.map_or_else(|error| error.to_string(), |(key, _)| key.name);
        assert!(got.starts_with(expected), "{name:?}: {got}");
    };
    check(Some("laptop"), "laptop");
    check(Some("laptop"), "there is already");
    check(None, "key-");
    check(None, "key-");
    for name in ["", "a b", "key-00000000", "a\n", "\u{e9}", &"a".repeat(65)] {
        check(Some(name), "expected a name");
    }
}

#[test]
fn limits_on_models_are_for_inference_keys() {
    let scope = Scope {
        tokens_per_day: Some(1),
        ..Scope::default()
    };
    let mut keys = Keys::default();
    let refused = keys.make(KeyClass::Management, None, scope.clone());
    assert!(matches!(
        refused,
        Err(KeyError::Misplaced("tokens_per_day"))
    ));
    assert!(keys.make(KeyClass::Inference, None, scope).is_ok());
}

#[test]
fn what_is_told_of_a_key_is_not_its_hash() {
    let mut keys = Keys::default();
    let scope = Scope {
        rate: NonZeroU32::new(7),
        ..Scope::default()
    };
    let (key, text) = keys
        .make(KeyClass::Inference, Some("a"), scope)
        .expect("made");
    let told = key.told();
    assert_eq!(told["rate"], 7);
    assert!(!told.to_string().contains(&key.sha256));
    assert_eq!(format!("{text:?}"), "***");
}

#[test]
fn bytes_are_written_as_two_digits_each() {
    assert_eq!(hexadecimal(&[0, 1, 0x9f, 0xff]), "00019fff");
    assert_eq!(hexadecimal(&[]), "");
}
