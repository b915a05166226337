//! What can go wrong with models, with a stable code and a hint for each case.

use std::io;

use bytesize::ByteSize;
use worker_contract::{ModelAlias, Sha256Digest};

use super::copy::CopyError;
use super::store::StoreError;

/// An operation on the catalog failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    /// The path to import is not one.
    #[error("{path:?} is not an absolute path")]
    RelativePath { path: String },
    /// The file to import cannot be opened.
    #[error("{path:?} cannot be opened")]
    Open {
        path: String,
        #[source]
        source: io::Error,
    },
    /// It is a folder, a device, a socket, …
    #[error("{path:?} is not a regular file")]
    NotAFile { path: String },
    /// The file was written to while it was read.
    #[error("{path:?} changed while it was imported")]
    Moving { path: String },
    /// Nothing legal is left of the file's name.
    #[error("no model name can be made from the file name {file_name:?}")]
    NoAlias { file_name: String },
    /// The name is taken by other bytes.
    #[error(
        "{alias} is another model already: its SHA-256 is {pinned}, that of the file is {given}"
    )]
    AliasTaken { alias: ModelAlias, pinned: Sha256Digest, given: Sha256Digest },
    /// The disk cannot hold the file.
    #[error(
        "the model needs {} of disk, {} are free where models are kept",
        ByteSize(*needed).display().si(),
        ByteSize(*free).display().si()
    )]
    NoSpace { needed: u64, free: u64 },
    /// The disk became full.
    #[error("the disk became full while the model was copied; the partial copy is removed")]
    DiskFull,
    /// No such model.
    #[error("there is no model {alias} on this hive")]
    Unknown { alias: ModelAlias, nearest: Vec<ModelAlias> },
    /// The file of a model is gone.
    #[error("the file of model {alias} is gone from the models folder")]
    FileGone { alias: ModelAlias },
    /// The file of a model is another one than was added.
    #[error(
        "the file of model {alias} changed on disk: its pinned SHA-256 is {pinned}, it has {actual}"
    )]
    Changed { alias: ModelAlias, pinned: Sha256Digest, actual: Sha256Digest },
    /// What a model sees with is gone.
    #[error("the projector of model {alias} is gone from the models folder")]
    SightGone { alias: ModelAlias },
    /// What a model sees with is another file than was added.
    #[error(
        "the projector of model {alias} changed on disk: its pinned SHA-256 is {pinned}, it has {actual}"
    )]
    SightChanged { alias: ModelAlias, pinned: Sha256Digest, actual: Sha256Digest },
    /// A model sees with another file already.
    #[error(
        "{alias} has another projector already: its SHA-256 is {pinned}, that of the other file is {given}"
    )]
    SeesOtherwise { alias: ModelAlias, pinned: Sha256Digest, given: Sha256Digest },
    /// What was downloaded was taken by somebody else meanwhile.
    #[error("what was downloaded is no longer where unfinished downloads are kept")]
    PartGone,
    /// Workers run the model.
    #[error("model {alias} is in use by {users}")]
    InUse { alias: ModelAlias, users: String, first: Option<String> },
    /// Somebody stopped it.
    #[error("cancelled")]
    Cancelled,
    /// Reading or writing failed.
    #[error("{doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    /// The catalog's own file failed.
    #[error("the catalog cannot be changed")]
    Store(#[from] StoreError),
}

impl CatalogError {
    /// A stable machine name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::RelativePath { .. } => "path_not_absolute",
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "file_not_found"
            }
            Self::Open { .. } => "file_not_readable",
            Self::NotAFile { .. } => "not_a_file",
            Self::Moving { .. } => "file_changed",
            Self::NoAlias { .. } => "alias_missing",
            Self::AliasTaken { .. } => "alias_taken",
            Self::NoSpace { .. } | Self::DiskFull => "disk_full",
            Self::Unknown { .. } => "model_not_found",
            Self::FileGone { .. } | Self::SightGone { .. } => "model_file_gone",
            Self::Changed { .. } | Self::SightChanged { .. } => "model_changed",
            Self::SeesOtherwise { .. } => "projector_taken",
            Self::PartGone => "download_gone",
            Self::InUse { .. } => "model_in_use",
            Self::Cancelled => "cancelled",
            Self::Io { .. } | Self::Store(_) => "internal",
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::RelativePath { .. } => "give the whole path, beginning with /".into(),
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "the path is looked up on the hive's machine".into()
            }
            Self::NoAlias { .. } => "name it: rbee-keeper model import FILE --alias NAME".into(),
            Self::AliasTaken { alias, .. } => format!(
                "choose another name (of a model that is imported or downloaded: --alias NAME), or remove \
                 the other model first: rbee-keeper model delete {alias}"
            ),
            Self::NoSpace { .. } | Self::DiskFull => {
                "free some space, for example with: rbee-keeper model delete MODEL".into()
            }
            Self::Unknown { nearest, .. } if nearest.is_empty() => {
                "there is none yet: rbee-keeper model import FILE".into()
            }
            Self::Unknown { nearest, .. } => {
                let names: Vec<&str> = nearest.iter().map(ModelAlias::as_str).collect();
                format!("nearest: {}; all: rbee-keeper model list", names.join(", "))
            }
            Self::FileGone { alias } | Self::Changed { alias, .. } => format!(
                "if that is not a surprise, remove it and import it again: \
                 rbee-keeper model delete {alias}"
            ),
            Self::SightGone { alias } | Self::SightChanged { alias, .. } => format!(
                "if that is not a surprise, import or download the model with the projector again: \
                 the one that it is pinned to is put back; or choose another one, or none: \
                 rbee-keeper model mmproj {alias} REFERENCE|none"
            ),
            Self::SeesOtherwise { alias, .. } => {
                format!("to replace it: rbee-keeper model mmproj {alias} REFERENCE")
            }
            Self::PartGone => "the same command fetches it again".into(),
            Self::InUse { first, .. } => {
                let worker = first.as_deref().unwrap_or("WORKER");
                format!("stop it first: rbee-keeper worker delete {worker}")
            }
            Self::Open { .. }
            | Self::NotAFile { .. }
            | Self::Moving { .. }
            | Self::Cancelled
            | Self::Io { .. }
            | Self::Store(_) => return None,
        };
        Some(hint)
    }

    /// A failed pass over a file.
    pub(super) fn of_copy(error: CopyError) -> Self {
        match error {
            CopyError::Cancelled => Self::Cancelled,
            CopyError::Read(source) => Self::Io { doing: "the file cannot be read", source },
            CopyError::Write(source) => Self::of_write(source),
        }
    }

    /// A failed write to the models folder.
    pub(super) fn of_write(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io { doing: "the models folder cannot be written to", source },
        }
    }
}
