//! GGUF headers, read with distrust: a file comes from anywhere, and llama.cpp's C++ trusts it.
//!
//! [`Header::read`] takes a header apart within the [`limits`], and [`Header::check_model`] refuses
//! what would make llama.cpp end the process. Both are plain safe Rust without any state, cost no more
//! memory than the header has bytes, and read no weights. They do not replace the process of its own
//! that each model has: what passes here is well formed, not good.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; what is accepted here is
//! accepted by llama.cpp's reader, `ggml/src/gguf.cpp`, and less.
//!
//! Own code, because none of the crates serves: `gguf-rs` and `ggus` allocate what a count or length
//! in the file says; `gguf-rs-lib` has limits, and makes a value of every element of every array;
//! none knows what llama.cpp stumbles on.
//!
//! The folder depends on nothing else of this crate, so that the fuzz targets need no llama.cpp.

mod cursor;
mod error;
pub mod limits;
mod model;
mod summary;
mod tensor;
mod value;
mod vocabulary;
mod width;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io::BufRead;

pub use error::{GgufError, Place};
pub use tensor::{Tensor, TensorType};
pub use value::{Array, Value, ValueType};

use cursor::Cursor;
use limits::{
    DEFAULT_ALIGNMENT, MAX_ALIGNMENT, MAX_KEY_BYTES, MAX_KEYS, MAX_TENSORS, MIN_ALIGNMENT,
    NEWEST_VERSION, OLDEST_VERSION,
};

/// A header that is well formed.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    keys: BTreeMap<String, Value>,
    /// Its tensors, in the order of their data.
    pub tensors: Vec<Tensor>,
}

impl Header {
    /// Reads the header of a file of `size` bytes and checks that its tensors' data is in the file.
    pub fn read(input: impl BufRead, size: u64) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(input, size);
        if size < 4 || cursor.bytes("the magic")? != *b"GGUF" {
            return Err(GgufError::NotGguf);
        }
        let version = cursor.u32("the version")?;
        if !(OLDEST_VERSION..=NEWEST_VERSION).contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        let tensor_count = count(&mut cursor, "the number of tensors", MAX_TENSORS)?;
        let key_count = count(&mut cursor, "the number of keys", MAX_KEYS)?;
        let keys = read_keys(&mut cursor, key_count)?;
        let alignment = alignment(&keys)?;
        let tensors = read_tensors(&mut cursor, tensor_count)?;
        let end = tensor::check_layout(&tensors, alignment)?;
        if !tensors.is_empty() {
            let data = cursor.position().next_multiple_of(alignment);
            let expected = data.saturating_add(end);
            if expected > size {
                return Err(GgufError::Truncated { actual: size, expected });
            }
        }
        Ok(Self { keys, tensors })
    }

    /// Refuses numbers that no model has and for which llama.cpp would end the process, or worse.
    ///
    /// A key that is missing is no error here: adapters, projectors and later parts of a split model
    /// have few.
    pub fn check_model(&self) -> Result<(), GgufError> {
        model::check(self)?;
        vocabulary::check(self)
    }

    /// A key's value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }

    /// A key's text, where it is one.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        if let Some(Value::Text(text)) = self.get(key) { Some(text) } else { None }
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }
}

fn count<R: BufRead>(
    cursor: &mut Cursor<R>,
    what: &'static str,
    limit: u64,
) -> Result<u64, GgufError> {
    let place = cursor.place();
    let count = cursor.u64(what)?;
    place.check_limit(what, count, limit)?;
    Ok(count)
}

fn read_keys<R: BufRead>(
    cursor: &mut Cursor<R>,
    count: u64,
) -> Result<BTreeMap<String, Value>, GgufError> {
    let mut keys = BTreeMap::new();
    for _ in 0..count {
        let place = cursor.place();
        let key = cursor.text("a key", MAX_KEY_BYTES)?;
        let key = String::from_utf8(key).ok();
        let key = key.filter(|key| !key.is_empty() && !key.contains(char::is_control));
        let key = key.ok_or_else(|| place.clone().invalid("a key is no plain text"))?;
        let value = Value::read(cursor, &key)?;
        if keys.contains_key(&key) {
            return Err(Place::Key(key).invalid("it is there twice"));
        }
        keys.insert(key, value);
    }
    Ok(keys)
}

fn alignment(keys: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    let here = || Place::Key(KEY.to_owned());
    let alignment = match keys.get(KEY) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Value::Integer(ValueType::U32, alignment)) => u64::try_from(*alignment).unwrap_or(0),
        Some(_) => return Err(here().invalid("it is no u32")),
    };
    here().check_limit("the alignment", alignment, MAX_ALIGNMENT)?;
    if !alignment.is_power_of_two() || alignment < MIN_ALIGNMENT {
        let problem = format!("{alignment} is no power of two from {MIN_ALIGNMENT} on");
        return Err(here().invalid(problem));
    }
    Ok(alignment)
}

fn read_tensors<R: BufRead>(cursor: &mut Cursor<R>, count: u64) -> Result<Vec<Tensor>, GgufError> {
    // Grows with what is there, not with what the count promises.
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..count {
        let tensor = Tensor::read(cursor)?;
        if !seen.insert(tensor.name.clone()) {
            return Err(Place::Tensor(tensor.name).invalid("it is there twice"));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}
