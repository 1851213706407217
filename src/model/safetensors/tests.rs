use proptest::prelude::*;

use super::*;

/// A file of this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

fn read(bytes: &[u8]) -> Result<Header, SafetensorsError> {
    Header::read(bytes, bytes.len() as u64)
}

#[test]
fn tensors_are_told_in_the_order_of_their_bytes() {
    let header = r#"{"__metadata__": {"format": "pt"},
        "b": {"dtype": "F16", "shape": [2, 2], "data_offsets": [4, 12]},
        "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "none": {"dtype": "I64", "shape": [0, 9], "data_offsets": [4, 4]}}   "#;
    let bytes = file(header, 12);
    let read = read(&bytes).expect("a header");
    let start = 8 + header.len() as u64;
    let told: Vec<_> = read
        .tensors
        .iter()
        .map(|t| (t.name.as_str(), t.dtype, t.offset - start, t.len))
        .collect();
    assert_eq!(
        told,
        [
            ("a", Dtype::F32, 0, 4),
            ("none", Dtype::I64, 4, 0),
            ("b", Dtype::F16, 4, 8)
        ]
    );
    assert_eq!(
        (read.weight_bytes(), read.file_len),
        (12, bytes.len() as u64)
    );
}

#[test]
fn what_is_written_is_read_back_and_aligned() {
    let shapes = [[16_u64, 4], [1, 16], [3, 1]];
    let tensors = [
        ("w", Dtype::U32, &shapes[0][..]),
        ("s", Dtype::F32, &shapes[1][..]),
        ("odd", Dtype::F16, &shapes[2][..]),
    ];
    let mut bytes = header_for(tensors.into_iter());
    assert_eq!(bytes.len() % DATA_ALIGNMENT, 0);
    bytes.resize(bytes.len() + 256 + 64 + 6, 0);
    let header = read(&bytes).expect("a header");
    let names: Vec<_> = header.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["w", "s", "odd"]);
    assert!(header.tensors.iter().all(|t| t.offset % 64 == 0));
}

