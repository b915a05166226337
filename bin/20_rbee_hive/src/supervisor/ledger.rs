//! Which worker processes this hive has started, on disk: `run/workers.json`.
//!
//! A hive that is killed leaves its workers running; the next one finds them here. An entry names a
//! process by pid, start time and token, so that a process that got the same pid later is never taken
//! for it; a ledger that was written before a reboot is worth nothing. Entries that an earlier hive
//! left stay until they are adopted or removed: a hive that is killed over that loses none.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use worker_contract::{DeviceId, ModelAlias, WorkerId};

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
}

#[derive(Debug, Serialize, Deserialize)]
struct Page<Entry> {
    /// Which run of the machine the start times are of.
    boot: String,
    workers: Vec<Entry>,
}

/// The file and what is in it.
#[derive(Debug)]
pub(super) struct Ledger {
    file: PathBuf,
    entries: Mutex<BTreeMap<WorkerId, LedgerEntry>>,
}

impl Ledger {
    /// The ledger, and what an earlier hive left in it.
    pub(super) fn open(file: PathBuf) -> (Self, Vec<LedgerEntry>) {
        let left = read(&file, &boot());
        let entries = left.iter().map(|entry| (entry.worker_id.clone(), entry.clone()));
        let entries = Mutex::new(entries.collect());
        (Self { file, entries }, left)
    }

    /// Notes a process. Only the machine's own end could lose it, and with it goes the process.
    pub(super) fn add(&self, entry: LedgerEntry) {
        self.change(|entries| {
            entries.insert(entry.worker_id.clone(), entry);
        });
    }

    /// Notes that a worker's process has become ready.
    pub(super) fn ready(&self, worker: &WorkerId) {
        self.change(|entries| {
            if let Some(entry) = entries.get_mut(worker) {
                entry.was_ready = true;
            }
        });
    }

    /// Notes that a worker has no process.
    pub(super) fn remove(&self, worker: &WorkerId) {
        self.change(|entries| {
            entries.remove(worker);
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<WorkerId, LedgerEntry>)) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut entries);
        let page = Page { boot: boot(), workers: entries.values().cloned().collect() };
        if let Err(error) = write(&self.file, &page) {
            let message = "the list of worker processes cannot be written; \
                           a hive that is killed will not find its workers again";
            tracing::warn!(file = %self.file.display(), %error, "{message}");
        }
    }
}

fn read(file: &Path, boot: &str) -> Vec<LedgerEntry> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            unreadable(file, &error);
            return Vec::new();
        }
    };
    // One by one, so that an entry that makes no sense takes no other with it.
    let page: Page<Value> = match serde_json::from_slice(&text) {
        Ok(page) => page,
        Err(error) => {
            unreadable(file, &error);
            return Vec::new();
        }
    };
    if page.boot != boot {
        return Vec::new();
    }
    let entries = page.workers.into_iter().filter_map(|entry| {
        LedgerEntry::deserialize(entry).inspect_err(|error| unreadable(file, error)).ok()
    });
    entries.collect()
}

fn unreadable(file: &Path, error: &dyn std::error::Error) {
    let message = "the list of worker processes, or a part of it, cannot be read; \
                   workers that it named cannot be adopted and are ended";
    tracing::warn!(file = %file.display(), %error, "{message}");
}

fn write(file: &Path, page: &Page<LedgerEntry>) -> std::io::Result<()> {
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
        assert_eq!(left, []);
        ledger.add(entry("w-1"));
        ledger.add(entry("w-2"));
        ledger.remove(&"w-1".parse().unwrap());
        let (_ledger, left) = Ledger::open(file);
        assert_eq!(left, [entry("w-2")]);
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
        assert_eq!(left, [entry("w-1"), ready, entry("w-3")]);
    }

    #[test]
    fn an_entry_of_an_older_hive_and_one_beside_noise_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("workers.json");
        let old = r#"{"worker_id":"w-1","pid":1,"start_time":2,"port":9300,"model":"m",
            "device":"CPU-0","address":"http://127.0.0.1:9300","started_at":3}"#;
        fs::write(&file, format!(r#"{{"boot":"b","workers":[{{"pid":-1}},{old},7]}}"#)).unwrap();
        let plain = LedgerEntry { token: None, plan: None, ..entry("w-1") };
        assert_eq!(read(&file, "b"), [plain]);
    }

    #[test]
    fn a_ledger_of_another_boot_or_of_noise_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("workers.json");
        let page = Page { boot: "earlier".into(), workers: vec![entry("w-1")] };
        write(&file, &page).unwrap();
        assert_eq!(read(&file, "earlier").len(), 1);
        assert_eq!(read(&file, "later"), []);
        for noise in [&b"{"[..], b"", b"[]", &[0xff, 0x00]] {
            fs::write(&file, noise).unwrap();
            assert_eq!(read(&file, "earlier"), []);
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
            }),
        }
    }
}
