//! What the queen has decided, for whom and why.
//!
//! The latest decisions of every kind are in memory, and on disk, bounded by age and number, so that a
//! day later one can still find out why a worker was started or a request refused. Of each kind that is
//! made for requests one by one so many a second go to the disk as a house has; of a flood only those, and
//! it pushes none of other kinds out. Recording never waits: a disk that is slow or fails costs records.

mod entry;
mod store;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlite_file::StoreError;
use tokio::sync::watch;
use worker_contract::{ModelAlias, RequestId};

pub use self::entry::{Because, Decided, Entry, Kind, Share};
use self::store::Store;

/// How many decisions of each share are in memory.
const KEPT: usize = 4096;
/// How many decisions of each frequent kind are stored in a second.
const FREQUENT_PER_SECOND: u32 = 20;
/// How long a shutdown waits for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// The log of decisions. A clone is the same log.
#[derive(Debug, Clone)]
pub struct Decisions {
    shared: Arc<Shared>,
}

/// Which decisions are wanted.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Those for this request.
    pub request_id: Option<RequestId>,
    /// Those about this model.
    pub model: Option<ModelAlias>,
    /// The latest so many.
    pub limit: usize,
}

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    store: Option<Store>,
    /// The number of the latest one.
    latest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    next_id: u64,
    kept: BTreeMap<Share, VecDeque<Arc<Entry>>>,
    /// The number from which on none has left the memory.
    whole_from: u64,
    /// When the second began, and how many decisions of each frequent kind were to be stored in it.
    stored: (Instant, BTreeMap<Kind, u32>),
    /// How many there were of each kind and reason.
    counts: BTreeMap<(Kind, &'static str), u64>,
}

impl Decisions {
    /// A log that ends with the process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(None)
    }

    /// A log that is continued from a file, which is made where it is missing. Blocks for as long as
    /// the disk takes.
    ///
    /// # Errors
    /// The file cannot be opened or read, or is of a later version of rbee. That there is no room to write is none: then
    /// [`trouble`](Self::trouble) tells of it.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        Store::open(file, Timestamp::now()).map(|store| Self::new(Some(store)))
    }

    fn new(store: Option<Store>) -> Self {
        // By the clock, so that the numbers of two runs are never the same; above all that is stored,
        // so that they grow even where the clock was set back.
        let by_clock = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0);
        let next_id = store.as_ref().map_or(0, |store| store.last_id() + 1).max(by_clock);
        let stored = (Instant::now(), BTreeMap::new());
        let (kept, counts) = (BTreeMap::new(), BTreeMap::new());
        let ring = Ring { next_id, kept, whole_from: next_id, stored, counts };
        let latest = watch::Sender::new(next_id - 1);
        Self { shared: Arc::new(Shared { ring: Mutex::new(ring), store, latest }) }
    }

    /// Why decisions cannot be recorded at present: the latest are kept in memory.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.store.as_ref()?.trouble()
    }

    /// Tries again to record what could not be recorded. Does not wait for it.
    pub fn retry(&self) {
        if let Some(store) = &self.shared.store {
            store.retry();
        }
    }

    /// Records a decision.
    pub fn record(&self, decided: Decided) {
        let store = self.shared.store.as_ref();
        let (entry, is_stored) = {
            let mut ring = self.ring();
            let is_stored = store.is_some() && ring.may_store(decided.kind, Instant::now());
            *ring.counts.entry((decided.kind, decided.because.name())).or_default() += 1;
            let entry = Arc::new(Entry { id: ring.next_id, at: Timestamp::now(), decided });
            ring.keep(Arc::clone(&entry));
            (entry, is_stored)
        };
        self.shared.latest.send_replace(entry.id);
        if let Some(store) = store.filter(|_| is_stored) {
            store.add(entry);
        }
    }

    /// The decisions that a filter lets through, the latest first.
    pub async fn find(&self, filter: Filter) -> Vec<Arc<Entry>> {
        let (mut found, whole_from) = self.ring().find(&filter);
        let of_all = found.partition_point(|entry| entry.id >= whole_from);
        if of_all < filter.limit
            && let Some(store) = &self.shared.store
        {
            let limit = filter.limit;
            let rest = Filter { limit: limit - of_all, ..filter };
            found.extend(store.find(rest, whole_from).await);
            // What is on disk may be in memory, too, which comes first.
            found.sort_by_key(|entry| Reverse(entry.id));
            found.dedup_by_key(|entry| entry.id);
            found.truncate(limit);
        }
        found
    }

    /// Those in memory with numbers above `after`, the oldest first.
    #[must_use]
    pub fn since(&self, after: u64) -> Vec<Arc<Entry>> {
        let ring = self.ring();
        let mut found = Vec::new();
        for kept in ring.kept.values() {
            let begin = kept.partition_point(|entry| entry.id <= after);
            found.extend(kept.range(begin..).cloned());
        }
        drop(ring);
        found.sort_unstable_by_key(|entry| entry.id);
        found
    }

    /// How many there were of each kind and reason since the queen began.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(Kind, &'static str), u64> {
        self.ring().counts.clone()
    }

    /// Tells the number of the latest decision, from now on.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.shared.latest.subscribe()
    }

    /// Waits, for a moment at most, until what was recorded is on disk and the file closed. What is
    /// recorded later is in memory only.
    pub async fn close(&self) {
        if let Some(store) = &self.shared.store
            && tokio::time::timeout(PATIENCE, store.close()).await.is_err()
        {
            tracing::warn!("the disk is slow: the last decisions may not be recorded");
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Whether one more decision of a kind is stored; it is counted.
    fn may_store(&mut self, kind: Kind, now: Instant) -> bool {
        let (began, stored) = &mut self.stored;
        if now.saturating_duration_since(*began) >= Duration::from_secs(1) {
            (*began, *stored) = (now, BTreeMap::new());
        }
        let of_kind = stored.entry(kind).or_default();
        *of_kind += 1;
        !kind.is_frequent() || *of_kind <= FREQUENT_PER_SECOND
    }

    /// Takes an entry in, which has the next number.
    fn keep(&mut self, entry: Arc<Entry>) {
        self.next_id = entry.id + 1;
        let kept = self.kept.entry(entry.decided.kind.share()).or_default();
        if kept.len() >= KEPT
            && let Some(left) = kept.pop_front()
        {
            self.whole_from = self.whole_from.max(left.id + 1);
        }
        kept.push_back(entry);
    }

    /// What of the memory is wanted, the latest first, and the number from which on everything is in it.
    fn find(&self, filter: &Filter) -> (Vec<Arc<Entry>>, u64) {
        let latest = |kept: &VecDeque<Arc<Entry>>| -> Vec<_> {
            let wanted = kept.iter().rev().filter(|entry| filter.wants(entry));
            wanted.take(filter.limit).cloned().collect()
        };
        let mut found: Vec<_> = self.kept.values().flat_map(latest).collect();
        found.sort_unstable_by_key(|entry| Reverse(entry.id));
        found.truncate(filter.limit);
        (found, self.whole_from)
    }
}

impl Filter {
    fn wants(&self, entry: &Entry) -> bool {
        let Decided { request_id, model, .. } = &entry.decided;
        self.request_id.as_ref().is_none_or(|wanted| request_id.as_ref() == Some(wanted))
            && self.model.as_ref().is_none_or(|wanted| model.as_ref() == Some(wanted))
    }
}
