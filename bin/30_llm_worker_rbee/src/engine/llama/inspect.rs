//! What a GGUF file says of itself, and whether llama.cpp can be trusted with it.
//!
//! The header is read by [`crate::gguf`]: llama.cpp never sees a file that is refused here. A hive
//! calls this in a process of its own all the same.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use worker_contract::{GgufSummary, ModelKind};

use super::model::purpose;
use super::pooling::Purpose;
use crate::gguf::{GgufError, Header};

/// How much of a file is read at once.
const READ_BYTES: usize = 1 << 18;

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
    /// Its header is damaged, or made to do damage.
    #[error("{path} is a damaged GGUF file")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong, where, and what to do.
        #[source]
        source: GgufError,
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
    /// It is what a model sees images with.
    #[error("{path} is a projector, which lets a model see images, and no language model")]
    Projector {
        /// The file.
        path: String,
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

/// Reads a GGUF file's header, be it of a model or a projector, and checks that the tensors it promises
/// are in the file. The other parts of a split model are checked and counted as well.
pub fn inspect(file: &Path) -> Result<GgufSummary, InspectError> {
    summarized(file).map(|(summary, _)| summary)
}

/// The same of a model alone, with the header itself.
pub(super) fn inspect_with_header(file: &Path) -> Result<(GgufSummary, Header), InspectError> {
    let (summary, header) = summarized(file)?;
    if header.is_projector() {
        return Err(InspectError::Projector { path: file.display().to_string() });
    }
    Ok((summary, header))
}

fn summarized(file: &Path) -> Result<(GgufSummary, Header), InspectError> {
    let (header, size_bytes) = read(file)?;
    let others = parts(file).into_iter().skip(1).map(|part| read(&part));
    let others = others.collect::<Result<Vec<_>, _>>()?;
    let mut summary = header.summary(size_bytes).map_err(|missing| InspectError::Incomplete {
        path: file.display().to_string(),
        missing,
    })?;
    for (part, size_bytes) in others {
        summary.parameters = summary.parameters.saturating_add(part.parameters());
        summary.size_bytes = summary.size_bytes.saturating_add(size_bytes);
    }
    summary.kind = kind(&header, &summary.architecture);
    Ok((summary, header))
}

/// What a worker that is given no `--pooling` can do with the model; `None` where it would not load it.
fn kind(header: &Header, architecture: &str) -> Option<ModelKind> {
    if header.is_projector() {
        return None;
    }
    purpose(header, architecture, None).ok().map(Purpose::kind)
}

/// The checked header of a file that llama.cpp is to read: a model, an adapter, a projector.
pub fn check_file(file: &Path) -> Result<Header, InspectError> {
    read(file).map(|(header, _)| header)
}

/// The files of a split model, by the name of its first; that one alone where it is whole.
///
/// They are named as llama.cpp looks for them: `NAME-00001-of-00003.gguf`. A part that is missing is
/// not in the list; llama.cpp says so.
#[must_use]
pub fn parts(file: &Path) -> Vec<PathBuf> {
    let others = || {
        let name = file.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (stem, count) = name.rsplit_once("-of-")?;
        let stem = stem.strip_suffix("-00001")?;
        let count: u16 = count.parse().ok()?;
        let part = |n| file.with_file_name(format!("{stem}-{n:05}-of-{count:05}.gguf"));
        Some((2..=count).map(part).filter(|part| part.exists()).collect())
    };
    let others: Vec<PathBuf> = others().unwrap_or_default();
    std::iter::once(file.to_owned()).chain(others).collect()
}

/// A checked header, and the size of its file in bytes.
fn read(file: &Path) -> Result<(Header, u64), InspectError> {
    let path = || file.display().to_string();
    let unreadable = |source| InspectError::Unreadable { path: path(), source };
    let opened = File::open(file).map_err(unreadable)?;
    let size = opened.metadata().map_err(unreadable)?.len();
    let checked =
        Header::read(BufReader::with_capacity(READ_BYTES, opened), size).and_then(|header| {
            header.check_model()?;
            Ok(header)
        });
    checked.map(|header| (header, size)).map_err(|error| match error {
        GgufError::NotGguf => InspectError::NotGguf { path: path() },
        GgufError::Truncated { actual, expected } => {
            InspectError::Truncated { path: path(), actual, expected }
        }
        GgufError::Unreadable { source, .. } => unreadable(source),
        source => InspectError::Damaged { path: path(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::{CStr, CString};

    use llama_cpp_sys_2 as sys;

    use super::*;
    use crate::gguf::TensorType;

    #[test]
    fn the_tensor_types_are_those_of_the_engine() {
        for id in 0..64_u32 {
            let is_known = id < sys::GGML_TYPE_COUNT;
            // SAFETY: ggml has a row for each number below the count.
            let (name, weights, bytes) = unsafe {
                if is_known {
                    let name = CStr::from_ptr(sys::ggml_type_name(id)).to_string_lossy();
                    (name.to_uppercase(), sys::ggml_blck_size(id), sys::ggml_type_size(id))
                } else {
                    (String::new(), 0, 0)
                }
            };
            match TensorType::by_id(id) {
                Some(kind) => {
                    assert_eq!(kind.name, name);
                    assert_eq!(kind.block_weights, u64::try_from(weights).unwrap(), "{name}");
                    assert_eq!(kind.block_bytes, bytes as u64, "{name}");
                }
                // A type that was removed has blocks of nothing.
                None => assert_eq!(weights, 0, "type {id}, {name}"),
            }
        }
    }

    #[test]
    fn a_real_header_is_read_as_llama_cpp_reads_it() {
        let file = test_cluster::demo_model().unwrap();
        let (header, size) = read(&file).unwrap();
        let path = CString::new(file.to_str().unwrap()).unwrap();
        let params = sys::gguf_init_params { no_alloc: true, ctx: std::ptr::null_mut() };
        // SAFETY: `path` is a C string, and the parameters ask for no tensors. The context is used
        // while it is open, with indices below the counts that it gives, and freed once; names are C
        // strings that live as long as it does.
        let (keys, tensors, data) = unsafe {
            let context = sys::gguf_init_from_file(path.as_ptr(), params);
            assert!(!context.is_null());
            let text = |text| CStr::from_ptr(text).to_str().unwrap().to_owned();
            let keys = 0..sys::gguf_get_n_kv(context);
            let keys: BTreeSet<_> = keys.map(|i| text(sys::gguf_get_key(context, i))).collect();
            let tensors = (0..sys::gguf_get_n_tensors(context)).map(|i| {
                let name = text(sys::gguf_get_tensor_name(context, i));
                let kind = sys::gguf_get_tensor_type(context, i);
                let bytes = sys::gguf_get_tensor_size(context, i);
                (name, kind, bytes as u64, sys::gguf_get_tensor_offset(context, i) as u64)
            });
            let tensors: Vec<_> = tensors.collect();
            let data = sys::gguf_get_data_offset(context) as u64;
            sys::gguf_free(context);
            (keys, tensors, data)
        };
        assert_eq!(header.keys().map(str::to_owned).collect::<BTreeSet<_>>(), keys);
        let own = header.tensors.iter().map(|t| (t.name.clone(), t.kind.id, t.bytes, t.offset));
        assert_eq!(own.collect::<Vec<_>>(), tensors);
        let last = header.tensors.last().unwrap();
        assert!(data + last.offset + last.bytes <= size);
    }

    #[test]
    fn a_split_model_is_told_with_the_parameters_and_bytes_of_all_its_parts() {
        let demo = test_cluster::demo_model().unwrap();
        let one = inspect(&demo).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = |n: u32| folder.path().join(format!("m-0000{n}-of-00003.gguf"));
        for n in 1..=3 {
            std::os::unix::fs::symlink(&demo, file(n)).unwrap();
        }
        let all = inspect(&file(1)).unwrap();
        assert_eq!(all.parameters, 3 * one.parameters);
        assert_eq!(all.size_bytes, 3 * one.size_bytes);
        assert_eq!((all.architecture, all.quantization), (one.architecture, one.quantization));
    }

    #[test]
    fn the_parts_of_a_split_model_are_found_and_checked_by_its_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = |n: u32| folder.path().join(format!("m-0000{n}-of-00003.gguf"));
        let empty = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        std::fs::write(file(1), empty).unwrap();
        std::fs::write(file(3), empty).unwrap();
        assert_eq!(parts(&file(1)), [file(1), file(3)]);
        assert_eq!(parts(&file(3)), [file(3)]);
        assert!(matches!(inspect(&file(1)), Err(InspectError::Incomplete { .. })));
        std::fs::write(file(3), b"nothing").unwrap();
        assert!(matches!(inspect(&file(1)), Err(InspectError::NotGguf { .. })));
    }
}