#[test]
fn hostile_headers_are_refused() {
    let check = |bytes: Vec<u8>, words: &str| {
        let error = read(&bytes).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    let length = |claimed: u64| {
        let mut bytes = file(r#"{"a": 1}"#, 40);
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        bytes
    };
    check(length(1 << 63), "claims 9223372036854775808 bytes");
    check(length(25_000_001), "the limit is 25000000");
    check(length(49), "the file has 56");
    check(Vec::new(), "is empty");
    check(vec![1, 2, 3], "a file of a few bytes");
    check(file("[]", 20), "not valid");
    check(file("nonsense ", 20), "not valid");
    check(file(r#"{} {}"#, 0), "trailing");
    let one = |entry: &str, data: usize| file(&format!(r#"{{"a": {entry}}}"#), data);
    check(
        one(
            r#"{"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}"#,
            4,
        ),
        "not valid",
    );
    check(
        one(
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}"#,
            4,
        ),
        "not valid",
    );
    check(
        one(
            r#"{"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}"#,
            4,
        ),
        "not valid",
    );
    check(
        one(
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}"#,
            4,
        ),
        "end is before",
    );
    check(
        one(
            r#"{"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}"#,
            4,
        ),
        "needs 8 bytes",
    );
    check(
        one(
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}"#,
            3,
        ),
        "its header says",
    );
    check(
        one(
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}"#,
            5,
        ),
        "its header says",
    );
    check(
        one(
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}"#,
            8,
        ),
        "begin at 4, expected 0",
    );
    check(
        one(
            r#"{"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}"#,
            4,
        ),
        "number format \"Q9\"",
    );
    check(
        one(
            r#"{"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": 1}"#,
            4,
        ),
        "unknown field",
    );
    let wrapped = r#"{"dtype": "F32", "shape": [4611686018427387905], "data_offsets": [0, 4]}"#;
    check(one(wrapped, 4), "shape is too large");
    let far = r#"{"dtype": "U8", "shape": [18446744073709551615], "data_offsets": [0, 18446744073709551615]}"#;
    check(one(far, 4), "its header says");
    let entry = |from: u64, to: u64| {
        format!(r#"{{"dtype": "U8", "shape": [4], "data_offsets": [{from}, {to}]}}"#)
    };
    let two = |a: &str, first: String, b: &str, second: String| {
        file(&format!(r#"{{"{a}": {first}, "{b}": {second}}}"#), 8)
    };
    check(
        two("a", entry(0, 4), "b", entry(2, 6)),
        "begin at 2, expected 4",
    );
    check(
        two("a", entry(0, 4), "b", entry(0, 4)),
        "begin at 0, expected 4",
    );
    check(two("a", entry(0, 4), "a", entry(4, 8)), "there twice");
    let deep = format!(r#"{{"__metadata__": {}"#, "[".repeat(100_000));
    check(file(&deep, 0), "not valid");
}

#[test]
fn a_header_of_too_many_tensors_is_not_read_to_its_end() {
    let entry = |i: usize| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let entries: Vec<_> = (0..=MOST_TENSORS).map(entry).collect();
    let error = read(&file(&format!("{{{}}}", entries.join(",")), 0)).expect_err("too many");
    assert!(
        error.to_string().contains("more than 100000 tensors"),
        "{error}"
    );
}

#[test]
fn other_files_are_recognised() {
    let check = |start: &[u8], words: &str| {
        let mut bytes = start.to_vec();
        bytes.resize(200, 0);
        let error = read(&bytes).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    check(b"GGUF\x03\0\0\0", "GGUF");
    check(b"PK\x03\x04", "zip archive");
    check(b"\x80\x02}q", "pickle");
    check(b"<html><body>404", "web page");
    check(b"\n <!DOCTYPE html>", "web page");
    check(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:",
        "git-lfs pointer",
    );
    check(b"{\"error\": \"not found\"}", "JSON text");
    check(b"", "zeros");
    // A header of 0x280 bytes begins like a pickle and is none.
    let text = format!("{:width$}", "{}", width = 0x280);
    assert!(read(&file(&text, 0)).expect("a header").tensors.is_empty());
}

#[test]
fn every_format_has_its_own_row() {
    for (dtype, name, bytes) in DTYPES {
        assert_eq!(Dtype::parse(name.as_bytes()), Some(dtype));
        assert_eq!((dtype.as_str(), dtype.bytes()), (name, bytes));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(header in ".{0,200}", data in 0_usize..64) {
        let _ = read(&file(&header, data));
    }

    #[test]
    fn whatever_passes_lies_within_the_file(
        sizes in proptest::collection::vec((0_u64..5, 0_u64..40), 0..4), data in 0_usize..100,
    ) {
        let entries: Vec<_> = sizes.iter().enumerate().map(|(i, (shape, from))| format!(
            r#""{i}": {{"dtype": "F16", "shape": [{shape}, 2], "data_offsets": [{from}, {}]}}"#,
            from + shape * 4,
        )).collect();
        let bytes = file(&format!("{{{}}}", entries.join(",")), data);
        if let Ok(header) = read(&bytes) {
            for tensor in &header.tensors {
                prop_assert!(tensor.offset + tensor.len <= bytes.len() as u64);
            }
        }
    }
}

#[test]
fn a_survey_tells_what_the_header_says_and_refuses_what_it_refuses() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let mut room = Vec::new();
    let mut check = |header: &str, data: usize, is_good: bool| {
        std::fs::write(&path, file(header, data)).expect("written");
        let mut told = Vec::new();
        let surveyed = survey(&path, &mut room, |name, dtype, len| {
            told.push((String::from_utf8_lossy(name).into_owned(), dtype, len));
        });
        let read = Header::open(&path);
        assert_eq!(read.is_ok(), is_good, "{header}: {read:?}");
        let read = read.map(|read| {
            let tensors = read.tensors.into_iter();
            let expected: Vec<_> = tensors.map(|t| (t.name, t.dtype, t.len)).collect();
            assert_eq!(told, expected, "{header}");
            read.file_len
        });
        assert_eq!(surveyed, read, "{header}");
    };
    let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let b = r#""b":{"dtype":"BF16","shape":[3,1],"data_offsets":[8,14]}"#;
    check(&format!("{{{a},{b}}}"), 14, true);
    check(&format!("{{{b},{a}}}"), 14, true);
    // A name that only the general reader takes.
    check(
        &format!("{{{a},{}}}", b.replace("\"b\"", "\"ß\"")),
        14,
        true,
    );
    check("{}", 0, true);
    check(&format!("{{{a},{b}}}"), 13, false);
    check(&format!("{{{a},{b}}}"), 15, false);
    check(&format!("{{{b}}}"), 14, false);
    check(&format!("{{{a},{a}}}"), 8, false);
    check(&format!("{{{a},{}}}", b.replace("14", "15")), 14, false);
    check(&format!("{{{a}"), 8, false);
}
