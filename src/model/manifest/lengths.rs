//! The lengths of a snapshot's files, for those who want to know whether it is the
//! same as before. Judges nothing: links that leave have been refused by then.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::Reason;
use super::links::{DEEPEST, MOST_ENTRIES};

/// The files of a snapshot folder with their lengths in bytes, by their names from the
/// folder on. Links are followed; what a link leads to that is not there is no file.
/// Names that begin with a dot are left out: no engine reads them, and systems and
/// clients put their own there.
pub fn lengths(dir: &Path) -> Result<BTreeMap<String, u64>, Reason> {
    let mut files = BTreeMap::new();
    let added = add(dir, "", DEEPEST, &mut files);
    added.map_err(|error| Reason::BadFile {
        file: "the snapshot".to_owned(),
        problem: format!("could not be read: {error}"),
    })?;
    Ok(files)
}

fn add(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut BTreeMap<String, u64>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let name = format!("{prefix}{}", name.to_string_lossy());
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                add(&entry.path(), &format!("{name}/"), depth - 1, files)?;
            }
            continue;
        }
        if let Ok(found) = fs::metadata(entry.path())
            && found.is_file()
            && files.len() < MOST_ENTRIES
        {
            files.insert(name, found.len());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    #[test]
    fn files_have_their_lengths_through_links_and_hidden_ones_do_not_count() {
        let tree = Tree::complete();
        fs::create_dir(tree.snapshot().join("1_Pooling")).expect("made");
        fs::write(tree.snapshot().join("1_Pooling/config.json"), "12345").expect("written");
        tree.link("gone.json", "../../blobs/not-there");
        fs::write(tree.snapshot().join(".DS_Store"), "x").expect("written");
        let files = lengths(&tree.snapshot()).expect("read");
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "1_Pooling/config.json",
                "config.json",
                "model.safetensors",
                "tokenizer.json"
            ]
        );
        assert_eq!(files["1_Pooling/config.json"], 5);
        assert_eq!(files["tokenizer.json"], 2);
        assert!(lengths(&tree.snapshot().join("nowhere")).is_err());
    }
}
