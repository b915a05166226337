//! Which worker processes this hive has started, which workers it is to start again, and which it has
//! given up, on disk: `run/workers.json`.
//!
//! A hive that is killed leaves its workers running; the next one finds them here. An entry names a
//! process by pid, start time and token, so that a process that got the same pid later is never taken
//! for it; a ledger that was written before a reboot is worth nothing. Entries that an earlier hive
//! left stay until they are adopted or removed: a hive that is killed over that loses none.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use worker_contract::{DeviceId, ModelAlias, Restarts, SupervisedWorker, WorkerId};

use super::command::WorkerPlan;

/// A worker process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LedgerEntry {
    pub(super) worker_id: WorkerId,
    pub(super) pid: u32,
    /// When the process was started, as the kernel counts.
    pub(super) start_time: u64,
    pub(super) port: u16,
    pub(super) model: ModelAlias,
    pub(super) device: DeviceId,
    pub(super) address: String,
    /// Seconds since the Unix epoch.
    pub(super) started_at: u64,
    /// What is in the process's environment, and in no other's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    /// Whether it has ever been ready.
    #[serde(default)]
    pub(super) was_ready: bool,
    /// How to start it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plan: Option<WorkerPlan>,
    /// When its processes before this one failed: seconds since the machine was started, which no change
    /// of the clock moves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) failures: Vec<u64>,
    /// How it was kept running so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) restarts: Option<Restarts>,
}

/// A worker that failed and has no process before it is started again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) worker: SupervisedWorker,
    pub(super) plan: WorkerPlan,
    /// When its processes failed, as those of an entry.
    #[serde(default)]
    pub(super) failures: Vec<u64>,
    /// When it is to be started, counted likewise.
    #[serde(default)]
    pub(super) due: u64,
}

/// A worker that failed too often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct GivenUp {
    pub(super) worker: SupervisedWorker,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plan: Option<WorkerPlan>,
}

/// What an earlier hive left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) running: Vec<LedgerEntry>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) given_up: Vec<GivenUp>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Page<Entry, Paused, Failed> {
    /// Which run of the machine the start times are of.
    boot: String,
    workers: Vec<Entry>,
    #[serde(default = "Vec::new")]
    waiting: Vec<Paused>,
    #[serde(default = "Vec::new")]
    given_up: Vec<Failed>,
}

#[derive(Debug, Default)]
struct Book {
    running: BTreeMap<WorkerId, LedgerEntry>,
    waiting: BTreeMap<WorkerId, Waiting>,
    given_up: BTreeMap<WorkerId, GivenUp>,
}

/// The file and what is in it.
#[derive(Debug)]
pub(super) struct Ledger {
    file: PathBuf,
    book: Mutex<Book>,
}

impl Book {
    fn knows(&self, worker: &WorkerId) -> bool {
        self.running.contains_key(worker)
            || self.waiting.contains_key(worker)
            || self.given_up.contains_key(worker)
    }

    fn clear(&mut self, worker: &WorkerId) {
        self.running.remove(worker);
        self.waiting.remove(worker);
        self.given_up.remove(worker);
    }
}

impl Ledger {
    /// The ledger, and what an earlier hive left in it.
    pub(super) fn open(file: PathBuf) -> (Self, Left) {
        let left = read(&file, &boot());
        let running = left.running.iter().map(|entry| (entry.worker_id.clone(), entry.clone()));
        let waiting = left.waiting.iter();
        let waiting = waiting.map(|paused| (paused.worker.worker_id.clone(), paused.clone()));
        let given_up = left.given_up.iter();
        let given_up = given_up.map(|failed| (failed.worker.worker_id.clone(), failed.clone()));
        let book = Book {
            running: running.collect(),
            waiting: waiting.collect(),
            given_up: given_up.collect(),
        };
        (Self { file, book: Mutex::new(book) }, left)
    }

    /// Notes a process. Only the machine's own end could lose it, and with it goes the process.
    pub(super) fn add(&self, entry: LedgerEntry) {
        self.change(|book| {
            book.waiting.remove(&entry.worker_id);
            book.running.insert(entry.worker_id.clone(), entry);
        });
    }

