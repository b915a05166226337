//! What a GGUF file says of itself, and whether all of it is there.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. llama.cpp's own reader
//! parses it; a hive calls this in a process of its own, so a hostile file can end only that one.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;
use worker_contract::GgufSummary;

/// A file cannot be used as a model.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It does not begin as a GGUF file does.
    #[error("{path} is not a GGUF file: it does not start with \"GGUF\"")]
    NotGguf {
        /// The file.
        path: String,
    },
    /// Its header is damaged.
    #[error("{path} is a damaged GGUF file: its header cannot be read")]
    Damaged {
        /// The file.
        path: String,
    },
    /// Its end is missing.
    #[error(
        "{path} is truncated: it has {actual} bytes and its header promises {expected}; download or copy it again"
    )]
    Truncated {
        /// The file.
        path: String,
        /// Its size, in bytes.
        actual: u64,
        /// The size that it should have, in bytes.
        expected: u64,
    },
    /// A key that every model has is missing.
    #[error("{path} is a GGUF file but no language model: {missing} is missing")]
    Incomplete {
        /// The file.
        path: String,
        /// What is missing.
        missing: String,
    },
}

/// Reads a GGUF file's header and checks that the tensors it promises are in the file.
pub fn inspect(file: &Path) -> Result<GgufSummary, InspectError> {
    let path = file.display().to_string();
    let unreadable = |source| InspectError::Unreadable { path: path.clone(), source };
    let size_bytes = std::fs::metadata(file).map_err(unreadable)?.len();
    check_magic(file, &path)?;
    let header = Header::read(file).ok_or_else(|| InspectError::Damaged { path: path.clone() })?;

    let (expected, parameters, quantization) = header.tensors();
    if size_bytes < expected {
        return Err(InspectError::Truncated { path, actual: size_bytes, expected });
    }
    let missing =
        |key: &str| InspectError::Incomplete { path: path.clone(), missing: key.to_owned() };
    let architecture =
        header.text("general.architecture").ok_or_else(|| missing("general.architecture"))?;
    if parameters == 0 {
        return Err(missing("any tensor"));
    }
    let context_key = format!("{architecture}.context_length");
    Ok(GgufSummary {
        context_length: header.number(&context_key).ok_or_else(|| missing(&context_key))?,
        name: header.text("general.name"),
        license: header.text("general.license"),
        quantization: header.file_type().unwrap_or(quantization),
        parameters,
        has_chat_template: header.text("tokenizer.chat_template").is_some(),
        size_bytes,
        architecture,
    })
}

pub(super) fn check_magic(file: &Path, path: &str) -> Result<(), InspectError> {
    use std::io::Read as _;
    let mut magic = [0; 4];
    let mut opened = std::fs::File::open(file)
        .map_err(|source| InspectError::Unreadable { path: path.to_owned(), source })?;
    match opened.read_exact(&mut magic) {
        Ok(()) if &magic == b"GGUF" => Ok(()),
        _ => Err(InspectError::NotGguf { path: path.to_owned() }),
    }
}

/// An open header; no tensor is in memory.
pub(super) struct Header(NonNull<sys::gguf_context>);

impl Header {
    pub(super) fn read(file: &Path) -> Option<Self> {
        let path = CString::new(file.to_str()?).ok()?;
        let params = sys::gguf_init_params { no_alloc: true, ctx: std::ptr::null_mut() };
        // SAFETY: `path` is a C string that outlives the call, and the parameters ask for no tensor
        // context. A null result is handled by `NonNull::new`.
        NonNull::new(unsafe { sys::gguf_init_from_file(path.as_ptr(), params) }).map(Self)
    }

    /// The index of a key, where its value has the wanted type.
    fn key(&self, key: &str, wanted: sys::gguf_type) -> Option<i64> {
        let name = CString::new(key).ok()?;
        // SAFETY: the context is open while `self` lives, and `name` is a C string.
        let index = unsafe { sys::gguf_find_key(self.0.as_ptr(), name.as_ptr()) };
        if index < 0 {
            return None;
        }
        // SAFETY: as above, and `index` was just found.
        let kind = unsafe { sys::gguf_get_kv_type(self.0.as_ptr(), index) };
        (kind == wanted).then_some(index)
    }

    /// Whether there is such a key, with whatever value.
    pub(super) fn has(&self, key: &str) -> bool {
        // SAFETY: the context is open while `self` lives, and the name is a C string.
        CString::new(key)
            .is_ok_and(|name| unsafe { sys::gguf_find_key(self.0.as_ptr(), name.as_ptr()) >= 0 })
    }

