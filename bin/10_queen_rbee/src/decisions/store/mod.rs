//! Decisions on disk, in SQLite, bounded by age and number.
//!
//! Writing happens on a thread of its own behind a bounded queue, several records in one transaction.
//! Where there is no room, records wait in memory, bounded, until there is. A disk that fails or does not keep up costs
//! records, never a request, and the log says so.

mod read;
mod schema;
mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::Connection;
use sqlite_file::Trouble;
use tokio::sync::{mpsc, oneshot};

use self::write::{Record, Writer};
use super::{Entry, Filter};

/// How many records may wait for the disk.
const QUEUE: usize = 1024;

/// The store of decisions failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("cannot open {path}{}", sqlite_file::advice(.source, "an empty one"))]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file cannot be read or written, or is no such store.
    #[error("cannot use {path}{}", sqlite_file::advice(.source, "an empty one"))]
    Use {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file was written by a later version of rbee.
    #[error(
        "{path} has version {found}, but this rbee knows versions up to {known}{}",
        sqlite_file::advice_too_new(.path, *.known)
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest version that is understood.
        known: i64,
    },
    /// Another program reads the file for so long that the write-ahead log grows without end.
    #[error("another program has been reading {path} for long; end it")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The thread that writes cannot be started.
    #[error("cannot start the thread that writes decisions")]
    Thread(#[source] std::io::Error),
}

impl StoreError {
    /// What SQLite says about it, without the file.
    fn reason(&self) -> String {
        match self {
            Self::Open { source, .. } | Self::Use { source, .. } => source.to_string(),
            Self::InUse { .. } => "another program has been reading the file for long".to_owned(),
            Self::TooNew { .. } | Self::Thread(_) => self.to_string(),
        }
    }

    fn is_want_of_room(&self) -> bool {
        match self {
            Self::Open { source, .. } => sqlite_file::is_want_of_room_to_open(source),
            Self::Use { source, .. } => sqlite_file::is_want_of_room(source),
            Self::TooNew { .. } | Self::InUse { .. } | Self::Thread(_) => false,
        }
    }

    fn is_passing(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Use { source, .. } => sqlite_file::is_passing(source),
            Self::InUse { .. } => true,
            Self::TooNew { .. } | Self::Thread(_) => false,
        }
    }
}

/// A connection to read by; `None` before the file could be opened, and once it is closed.
type Reader = Arc<Mutex<Option<Connection>>>;

/// The queue to the writing thread, which ends when this is dropped, and a connection to read by.
#[derive(Debug)]
pub(super) struct Store {
    records: mpsc::Sender<Record>,
    reader: Reader,
    last_id: u64,
    trouble: Trouble,
    /// Whether it was said that the disk does not keep up.
    is_late: AtomicBool,
}

impl Store {
    /// Opens the file, and forgets what is over its bounds. Where there is no room for that, it is tried again with the
    /// next records.
    pub(super) fn open(path: &Path, now: Timestamp) -> Result<Self, StoreError> {
        let (reader, trouble) = (Reader::default(), Trouble::default());
        let (connection, last_id) = match opened(path, now, &reader) {
            Ok(writer) => {
                let last_id = read::last_id(&writer).map_err(|e| unusable(path, e))?;
                (Some(writer), last_id)
            }
            Err(error) if error.is_want_of_room() => {
                let reason = error.reason();
                trouble.begin(reason.clone());
                tracing::error!(%error, reason, "the queen's decisions cannot be recorded: they are kept in memory until they can");
                let past = schema::look(path)?;
                let last = past.map_or(Ok(0), |past| read::last_id(&past));
                (None, last.map_err(|e| unusable(path, e))?)
            }
            Err(error) => return Err(error),
        };
        let (file, shared) = (path.to_owned(), Arc::clone(&reader));
        let open = move || opened(&file, Timestamp::now(), &shared);
        let writer = Writer::new(path.to_owned(), connection, Box::new(open), trouble.clone());
        let (records, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("decisions".to_owned())
            .spawn(move || write::write_all(writer, queue))
            .map_err(StoreError::Thread)?;
        Ok(Self { records, reader, last_id, trouble, is_late: AtomicBool::new(false) })
    }

    /// Why nothing can be written at present.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.reason()
    }

    /// Tries again to write what could not be written. Does not wait for it.
    pub(super) fn retry(&self) {
        // Where the queue is full, it is tried anyway.
        self.records.try_send(Record::Retry).ok();
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

/// A connection to write by; the one to read by is put in its place.
fn opened(path: &Path, now: Timestamp, reader: &Reader) -> Result<Connection, StoreError> {
    let writer = schema::open(path)?;
    write::prune(&writer, now).map_err(|e| unusable(path, e))?;
    let other = sqlite_file::connect(path).map_err(|e| unusable(path, e))?;
    *reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(other);
    Ok(writer)
}

fn unusable(path: &Path, source: rusqlite::Error) -> StoreError {
    StoreError::Use { path: path.to_owned(), source }
}
