//! What a file that should be safetensors is instead.

/// First bytes and what they mean.
const KNOWN: [(&[u8], &str); 12] = [
    (
        b"GGUF",
        "a GGUF file (roundhouse import turns it into a snapshot)",
    ),
    (b"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"ustar", "a tar archive"),
    (b"{", "JSON text"),
    (b"#!", "a script"),
];

/// Names what the first bytes of a file give away, unless they may begin safetensors.
///
/// A header's length comes first, so its third to eighth bytes are zero up to
/// 64 KiB and its fifth to eighth always; that tells a short header that
/// happens to begin like a pickle from a pickle.
pub fn what_else(start: &[u8]) -> Option<&'static str> {
    if start.len() >= 9 && start[4..8] == [0; 4] && start[8] == b'{' {
        return None;
    }
    if let Some((_, name)) = KNOWN.iter().find(|(first, _)| start.starts_with(first)) {
        return Some(name);
    }
    stand_in(start)
}

/// Names what was put in the place of a file of any kind that was not downloaded.
pub fn stand_in(start: &[u8]) -> Option<&'static str> {
    if start.starts_with(b"version https://git-lfs") {
        return Some("a git-lfs pointer without its content");
    }
    let text = start.trim_ascii_start().to_ascii_lowercase();
    if [b"<!doctype" as &[u8], b"<html", b"<?xml"]
        .iter()
        .any(|first| text.starts_with(first))
    {
        return Some("a web page, perhaps an error answered in place of the file");
    }
    if start.len() >= 16 && start.iter().all(|&byte| byte == 0) {
        return Some("zeros, as a download that was cut leaves them");
    }
    None
}
