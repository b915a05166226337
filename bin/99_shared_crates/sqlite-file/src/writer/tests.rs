//! A disk that fails, a file that does, and a record that does: what is written, what waits, and what is said.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::waiting::MOST_BYTES;
use crate::{Layout, StoreKind};

const KIND: StoreKind = StoreKind {
    layout: Layout {
        version: 1,
        tables: "CREATE TABLE jobs (name TEXT PRIMARY KEY, state TEXT NOT NULL);",
    },
    before_path: "",
    content: "jobs",
    thread: "jobs",
    advises_to_open: true,
};

#[test]
fn a_disk_that_fails_is_told_of_until_it_works_and_nothing_is_lost_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = opened(&folder.path().join("state.db"));
    writer.write();
    pragma(&writer, "query_only = ON");
    writer.take(Record::Created("first"));
    let reason = writer.trouble.reason().unwrap();
    assert!(reason.contains("readonly"), "{reason}");
    writer.take(Record::Ended("first"));
    writer.write();
    assert!(writer.trouble.reason().is_some(), "it was tried in vain");
    assert_eq!(writer.told(), ["failing"], "once");
    pragma(&writer, "query_only = OFF");
    writer.take(Record::Created("second"));
    assert_eq!(writer.trouble.reason(), None);
    assert_eq!(writer.states(), ["first ended", "second running"]);
    writer.take(Record::Ended("second"));
    assert_eq!(writer.told(), ["failing", "well"], "once");
}

#[test]
fn a_record_that_can_never_be_written_holds_no_other_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = opened(&folder.path().join("state.db"));
    writer.take(Record::Created("twice"));
    writer.push(Record::Created("twice"));
    writer.push(Record::Created("other"));
    writer.write();
    assert_eq!(writer.trouble.reason(), None, "all others are kept");
    assert_eq!((writer.waiting.len(), writer.states().len()), (0, 2));
    assert_eq!(writer.told(), ["refused"]);
}

#[test]
fn trouble_ends_with_the_last_record_that_waits_whatever_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = opened(&folder.path().join("state.db"));
    writer.take(Record::Created("twice"));
    for last in [Record::Created("twice"), Record::Ended("nobody")] {
        pragma(&writer, "query_only = ON");
        writer.take(last);
        assert!(writer.trouble.reason().is_some());
        pragma(&writer, "query_only = OFF");
        writer.write();
        assert_eq!((writer.trouble.reason(), writer.waiting.len()), (None, 0));
    }
}

#[test]
fn a_file_that_takes_no_record_any_more_is_told_of_until_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.db");
    let mut writer = opened(&file);
    let rename = |from: &str, to: &str| {
        let other = Connection::open(&file).unwrap();
        other.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}")).unwrap();
    };
    rename("jobs", "lost");
    writer.take(Record::Created("first"));
    assert!(writer.trouble.reason().unwrap().contains("jobs"), "{:?}", writer.trouble);
    writer.write();
    assert!(writer.trouble.reason().is_some(), "that nothing waits mends no file");
    rename("lost", "jobs");
    writer.take(Record::Created("second"));
    assert_eq!(writer.trouble.reason(), None);
}

#[test]
fn a_file_that_cannot_be_opened_gets_what_waits_when_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("later").join("state.db");
    let mut writer = Writer::new(Jobs::at(&file), None, Trouble::default());
    writer.take(Record::Created("first"));
    assert!(writer.trouble.reason().is_some());
    std::fs::create_dir(folder.path().join("later")).unwrap();
    writer.take(Record::Ended("first"));
    assert_eq!(writer.trouble.reason(), None);
    assert_eq!(writer.states(), ["first ended"]);
}

#[test]
fn what_waits_is_bounded_and_lost_where_its_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("later").join("state.db");
    let mut writer = Writer::new(Jobs::at(&file), None, Trouble::default());
    for _ in 0..MOST {
        writer.push(Record::Ended("first"));
    }
    writer.write();
    assert_eq!((writer.waiting.len(), writer.told()), (MOST, told(&["failing"])));
    writer.take(Record::Large(MOST_BYTES));
    assert_eq!((writer.waiting.len(), writer.told()), (MOST, told(&["failing", "over by 1"])));
    writer.take(Record::Large(1));
    assert_eq!(writer.waiting.len(), 1, "two are too large together");
    writer.keep.waits = false;
    writer.take(Record::Created("second"));
    assert_eq!(writer.waiting.len(), 0);
    assert_eq!(writer.told().last().unwrap(), "over by 2");
}

