//! A download from its first attempt to its end, however often it is tried: it is noted for the next hive,
//! what arrived is kept from whoever clears garbage away, and whoever wants its end can bring it about.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rbee_operations::ModelDownload;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::find::{ProjectorPlace, Wanted};
use super::off_thread;
use crate::catalog::{Catalog, CatalogError, Noted};
use crate::download::{Downloads, Entered, Hold};
use crate::hive::Parts;

/// A download that has begun and not ended. Dropping it is its end.
pub(super) struct Ongoing {
    catalog: Arc<Catalog>,
    downloads: Arc<Downloads>,
    /// `None` where it is not to be gone on with, or is left to the next hive.
    noted: Option<Noted>,
    entered: Entered,
    held: Mutex<Vec<Hold>>,
}

impl Ongoing {
    /// Notes it, and keeps what an earlier hive has got of it.
    pub(super) async fn begin(
        parts: &Parts,
        request: &ModelDownload,
    ) -> Result<Self, CatalogError> {
        let (catalog, downloads) = (Arc::clone(&parts.catalog), Arc::clone(&parts.downloads));
        let request = request.clone();
        let entered = downloads.running().enter(request.reference.without_secrets());
        off_thread(move || {
            let noted = catalog.begin_download(&request)?;
            // From here on it has an end, whatever fails.
            let begun = Self { catalog, downloads, noted, entered, held: Mutex::default() };
            if let Some(noted) = &begun.noted {
                begun.hold(&begun.catalog.parts_of(noted)?);
            }
            Ok(begun)
        })
        .await
    }

    /// Fires when somebody wants it to end.
    pub(super) fn cancelled(&self) -> &CancellationToken {
        self.entered.cancelled()
    }

    /// Keeps the unfinished files that a model is made of.
    pub(super) async fn keep(&self, wanted: &Wanted) -> Result<(), CatalogError> {
        let projector = wanted.projector.as_ref().and_then(|projector| match &projector.place {
            ProjectorPlace::Server(remote) => Some(remote),
            ProjectorPlace::Disk(_) => None,
        });
        let files = wanted.files.iter().chain(projector);
        let keys: Vec<String> = files.map(crate::download::Remote::key).collect();
        self.hold(&keys);
        let Some(noted) = self.noted.clone() else { return Ok(()) };
        let catalog = Arc::clone(&self.catalog);
        off_thread(move || catalog.note_parts(&noted, &keys)).await
    }

    /// It is over.
    pub(super) async fn end(mut self) -> Result<(), CatalogError> {
        let Some(noted) = self.noted.take() else { return Ok(()) };
        let catalog = Arc::clone(&self.catalog);
        off_thread(move || catalog.end_download(&noted)).await
    }

    /// The next hive goes on with it.
    pub(super) fn leave(mut self) {
        self.noted = None;
    }

    fn hold(&self, keys: &[String]) {
        self.entered.needs(keys);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend(keys.iter().map(|key| self.downloads.hold(key)));
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let Some(noted) = self.noted.take() else { return };
        // The next hive goes on with it.
        if self.downloads.ending().is_cancelled() {
            return;
        }
        let catalog = Arc::clone(&self.catalog);
        // Without a runtime the process is on its way out, and the next hive goes on with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || {
                if let Err(error) = catalog.end_download(&noted) {
                    tracing::warn!(%error, "the end of a download cannot be noted");
                }
            });
        }
    }
}

impl fmt::Debug for Ongoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ongoing").field("noted", &self.noted).finish_non_exhaustive()
    }
}
