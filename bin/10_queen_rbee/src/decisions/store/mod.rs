//! Decisions on disk, in SQLite, bounded by age and number.
//!
//! Writing happens on a thread of its own behind a bounded queue, several records in one transaction.
//! A disk that fails or does not keep up costs records, never a request, and the log says so.

mod read;
mod schema;
mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use self::write::Record;
use super::{Entry, Filter};

/// How many records may wait for the disk.
const QUEUE: usize = 1024;

/// The store of decisions failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, made, read or written, or is no such store.
    #[error("cannot use {path}{}", sqlite_file::advice(.source, "an empty one"))]
    Use {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file was written by a later version of rbee.
    #[error(
        "{path} has version {found}, but this rbee knows versions up to {known}; use the later rbee, \
         or move the file away"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest version that is understood.
        known: i64,
    },
    /// The thread that writes cannot be started.
    #[error("cannot start the thread that writes decisions")]
    Thread(#[source] std::io::Error),
}

/// The queue to the writing thread, which ends when this is dropped, and a connection to read by.
#[derive(Debug)]
pub(super) struct Store {
    records: mpsc::Sender<Record>,
    /// `None` once the file is closed.
    reader: Arc<Mutex<Option<Connection>>>,
    last_id: u64,
    /// Whether it was said that the disk does not keep up.
    is_late: AtomicBool,
}

impl Store {
    /// Opens the file, and forgets what is over its bounds.
    pub(super) fn open(path: &Path, now: Timestamp) -> Result<Self, StoreError> {
        let use_error = |source| StoreError::Use { path: path.to_owned(), source };
        let writer = schema::open(path)?;
        write::prune(&writer, now).map_err(use_error)?;
        let last_id = read::last_id(&writer).map_err(use_error)?;
        let reader = sqlite_file::connect(path).map_err(use_error)?;
        let (records, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("decisions".to_owned())
            .spawn(move || write::write_all(writer, queue))
            .map_err(StoreError::Thread)?;
        let reader = Arc::new(Mutex::new(Some(reader)));
        Ok(Self { records, reader, last_id, is_late: AtomicBool::new(false) })
    }

    /// The largest number that was stored when the file was opened.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Records a decision, unless the disk does not keep up.
    pub(super) fn add(&self, entry: Arc<Entry>) {
        let sent = self.records.try_send(Record::Add(entry));
        let is_full = matches!(sent, Err(mpsc::error::TrySendError::Full(_)));
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
        let (closed, wait) = oneshot::channel();
        if self.records.send(Record::Close(closed)).await.is_ok() {
            wait.await.ok();
        }
    }
}
