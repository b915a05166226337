//! Every change of hives, workers, models, jobs, queues and decisions, for a dashboard.
//!
//! Nobody who changes something waits for a reader, or knows of one. While somebody reads, one task
//! looks at everything after each change, a few times a second at most, and writes what is another
//! than before once, for all readers. A reader is a number in the ring of the latest events: it costs
//! no memory, and one that falls behind what is kept is cut off. While nobody reads, nothing happens.

mod ring;
#[cfg(test)]
mod tests;
mod views;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use job_server::JobRegistry;
use rbee_operations::{JobState, JobSummary, LISTED_JOBS};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use worker_contract::{HiveAlias, JobId, ModelAlias, WorkerId};

use self::ring::{Rest, Ring};
use self::views::{Print, Views, print_by, print_of};
use crate::decisions::Decisions;
use crate::dispatch::Dispatcher;
use crate::inventory::Inventory;
use crate::registry::{HiveGlance, Registry};

/// The shortest time between two looks.
const GAP: Duration = Duration::from_millis(100);
/// How often loads are told, and what ends by time alone.
const LOADS: Duration = Duration::from_secs(1);
/// How many may read at once.
const MAX_READERS: usize = 1024;

/// The events. A clone is the same feed.
#[derive(Debug, Clone)]
pub struct Feed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sources: Sources,
    state: Mutex<State>,
    readers: AtomicUsize,
    /// There is a reader.
    begun: Notify,
    /// The number of the last event.
    last: watch::Sender<u64>,
    /// The readers' end.
    stop: CancellationToken,
}

#[derive(Debug)]
struct Sources {
    dispatcher: Dispatcher,
    inventory: Inventory,
    jobs: JobRegistry,
    decisions: Decisions,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    hives: Views<HiveAlias>,
    workers: Views<WorkerId>,
    models: Views<ModelAlias>,
    job_views: Views<JobId>,
    waiting: Views<ModelAlias>,
    jobs_changed: watch::Receiver<()>,
    last_decision: u64,
    loads_at: Option<Instant>,
}

/// As many read as may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_READERS} read the events already, as many as may")]
pub struct TooManyReaders;

/// A job as it is told: the feed is one for all readers, and what a job is about and why it failed is
/// for its caller only.
#[derive(Debug, Serialize)]
struct JobView<'a> {
    job_id: &'a JobId,
    operation: &'a str,
    state: JobState,
    created_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<&'a str>,
}

impl<'a> JobView<'a> {
    fn of(job: &'a JobSummary) -> Self {
        let JobSummary { job_id, operation, state, created_at, ended_at, .. } = job;
        Self { job_id, operation, state: *state, created_at, ended_at: ended_at.as_deref() }
    }
}

/// Somebody who reads.
#[derive(Debug)]
pub struct Reader {
    feed: Feed,
    at: u64,
    first: Option<Bytes>,
    last: watch::Receiver<u64>,
    has_ended: bool,
}

