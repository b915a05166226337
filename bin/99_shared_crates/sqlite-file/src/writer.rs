//! The thread that writes what a store is to keep, several records in one transaction.
//!
//! Records come to it through a bounded queue. Where there is no room, they wait in memory, bounded, until there is. A
//! disk that fails is told of once, until something was written; it costs records, and holds nobody up who records.

#[cfg(test)]
mod tests;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::waiting::{MOST, Waiting};
use crate::{StoreError, StoreFile, Trouble, is_of_row, is_passing, tidy};

/// How much may be in the queue.
const QUEUE: usize = 1024;
/// How much is taken from it at once.
const BATCH: usize = 256;

/// What a store keeps: how it is written, and what is said of it.
pub trait Keep: Send + 'static {
    /// One thing to write.
    type Record: Send + 'static;

    /// After how many records room is given back, and the write-ahead log looked at.
    const TIDY_AFTER: usize;

    /// Its file.
    fn file(&self) -> &StoreFile;

    /// Opens the file as at the start.
    ///
    /// # Errors
    /// It cannot be opened, read or written.
    fn open(&self) -> Result<Connection, StoreError>;

    /// Writes a record, as part of a transaction.
    ///
    /// # Errors
    /// It cannot be written.
    fn write(&self, change: &Connection, record: &Self::Record) -> rusqlite::Result<()>;

    /// How many bytes of texts a record has, about: what waits is bounded by them, too.
    fn bytes(&self, _record: &Self::Record) -> usize {
        0
    }

    /// Whether what waits goes on waiting after such a failure of the file. Otherwise all of it is lost.
    fn waits_after(&self, error: &StoreError) -> bool;

    /// Forgets what is not kept any more, whenever room is given back.
    fn prune(&self, _connection: &Connection) {}

    /// Says something in the log.
    fn tell(&self, news: News<'_>);
}

/// What there is to say of a store.
#[derive(Debug, Clone, Copy)]
pub enum News<'a> {
    /// Nothing can be written. Said once, until [`Well`](Self::Well).
    Failing {
        /// The whole failure.
        error: &'a StoreError,
        /// The same without the file.
        reason: &'a str,
    },
    /// Something could be written again.
    Well,
    /// A record that no file takes is lost. It holds no other up.
    Refused(&'a rusqlite::Error),
    /// So many of those that waited are lost: more than may wait.
    Over(usize),
    /// So many could not be written until the file was closed, and are lost.
    Unwritten(usize),
}

/// The queue to the disk is full.
#[derive(Debug, thiserror::Error)]
#[error("the queue to the disk is full")]
pub struct QueueFull;

/// The queue to the thread that writes, which ends when this is dropped.
#[derive(Debug)]
pub struct WriteQueue<R> {
    messages: mpsc::Sender<Message<R>>,
    trouble: Trouble,
}

#[derive(Debug)]
enum Message<R> {
    Add(R),
    /// Answered when all before it is written, or has failed to be.
    Flush(oneshot::Sender<()>),
    /// The same, and the file is closed; what comes later is lost.
    Close(oneshot::Sender<()>),
}

impl<R: Send + 'static> WriteQueue<R> {
    /// Starts the thread. Without a `connection` the file is opened with the first record, as there was no room for it:
    /// the `trouble` has begun then.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start<K: Keep<Record = R>>(
        keep: K,
        connection: Option<Connection>,
        trouble: Trouble,
    ) -> Result<Self, StoreError> {
        let kind = keep.file().kind();
        let writer = Writer::new(keep, connection, trouble.clone());
        let (messages, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name(kind.thread.to_owned())
            .spawn(move || writer.write_all(queue))
            .map_err(|source| StoreError::Thread { content: kind.content, source })?;
        Ok(Self { messages, trouble })
    }

    /// Why nothing can be written at present.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.reason()
    }

    /// Tries again to write what could not be written. Does not wait for it.
    pub fn retry(&self) {
        // Where the queue is full, it is tried anyway.
        self.messages.try_send(Message::Flush(oneshot::channel().0)).ok();
    }

    /// Records something, unless the disk does not keep up.
    ///
    /// # Errors
    /// It does not.
    pub fn try_add(&self, record: R) -> Result<(), QueueFull> {
        match self.messages.try_send(Message::Add(record)) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(QueueFull),
            // A thread that is gone costs records, and nothing else.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Records something, when there is a place in the queue.
    pub async fn add(&self, record: R) {
        self.send(Message::Add(record)).await;
    }

    /// Waits until all that was recorded before is on disk, or has failed to be.
    pub async fn flush(&self) {
        let (reached, wait) = oneshot::channel();
        self.send(Message::Flush(reached)).await;
        wait.await.ok();
    }

    /// The same, and closes the file.
    pub async fn close(&self) {
        let (closed, wait) = oneshot::channel();
        self.send(Message::Close(closed)).await;
        wait.await.ok();
    }

    async fn send(&self, message: Message<R>) {
        // A thread that is gone has said so in the log.
        self.messages.send(message).await.ok();
    }
}

