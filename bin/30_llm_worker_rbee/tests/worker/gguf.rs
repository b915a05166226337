//! Small GGUF files, written by tests, and changed copies of the demo model.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::path::Path;

/// A value of a file's header.
pub enum Value {
    Text(&'static str),
    Number(f32),
    Count(u32),
    Yes,
    Texts(Vec<String>),
    Numbers(Vec<f32>),
    Integers(Vec<i32>),
}

/// A tensor of 32-bit floats; `shape` begins with the dimension that is contiguous.
pub struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub values: Vec<f32>,
}

impl Tensor {
    /// Values between −`most` and `most` that look random and depend on `seed` alone.
    pub fn noise(
        name: impl Into<String>,
        shape: impl Into<Vec<u64>>,
        most: f32,
        seed: &mut u64,
    ) -> Self {
        let (name, shape) = (name.into(), shape.into());
        let count = usize::try_from(shape.iter().product::<u64>()).unwrap();
        let mut next = || {
            // Knuth's MMIX generator.
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let part = u16::try_from(*seed >> 48).unwrap();
            (f32::from(part) / f32::from(u16::MAX) * 2.0 - 1.0) * most
        };
        Self { name, shape, values: (0..count).map(|_| next()).collect() }
    }
}

/// Writes a file of that header and those tensors.
pub fn write(file: &Path, header: &[(impl AsRef<str>, Value)], tensors: &[Tensor]) {
    const ALIGNMENT: usize = 32;
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((header.len() as u64).to_le_bytes());
    for (key, value) in header {
        put_text(&mut bytes, key.as_ref());
        match value {
            Value::Text(text) => {
                bytes.extend(8_u32.to_le_bytes());
                put_text(&mut bytes, text);
            }
            Value::Number(number) => {
                bytes.extend(6_u32.to_le_bytes());
                bytes.extend(number.to_le_bytes());
            }
            Value::Count(count) => {
                bytes.extend(4_u32.to_le_bytes());
                bytes.extend(count.to_le_bytes());
            }
            Value::Yes => {
                bytes.extend(7_u32.to_le_bytes());
                bytes.push(1);
            }
            Value::Texts(texts) => {
                put_array(&mut bytes, 8, texts, |bytes, text| put_text(bytes, text));
            }
            Value::Numbers(numbers) => {
                put_array(&mut bytes, 6, numbers, |bytes, n| bytes.extend(n.to_le_bytes()));
            }
            Value::Integers(integers) => {
                put_array(&mut bytes, 5, integers, |bytes, n| bytes.extend(n.to_le_bytes()));
            }
        }
    }
    let mut data = Vec::new();
    for tensor in tensors {
        put_text(&mut bytes, &tensor.name);
        bytes.extend(u32::try_from(tensor.shape.len()).unwrap().to_le_bytes());
        tensor.shape.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        tensor.values.iter().for_each(|value| data.extend(value.to_le_bytes()));
        data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes.extend(data);
    std::fs::write(file, bytes).unwrap();
}

fn put_array<T>(bytes: &mut Vec<u8>, kind: u32, values: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    bytes.extend(9_u32.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend((values.len() as u64).to_le_bytes());
    for value in values {
        put(bytes, value);
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A copy of a model with the bytes after the first `place` replaced.
pub fn changed_copy(model: &Path, copy: &Path, place: &[u8], skip: usize, with: &[u8]) {
    let mut bytes = std::fs::read(model).unwrap();
    let found = bytes.windows(place.len()).position(|window| window == place);
    let at = found.expect("the header has that place") + place.len() + skip;
    bytes[at..at + with.len()].copy_from_slice(with);
    std::fs::write(copy, bytes).unwrap();
}
