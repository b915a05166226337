//! The file of the servers that were attached, replaced as a whole at each change.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rbee_operations::ServerApi;
use serde::{Deserialize, Serialize};
use worker_contract::HiveAlias;

use super::ServerUrl;
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
        let stored =
            Stored { url, api: ServerApi::Openai, slots: Some(4), models: vec!["m".into()] };
        let servers = BTreeMap::from([("nas".parse().unwrap(), stored)]);
        write(&file, servers.clone()).unwrap();
        assert_eq!(read(&file).unwrap(), servers);
        fs::write(&file, "{").unwrap();
        let error = read(&file).unwrap_err();
        assert!(error.to_string().contains("servers.json is damaged"), "{error}");
    }
}