    /// The number of elements of a list.
    pub(super) fn array_length(&self, key: &str) -> Option<u64> {
        let index = self.key(key, sys::GGUF_TYPE_ARRAY)?;
        // SAFETY: the value at `index` is an array.
        Some(unsafe { sys::gguf_get_arr_n(self.0.as_ptr(), index) } as u64)
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        let index = self.key(key, sys::GGUF_TYPE_STRING)?;
        // SAFETY: the value at `index` is a string, which ggml ends with a NUL and keeps while the
        // context is open.
        let text = unsafe { CStr::from_ptr(sys::gguf_get_val_str(self.0.as_ptr(), index)) };
        Some(text.to_string_lossy().into_owned())
    }

    pub(super) fn number(&self, key: &str) -> Option<u32> {
        if let Some(index) = self.key(key, sys::GGUF_TYPE_UINT32) {
            // SAFETY: the value at `index` is a uint32.
            return Some(unsafe { sys::gguf_get_val_u32(self.0.as_ptr(), index) });
        }
        let index = self.key(key, sys::GGUF_TYPE_UINT64)?;
        // SAFETY: the value at `index` is a uint64.
        u32::try_from(unsafe { sys::gguf_get_val_u64(self.0.as_ptr(), index) }).ok()
    }

    /// The size that the file must have at least, the number of weights, and the tensor type that
    /// holds most of them.
    fn tensors(&self) -> (u64, u64, String) {
        let context = self.0.as_ptr();
        // SAFETY: the context is open while `self` lives; tensor numbers are below the count.
        let (count, data) =
            unsafe { (sys::gguf_get_n_tensors(context), sys::gguf_get_data_offset(context)) };
        let mut end = 0_u64;
        let mut weights_by_type: BTreeMap<String, u64> = BTreeMap::new();
        for tensor in 0..count {
            // SAFETY: as above.
            let (offset, size, kind) = unsafe {
                (
                    sys::gguf_get_tensor_offset(context, tensor),
                    sys::gguf_get_tensor_size(context, tensor),
                    sys::gguf_get_tensor_type(context, tensor),
                )
            };
            end = end.max((offset as u64).saturating_add(size as u64));
            // SAFETY: `kind` comes from a header that ggml has checked.
            let (name, block, block_bytes) = unsafe {
                let name = CStr::from_ptr(sys::ggml_type_name(kind));
                (name, sys::ggml_blck_size(kind), sys::ggml_type_size(kind))
            };
            let blocks = size as u64 / (block_bytes as u64).max(1);
            let weights = blocks.saturating_mul(u64::try_from(block).unwrap_or(1));
            *weights_by_type.entry(name.to_string_lossy().to_uppercase()).or_default() += weights;
        }
        let total = weights_by_type.values().sum();
        let most = weights_by_type.into_iter().max_by_key(|(_, weights)| *weights);
        let most = most.map_or_else(String::new, |(name, _)| name);
        ((data as u64).saturating_add(end), total, most)
    }

    /// The name of `general.file_type`, as llama.cpp gives it: `Q4_K - Medium` becomes `Q4_K_M`.
    fn file_type(&self) -> Option<String> {
        // The numbers: llama.cpp, include/llama.h, enum llama_ftype.
        Some(
            match self.number("general.file_type")? {
                0 => "F32",
                1 => "F16",
                2 => "Q4_0",
                3 => "Q4_1",
                7 => "Q8_0",
                8 => "Q5_0",
                9 => "Q5_1",
                10 => "Q2_K",
                11 => "Q3_K_S",
                12 => "Q3_K_M",
                13 => "Q3_K_L",
                14 => "Q4_K_S",
                15 => "Q4_K_M",
                16 => "Q5_K_S",
                17 => "Q5_K_M",
                18 => "Q6_K",
                19 => "IQ2_XXS",
                20 => "IQ2_XS",
                21 => "Q2_K_S",
                22 => "IQ3_XS",
                23 => "IQ3_XXS",
                24 => "IQ1_S",
                25 => "IQ4_NL",
                26 => "IQ3_S",
                27 => "IQ3_M",
                28 => "IQ2_S",
                29 => "IQ2_M",
                30 => "IQ4_XS",
                31 => "IQ1_M",
                32 => "BF16",
                36 => "TQ1_0",
                37 => "TQ2_0",
                38 => "MXFP4",
                _ => return None,
            }
            .to_owned(),
        )
    }
}

impl Drop for Header {
    fn drop(&mut self) {
        // SAFETY: the context was made by `gguf_init_from_file` and is freed once.
        unsafe { sys::gguf_free(self.0.as_ptr()) }
    }
}
