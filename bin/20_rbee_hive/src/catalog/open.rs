//! Opening the catalog, also when its table is lost or damaged.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::candidate::PARTIAL_PREFIX;
use super::store::{Pinned, Store, StoreError};
use super::unfinished::Running;
use super::{Catalog, files};

impl Catalog {
    /// Opens the catalog, and removes the unfinished copies of a hive that was killed.
    ///
    /// A table that is damaged is kept aside; one that is damaged, empty or not there is made again from what
    /// is written beside the files. Their digests are computed before they are used.
    pub(crate) fn open(database: &Path, models: &Path) -> Result<Self, StoreError> {
        let (store, rows) = match load(database) {
            Ok(loaded) => loaded,
            Err(error) if error.is_damage() => {
                let kept = sqlite_file::set_aside(database).map_err(StoreError::SetAside)?;
                tracing::error!(
                    reason = %error, kept = %kept.display(),
                    "the catalog is damaged: it is kept aside and made again from the models folder"
                );
                load(database)?
            }
            Err(error) => return Err(error),
        };
        let view = rows.into_iter().map(|pinned| (pinned.entry.alias.clone(), pinned));
        let view = Mutex::new(Arc::new(view.collect()));
        remove_partial_copies(models);
        let running = Running::default();
        let catalog = Self { models: models.into(), view, store: Mutex::new(store), running };
        if catalog.store().was_empty() {
            catalog.rebuild()?;
        }
        catalog.label_all();
        Ok(catalog)
    }

    fn rebuild(&self) -> Result<(), StoreError> {
        let mut store = self.store();
        let found = files::labelled(&self.models);
        for entry in &found {
            let pinned = Pinned::unchecked(entry.clone());
            store.put(&pinned)?;
            self.change_view(|view| {
                view.insert(entry.alias.clone(), pinned);
            });
        }
        store.mark_whole()?;
        if !found.is_empty() {
            let models = found.len();
            tracing::warn!(models, "the catalog is made again from the models folder");
        }
        Ok(())
    }

    /// A catalog of an earlier version has written nothing beside its files.
    fn label_all(&self) {
        let view = self.view();
        for pinned in view.values() {
            let digest = &pinned.entry.sha256;
            if !self.models.join(format!("{digest}.json")).exists() {
                self.label(digest);
            }
        }
    }
}

fn load(database: &Path) -> Result<(Store, Vec<Pinned>), StoreError> {
    let store = Store::open(database)?;
    let rows = store.all()?;
    Ok((store, rows))
}

fn remove_partial_copies(models: &Path) {
    let Ok(files) = fs::read_dir(models) else {
        return;
    };
    for file in files.flatten() {
        if file.file_name().to_string_lossy().starts_with(PARTIAL_PREFIX) {
            tracing::info!(file = ?file.file_name(), "removing an unfinished copy");
            let _ = fs::remove_file(file.path());
        }
    }
}
