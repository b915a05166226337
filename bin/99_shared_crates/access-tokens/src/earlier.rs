//! `tokens.json`, the file of tokens of an earlier rbee.

use std::fs;
use std::path::{Path, PathBuf};

use crate::TokenError;
use crate::file::{self, close_to_others, sync_folder};
use crate::store::StoredToken;

/// Where it is.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join("tokens.json")
}

/// What it holds; `None` if there is none.
pub(crate) fn read(folder: &Path) -> Result<Option<Vec<StoredToken>>, TokenError> {
    let path = file(folder);
    let text = match file::read(&path) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        Err(source) => return Err(TokenError::File { path, source }),
    };
    let tokens = serde_json::from_str(&text);
    tokens.map(Some).map_err(|source| TokenError::Damaged { path, source })
}

/// Gives it another name: it counts no more, and its owner may look at it.
pub(crate) fn retire(folder: &Path) -> Result<(), TokenError> {
    let path = file(folder);
    close_to_others(&path, 0o600)
        .and_then(|()| fs::rename(&path, folder.join("tokens.json.imported")))
        .and_then(|()| sync_folder(folder))
        .map_err(|source| TokenError::File { path, source })
}
