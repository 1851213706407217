//! GGUF files for tests, built in memory.

use super::TensorType;

/// A file under construction.
#[derive(Default)]
pub(in crate::model) struct Builder {
    entries: Vec<u8>,
    entry_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl Builder {
    /// An entry of any type, its value as the bytes that stand in the file.
    pub(in crate::model) fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries.extend(text(key));
        self.entries.extend(kind.to_le_bytes());
        self.entries.extend(value);
        self.entry_count += 1;
        self
    }

    pub(in crate::model) fn number(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub(in crate::model) fn float(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub(in crate::model) fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, &[value.into()])
    }

    pub(in crate::model) fn text(self, key: &str, value: &str) -> Self {
        let value = text(value);
        self.raw(key, 8, &value)
    }

    pub(in crate::model) fn texts(self, key: &str, values: &[&str]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.array(key, 8, values.len() as u64, &elements)
    }

    pub(in crate::model) fn integers(self, key: &str, values: &[i32]) -> Self {
        let elements: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.array(key, 5, values.len() as u64, &elements)
    }

    pub(in crate::model) fn floats(self, key: &str, values: &[f32]) -> Self {
        let elements: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.array(key, 6, values.len() as u64, &elements)
    }

    pub(in crate::model) fn array(self, key: &str, kind: u32, count: u64, elements: &[u8]) -> Self {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend(count.to_le_bytes());
        value.extend(elements);
        self.raw(key, 9, &value)
    }

    /// A tensor of float32 numbers, slowest dimension first.
    pub(in crate::model) fn floats_tensor(self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.tensor(name, shape, TensorType::F32, &bytes)
    }

    /// A tensor of any type, its bytes as they stand in the file.
    pub(in crate::model) fn tensor(
        self,
        name: &str,
        shape: &[u64],
        kind: TensorType,
        bytes: &[u8],
    ) -> Self {
        let offset = self.data.len() as u64;
        let mut grown = self.entry(name, shape, kind.number(), offset);
        grown.data.extend(bytes);
        grown.data.resize(grown.data.len().next_multiple_of(32), 0);
        grown
    }

    /// An entry of the tensor list, without data.
    pub(in crate::model) fn entry(
        mut self,
        name: &str,
        shape: &[u64],
        kind: u32,
        offset: u64,
    ) -> Self {
        self.tensors.extend(text(name));
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        for size in shape.iter().rev() {
            self.tensors.extend(size.to_le_bytes());
        }
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self
    }

    /// The file.
    pub(in crate::model) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.entry_count.to_le_bytes());
        file.extend(&self.entries);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

/// A text as it stands in the file.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}
