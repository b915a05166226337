//! The tensors that a header lists: shapes, types and where their data is.

use std::io::BufRead;

use super::cursor::Cursor;
use super::error::{GgufError, Place};
use super::limits::{MAX_DIMENSIONS, MAX_TENSOR_NAME_BYTES};

/// A tensor's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// The type of its weights.
    pub kind: TensorType,
    /// The lengths of its dimensions.
    pub shape: Vec<u64>,
    /// How many weights it has.
    pub weights: u64,
    /// The size of its data, in bytes.
    pub bytes: u64,
    /// Where its data begins, counted from the first tensor's.
    pub offset: u64,
}

/// A type of weights: they are stored in blocks of some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorType {
    /// Its number in files (ggml.h, enum ggml_type).
    pub id: u32,
    /// Its name.
    pub name: &'static str,
    /// Weights of a block.
    pub block_weights: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

impl TensorType {
    /// The type with a number, unless there is none, or none any more.
    #[must_use]
    pub fn by_id(id: u32) -> Option<Self> {
        TYPES.iter().find(|row| row.0 == id).map(|&(id, name, block_weights, block_bytes)| Self {
            id,
            name,
            block_weights,
            block_bytes,
        })
    }
}

/// Number, name, weights of a block, bytes of a block: ggml.c, `type_traits`.
const TYPES: [(u32, &str, u64, u64); 35] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
];

impl Tensor {
    pub(super) fn read<R: BufRead>(cursor: &mut Cursor<R>) -> Result<Self, GgufError> {
        let place = cursor.place();
        let name = cursor.text("a tensor's name", MAX_TENSOR_NAME_BYTES)?;
        let name = String::from_utf8(name).ok().filter(|name| !name.contains(char::is_control));
        let name = name.ok_or_else(|| place.invalid("a tensor's name is no plain text"))?;
        let here = || Place::Tensor(name.clone());

        let dimensions = cursor.u32("a tensor's shape")?;
        here().check_limit("its dimensions", dimensions.into(), MAX_DIMENSIONS.into())?;
        let mut weights = 1_u64;
        let mut shape = Vec::new();
        for dimension in 0..dimensions {
            let length = cursor.u64("a tensor's shape")?;
            if length == 0 {
                // llama.cpp ends the process for one that it looks for.
                return Err(here().invalid(format!("dimension {dimension} is 0")));
            }
            shape.push(length);
            // ggml counts in signed numbers of 64 bits.
            let product = weights.checked_mul(length).filter(|n| i64::try_from(*n).is_ok());
            weights = product.ok_or_else(|| here().invalid("it is too large for any machine"))?;
        }

        let id = cursor.u32("a tensor's type")?;
        let kind = TensorType::by_id(id)
            .ok_or_else(|| here().invalid(format!("there is no tensor type {id}")))?;
        let row = shape.first().copied().unwrap_or(1);
        if !row.is_multiple_of(kind.block_weights) {
            let (block, kind) = (kind.block_weights, kind.name);
            return Err(
                here().invalid(format!("a row of {row} has no whole {kind} blocks of {block}"))
            );
        }
        let bytes = (weights / kind.block_weights)
            .checked_mul(kind.block_bytes)
            .ok_or_else(|| here().invalid("it is too large for any machine"))?;
        let offset = cursor.u64("a tensor's offset")?;
        Ok(Self { name, kind, shape, weights, bytes, offset })
    }
}

/// Checks that each tensor's data follows that of the one before, as llama.cpp wants it: so none
/// overlap and all are aligned. Gives the end of the last one, counted as offsets are.
pub(super) fn check_layout(tensors: &[Tensor], alignment: u64) -> Result<u64, GgufError> {
    let mut next = 0_u64;
    let mut end = 0;
    for tensor in tensors {
        let here = || Place::Tensor(tensor.name.clone());
        if tensor.offset != next {
            let problem = format!("its data is at offset {}, and {next} was next", tensor.offset);
            return Err(here().invalid(problem));
        }
        let too_large = || here().invalid("it is too large for any machine");
        end = next.checked_add(tensor.bytes).ok_or_else(too_large)?;
        next = end.checked_next_multiple_of(alignment).ok_or_else(too_large)?;
    }
    Ok(end)
}
