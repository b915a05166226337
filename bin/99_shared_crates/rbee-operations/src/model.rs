//! What the operations on models are told.

use std::fmt;

use serde::{Deserialize, Serialize};
use worker_contract::{HiveAlias, ModelAlias, Sha256Digest};

use crate::{ModelRef, ProjectorChoice};

/// A model that is fetched into a hive's catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDownload {
    /// Into which hive's catalog; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// Where it comes from.
    pub reference: ModelRef,
    /// The name in requests; by default made from the file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<ModelAlias>,
    /// Which projector comes with it.
    #[serde(default, skip_serializing_if = "ProjectorChoice::is_default")]
    pub projector: ProjectorChoice,
}

/// A download that is to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDownloadCancel {
    /// On which hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// What is downloaded, as it was asked for.
    pub reference: ModelRef,
}

/// A model that goes from one hive to another, straight between the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCopy {
    /// The hive that has it.
    pub from: HiveAlias,
    /// The hive that is to have it; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// Its name over there, and here.
    pub model: ModelAlias,
}

/// The part of a [`ModelCopy`] that the receiving hive does; made by a queen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFetch {
    /// Into which hive's catalog.
    pub hive_id: HiveAlias,
    /// The hive that has it.
    pub from: HiveAlias,
    /// The name in requests.
    pub model: ModelAlias,
    /// Where it came from in the first place, as its catalog has it.
    pub source: String,
    /// The file, or the parts of a split model in their order.
    pub files: Vec<FileOffer>,
    /// What it sees images with, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projector: Option<ProjectorOffer>,
}

/// A projector that another hive gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectorOffer {
    /// Where it came from in the first place, as that hive's catalog has it.
    pub source: String,
    /// Its file.
    pub file: FileOffer,
}

/// A file that another hive gives.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOffer {
    /// Where it is.
    pub url: String,
    /// What opens it, and nothing else, for some hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Its digest.
    pub sha256: Sha256Digest,
    /// Its size, in bytes.
    pub size_bytes: u64,
}

impl fmt::Debug for FileOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileOffer")
            .field("url", &self.url)
            .field("sha256", &self.sha256)
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

/// A file, or a folder of files, that becomes models of a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelImport {
    /// Into which hive's catalog; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// The file or folder, as an absolute path on the hive's machine.
    pub path: String,
    /// The name in requests; by default made from the file's name. A folder cannot have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<ModelAlias>,
    /// Whether the catalog shares the file with its owner instead of copying it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub link: bool,
    /// The projector that lets the model see images, as an absolute path on the hive's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projector: Option<String>,
}

/// Another program's store of models, whose models become those of a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelImportStore {
    /// Into which hive's catalog; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// Whose store.
    pub store: ModelStore,
    /// Its folder, as an absolute path on the hive's machine; by default where the program keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A program that keeps models on the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelStore {
    /// Ollama.
    Ollama,
    /// LM Studio.
    LmStudio,
}

/// A look at whether a model's source has another file by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelUpdate {
    /// Its hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// The model.
    pub model: ModelAlias,
    /// The digest that the operator agreed to; without one, nothing but the look is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<Sha256Digest>,
    /// The digest that the operator agreed to for the projector of a model that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_projector: Option<Sha256Digest>,
}

/// The digest that a model is pinned to from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPin {
    /// Its hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// The model.
    pub model: ModelAlias,
    /// The digest of the file as it lies on the disk, which the operator agreed to.
    pub accept: Sha256Digest,
}

/// What a model sees images with from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelProjectorSet {
    /// Its hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// The model. All names of its file see with the same.
    pub model: ModelAlias,
    /// A projector, in place of the one that it has; or none.
    pub projector: ProjectorChoice,
}

/// A further name for a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelName {
    /// Its hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// The model.
    pub model: ModelAlias,
    /// The name that stands for it as well.
    pub alias: ModelAlias,
}

/// What downloads that did not end have left, and files that no name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelGarbage {
    /// On which hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// Whether it is removed, or only listed.
    #[serde(default)]
    pub remove: bool,
}
