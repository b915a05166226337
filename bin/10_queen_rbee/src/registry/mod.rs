//! What the queen knows of workers and hives: built from their reports alone, never stored.
//!
//! One owner, one short lock. Whoever waits for a change subscribes to it; a decision and the
//! reservation that follows from it happen under the same lock, so that two requests never take the
//! same place.

mod attached;
mod breaker;
mod catalogs;
mod ends;
mod failures;
mod fits;
mod fleet;
mod glance;
mod hives;
mod kept;
mod lengths;
mod liveness;
mod names;
mod numbers;
mod pace;
mod place;
mod places;
mod plausible;
mod prefixes;
mod report;
mod rests;
mod ruling;
mod sessions;
mod starts;
mod supervised;
mod target;
#[cfg(test)]
mod tests;
mod turns;
mod vigil;
mod worker;
mod workers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use worker_contract::{
    DeviceId, HiveAlias, HiveHeartbeat, ModelAlias, ModelEntry, SupervisedWorker, WorkerHeartbeat,
    WorkerId,
};

use self::attached::Lockout;
pub use self::attached::{FailureKind, Served, Server, ServerFacts, ServerFailure, ServerReport};
pub(crate) use self::failures::LOST;
pub use self::failures::Trial;
pub use self::fits::{Question, Size, StartRefusal};
pub use self::fleet::ReplicaReport;
pub use self::glance::{HiveGlance, WorkerGlance};
use self::liveness::Due;
pub use self::liveness::Liveness;
pub(crate) use self::names::LATEST;
pub(crate) use self::pace::usual_token_us;
pub use self::place::{Answered, Ask, Blame, Failed, Place, Placed, PromptTime, WorkerProcess};
use self::places::Places;
pub use self::report::{HiveReport, ModelReport, WorkerReport};
pub use self::rests::{Rest, Resting};
pub use self::ruling::{Judging, RulesReport};
pub use self::sessions::SessionKey;
pub use self::target::{Address, Fallen, Sender, ShownSecret, Target};
pub(crate) use self::vigil::STILL;
pub use self::worker::Times;
use self::worker::Worker;
use self::workers::Workers;
use self::{
    failures::Failures,
    fits::Fits,
    hives::Hives,
    prefixes::Prefixes,
    sessions::Sessions,
    starts::Starts,
    turns::Turns,
    vigil::{Vigil, excused},
};
use crate::clock;
use crate::policy::{Policies, Policy};
use crate::rules::Rules;
use crate::scheduler::{Readiness, Spawn};

/// How long a fresh queen waits for hives that she expects.
const WARM_UP: Duration = Duration::from_secs(3);

/// What the queen knows of workers and hives. A clone is another handle to the same knowledge.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// A report was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The address is not a base URL.
    #[error("address {address:?} is not a base URL such as http://127.0.0.1:9300")]
    Address {
        /// What was reported.
        address: String,
    },
    /// The worker's id is that of another hive's worker.
    #[error("worker {worker} belongs to hive {hive}")]
    Taken {
        /// The worker.
        worker: WorkerId,
        /// Its hive.
        hive: HiveAlias,
    },
    /// Another process is the worker.
    #[error(
        "worker {worker} is at {speaker}, and reports from there: process {pid} at {address} has its id \
         as well"
    )]
    Twice {
        /// The worker.
        worker: WorkerId,
        /// The process that reported,
        pid: u32,
        /// and where it is.
        address: String,
        /// Where the one is that is heard.
        speaker: String,
    },
    /// Another hive has the name.
    #[error(
        "the name {hive} is that of another hive, at {holder}: this one needs a name of its own"
    )]
    NameTaken {
        /// The name.
        hive: HiveAlias,
        /// Where the other one is.
        holder: String,
    },
    /// Its hive was removed while the report came.
    #[error("hive {hive} was removed, or has another secret by now")]
    Forgotten {
        /// The hive.
        hive: HiveAlias,
    },
    /// There are too many already.
    #[error("{limit} are known already, as many as can be")]
    TooMany {
        /// How many can be known.
        limit: usize,
    },
    /// A hive has too many workers already.
    #[error("hive {hive} has {limit} workers already, as many as one hive can have")]
    TooManyOfHive {
        /// The hive.
        hive: HiveAlias,
        /// How many of its workers can be known.
        limit: usize,
    },
}

