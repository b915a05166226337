//! The file of the hives that were added.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use worker_contract::HiveAlias;

use super::{InventoryError, Machine};
use crate::json_file::{self, Unreadable};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Page {
    hives: BTreeMap<HiveAlias, Machine>,
}

pub(super) fn read(file: &Path) -> Result<BTreeMap<HiveAlias, Machine>, InventoryError> {
    let page = json_file::read(file).map_err(|unreadable| {
        let file = file.to_owned();
        match unreadable {
            Unreadable::File(source) => InventoryError::File { file, source },
            Unreadable::Damaged(source) => InventoryError::Damaged { file, source },
        }
    })?;
    Ok(page.unwrap_or_else(Page::default).hives)
}

pub(super) fn write(
    file: &Path,
    hives: &BTreeMap<HiveAlias, Machine>,
) -> Result<(), InventoryError> {
    json_file::write(file, &Page { hives: hives.clone() })
        .map_err(|source| InventoryError::File { file: file.to_owned(), source })
}
