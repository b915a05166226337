//! Which downloads have begun and not ended: a hive that is killed leaves them to the next one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rbee_operations::{ModelDownload, Operation};

use super::{Catalog, CatalogError};

/// The most downloads that are noted. One more is not gone on with by the next hive.
const MAX_NOTES: usize = 64;

/// A download that is noted.
#[derive(Debug, Clone)]
pub(crate) struct Noted(String);

/// How many jobs of this hive do what is noted: the note stays until the last has ended.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<HashMap<String, usize>>);

impl Catalog {
    /// Notes a download. Blocking. `None` for one whose address holds a secret, which no disk is to have,
    /// and for one too many.
    pub(crate) fn begin_download(
        &self,
        request: &ModelDownload,
    ) -> Result<Option<Noted>, CatalogError> {
        let operation = Operation::ModelDownload(request.clone());
        if operation != operation.redacted() {
            return Ok(None);
        }
        let Ok(text) = serde_json::to_string(&operation) else { return Ok(None) };
        let store = self.store();
        let noted = store.downloads()?;
        if noted.len() >= MAX_NOTES && !noted.contains(&text) {
            tracing::warn!(
                "too many downloads at once: this one is not gone on with if the hive ends"
            );
            return Ok(None);
        }
        store.begin_download(&text)?;
        self.running.begin(&text);
        Ok(Some(Noted(text)))
    }

    /// Notes which unfinished files a download needs, by their keys. Blocking.
    pub(crate) fn note_parts(&self, noted: &Noted, keys: &[String]) -> Result<(), CatalogError> {
        Ok(self.store().note_parts(&noted.0, keys)?)
    }

    /// Which unfinished files a download needs, as far as this hive or an earlier one has found out. Blocking.
    pub(crate) fn parts_of(&self, noted: &Noted) -> Result<Vec<String>, CatalogError> {
        Ok(self.store().parts_of(&noted.0)?)
    }

    /// Notes the end of a job, and that of the download with the last one. Blocking.
    pub(crate) fn end_download(&self, noted: &Noted) -> Result<(), CatalogError> {
        let store = self.store();
        if self.running.end(&noted.0) {
            store.end_download(&noted.0)?;
        }
        Ok(())
    }

    /// The downloads that did not end. Blocking.
    pub(crate) fn unfinished_downloads(&self) -> Vec<Operation> {
        let found = self.store().downloads().unwrap_or_else(|error| {
            tracing::warn!(%error, "what was being downloaded is not known");
            Vec::new()
        });
        let read = |text: String| serde_json::from_str(&text).ok();
        found.into_iter().filter_map(read).collect()
    }
}

impl Running {
    fn begin(&self, text: &str) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *jobs.entry(text.to_owned()).or_default() += 1;
    }

    /// Whether that was the last.
    fn end(&self, text: &str) -> bool {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = jobs.get_mut(text) else { return true };
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            jobs.remove(text);
        }
        is_last
    }
}
