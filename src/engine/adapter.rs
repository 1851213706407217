//! Which adapter a sequence runs with, as the router tells the worker and the worker its
//! engine. What an adapter does to keys and values makes its prompts others' than its
//! base's, so that they are kept apart.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::prefix::Owner;

/// An adapter to run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What tells it from every other, and from itself before it was changed.
    pub mark: u128,
    /// The folder that it lies in.
    pub dir: PathBuf,
}

impl Chosen {
    /// As it stands in a header: 32 hexadecimal digits, a space, the path's bytes in
    /// hexadecimal digits.
    pub fn text(&self) -> String {
        let mut text = format!("{:032x} ", self.mark);
        for byte in self.dir.as_os_str().as_bytes() {
            // Writing to a text cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The reverse.
    pub fn parse(text: &str) -> Option<Self> {
        let (mark, path) = text.split_once(' ')?;
        let byte = |at: usize| u8::from_str_radix(path.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..path.len()).step_by(2).map(byte).collect();
        Some(Self {
            mark: u128::from_str_radix(mark, 16).ok()?,
            dir: OsString::from_vec(bytes?).into(),
        })
    }

    /// Whose prompts those of this owner with this adapter are.
    pub fn apart(&self, owner: Owner) -> Owner {
        let mut sum = Sha256::new();
        sum.update(owner.0.to_le_bytes());
        sum.update(self.mark.to_le_bytes());
        let digest: [u8; 32] = sum.finalize().into();
        let mut mark = [0; 16];
        mark.copy_from_slice(&digest[..16]);
        Owner(u128::from_le_bytes(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_goes_through_a_header() {
        let check = |dir: &[u8]| {
            let chosen = Chosen {
                mark: 7 << 90,
                dir: OsString::from_vec(dir.to_vec()).into(),
            };
            let text = chosen.text();
            assert!(
                text.bytes()
                    .all(|byte| byte == b' ' || byte.is_ascii_hexdigit())
            );
            assert_eq!(Chosen::parse(&text), Some(chosen));
        };
        check(b"/adapters/one");
        check("/Adaptér, größer/\u{1f600}".as_bytes());
        check(b"/no \xff text\n");
        for broken in ["", "7", "7 2f6", "x 2f", "7 zz", "7 2\u{e9}"] {
            assert_eq!(Chosen::parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn prompts_of_each_adapter_and_of_each_owner_are_apart() {
        let chosen = |mark| Chosen {
            mark,
            dir: PathBuf::from("/a"),
        };
        let owners = [
            Owner(1),
            chosen(1).apart(Owner(1)),
            chosen(2).apart(Owner(1)),
            chosen(1).apart(Owner(2)),
        ];
        let different: std::collections::BTreeSet<_> = owners.iter().collect();
        assert_eq!(different.len(), owners.len());
        assert_eq!(chosen(1).apart(Owner(1)), owners[1]);
    }
}
