//! What the operations on models are told.

use serde::{Deserialize, Serialize};
use worker_contract::{HiveAlias, ModelAlias, Sha256Digest};

use crate::ModelRef;

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