impl Feed {
    /// Events of what these hold. `stop` ends all readers.
    #[must_use]
    pub fn new(
        dispatcher: Dispatcher,
        inventory: Inventory,
        jobs: JobRegistry,
        decisions: Decisions,
        stop: CancellationToken,
    ) -> Self {
        let mut jobs_changed = jobs.changes();
        jobs_changed.mark_changed();
        let state = State {
            ring: Ring::new(format!("{:08x}", fastrand::u32(..))),
            hives: Views::new("hive", "hive_gone", "hive_id"),
            workers: Views::new("worker", "worker_gone", "worker_id"),
            models: Views::new("model", "model_gone", "id"),
            job_views: Views::new("job", "job_gone", "job_id"),
            waiting: Views::new("waiting", "waiting_gone", "model"),
            jobs_changed,
            last_decision: *decisions.latest().borrow(),
            loads_at: None,
        };
        let shared = Shared {
            sources: Sources { dispatcher, inventory, jobs, decisions },
            state: Mutex::new(state),
            readers: AtomicUsize::new(0),
            begun: Notify::new(),
            last: watch::Sender::new(0),
            stop,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Begins to read: after the event with an id, where what followed it is kept; else a snapshot of
    /// everything comes first.
    pub fn read(&self, last_id: Option<&str>) -> Result<Reader, TooManyReaders> {
        let shared = &self.shared;
        if shared.readers.fetch_add(1, SeqCst) >= MAX_READERS {
            shared.readers.fetch_sub(1, SeqCst);
            return Err(TooManyReaders);
        }
        shared.begun.notify_one();
        let last = shared.last.subscribe();
        let mut state = self.state();
        let now = state.look(&shared.sources, Instant::now());
        shared.last.send_replace(now);
        let known = last_id.and_then(|id| state.ring.number(id));
        let at = known.filter(|number| !matches!(state.ring.after(*number), Rest::Missed(_)));
        let first = at.is_none().then(|| state.snapshot());
        drop(state);
        Ok(Reader { feed: self.clone(), at: at.unwrap_or(now), first, last, has_ended: false })
    }

    /// Looks after each change, while anybody reads, until `stop` fires. To be run by one task.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.look_after_changes() => {}
        }
    }