/// A worker for a model is being started, for as long as this exists.
#[derive(Debug)]
pub struct SpawnMark {
    number: u64,
    registry: Registry,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// What is wanted of models' workers; empty until it is known.
    policies: OnceLock<Policies>,
    /// The operator's own rules; empty until they are known.
    rules: OnceLock<Rules>,
    changed: watch::Sender<()>,
    /// Requests that wait for a place.
    waiting: AtomicUsize,
    /// Servers of others have been attached.
    has_servers: AtomicBool,
    /// Tells whoever hands places out that there may be one.
    room: Notify,
    /// How often that was.
    rooms: AtomicU64,
    /// The interval of workers' reports.
    interval: Duration,
}

#[derive(Debug)]
struct State {
    workers: Workers,
    hives: Hives,
    starts: Starts,
    fits: Fits,
    failures: Failures,
    turns: Turns,
    places: Places,
    expected: Vec<HiveAlias>,
    /// The queen has run before: hives may know her that she does not expect.
    has_past: bool,
    /// Attached servers at which nobody has looked.
    expected_servers: Vec<HiveAlias>,
    /// Attached servers that refused the queen's token a moment ago.
    lockouts: BTreeMap<HiveAlias, Lockout>,
    /// When she could be heard first, later by the time that she has stood still.
    began: Instant,
    /// She can be heard by now.
    is_open: bool,
    /// Where the clock is the runtime's.
    vigil: Option<Vigil>,
    prefixes: Prefixes,
    sessions: Sessions,
}

