//! Text that must not be seen: it has no way into a log or a message but by
//! being asked for by name.

use std::fmt;

use subtle::ConstantTimeEq;

/// A secret. It prints as `***`, whoever prints it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes a text in.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that must have it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether these bytes are the secret. Takes the same time for all bytes of
    /// the secret's length.
    pub fn is(&self, told: &[u8]) -> bool {
        told.ct_eq(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars_inside_anything() {
        let secret = Secret::new("canary".to_owned());
        assert_eq!(format!("{secret:?}"), "***");
        assert!(!format!("{:#?}", Some([secret.clone()])).contains("canary"));
        assert!(secret.is(b"canary") && !secret.is(b"canarz") && !secret.is(b"canar"));
    }
}
