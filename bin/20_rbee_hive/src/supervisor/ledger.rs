//! Which worker processes this hive has started, on disk: `run/workers.json`.
//!
//! A hive that is killed leaves its workers running; the next one finds them here. An entry names a
//! process by pid and start time, so that a process that got the same pid later is never taken for
//! it; a ledger that was written before a reboot is worth nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use worker_contract::{DeviceId, ModelAlias, WorkerId};

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
}

#[derive(Debug, Serialize, Deserialize)]
struct Page {
    /// Which run of the machine the start times are of.
    boot: String,
    workers: Vec<LedgerEntry>,
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
        (Self { file, entries: Mutex::default() }, left)
    }

    /// Notes a process. Only the machine's own end could lose it, and with it goes the process.
    pub(super) fn add(&self, entry: LedgerEntry) {
        self.change(|entries| {
            entries.insert(entry.worker_id.clone(), entry);
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
    let Ok(text) = fs::read_to_string(file) else {
        return Vec::new();
    };
    match serde_json::from_str::<Page>(&text) {
        Ok(page) if page.boot == boot => page.workers,
        Ok(_) => Vec::new(),
        Err(error) => {
            let message = "the list of worker processes cannot be read; \
                           workers of an earlier hive, if any, are not adopted";
            tracing::warn!(file = %file.display(), %error, "{message}");
            Vec::new()
        }
    }
}

fn write(file: &Path, page: &Page) -> std::io::Result<()> {
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
    fn a_ledger_of_another_boot_or_of_noise_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("workers.json");
        let page = Page { boot: "earlier".into(), workers: vec![entry("w-1")] };
        write(&file, &page).unwrap();
        assert_eq!(read(&file, "earlier").len(), 1);
        assert_eq!(read(&file, "later"), []);
        fs::write(&file, "{").unwrap();
        assert_eq!(read(&file, "earlier"), []);
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
        }
    }
}