#[tokio::test]
async fn what_was_recorded_is_in_the_file_when_it_is_flushed_or_closed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.db");
    let (keep, trouble) = (Jobs::at(&file), Trouble::default());
    let connection = keep.open().unwrap();
    let queue = WriteQueue::start(keep, Some(connection), trouble).unwrap();
    queue.try_add(Record::Created("first")).unwrap();
    queue.flush().await;
    assert_eq!(states(&file), ["first running"]);
    queue.add(Record::Ended("first")).await;
    queue.close().await;
    let beside = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(beside, 1, "nothing lies beside the file");
    assert_eq!((states(&file), queue.trouble()), (told(&["first ended"]), None));
    // What comes later is lost, and holds nobody up.
    queue.retry();
    queue.try_add(Record::Created("second")).unwrap();
    queue.add(Record::Created("third")).await;
    queue.flush().await;
    queue.close().await;
    assert_eq!(states(&file), ["first ended"]);
}

#[tokio::test]
async fn what_could_not_be_written_until_the_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let keep = Jobs::at(&folder.path().join("later").join("state.db"));
    let said = Arc::clone(&keep.said);
    let queue = WriteQueue::start(keep, None, Trouble::default()).unwrap();
    queue.add(Record::Created("first")).await;
    queue.flush().await;
    queue.close().await;
    assert!(queue.trouble().is_some());
    assert_eq!(*said.lock().unwrap(), ["failing", "unwritten: 1"]);
}

/// A small store.
struct Jobs {
    file: StoreFile,
    waits: bool,
    said: Arc<Mutex<Vec<String>>>,
}

enum Record {
    Created(&'static str),
    Ended(&'static str),
    /// Has so many bytes, and changes nothing.
    Large(usize),
}

impl Jobs {
    fn at(path: &Path) -> Self {
        Self { file: StoreFile::new(&KIND, path), waits: true, said: Arc::default() }
    }
}

impl Keep for Jobs {
    type Record = Record;
    const TIDY_AFTER: usize = 64;

    fn file(&self) -> &StoreFile {
        &self.file
    }

    fn open(&self) -> Result<Connection, StoreError> {
        self.file.open()
    }

    fn write(&self, change: &Connection, record: &Record) -> rusqlite::Result<()> {
        let changed = match record {
            Record::Created(name) => {
                change.execute("INSERT INTO jobs VALUES (?1, 'running')", [name])
            }
            Record::Ended(name) => {
                change.execute("UPDATE jobs SET state = 'ended' WHERE name = ?1", [name])
            }
            Record::Large(_) => Ok(0),
        };
        changed.map(drop)
    }

    fn bytes(&self, record: &Record) -> usize {
        if let Record::Large(bytes) = record { *bytes } else { 0 }
    }

    fn waits_after(&self, _error: &StoreError) -> bool {
        self.waits
    }

    fn tell(&self, news: News<'_>) {
        let said = match news {
            News::Failing { .. } => "failing".to_owned(),
            News::Well => "well".to_owned(),
            News::Refused(_) => "refused".to_owned(),
            News::Over(records) => format!("over by {records}"),
            News::Unwritten(records) => format!("unwritten: {records}"),
        };
        self.said.lock().unwrap().push(said);
    }
}

impl Writer<Jobs> {
    fn take(&mut self, record: Record) {
        self.push(record);
        self.write();
    }

    fn told(&self) -> Vec<String> {
        self.keep.said.lock().unwrap().clone()
    }

    fn states(&self) -> Vec<String> {
        states(self.keep.file.path())
    }
}

fn opened(file: &Path) -> Writer<Jobs> {
    let keep = Jobs::at(file);
    let connection = keep.open().unwrap();
    Writer::new(keep, Some(connection), Trouble::default())
}

fn pragma(writer: &Writer<Jobs>, what: &str) {
    let connection = writer.connection.as_ref().unwrap();
    connection.execute_batch(&format!("PRAGMA {what}")).unwrap();
}

fn states(file: &Path) -> Vec<String> {
    let connection = Connection::open(file).unwrap();
    let mut query =
        connection.prepare("SELECT name || ' ' || state FROM jobs ORDER BY rowid").unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn told(said: &[&str]) -> Vec<String> {
    said.iter().map(|said| (*said).to_owned()).collect()
}
