//! The values of keys. What nobody asks for is checked and read past.

use std::collections::HashSet;
use std::io::BufRead;

use super::cursor::Cursor;
use super::error::{GgufError, Place};
use super::limits::{
    MAX_ARRAY_ELEMENTS, MAX_KEPT_ELEMENTS, MAX_KEPT_TEXT_BYTES, MAX_TEXT_BYTES, MAX_VOCABULARY,
};

/// The key of the vocabulary.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";

/// A key's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number, with its type.
    Integer(ValueType, i128),
    /// A number with a fraction.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text; what is no UTF-8 in it is replaced.
    Text(String),
    /// A text that is too long to be kept.
    LongText {
        /// Its length.
        bytes: u64,
    },
    /// Several values of one type.
    Array(Array),
}

/// What is kept of an array.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The type of its elements.
    pub element: ValueType,
    /// How many there are.
    pub length: u64,
    /// The elements, where they are whole numbers and at most one for each layer.
    pub integers: Option<Vec<i128>>,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it all; the numbers are the format's")]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    fn read<R: BufRead>(cursor: &mut Cursor<R>) -> Result<Self, GgufError> {
        let place = cursor.place();
        Ok(match cursor.u32("a value's type")? {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::Text,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            other => return Err(place.invalid(format!("there is no value type {other}"))),
        })
    }

    /// The bytes of a value; `None` where they differ.
    fn size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }

    fn is_integer(self) -> bool {
        !matches!(self, Self::F32 | Self::F64 | Self::Bool | Self::Text | Self::Array)
    }
}

impl Value {
    pub(super) fn read<R: BufRead>(cursor: &mut Cursor<R>, key: &str) -> Result<Self, GgufError> {
        match ValueType::read(cursor)? {
            ValueType::Array => Array::read(cursor, key).map(Self::Array),
            ValueType::Text => {
                let length = cursor.text_length("a text", MAX_TEXT_BYTES)?;
                if length > MAX_KEPT_TEXT_BYTES {
                    cursor.skip(length, "a text")?;
                    return Ok(Self::LongText { bytes: length });
                }
                let bytes = cursor.take(length, "a text")?;
                Ok(Self::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
            ValueType::Bool => Ok(Self::Bool(cursor.bytes::<1>("a value")? != [0])),
            ValueType::F32 => Ok(Self::Float(f32::from_le_bytes(cursor.bytes("a value")?).into())),
            ValueType::F64 => Ok(Self::Float(f64::from_le_bytes(cursor.bytes("a value")?))),
            kind => Ok(Self::Integer(kind, integer(cursor, kind)?)),
        }
    }

    /// The number, where it is a whole one.
    #[must_use]
    pub fn as_integer(&self) -> Option<i128> {
        if let Self::Integer(_, number) = self { Some(*number) } else { None }
    }
}

impl Array {
    fn read<R: BufRead>(cursor: &mut Cursor<R>, key: &str) -> Result<Self, GgufError> {
        let element = ValueType::read(cursor)?;
        let length = cursor.u64("an array's length")?;
        let at_key = || Place::Key(key.to_owned());
        at_key().check_limit("an array's length", length, MAX_ARRAY_ELEMENTS)?;
        let mut integers = None;
        match element.size() {
            Some(size) => {
                cursor.require(length.saturating_mul(size), "an array")?;
                if element.is_integer() && length <= MAX_KEPT_ELEMENTS {
                    let elements = (0..length).map(|_| integer(cursor, element));
                    integers = Some(elements.collect::<Result<_, _>>()?);
                } else {
                    cursor.skip(length.saturating_mul(size), "an array")?;
                }
            }
            None if element == ValueType::Array => {
                return Err(at_key().invalid("an array in an array is not supported"));
            }
            None if key == TOKENS => read_tokens(cursor, length)?,
            None => {
                for _ in 0..length {
                    let bytes = cursor.text_length("an array of texts", MAX_TEXT_BYTES)?;
                    cursor.skip(bytes, "an array of texts")?;
                }
            }
        }
        Ok(Self { element, length, integers })
    }
}

/// Reads past the vocabulary and refuses a token that comes twice: llama.cpp ends the process then.
fn read_tokens<R: BufRead>(cursor: &mut Cursor<R>, length: u64) -> Result<(), GgufError> {
    let at_key = || Place::Key(TOKENS.to_owned());
    at_key().check_limit("the number of tokens", length, MAX_VOCABULARY)?;
    // Grows with what is there; a token has a byte of length at the very least.
    let mut seen = HashSet::with_capacity(usize::try_from(length).unwrap_or(0).min(1 << 20));
    for index in 0..length {
        let mut token = cursor.text("the vocabulary", MAX_KEPT_TEXT_BYTES)?;
        if token.is_empty() {
            // As llama.cpp names it.
            token = format!("[EMPTY_{index}]").into_bytes();
        }
        if !seen.insert(token) {
            return Err(at_key().invalid(format!("token {index} is there twice")));
        }
    }
    Ok(())
}

fn integer<R: BufRead>(cursor: &mut Cursor<R>, kind: ValueType) -> Result<i128, GgufError> {
    Ok(match kind {
        ValueType::U8 => u8::from_le_bytes(cursor.bytes("a value")?).into(),
        ValueType::I8 => i8::from_le_bytes(cursor.bytes("a value")?).into(),
        ValueType::U16 => u16::from_le_bytes(cursor.bytes("a value")?).into(),
        ValueType::I16 => i16::from_le_bytes(cursor.bytes("a value")?).into(),
        ValueType::U32 => u32::from_le_bytes(cursor.bytes("a value")?).into(),
        ValueType::I32 => i32::from_le_bytes(cursor.bytes("a value")?).into(),
        ValueType::I64 => i64::from_le_bytes(cursor.bytes("a value")?).into(),
        // All other types are handled where this is called from.
        _ => u64::from_le_bytes(cursor.bytes("a value")?).into(),
    })
}
