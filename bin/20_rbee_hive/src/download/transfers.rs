//! Downloads that run, each once: whoever wants the same files waits for the same transfer.
//!
//! A transfer is a task of the hive's own. It ends early when nobody waits for it any more, and keeps
//! what arrived.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::error::DownloadError;
use super::fetch::{Fetched, Fetcher, Hears, Reached, Remote};
use super::holds::{Hold, Holds};

/// How many transfers run at once; one more waits.
const AT_ONCE: usize = 3;

/// How a transfer ended.
type Ended = Result<Vec<Fetched>, Arc<DownloadError>>;

/// The transfers of a hive.
#[derive(Debug)]
pub(crate) struct Transfers {
    fetcher: Arc<Fetcher>,
    table: Arc<Mutex<HashMap<String, Running>>>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
    holds: Holds,
}

#[derive(Debug)]
struct Running {
    waiting: Weak<Waiting>,
    state: watch::Receiver<State>,
}

/// Held by each who waits; the transfer ends with the last.
#[derive(Debug)]
struct Waiting {
    _cancel: DropGuard,
}

#[derive(Debug, Clone, Default)]
struct State {
    reached: Reached,
    notes: u64,
    note: String,
    ended: Option<Ended>,
}

impl Transfers {
    pub(crate) fn new(fetcher: Fetcher) -> Self {
        Self {
            fetcher: Arc::new(fetcher),
            table: Arc::default(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            holds: Holds::default(),
        }
    }

    /// What fetches the files.
    pub(crate) fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// Fetches the files of one model, or waits for whoever does it already.
    pub(crate) async fn get(
        &self,
        files: Vec<Remote>,
        hears: &dyn Hears,
        cancel: &CancellationToken,
    ) -> Ended {
        let (_waiting, mut state) = loop {
            match self.join(&files) {
                Ok(joined) => break joined,
                // It was given up a moment ago and still writes down what it has.
                Err(mut ending) => {
                    let _ = ending.wait_for(|state| state.ended.is_some()).await;
                }
            }
        };
        let ended = async {
            let mut notes_told = 0;
            loop {
                let now = state.borrow_and_update().clone();
                if now.notes > notes_told {
                    notes_told = now.notes;
                    hears.note(now.note);
                }
                hears.reached(now.reached);
                if let Some(ended) = now.ended {
                    return ended;
                }
                if state.changed().await.is_err() {
                    return Err(Arc::new(DownloadError::Cancelled));
                }
            }
        };
        let ended = cancel.run_until_cancelled(ended).await;
        ended.unwrap_or_else(|| Err(Arc::new(DownloadError::Cancelled)))
    }

    /// Who needs which unfinished file.
    pub(super) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Ends all transfers, and lets no other begin. Done when all have written down what they have.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn join(
        &self,
        files: &[Remote],
    ) -> Result<(Arc<Waiting>, watch::Receiver<State>), watch::Receiver<State>> {
        let keys: Vec<String> = files.iter().map(Remote::key).collect();
        let key = keys.join(" ");
        let mut table = self.table();
        if let Some(running) = table.get(&key) {
            let state = running.state.clone();
            return match running.waiting.upgrade() {
                Some(waiting) => Ok((waiting, state)),
                None => Err(state),
            };
        }
        let cancel = self.stop.child_token();
        let waiting = Arc::new(Waiting { _cancel: cancel.clone().drop_guard() });
        let (sender, state) = watch::channel(State::default());
        let held = keys.iter().map(|key| Arc::new(self.holds.hold(key))).collect::<Vec<_>>();
        let running = Running { waiting: Arc::downgrade(&waiting), state: state.clone() };
        table.insert(key.clone(), running);
        let (fetcher, slots) = (Arc::clone(&self.fetcher), Arc::clone(&self.slots));
        let (table, files) = (Arc::clone(&self.table), files.to_vec());
        self.tasks.spawn(async move {
            let wanted = files.iter().zip(held);
            let ended = transfer(&fetcher, &slots, wanted, &sender, &cancel).await;
            // First off the table: whoever hears of the end may begin anew.
            table.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            sender.send_modify(|state| state.ended = Some(ended.map_err(Arc::new)));
        });
        Ok((waiting, state))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn transfer(
    fetcher: &Fetcher,
    slots: &Semaphore,
    files: impl ExactSizeIterator<Item = (&Remote, Arc<Hold>)> + Clone,
    sender: &watch::Sender<State>,
    cancel: &CancellationToken,
) -> Result<Vec<Fetched>, DownloadError> {
    let part = Part { sender, before: Reached::default() };
    if slots.available_permits() == 0 {
        part.note("waiting for other downloads to end".to_owned());
    }
    let slot = cancel.run_until_cancelled(slots.acquire()).await;
    let _slot = slot.and_then(Result::ok).ok_or(DownloadError::Cancelled)?;
    let count = files.len();
    let total: Option<u64> = files.clone().map(|(file, _)| file.size).sum();
    let mut complete: Vec<Fetched> = Vec::with_capacity(count);
    for (file, held) in files {
        let done = complete.iter().map(|file| file.bytes).sum();
        // Of one file the server knows the size where nobody else does.
        let total = if count == 1 { None } else { total };
        let found = sender.borrow().reached.found;
        let part = Part { sender, before: Reached { done, found, total } };
        complete.push(fetcher.fetch(file, held, &part, cancel).await?);
    }
    Ok(complete)
}

/// One of several files: its progress is a part of theirs.
struct Part<'a> {
    sender: &'a watch::Sender<State>,
    /// What the files before it came to, and what all come to where that is known.
    before: Reached,
}

impl Hears for Part<'_> {
    fn reached(&self, reached: Reached) {
        let Reached { done, found, total } = self.before;
        self.sender.send_modify(|state| {
            state.reached = Reached {
                done: done + reached.done,
                found: found + reached.found,
                total: total.or(reached.total),
            };
        });
    }

    fn note(&self, words: String) {
        self.sender.send_modify(|state| {
            state.notes += 1;
            state.note = words;
        });
    }
}