    /// Notes that a worker's process has become ready.
    pub(super) fn ready(&self, worker: &WorkerId) {
        self.change(|book| {
            if let Some(entry) = book.running.get_mut(worker) {
                entry.was_ready = true;
            }
        });
    }

    /// Notes that a worker has no process.
    pub(super) fn remove(&self, worker: &WorkerId) {
        self.change(|book| {
            book.running.remove(worker);
        });
    }

    /// Notes that a worker has no process until it is started again.
    pub(super) fn wait(&self, paused: Waiting) {
        self.change(|book| {
            book.running.remove(&paused.worker.worker_id);
            book.waiting.insert(paused.worker.worker_id.clone(), paused);
        });
    }

    /// Notes that a worker is not started again until somebody asks for it.
    pub(super) fn give_up(&self, failed: GivenUp) {
        self.change(|book| {
            book.clear(&failed.worker.worker_id);
            book.given_up.insert(failed.worker.worker_id.clone(), failed);
        });
    }

    /// Notes that nobody speaks of a worker any longer, which has no process.
    pub(super) fn forget(&self, worker: &WorkerId) {
        let is_known = self.book().knows(worker);
        if is_known {
            self.change(|book| book.clear(worker));
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Book)) {
        let mut book = self.book();
        change(&mut book);
        let page = Page {
            boot: boot(),
            workers: book.running.values().cloned().collect(),
            waiting: book.waiting.values().cloned().collect(),
            given_up: book.given_up.values().cloned().collect(),
        };
        if let Err(error) = write(&self.file, &page) {
            let message = "the list of worker processes cannot be written; \
                           a hive that is killed will not find its workers again";
            tracing::warn!(file = %self.file.display(), %error, "{message}");
        }
    }
}

fn read(file: &Path, boot: &str) -> Left {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Left::default(),
        Err(error) => {
            unreadable(file, &error);
            return Left::default();
        }
    };
    let page: Page<Value, Value, Value> = match serde_json::from_slice(&text) {
        Ok(page) => page,
        Err(error) => {
            unreadable(file, &error);
            return Left::default();
        }
    };
    if page.boot != boot {
        return Left::default();
    }
    Left {
        running: each(file, page.workers),
        waiting: each(file, page.waiting),
        given_up: each(file, page.given_up),
    }
}

/// One by one, so that an entry that makes no sense takes no other with it.
fn each<Entry: DeserializeOwned>(file: &Path, entries: Vec<Value>) -> Vec<Entry> {
    let read = |entry| Entry::deserialize(entry).inspect_err(|error| unreadable(file, error)).ok();
    entries.into_iter().filter_map(read).collect()
}

fn unreadable(file: &Path, error: &dyn std::error::Error) {
    let message = "the list of worker processes, or a part of it, cannot be read; \
                   workers that it named cannot be adopted and are ended";
    tracing::warn!(file = %file.display(), %error, "{message}");
}

fn write(file: &Path, page: &Page<LedgerEntry, Waiting, GivenUp>) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
    fresh.write_all(&serde_json::to_vec_pretty(page)?)?;
    fresh.persist(file)?;
    Ok(())
}