impl Registry {
    /// A registry that knows nothing yet. Workers report every `interval`; hives that are `expected`
    /// are waited for, a moment, before a model is said to be unknown.
    #[must_use]
    pub fn new(interval: Duration, expected: Vec<HiveAlias>, now: Instant) -> Self {
        let state = State {
            workers: Workers::default(),
            hives: Hives::default(),
            starts: Starts::default(),
            fits: Fits::default(),
            failures: Failures::default(),
            turns: Turns::default(),
            places: Places::default(),
            expected,
            has_past: false,
            expected_servers: Vec::new(),
            lockouts: BTreeMap::new(),
            began: now,
            is_open: true,
            vigil: None,
            prefixes: Prefixes::default(),
            sessions: Sessions::default(),
        };
        let shared = Shared {
            state: Mutex::new(state),
            policies: OnceLock::new(),
            rules: OnceLock::new(),
            changed: watch::Sender::new(()),
            waiting: AtomicUsize::new(0),
            has_servers: AtomicBool::new(false),
            room: Notify::new(),
            rooms: AtomicU64::new(0),
            interval,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The same registry, which places workers as the policies of models want. They are given once.
    #[must_use]
    pub fn with_policies(self, policies: Policies) -> Self {
        let _ = self.shared.policies.set(policies);
        self
    }

    /// The same registry, of a queen who has run before: hives may be about to report that she does not expect,
    /// and she waits a moment for them before she says that a model is unknown.
    #[must_use]
    pub fn with_past(self) -> Self {
        self.state().has_past = true;
        self
    }

    /// The same registry, of a queen who cannot be heard before she [`opens`](Self::opens).
    #[must_use]
    pub fn shut(self) -> Self {
        self.state().is_open = false;
        self
    }

    /// The queen can be heard from now on: what she waits for after her start, she waits for from here.
    pub fn opens(&self, now: Instant) {
        let mut state = self.state();
        (state.began, state.is_open) = (now, true);
    }

    /// For how long the queen can be heard, but for the time that she has stood still; `None` while she cannot be.
    #[must_use]
    pub fn open_for(&self, now: Instant) -> Option<Duration> {
        let state = self.state();
        state.is_open.then(|| now.saturating_duration_since(state.began))
    }

    /// The same registry, which holds it against nobody that the queen stood still. From now on it must be
    /// looked at several times a second, as [`sweep`](Self::sweep) does.
    #[must_use]
    pub fn with_vigil(self) -> Self {
        self.state().vigil = Some(Vigil::new(clock::now()));
        self
    }

    /// The queen has closed her door, and is looked at more rarely: she excuses silence, and does not say that she
    /// stood still.
    pub fn hears_nobody(&self) {
        if let Some(vigil) = &mut self.state().vigil {
            vigil.goes_deaf();
        }
    }

    /// What is wanted of a model's workers.
    fn policy(&self, model: &ModelAlias) -> Option<Policy> {
        self.shared.policies.get().map(|policies| policies.of(model))
    }

    /// Takes a worker's report.
    pub fn worker_beat(&self, beat: WorkerHeartbeat, now: Instant) -> Result<(), ReportError> {
        self.worker_beat_by(beat, Sender::of(ShownSecret::OfHive), now)
    }

    /// Takes the report of a worker that has shown a secret.
    pub fn worker_beat_by(
        &self,
        beat: WorkerHeartbeat,
        sender: Sender<'_>,
        now: Instant,
    ) -> Result<(), ReportError> {
        let mut state = self.state();
        sender.ensure_counts(&beat.hive_id)?;
        state.workers.beat(beat, sender.shown, self.shared.interval, now)?;
        drop(state);
        self.touch();
        Ok(())
    }

    /// Takes a hive's report.
    pub fn hive_beat(&self, beat: HiveHeartbeat, now: Instant) -> Result<(), ReportError> {
        self.hive_beat_by(beat, Sender::of(ShownSecret::OfHive), now)
    }

    /// Takes the report of a hive that has shown a secret.
    pub fn hive_beat_by(
        &self,
        beat: HiveHeartbeat,
        sender: Sender<'_>,
        now: Instant,
    ) -> Result<(), ReportError> {
        let (shown, mut state) = (sender.shown, self.state());
        sender.ensure_counts(&beat.hive_id)?;
        if let Err(refused) = state.hives.admit(&beat, now) {
            drop(state);
            self.touch();
            return Err(refused);
        }
        for (model, device) in state.workers.listed(&beat.hive_id, &beat.workers, shown, now) {
            state.failures.mended(&beat.hive_id, device, &model);
        }
        state.starts.reported(&beat.hive_id);
        state.hives.beat(beat, shown, now);
        drop(state);
        self.touch();
        Ok(())
    }

    /// Takes a hive's word on a worker that it has started; on another one's worker it has none, nor where it
    /// was removed meanwhile.
    pub fn started_by(&self, hive: &HiveAlias, worker: &SupervisedWorker, now: Instant) {
        // A process of the queen's own user has the name that it likes.
        if worker.hive_id != *hive && !hive.is_localhost() {
            tracing::warn!(%hive, worker = %worker.worker_id, "a hive speaks for another one's worker");
            return;
        }
        let mut state = self.state();
        if !hive.is_localhost() && state.hives.get(hive).is_none() {
            return;
        }
        let is_here = hive.is_localhost();
        let shown = if is_here { ShownSecret::Own } else { state.hives.shown_by(hive) };
        state.workers.supervised(worker, shown, now);
        state.failures.works(hive, worker.device, &worker.model);
        drop(state);
        self.touch();
    }

    /// A worker was started with a size.
    pub fn started_as(&self, worker: &WorkerId, size: Size) {
        self.state().workers.started_as(worker, size);
    }

    /// Takes a hive's word on a model that it has.
    pub fn catalogued(&self, hive: &HiveAlias, model: ModelEntry) {
        self.state().hives.catalogued(hive, model);
        self.touch();
    }

    /// A hive was stopped on purpose.
    pub fn hive_stopped(&self, id: &HiveAlias) {
        let mut state = self.state();
        state.workers.remove_hive(id);
        state.hives.stopped(id);
        drop(state);
        self.touch();
    }

    /// Forgets a hive and its workers. What they answer goes on elsewhere.
    pub fn forget_hive(&self, id: &HiveAlias) {
        let mut state = self.state();
        state.workers.forget_hive(id);
        state.hives.forget(id);
        drop(state);
        self.touch();
    }

    /// Takes idle workers out of use, so that they can be ended: all of them, or none where one has
    /// requests, is being ended already, or is on no hive's list.
    #[must_use]
    pub fn retire_all(&self, ids: &[WorkerId], now: Instant) -> bool {
        let mut state = self.state();
        let is_needed = |id: &WorkerId| {
            let is_idle = |worker: &Worker| {
                !worker.is_busy()
                    && worker.can_be_ended()
                    && worker.readiness_for_requests() == Readiness::Ready
            };
            state.workers.get(id).is_some_and(|worker| !is_idle(worker))
        };
        if ids.iter().any(is_needed) {
            return false;
        }
        for id in ids {
            state.workers.leaves(id, now);
            state.turns.forget(id);
        }
        true
    }

    /// A worker that was to make room stays, because it could not be ended.
    pub fn worker_stays(&self, id: &WorkerId) {
        self.state().workers.stays(id);
        self.touch();
    }

    /// A hive has been asked to end a worker and has none of that name. A process that reports it all the same is
    /// another one's, and known again with its next report.
    pub fn unknown_to(&self, hive: &HiveAlias, id: &WorkerId) {
        let _ = self.state().workers.left_out(hive, id);
        self.touch();
    }

    /// Notices who has been silent for too long, and who has rested. To be called a few times a second, by a
    /// task that stands still where reports are not taken.
    pub fn sweep(&self, now: Instant) {
        let changed = {
            let state = &mut *self.state();
            if let Some(pause) = state.vigil.as_mut().and_then(|vigil| vigil.sweep(now)) {
                state.excuse(pause, now);
            }
            let hive_is_gone = |id: &HiveAlias| state.hives.liveness(id, now) == Liveness::Gone;
            let due = Due::at(now, self.shared.interval);
            let changed = state.workers.sweep(due, now, hive_is_gone);
            let changed = state.sweep_turns(self.waiting() > 0, now) || changed;
            state.workers.compare_paces(now);
            state.forget_prefixes();
            changed
        };
        // Circuits and doubts end by time alone.
        if changed || self.waiting() > 0 {
            self.touch();
        }
    }

    /// The place of another worker of a model, which somebody's policy says that it `must` have, or
    /// which is to help the others.
    #[must_use]
    pub fn place_another(&self, model: &ModelAlias, must: bool, now: Instant) -> Option<Spawn> {
        self.another_place(model, must, now)
    }

    /// The workers that are ready or coming.
    #[must_use]
    pub fn replicas(&self, now: Instant) -> Vec<ReplicaReport> {
        self.state().replicas(self.shared.interval, now)
    }

    /// Takes an idle worker out of use, so that it can be ended; gives its hive. `None` if it is busy,
    /// gone, or on no hive's list.
    #[must_use]
    pub fn retire(&self, id: &WorkerId, now: Instant) -> Option<HiveAlias> {
        let mut state = self.state();
        let may_go = |worker: &&Worker| !worker.is_busy() && worker.can_be_ended();
        let hive = state.workers.get(id).filter(may_go)?.hive_id.clone();
        state.workers.leaves(id, now);
        Some(hive)
    }

    /// Marks that a worker of a size is being started for a model, so that nobody starts another one, nor
    /// counts on the memory that it will take of the device. Those that are to be ended first give theirs back.
    #[must_use]
    pub fn begin_spawn(
        &self,
        model: &ModelAlias,
        (hive, device): (&HiveAlias, Option<DeviceId>),
        size: Size,
        evict: &[WorkerId],
    ) -> SpawnMark {
        let mut state = self.state();
        let claimed = device.and_then(|device| state.claim(model, (hive, device), size, evict));
        let file = state.file_at(hive, model).cloned();
        let number = state.starts.begin(model, file, claimed);
        drop(state);
        SpawnMark { number, registry: self.clone() }
    }

    /// Whether a worker of a model is being started.
    #[must_use]
    pub fn is_starting(&self, model: &ModelAlias) -> bool {
        self.state().starts.is_any_of(model)
    }

    /// The base URL that a hive has reported; `None` if it has not, or is in this process.
    #[must_use]
    pub fn hive_address(&self, id: &HiveAlias) -> Option<String> {
        self.state().hives.get(id).and_then(|hive| hive.beat.address.clone())
    }

    /// The secret that a hive has shown; one that has shown none is taken to have one of its own.
    #[must_use]
    pub fn shown_by(&self, id: &HiveAlias) -> ShownSecret {
        self.state().hives.shown_by(id)
    }

    /// When a hive reported last, and whether it does on time; `None` if it never has, or is forgotten.
    #[must_use]
    pub fn hive_heard(&self, id: &HiveAlias, now: Instant) -> Option<(Instant, Liveness)> {
        self.state().hives.get(id).map(|hive| (hive.heard_at, hive.liveness(now)))
    }

    /// Tells of every change from now on. Several changes may be told as one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Waits until the hives that are expected have reported, and attached servers if they count, or the moment
    /// after the start is over in which they may.
    pub async fn warmed_up(&self, with_servers: bool) {
        let mut changes = self.changes();
        while let Some(left) = self.warm_up_left(with_servers) {
            // The moment passes without a change, too.
            let _ = tokio::time::timeout(left, changes.changed()).await;
        }
    }

    fn warm_up_left(&self, with_servers: bool) -> Option<Duration> {
        self.state().warm_up_left(with_servers, clock::now())
    }

    /// Wakes everybody who waits for a change.
    pub fn touch(&self) {
        self.shared.changed.send_replace(());
        self.there_may_be_room();
    }

    /// Waits until there may be a place for a request that waits.
    pub async fn room(&self) {
        self.shared.room.notified().await;
    }

    /// Wakes whoever hands places out, if anybody waits for one.
    pub fn there_may_be_room(&self) {
        if self.waiting() > 0 {
            self.shared.rooms.fetch_add(1, SeqCst);
            self.shared.room.notify_one();
        }
    }

    /// How often there may have been room while somebody waited.
    #[must_use]
    pub fn rooms(&self) -> u64 {
        self.shared.rooms.load(SeqCst)
    }

    /// How many requests wait for a place.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(SeqCst)
    }

    /// When the next request has had a worker to itself for long enough, or a worker was held for one, where somebody
    /// waits: then there may be room.
    #[must_use]
    pub fn next_trial_end(&self, now: Instant) -> Option<Instant> {
        if self.waiting() == 0 {
            return None;
        }
        self.state().workers.next_trial_end(now)
    }

    /// Says how many requests wait for a place.
    pub fn set_waiting(&self, waiting: usize) {
        self.shared.waiting.store(waiting, SeqCst);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock halfway through a change.
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        if let Some(pause) = state.vigil.as_mut().and_then(|vigil| vigil.look(now)) {
            state.excuse(pause, now);
        }
        state
    }
}

impl State {
    /// Nobody could be heard for so long.
    fn excuse(&mut self, pause: Duration, now: Instant) {
        if !self.vigil.as_ref().is_some_and(Vigil::is_meant) {
            let seconds = pause.as_secs();
            tracing::warn!(seconds, "the queen stood still: nobody is taken to have been silent");
        }
        self.hives.excuse(pause, now);
        self.workers.excuse(pause, now);
        self.began = excused(self.began, pause, now);
    }
}

impl Drop for SpawnMark {
    fn drop(&mut self) {
        self.registry.state().starts.end(self.number);
        self.registry.touch();
    }
}
