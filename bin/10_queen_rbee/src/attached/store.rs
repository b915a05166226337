//! The file of the servers that were attached, replaced as a whole at each change.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rbee_operations::ServerApi;
use serde::{Deserialize, Serialize};
use worker_contract::HiveAlias;

use super::listing::Listed;
use super::{Engine, ServerUrl};
use crate::json_file::{self, Unreadable};

/// A server that was attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) url: ServerUrl,
    #[serde(default)]
    pub(super) api: ServerApi,
    /// How many requests each of its models runs at once, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slots: Option<u32>,
    /// The models that are wanted; all where none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) models: Vec<String>,
    /// What was found when it listed its models last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) found: Option<Found>,
}

/// What was found at a server, for a queen that is started while it is out of reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) engine: Engine,
    /// How many requests it said to run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slots: Option<u32>,
    /// Those of its models that are workers.
    pub(super) models: Vec<Listed>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read or written.
    #[error("the list of attached servers {} cannot be used", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is damaged.
    #[error("the list of attached servers {} is damaged: repair it, or remove it and attach the servers again", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Page {
    servers: BTreeMap<HiveAlias, Stored>,
}

pub(super) fn read(file: &Path) -> Result<BTreeMap<HiveAlias, Stored>, StoreError> {
    let page = json_file::read(file).map_err(|unreadable| {
        let file = file.to_owned();
        match unreadable {
            Unreadable::File(source) => StoreError::File { file, source },
            Unreadable::Damaged(source) => StoreError::Damaged { file, source },
        }
    })?;
    Ok(page.unwrap_or_else(Page::default).servers)
}

pub(super) fn write(file: &Path, servers: BTreeMap<HiveAlias, Stored>) -> Result<(), StoreError> {
    json_file::write(file, &Page { servers })
        .map_err(|source| StoreError::File { file: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_attached_is_read_back_and_a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("servers.json");
        assert!(read(&file).unwrap().is_empty());
        let url = "http://nas:11434/x".parse().unwrap();
        let listed = Listed { name: "m".into(), context_length: 4096 };
        let found = Found { engine: Engine::Ollama, slots: Some(2), models: vec![listed] };
        let (slots, models, found) = (Some(4), vec!["m".into()], Some(found));
        let stored = Stored { url, api: ServerApi::Openai, slots, models, found };
        let servers = BTreeMap::from([("nas".parse().unwrap(), stored)]);
        write(&file, servers.clone()).unwrap();
        assert_eq!(read(&file).unwrap(), servers);
        fs::write(&file, "{").unwrap();
        let error = read(&file).unwrap_err();
        assert!(error.to_string().contains("servers.json is damaged"), "{error}");
    }
}
