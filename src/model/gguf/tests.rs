use proptest::prelude::*;

use super::build::Builder;
use super::dequantise::dequantise;
use super::metadata::Value;
use super::*;

fn read(bytes: &[u8]) -> Result<Header, GgufError> {
    Header::read(bytes, bytes.len() as u64)
}

/// A file with one of everything.
fn sample() -> Builder {
    Builder::default()
        .text("general.architecture", "llama")
        .number("n", 7)
        .float("eps", 1e-5)
        .bool("yes", true)
        .texts("words", &["a", "Ġb", "日本"])
        .integers("kinds", &[1, 3, -2])
        .floats("scores", &[0.0, -1.5])
        .floats_tensor("first", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .tensor("second", &[1, 32], TensorType::Q8_0, &[1; 34])
}

#[test]
fn a_file_is_read_back_as_it_was_written() {
    let bytes = sample().bytes();
    let header = read(&bytes).expect("a header");
    let metadata = &header.metadata;
    assert_eq!(
        metadata.text("general.architecture").ok(),
        Some(Some("llama"))
    );
    assert_eq!(metadata.unsigned("n").ok(), Some(Some(7)));
    assert_eq!(
        metadata.float("eps").ok(),
        Some(Some(1e-5)),
        "as it was typed, not as float32 widens"
    );
    assert_eq!(metadata.bool("yes").ok(), Some(Some(true)));
    let words = metadata.texts("words").expect("texts").expect("there");
    assert_eq!(words, ["a", "Ġb", "日本"]);
    assert_eq!(
        metadata.get("kinds"),
        Some(&Value::Integers(vec![1, 3, -2]))
    );
    assert_eq!(
        metadata.get("scores"),
        Some(&Value::Floats(vec![0.0, -1.5]))
    );
    assert_eq!(metadata.unsigned("absent").ok(), Some(None));
    let first = header.tensor("first").expect("a tensor");
    assert_eq!((first.shape.as_slice(), first.len), (&[2, 3][..], 24));
    let data = &bytes[first.offset as usize..][..24];
    assert_eq!(dequantise(first.kind, data), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let second = header.tensor("second").expect("a tensor");
    assert_eq!(second.offset % 32, 0);
    assert_eq!(bytes[second.offset as usize..][..34], [1; 34]);
}

#[test]
fn a_question_for_another_type_says_what_was_found() {
    let header = read(&sample().bytes()).expect("a header");
    let error = header.metadata.unsigned("general.architecture");
    assert_eq!(
        error.expect_err("a text").to_string(),
        "metadata general.architecture: expected a number that is not negative, found \"llama\""
    );
}

#[test]
fn hostile_headers_are_refused() {
    let check = |bytes: Vec<u8>, words: &str| {
        let error = read(&bytes).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = sample().bytes();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    check(b"PK\x03\x04".to_vec(), "expected a GGUF file");
    check(patched(4, &1_u32.to_le_bytes()), "version 2 or 3, found 1");
    check(patched(4, &3_u32.to_be_bytes()), "version 2 or 3");
    check(
        patched(8, &u64::MAX.to_le_bytes()),
        "at most 200000 tensors",
    );
    check(
        patched(16, &u64::MAX.to_le_bytes()),
        "at most 100000 metadata entries",
    );
    check(
        patched(24, &u64::MAX.to_le_bytes()),
        "ends within a metadata key",
    );
    let array =
        |kind: u32, count: u64| Builder::default().array("k", kind, count, &[0; 64]).bytes();
    check(array(8, 1 << 40), "too long");
    check(array(9, 1), "not known");
    check(array(99, 4), "not known");
    let two = Builder::default().number("k", 1).number("k", 2);
    check(two.bytes(), "there twice");
    check(
        Builder::default().raw("k", 7, &[2]).bytes(),
        "0 or 1, found 2",
    );
    check(
        Builder::default().raw("k", 10, &[0xff; 8]).bytes(),
        "too large",
    );
    check(
        Builder::default()
            .raw("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])
            .bytes(),
        "not valid UTF-8",
    );
    check(
        Builder::default().number("general.alignment", 24).bytes(),
        "power of two",
    );
    check(
        Builder::default().number("general.alignment", 0).bytes(),
        "power of two",
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let check = |builder: Builder, words: &str| {
        let error = read(&builder.bytes()).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    let entry =
        |shape: &[u64], kind: u32, offset: u64| Builder::default().entry("t", shape, kind, offset);
    check(entry(&[8], 0, 0), "do not lie within the file");
    check(
        sample().entry("t", &[1], 0, 1 << 40),
        "do not lie within the file",
    );
    check(
        sample().entry("t", &[1], 0, u64::MAX - 31),
        "do not lie within the file",
    );
    check(
        sample().entry("t", &[1], 0, 4),
        "do not lie within the file",
    );
    check(
        sample().entry("t", &[1 << 40, 1 << 40], 0, 0),
        "cannot be stored as F32",
    );
    check(sample().entry("t", &[33], 8, 0), "cannot be stored as Q8_0");
    check(sample().entry("t", &[0], 0, 0), "cannot be stored as F32");
    check(sample().entry("t", &[], 0, 0), "0 dimensions");
    check(sample().entry("t", &[1; 5], 0, 0), "5 dimensions");
    check(
        sample().entry("t", &[256], 23, 0),
        "stored as IQ4_XS, expected one of F32, F16",
    );
    check(sample().entry("t", &[256], 77, 0), "stored as type 77");
    check(sample().entry("t", &[1], 0, 32), "overlap");
    check(sample().entry("first", &[1], 0, 32), "there twice");
    check(sample().entry("t", &[9], 0, 64), "do not lie within");
    let twice = Builder::default()
        .floats_tensor("t", &[1], &[1.0])
        .floats_tensor("t", &[1], &[1.0]);
    check(twice, "there twice");
}

/// Numbers that gguf-py 0.x gives for the same blocks.
#[test]
fn blocks_are_dequantised_as_the_reference_does() {
    let check = |kind: TensorType, expected: &[(usize, f32)], sum: f32| {
        let mut block: Vec<u8> = (0..kind.block_bytes())
            .map(|i| (i * i * 7 + i * 37 + 11) as u8)
            .collect();
        let (quarter, half) = ([0x00, 0x34], [0x00, 0x38]);
        match kind {
            TensorType::Q6K => block[208..210].copy_from_slice(&quarter),
            _ => block[..2].copy_from_slice(&quarter),
        }
        if matches!(
            kind,
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4K | TensorType::Q5K
        ) {
            block[2..4].copy_from_slice(&half);
        }
        let values = dequantise(kind, &block);
        assert_eq!(values.len(), kind.block_elements());
        for &(at, value) in expected {
            assert_eq!(values[at], value, "{kind} at {at}");
        }
        assert_eq!(values.iter().sum::<f32>(), sum, "{kind}");
    };
    check(
        TensorType::Q4_0,
        &[(0, -1.75), (1, 0.25), (17, 0.75), (31, -0.5)],
        -0.25,
    );
    check(
        TensorType::Q4_1,
        &[(0, 4.25), (1, 1.25), (17, 2.25), (31, 3.0)],
        79.75,
    );
    check(
        TensorType::Q5_0,
        &[(0, 1.25), (1, -2.75), (17, 1.5), (31, -3.5)],
        9.75,
    );
    check(
        TensorType::Q5_1,
        &[(0, 5.25), (1, 8.25), (17, 2.5), (31, 3.75)],
        153.75,
    );
    check(
        TensorType::Q8_0,
        &[(0, 28.25), (1, -17.75), (17, -21.75), (31, -26.25)],
        -8.0,
    );
    let q4_k = [
        (0, 15.75),
        (33, 69.0),
        (70, 17.75),
        (107, 86.5),
        (150, -20.75),
        (255, 67.75),
    ];
    check(TensorType::Q4K, &q4_k, 11816.0);
    let q5_k = [
        (0, 75.75),
        (33, 349.5),
        (70, 165.75),
        (107, 68.0),
        (190, 74.5),
        (255, 53.25),
    ];
    check(TensorType::Q5K, &q5_k, 29528.0);
    let q6_k = [
        (0, -357.75),
        (33, -110.25),
        (70, -171.5),
        (107, 68.25),
        (190, 355.25),
        (255, 643.5),
    ];
    check(TensorType::Q6K, &q6_k, -4670.0);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(bytes);
        let _ = read(&file);
    }

    #[test]
    fn no_flipped_byte_makes_the_reader_panic_or_answer_beyond_the_file(
        at in 0_usize..400, flip in 1_u8.., cut in 0_usize..700,
    ) {
        let mut file = sample().bytes();
        let place = at % file.len();
        file[place] ^= flip;
        file.truncate(cut.max(8));
        if let Ok(header) = read(&file) {
            for tensor in &header.tensors {
                prop_assert!(tensor.offset + tensor.len <= file.len() as u64);
            }
        }
    }

    #[test]
    fn whole_blocks_of_any_bytes_are_dequantised(
        number in 0_u32..31, bytes in proptest::collection::vec(any::<u8>(), 0..1000),
    ) {
        if let Some(kind) = TensorType::from_number(number) {
            let blocks = bytes.len() / kind.block_bytes();
            prop_assert_eq!(dequantise(kind, &bytes).len(), blocks * kind.block_elements());
        }
    }
}