    async fn look_after_changes(&self) {
        let Sources { dispatcher, jobs, decisions, .. } = &self.shared.sources;
        let mut changes = (dispatcher.registry().changes(), jobs.changes(), decisions.latest());
        loop {
            while self.shared.readers.load(SeqCst) == 0 {
                self.shared.begun.notified().await;
            }
            // A source that is gone changes no more; the clock looks at what is left.
            tokio::select! {
                Ok(()) = changes.0.changed() => {}
                Ok(()) = changes.1.changed() => {}
                Ok(()) = changes.2.changed() => {}
                () = sleep(LOADS) => {}
            }
            let last = self.state().look(&self.shared.sources, Instant::now());
            self.shared.last.send_if_modified(|told| std::mem::replace(told, last) != last);
            sleep(GAP).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes down what has changed; gives the number of the last event.
    fn look(&mut self, sources: &Sources, now: Instant) -> u64 {
        let is_late = |at: Instant| now.saturating_duration_since(at) >= LOADS;
        let with_load = self.loads_at.is_none_or(is_late);
        if with_load {
            self.loads_at = Some(now);
        }
        let Self { ring, hives, workers, .. } = self;
        let (registry, told) = (sources.dispatcher.registry(), sources.inventory.places());
        if look_at_fleet(registry, &told, hives, workers, ring, now, with_load) {
            self.look_at_models(sources, now);
        }
        self.look_at_queues(sources, with_load);
        if self.jobs_changed.has_changed().unwrap_or(false) {
            self.jobs_changed.mark_unchanged();
            self.look_at_jobs(sources);
        }
        let decisions = sources.decisions.since(self.last_decision);
        if let Some(latest) = decisions.last() {
            // Nobody goes on after an event behind which decisions are missing.
            let made = latest.id - self.last_decision;
            self.ring.miss(made.saturating_sub(decisions.len() as u64));
        }
        for entry in decisions {
            self.last_decision = entry.id;
            let json = serde_json::to_vec(&*entry).unwrap_or_default();
            self.ring.push("decision", &json);
        }
        self.ring.close()
    }

    fn look_at_models(&mut self, sources: &Sources, now: Instant) {
        self.models.begin();
        for (id, report) in sources.dispatcher.registry().models(now) {
            let mut view = serde_json::to_value(report).unwrap_or_default();
            view["id"] = id.as_str().into();
            let print = Print { is: print_of(&view.to_string()), load: 0 };
            self.models.see(&id, print, false, &view, &mut self.ring);
        }
        self.models.end(&mut self.ring);
    }

    fn look_at_queues(&mut self, sources: &Sources, with_load: bool) {
        self.waiting.begin();
        for (model, requests) in sources.dispatcher.waiting_by_model() {
            let print = Print { is: 0, load: requests as u64 };
            let view = json!({ "model": model, "requests": requests });
            self.waiting.see(&model, print, with_load, &view, &mut self.ring);
        }
        self.waiting.end(&mut self.ring);
    }

    fn look_at_jobs(&mut self, sources: &Sources) {
        self.job_views.begin();
        for job in sources.jobs.latest(LISTED_JOBS, true, |_| true).jobs {
            let print = Print { is: print_of(&(job.state.as_str(), &job.ended_at)), load: 0 };
            self.job_views.see(&job.job_id, print, false, &JobView::of(&job), &mut self.ring);
        }
        self.job_views.end(&mut self.ring);
    }

    fn snapshot(&self) -> Bytes {
        let mut json = Vec::new();
        let mut field = |name: &str, write: &dyn Fn(&mut Vec<u8>)| {
            json.push(if json.is_empty() { b'{' } else { b',' });
            json.extend_from_slice(format!("\"{name}\":").as_bytes());
            write(&mut json);
        };
        field("hives", &|out| self.hives.write(out));
        field("workers", &|out| self.workers.write(out));
        field("models", &|out| self.models.write(out));
        field("jobs", &|out| self.job_views.write(out));
        field("waiting", &|out| self.waiting.write(out));
        json.push(b'}');
        self.ring.snapshot("snapshot", &json)
    }
}

/// Tells what has changed of hives, those included that the queen was only told of, and of workers. True if
/// one is another than before.
fn look_at_fleet(
    registry: &Registry,
    told: &[(HiveAlias, Option<String>)],
    hives: &mut Views<HiveAlias>,
    workers: &mut Views<WorkerId>,
    ring: &mut Ring,
    now: Instant,
    with_load: bool,
) -> bool {
    let ring = std::cell::RefCell::new(ring);
    let (mut other_hives, mut other_workers) = (false, false);
    hives.begin();
    workers.begin();
    registry.look(
        now,
        |hive| {
            let (is, load) = (print_by(|h| hive.hash_is(h)), print_by(|h| hive.hash_load(h)));
            let (id, print) = (hive.hive_id, Print { is, load });
            other_hives |= hives.see(id, print, with_load, hive, &mut ring.borrow_mut());
        },
        |id, worker| {
            let print = Print { is: print_of(&worker.is), load: print_of(&worker.load) };
            other_workers |= workers.see(id, print, with_load, worker, &mut ring.borrow_mut());
        },
    );
    let ring = ring.into_inner();
    for (id, address) in told {
        if !hives.is_seen(id) {
            let hive = HiveGlance::silent(id, address.as_deref());
            let print = Print { is: print_by(|h| hive.hash_is(h)), load: 0 };
            other_hives |= hives.see(id, print, with_load, &hive, ring);
        }
    }
    hives.end(ring) | workers.end(ring) | other_hives | other_workers
}

impl Reader {
    /// The next events; `None` at the end, after an event `end` that says why. Dropping the returned
    /// future loses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.has_ended {
                return None;
            }
            if let Some(first) = self.first.take() {
                return Some(first);
            }
            let rest = self.feed.state().ring.after(self.at);
            match rest {
                Rest::Events(bytes, last) => {
                    self.at = last;
                    return Some(bytes);
                }
                Rest::Missed(missed) => {
                    return Some(self.end(&json!({ "reason": "too_slow", "missed": missed })));
                }
                Rest::Nothing => {}
            }
            tokio::select! {
                biased;
                () = self.feed.shared.stop.cancelled() => {
                    return Some(self.end(&json!({ "reason": "stopping" })));
                }
                // The feed keeps the sender for as long as there is a reader.
                _ = self.last.changed() => {}
            }
        }
    }

    /// Ends it: the token by which it reads does not count any more. Gives its last event.
    pub fn revoke(&mut self) -> Bytes {
        self.end(&json!({ "reason": "revoked" }))
    }

    fn end(&mut self, why: &serde_json::Value) -> Bytes {
        self.has_ended = true;
        // Without an id, so that who comes back says which event was the last that it got.
        format!("event: end\ndata: {why}\n\n").into()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feed.shared.readers.fetch_sub(1, SeqCst);
    }
}
