//! Which downloads have begun and not ended: a hive that is killed leaves them to the next one.

use rbee_operations::{ModelDownload, Operation};

use super::{Catalog, CatalogError};

/// A download that is noted.
#[derive(Debug, Clone)]
pub(crate) struct Noted(String);

impl Catalog {
    /// Notes a download. Blocking. `None` for one whose address holds a secret, which no disk is to have.
    pub(crate) fn begin_download(
        &self,
        request: &ModelDownload,
    ) -> Result<Option<Noted>, CatalogError> {
        let operation = Operation::ModelDownload(request.clone());
        if operation != operation.redacted() {
            return Ok(None);
        }
        let Ok(text) = serde_json::to_string(&operation) else { return Ok(None) };
        self.store().begin_download(&text)?;
        Ok(Some(Noted(text)))
    }

    /// Notes its end. Blocking.
    pub(crate) fn end_download(&self, noted: &Noted) -> Result<(), CatalogError> {
        Ok(self.store().end_download(&noted.0)?)
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