/// The file, and what is to be written to it.
struct Writer<K: Keep> {
    keep: K,
    /// `None` as long as there was no room to open it.
    connection: Option<Connection>,
    waiting: Waiting<K::Record>,
    since_tidied: usize,
    trouble: Trouble,
}

impl<K: Keep> Writer<K> {
    fn new(keep: K, connection: Option<Connection>, trouble: Trouble) -> Self {
        Self { keep, connection, waiting: Waiting::default(), since_tidied: 0, trouble }
    }

    /// Writes what comes until the file is to be closed, or the queue is closed and empty.
    fn write_all(mut self, mut queue: mpsc::Receiver<Message<K::Record>>) {
        if let Some(closed) = self.write_until_close(&mut queue) {
            if !self.waiting.is_empty() {
                self.keep.tell(News::Unwritten(self.waiting.len()));
            }
            drop(self);
            // Who asked may have given up waiting.
            closed.send(()).ok();
        }
    }

    fn write_until_close(
        &mut self,
        queue: &mut mpsc::Receiver<Message<K::Record>>,
    ) -> Option<oneshot::Sender<()>> {
        let (mut flushed, mut closed) = (Vec::new(), None);
        while closed.is_none() {
            let mut next = Some(queue.blocking_recv()?);
            let mut taken = 0;
            while let Some(message) = next {
                match message {
                    Message::Add(record) => self.push(record),
                    Message::Flush(reached) => flushed.push(reached),
                    Message::Close(asked) => closed = Some(asked),
                }
                taken += 1;
                next = if taken < BATCH { queue.try_recv().ok() } else { None };
            }
            self.write();
            for reached in flushed.drain(..) {
                // Who asked may have given up waiting.
                reached.send(()).unwrap_or_default();
            }
        }
        closed
    }

    fn push(&mut self, record: K::Record) {
        let bytes = self.keep.bytes(&record);
        self.waiting.push(record, bytes);
    }

    /// Writes what waits. What there is no room for waits on, and what a file cannot take for another reason is lost. A disk
    /// or a file that fails is told of once, until something was written; a record that cannot be written is no such failure.
    fn write(&mut self) {
        // That there is nothing to write says nothing about the disk.
        if self.waiting.is_empty() && self.connection.is_some() {
            return;
        }
        match self.try_to_write() {
            Ok(()) => {
                if self.trouble.end() {
                    self.keep.tell(News::Well);
                }
            }
            Err(error) => self.bear(&error),
        }
    }

    fn bear(&mut self, error: &StoreError) {
        let reason = error.reason();
        if self.trouble.begin(reason.clone()) {
            self.keep.tell(News::Failing { error, reason: &reason });
        }
        let most = if self.keep.waits_after(error) { MOST } else { 0 };
        let lost = self.waiting.limit(most);
        if lost > 0 {
            self.keep.tell(News::Over(lost));
        }
    }

    /// A file that could be opened counts as something that was written.
    fn try_to_write(&mut self) -> Result<(), StoreError> {
        let file = self.keep.file();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.keep.open()?),
        };
        self.since_tidied += self.waiting.len();
        if self.since_tidied >= K::TIDY_AFTER {
            if !tidy(connection, file.path()).map_err(|e| file.unusable(e))? {
                return Err(StoreError::InUse { file: file.clone() });
            }
            self.since_tidied = 0;
            self.keep.prune(connection);
        }
        write_waiting(&self.keep, connection, &mut self.waiting).map_err(|e| file.unusable(e))
    }
}

/// Writes all in one transaction; where that fails, each by itself, so that one cannot spoil the rest.
fn write_waiting<K: Keep>(
    keep: &K,
    connection: &mut Connection,
    waiting: &mut Waiting<K::Record>,
) -> rusqlite::Result<()> {
    if waiting.is_empty() {
        return Ok(());
    }
    if write_together(keep, connection, waiting.all()).is_ok() {
        waiting.clear();
        return Ok(());
    }
    let mut result = Ok(());
    while let Some(record) = waiting.first() {
        match write_together(keep, connection, std::iter::once(record)) {
            Ok(()) => {}
            // The next ones wait, too: their order matters.
            Err(error) if is_passing(&error) => return Err(error),
            Err(error) if is_of_row(&error) => keep.tell(News::Refused(&error)),
            Err(error) => result = result.and(Err(error)),
        }
        waiting.pop();
    }
    result
}

fn write_together<'a, K: Keep>(
    keep: &K,
    connection: &mut Connection,
    records: impl Iterator<Item = &'a K::Record>,
) -> rusqlite::Result<()> {
    let change = connection.transaction()?;
    for record in records {
        keep.write(&change, record)?;
    }
    change.commit()
}
