//! Decisions on disk, in SQLite, bounded by age and number.
//!
//! Writing happens on a thread of its own behind a bounded queue ([`WriteQueue`]), several records in one transaction.
//! Where there is no room, records wait in memory, bounded, until there is. A disk that fails or does not keep up costs
//! records, never a request, and the log says so.

mod read;
mod schema;
mod write;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::Connection;
use sqlite_file::{StoreError, StoreFile, Trouble, WriteQueue};

use self::write::Entries;
use super::{Entry, Filter};

/// A connection to read by; `None` before the file could be opened, and once it is closed.
type Reader = Arc<Mutex<Option<Connection>>>;

/// The queue to the writing thread, and a connection to read by.
#[derive(Debug)]
pub(super) struct Store {
    entries: WriteQueue<Arc<Entry>>,
    reader: Reader,
    last_id: u64,
    /// Whether it was said that the disk does not keep up.
    is_late: AtomicBool,
}

impl Store {
    /// Opens the file, and forgets what is over its bounds. Where there is no room for that, it is tried again with the
    /// next records.
    pub(super) fn open(path: &Path, now: Timestamp) -> Result<Self, StoreError> {
        let (reader, trouble) = (Reader::default(), Trouble::default());
        let file = StoreFile::new(&schema::KIND, path);
        let (connection, last_id) = match opened(&file, now, &reader) {
            Ok(writer) => {
                let last_id = read::last_id(&writer).map_err(|e| file.unusable(e))?;
                (Some(writer), last_id)
            }
            Err(error) if error.is_want_of_room() => {
                let reason = error.reason();
                trouble.begin(reason.clone());
                tracing::error!(%error, reason, "the queen's decisions cannot be recorded: they are kept in memory until they can");
                let past = file.look()?;
                let last = past.map_or(Ok(0), |past| read::last_id(&past));
                (None, last.map_err(|e| file.unusable(e))?)
            }
            Err(error) => return Err(error),
        };
        let kept = Entries { file, reader: Arc::clone(&reader) };
        let entries = WriteQueue::start(kept, connection, trouble)?;
        Ok(Self { entries, reader, last_id, is_late: AtomicBool::new(false) })
    }

    /// Why nothing can be written at present.
    pub(super) fn trouble(&self) -> Option<String> {
        self.entries.trouble()
    }

    /// Tries again to write what could not be written. Does not wait for it.
    pub(super) fn retry(&self) {
        self.entries.retry();
    }

    /// The largest number that was stored when the file was opened.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Records a decision, unless the disk does not keep up.
    pub(super) fn add(&self, entry: Arc<Entry>) {
        let is_full = self.entries.try_add(entry).is_err();
        if is_full && !self.is_late.swap(true, Relaxed) {
            tracing::error!(
                "the disk does not keep up with the queen's decisions: some are not recorded"
            );
        }
        if !is_full {
            self.is_late.store(false, Relaxed);
        }
    }

    /// What a filter lets through of numbers below `below`, the latest first. Empty where the disk
    /// fails.
    pub(super) async fn find(&self, filter: Filter, below: u64) -> Vec<Arc<Entry>> {
        let reader = Arc::clone(&self.reader);
        let read = move || {
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.as_ref().map_or(Ok(Vec::new()), |reader| read::find(reader, &filter, below))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot read the decisions on disk");
                Vec::new()
            }
            // The runtime is ending.
            Err(_) => Vec::new(),
        }
    }

    /// Waits until all that was recorded before is on disk, or has failed to be, and closes the file:
    /// nothing lies beside it then.
    pub(super) async fn close(&self) {
        let reader = Arc::clone(&self.reader);
        let take = move || reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last connection tidies up, and that is the one that writes.
        tokio::task::spawn_blocking(move || drop(take())).await.ok();
        self.entries.close().await;
    }
}

/// A connection to write by; the one to read by is put in its place.
fn opened(file: &StoreFile, now: Timestamp, reader: &Reader) -> Result<Connection, StoreError> {
    let writer = file.open()?;
    write::prune(&writer, now).map_err(|e| file.unusable(e))?;
    let other = sqlite_file::connect(file.path()).map_err(|e| file.unusable(e))?;
    *reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(other);
    Ok(writer)
}
