//! The packages of a `Cargo.lock`, of which only what cargo itself writes is read.

use std::fs;
use std::path::Path;

use crate::Result;

/// One package.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Locked {
    pub name: String,
    pub version: String,
    /// Where it comes from; nothing for our own.
    pub source: Option<String>,
    /// SHA-256 of its archive, hexadecimal.
    pub checksum: Option<String>,
    /// Names, with the version where there are several.
    pub dependencies: Vec<String>,
}

/// The packages of a lock file, in its order.
pub fn read(file: &Path) -> Result<Vec<Locked>> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(packages(&text))
}

fn packages(text: &str) -> Vec<Locked> {
    let blocks = text.split("\n[[package]]\n").skip(1);
    blocks.map(package).collect()
}

fn package(block: &str) -> Locked {
    let mut package = Locked::default();
    for line in block.lines() {
        match line.split_once(" = ") {
            Some(("name", value)) => package.name = unquoted(value),
            Some(("version", value)) => package.version = unquoted(value),
            Some(("source", value)) => package.source = Some(unquoted(value)),
            Some(("checksum", value)) => package.checksum = Some(unquoted(value)),
            _ if line.starts_with(" \"") => {
                package
                    .dependencies
                    .push(unquoted(line.trim().trim_end_matches(',')));
            }
            _ => {}
        }
    }
    package
}

fn unquoted(value: &str) -> String {
    value.trim_matches('"').to_string()
}

#[cfg(test)]
mod tests {
    use super::packages;

    #[test]
    fn packages_are_read_as_cargo_writes_them() {
        let text = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
            source = \"registry+x\"\nchecksum = \"c0ffee\"\ndependencies = [\n \"b\",\n \"c 2.0.0\",\n]\n\n\
            [[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        let found = packages(text);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].name.as_str(), found[0].version.as_str()),
            ("a", "1.0.0")
        );
        assert_eq!(found[0].checksum.as_deref(), Some("c0ffee"));
        assert_eq!(found[0].dependencies, ["b", "c 2.0.0"]);
        assert_eq!((found[1].name.as_str(), &found[1].source), ("own", &None));
    }
}
