//! The header of a file about to be written.

use serde_json::{Map, Value, json};

use super::Dtype;

/// The data of a file begins at a multiple of this, so that a mapped tensor
/// whose predecessors are multiples too lies well for any vector unit.
pub const DATA_ALIGNMENT: usize = 64;

/// The length and the JSON for tensors whose bytes will follow in this order,
/// padded with spaces (which the format allows) to [`DATA_ALIGNMENT`].
pub fn header_for<'a>(tensors: impl Iterator<Item = (&'a str, Dtype, &'a [u64])>) -> Vec<u8> {
    let mut entries = Map::new();
    // As mlx-lm marks its files.
    entries.insert("__metadata__".to_owned(), json!({"format": "mlx"}));
    let mut offset = 0_u64;
    for (name, dtype, shape) in tensors {
        let end = offset + dtype.bytes() * shape.iter().product::<u64>();
        entries.insert(
            name.to_owned(),
            json!({"dtype": dtype.as_str(), "shape": shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize((8 + text.len()).next_multiple_of(DATA_ALIGNMENT) - 8, b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    header
}
