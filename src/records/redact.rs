//! Request data that may stand in a record. A key has at least twenty
//! characters, so no part of a path as long as that is shown: a client that puts
//! its key there does not find it in a log. The query is never given to this.

/// The shortest part of a path that could be a key, bytes.
const KEY_LENGTH: usize = 20;

/// As much of a path as a record shows, characters.
const LONGEST_PATH: usize = 200;

/// A path for a record: long parts left out, the whole bounded.
pub fn path(path: &str) -> String {
    let shown: Vec<_> = path
        .split('/')
        .map(|part| match part.len() < KEY_LENGTH {
            true => part,
            false => "[redacted]",
        })
        .collect();
    shown.join("/").chars().take(LONGEST_PATH).collect()
}

/// A method for a record. Those that HTTP has are short; one that could hold a key,
/// or fill a record, is not shown.
pub fn method(method: &str) -> &str {
    match method.len() < KEY_LENGTH {
        true => method,
        false => "[redacted]",
    }
}

#[cfg(test)]
mod tests {
    use super::{method, path};

    #[test]
    fn a_method_that_is_long_enough_for_a_key_is_not_shown() {
        assert_eq!(method("PROPFIND"), "PROPFIND");
        assert_eq!(method("rh-inference-0123456789abcdef"), "[redacted]");
    }

    #[test]
    fn a_key_in_a_path_is_not_shown() {
        let check = |given: &str, shown: &str| assert_eq!(path(given), shown);
        check("/v1/models", "/v1/models");
        check("/admin/models/unload", "/admin/models/unload");
        check("/rh-inference-0123456789abcdef", "/[redacted]");
        check("/v1/aaaaaaaaaaaaaaaaaaaa/x", "/v1/[redacted]/x");
        assert_eq!(path(&"/a".repeat(500)).len(), 200);
    }
}