/// What is different after each boot; empty where the system does not tell.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_hive_finds_what_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("workers.json");
        let (ledger, left) = Ledger::open(file.clone());
        assert_eq!(left.running, []);
        ledger.add(entry("w-1"));
        ledger.add(entry("w-2"));
        ledger.remove(&"w-1".parse().unwrap());
        let (_ledger, left) = Ledger::open(file);
        assert_eq!(left.running, [entry("w-2")]);
    }

    #[test]
    fn a_hive_that_is_killed_before_it_has_adopted_all_loses_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("workers.json");
        let (ledger, _) = Ledger::open(file.clone());
        ledger.add(entry("w-1"));
        ledger.add(entry("w-2"));
        let (ledger, _) = Ledger::open(file.clone());
        ledger.add(entry("w-3"));
        ledger.ready(&"w-2".parse().unwrap());
        let (_ledger, left) = Ledger::open(file);
        let ready = LedgerEntry { was_ready: true, ..entry("w-2") };
        assert_eq!(left.running, [entry("w-1"), ready, entry("w-3")]);
    }

    #[test]
    fn an_entry_of_an_older_hive_and_one_beside_noise_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("workers.json");
        let old = r#"{"worker_id":"w-1","pid":1,"start_time":2,"port":9300,"model":"m",
            "device":"CPU-0","address":"http://127.0.0.1:9300","started_at":3}"#;
        fs::write(&file, format!(r#"{{"boot":"b","workers":[{{"pid":-1}},{old},7]}}"#)).unwrap();
        let plain = LedgerEntry { token: None, plan: None, ..entry("w-1") };
        assert_eq!(read(&file, "b").running, [plain]);
    }

    #[test]
    fn a_ledger_of_another_boot_or_of_noise_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("workers.json");
        let page = Page {
            boot: "earlier".into(),
            workers: vec![entry("w-1")],
            waiting: Vec::new(),
            given_up: Vec::new(),
        };
        write(&file, &page).unwrap();
        assert_eq!(read(&file, "earlier").running.len(), 1);
        assert_eq!(read(&file, "later").running, []);
        for noise in [&b"{"[..], b"", b"[]", &[0xff, 0x00]] {
            fs::write(&file, noise).unwrap();
            assert_eq!(read(&file, "earlier").running, []);
        }
    }

    #[test]
    fn a_worker_that_was_given_up_is_known_until_somebody_forgets_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("workers.json");
        let (ledger, _) = Ledger::open(file.clone());
        let failed = |id: &str| GivenUp { worker: failed(id), plan: entry(id).plan };
        ledger.give_up(failed("w-1"));
        ledger.give_up(failed("w-2"));
        ledger.forget(&"w-1".parse().unwrap());
        ledger.forget(&"w-none".parse().unwrap());
        let (_ledger, left) = Ledger::open(file);
        assert_eq!(left.given_up, [failed("w-2")]);
    }

    #[test]
    fn a_worker_that_waits_for_its_next_process_is_known_until_it_has_it_or_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("workers.json");
        let (ledger, _) = Ledger::open(file.clone());
        let waiting = |id: &str| Waiting {
            worker: failed(id),
            plan: entry(id).plan.unwrap(),
            failures: vec![7],
            due: 9,
        };
        for id in ["w-1", "w-2", "w-3", "w-4"] {
            ledger.add(entry(id));
            ledger.wait(waiting(id));
        }
        ledger.add(entry("w-1"));
        ledger.give_up(GivenUp { worker: failed("w-2"), plan: None });
        ledger.forget(&"w-3".parse().unwrap());
        let (_ledger, left) = Ledger::open(file);
        assert_eq!(left.running, [entry("w-1")]);
        assert_eq!(left.waiting, [waiting("w-4")]);
        assert_eq!(left.given_up.len(), 1);
    }

    fn failed(id: &str) -> SupervisedWorker {
        let reason = "it fails".to_owned();
        SupervisedWorker {
            worker_id: id.parse().unwrap(),
            hive_id: worker_contract::HiveAlias::localhost(),
            model: "m".parse().unwrap(),
            device: "CPU-0".parse().unwrap(),
            address: "http://127.0.0.1:9300".into(),
            port: 9300,
            pid: 1,
            started_at: 3,
            state: worker_contract::SupervisedState::Failed { reason: reason.clone() },
            restarts: Some(Restarts { count: 4, reason, waiting: false }),
            memory_bytes: None,
        }
    }

    fn entry(id: &str) -> LedgerEntry {
        LedgerEntry {
            worker_id: id.parse().unwrap(),
            pid: 1,
            start_time: 2,
            port: 9300,
            model: "m".parse().unwrap(),
            device: "CPU-0".parse().unwrap(),
            address: "http://127.0.0.1:9300".into(),
            started_at: 3,
            token: Some("t".into()),
            was_ready: false,
            plan: Some(WorkerPlan {
                binary: "/bin/worker".into(),
                model: "m".parse().unwrap(),
                model_file: "/models/m.gguf".into(),
                digest: "ab".repeat(32).parse().unwrap(),
                projector: None,
                device: "CPU-0".parse().unwrap(),
                slots: 4,
                ctx_size: 8192,
                memory: Vec::new(),
            }),
            failures: Vec::new(),
            restarts: None,
        }
    }
}
