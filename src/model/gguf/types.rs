//! The number formats of GGUF tensors: names, block lengths, bytes.
//! Source: `ggml_type` in ggml's `ggml.h` and the block structures in `ggml-common.h`.

use std::fmt;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are ggml's")]
pub enum TensorType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Number in the file, type, ggml's name, elements in a block, bytes of a block.
const TABLE: [(u32, TensorType, &str, u64, u64); 11] = [
    (0, TensorType::F32, "F32", 1, 4),
    (1, TensorType::F16, "F16", 1, 2),
    (2, TensorType::Q4_0, "Q4_0", 32, 18),
    (3, TensorType::Q4_1, "Q4_1", 32, 20),
    (6, TensorType::Q5_0, "Q5_0", 32, 22),
    (7, TensorType::Q5_1, "Q5_1", 32, 24),
    (8, TensorType::Q8_0, "Q8_0", 32, 34),
    (12, TensorType::Q4K, "Q4_K", 256, 144),
    (13, TensorType::Q5K, "Q5_K", 256, 176),
    (14, TensorType::Q6K, "Q6_K", 256, 210),
    (30, TensorType::Bf16, "BF16", 1, 2),
];

/// Formats that are only named in messages.
const UNREADABLE: [(u32, &str); 12] = [
    (10, "Q2_K"),
    (11, "Q3_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (39, "MXFP4"),
];

impl TensorType {
    /// The type that a number in the file stands for.
    pub fn from_number(number: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.0 == number).map(|row| row.1)
    }

    /// The number that stands for it in a file.
    #[cfg(test)]
    pub(in crate::model) fn number(self) -> u32 {
        self.row().0
    }

    /// The name of a type that cannot be read, for messages.
    pub(super) fn name_of_number(number: u32) -> String {
        match UNREADABLE.iter().find(|row| row.0 == number) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("type {number}"),
        }
    }

    /// All names, for messages.
    pub(super) fn all_names() -> String {
        TABLE.map(|row| row.2).join(", ")
    }

    /// Elements in a block.
    pub fn block_elements(self) -> usize {
        self.row().3 as usize
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4 as usize
    }

    /// Bytes of a tensor of this shape (slowest dimension first); nothing if
    /// rows are no whole blocks, a dimension is zero, or the product is too large.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        let (_, _, _, elements, bytes) = self.row();
        let row = *shape.last()?;
        if row % elements != 0 || shape.contains(&0) {
            return None;
        }
        let total = shape
            .iter()
            .try_fold(1_u64, |product, &size| product.checked_mul(size))?;
        (total / elements).checked_mul(bytes)
    }

    fn row(self) -> (u32, Self, &'static str, u64, u64) {
        // Each variant has a row (a test goes through them); F32's is a dull way out.
        TABLE
            .into_iter()
            .find(|row| row.1 == self)
            .unwrap_or(TABLE[0])
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_own_row() {
        for (number, kind, name, elements, bytes) in TABLE {
            assert_eq!(TensorType::from_number(number), Some(kind));
            assert_eq!(kind.to_string(), name);
            assert_eq!(kind.block_elements() as u64, elements);
            assert_eq!(kind.block_bytes() as u64, bytes);
        }
        assert_eq!(TensorType::from_number(4), None, "Q4_2 is gone from ggml");
    }

    #[test]
    fn bytes_are_refused_rather_than_rounded_or_wrapped() {
        let check = |kind: TensorType, shape: &[u64], expected: Option<u64>| {
            assert_eq!(kind.bytes(shape), expected, "{kind} {shape:?}");
        };
        check(TensorType::F32, &[3, 5], Some(60));
        check(TensorType::Q4_1, &[2, 64], Some(80));
        check(TensorType::Q4_1, &[2, 48], None);
        check(TensorType::Q6K, &[1, 512], Some(420));
        check(TensorType::F32, &[0, 4], None);
        check(TensorType::F32, &[], None);
        check(TensorType::F32, &[1 << 40, 1 << 40], None);
        check(TensorType::F32, &[1 << 62, 2], None);
    }
}
