//! The file of the hives that were added.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use worker_contract::HiveAlias;

use super::{InventoryError, Machine};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Page {
    hives: BTreeMap<HiveAlias, Machine>,
}

pub(super) fn read(file: &Path) -> Result<BTreeMap<HiveAlias, Machine>, InventoryError> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(InventoryError::File { file: file.to_owned(), source }),
    };
    let page: Page = serde_json::from_slice(&text)
        .map_err(|source| InventoryError::Damaged { file: file.to_owned(), source })?;
    Ok(page.hives)
}

pub(super) fn write(
    file: &Path,
    hives: &BTreeMap<HiveAlias, Machine>,
) -> Result<(), InventoryError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let page = Page { hives: hives.clone() };
    let write = || {
        let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
        fresh.write_all(&serde_json::to_vec_pretty(&page)?)?;
        fresh.as_file().sync_all()?;
        fresh.persist(file)?;
        Ok(())
    };
    write().map_err(|source| InventoryError::File { file: file.to_owned(), source })
}
