//! From a request to its place at a worker: it waits its turn, the scheduler decides, a worker is
//! started where one is needed. The shell around `admission` and `scheduler`.
//!
//! Who comes to an empty queue is placed at once, by itself. Everybody else waits, and one task hands
//! places out, in the order of the queue, whenever there may be one.

mod hand_out;
mod kinds;
mod log;
mod no_place;
mod patient;
mod starts;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use job_server::JobError;
use tokio::sync::oneshot;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use worker_contract::{ModelAlias, RequestId, Sha256Digest, WorkerId};

pub use self::log::WaitsTold;
pub(crate) use self::log::is_told_at_once;
pub use self::no_place::NoPlace;
pub(crate) use self::no_place::for_clients;
use self::starts::{Attempts, Closed, Starts};
use crate::admission::{Admission, Entrant, Priority, QueueFull, Ticket};
use crate::clock;
use crate::decisions::Decisions;
use crate::prompt::PromptChain;
use crate::registry::{Ask, Place, Placed, Registry, SessionKey, StartRefusal, WorkerProcess};
use crate::scheduler::{Decision, Demand, FailedBy, Reason, RejectReason, WaitReason, Ways};
use crate::spawner::Spawner;

/// The longest that somebody is told to wait where too many do, in seconds.
const LONGEST_RETRY_S: u64 = 60;

/// The longest that a request waits to begin alone: after that it goes as any other.
const LONGEST_HOLD: Duration = Duration::from_secs(5);
/// It waits no longer than for this part of the time that is left for it.
const PART_OF_ITS_TIME: u32 = 4;

/// Who has less time left gets no place: it would be over before a worker could answer.
pub(crate) const LEAST_LEFT: Duration = Duration::from_millis(10);

/// Who is in a worker already has waited for a faster one as long as anybody does.
const LONG_ENOUGH: Duration = Duration::MAX;

/// Finds places at workers. A clone shares the queues.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    registry: Registry,
    spawner: Spawner,
    decisions: Decisions,
    queues: Arc<Mutex<Queues>>,
}

/// A request that wants a place.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its id.
    pub request_id: RequestId,
    /// The model.
    pub model: ModelAlias,
    /// Who asks.
    pub caller: String,
    /// Workers that cannot take it.
    pub barred: Vec<WorkerId>,
    /// How urgent it is.
    pub priority: Priority,
    /// Its prompt.
    pub prompt: Arc<PromptChain>,
    /// How many tokens its answer may have; 0 where it does not say.
    pub answer_tokens: u32,
    /// How many answers it asks for.
    pub answers: u32,
    /// Its session, where it has one.
    pub session: Option<SessionKey>,
    /// Who failed it before.
    pub failed: Vec<FailedBy>,
    /// The model file that it must go on with.
    pub digest: Option<Sha256Digest>,
    /// Whether it is to begin alone at a worker, because workers ended that had it.
    pub alone: bool,
    /// Whether one ended where it was alone: then it is the first of those to be tried.
    pub fell_alone: bool,
    /// In which ways it can be taken.
    pub ways: Ways,
    /// A context of so many tokens has turned out too short for it; 0 where none has.
    pub too_short: u32,
    /// Whether something else becomes of it where nobody can take it.
    pub has_another_way: bool,
    /// Whether it has had a place before: then it has waited already and is next.
    pub had_a_place: bool,
    /// How often it is recorded that it waits, over all its tries.
    pub waits_told: WaitsTold,
    /// How often servers have sent it back because they are full.
    pub bounces: u8,
    /// When it is too late.
    pub deadline: Instant,
}

/// What becomes at once of a request that comes: it is placed or refused, or waits.
type AtOnce = ControlFlow<Result<Place, NoPlace>, Wait>;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Its turn, behind others.
    Turn { others: usize },
    /// The start of a worker that is decided on next.
    Start,
    /// What the scheduler says.
    For(WaitReason),
}

impl Wait {
    /// Its name.
    fn as_str(self) -> &'static str {
        match self {
            Self::Turn { .. } => "turn",
            Self::Start => "start",
            Self::For(reason) => reason.as_str(),
        }
    }

    /// The same for who has waited in vain: how many were before it is long ago.
    fn last_word(self) -> String {
        match self {
            Self::Turn { .. } => "it waits its turn".to_owned(),
            wait => wait.to_string(),
        }
    }

    /// Whether it is still true where the scheduler gives a reason.
    fn covers(self, reason: WaitReason) -> bool {
        match self {
            // Whose turn has come still waits for a place, and a start is recorded by itself.
            Self::Turn { .. } => reason == WaitReason::Room,
            Self::Start => reason == WaitReason::Coming,
            Self::For(WaitReason::Sooner { .. }) => matches!(reason, WaitReason::Sooner { .. }),
            Self::For(told) => reason == told,
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Turn { others } => {
                write!(f, "it waits its turn: {others} wait for the model already")
            }
            Self::Start => f.write_str("no worker can take it, and one is to be started"),
            Self::For(reason) => reason.fmt(f),
        }
    }
}

#[derive(Debug)]
struct Queues {
    admission: Admission<Waiting>,
    starts: Starts,
}

#[derive(Debug)]
struct Waiting {
    wanted: Wanted,
    /// Since when it waits.
    since: Instant,
    /// What it was last found to wait for.
    told: Cell<Wait>,
    answer: oneshot::Sender<Result<Place, NoPlace>>,
}

impl Dispatcher {
    /// A dispatcher with at most `max_per_model` waiting requests for each model, under all its names.
    #[must_use]
    pub fn new(
        registry: Registry,
        spawner: Spawner,
        decisions: Decisions,
        max_per_model: usize,
    ) -> Self {
        let queues = Queues { admission: Admission::new(max_per_model), starts: Starts::default() };
        Self { registry, spawner, decisions, queues: Arc::new(Mutex::new(queues)) }
    }

    /// What it decides on.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where it records them.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Has hives not hold against their workers what a request has ended.
    pub fn excuse(&self, processes: &[WorkerProcess]) {
        self.spawner.excuse(processes);
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queues().admission.len()
    }

    /// How many requests wait for a model, by this name.
    #[must_use]
    pub fn waiting_for(&self, model: &ModelAlias) -> usize {
        self.queues().admission.waiting_for(model)
    }

    /// How many requests wait for each model that somebody waits for, by the name that was asked for.
    #[must_use]
    pub fn waiting_by_model(&self) -> BTreeMap<ModelAlias, usize> {
        let queues = self.queues();
        let models = queues.admission.models();
        models.map(|model| (model.clone(), queues.admission.waiting_for(model))).collect()
    }

    /// Waits for a place at a worker, at most until so little is left of the request's time that it is of no
    /// use. Dropping the returned future gives the turn up.
    pub async fn place(&self, mut wanted: Wanted) -> Result<Place, NoPlace> {
        wanted.deadline = wanted.deadline.checked_sub(LEAST_LEFT).unwrap_or(wanted.deadline);
        wanted.priority = self.priority(&wanted);
        // Those that differ by the order of their failures only are of one kind.
        wanted.failed.sort_unstable();
        let result = match self.place_at_once(&wanted) {
            AtOnce::Break(result) => result,
            AtOnce::Continue(wait) => self.wait(&wanted, wait).await,
        };
        let place = result?;
        // It may have been given in time, and looked at only now.
        if wanted.is_late(clock::now()) {
            return Err(NoPlace::Deadline { model: wanted.model, word: None });
        }
        self.log_placed(&wanted, &place);
        Ok(place)
    }

    /// Whether a request would have a place at once, and not as a last resort. None is taken.
    #[must_use]
    pub fn has_place(&self, wanted: &Wanted) -> bool {
        match self.foresee(wanted) {
            Decision::Dispatch { why, .. } => why.reason != Reason::LastResort,
            _ => false,
        }
    }

    /// A place for a request that waits in a worker's own queue with so many tokens of its answer, where it begins at
    /// once at another one, and not as a last resort.
    #[must_use]
    pub fn place_now(&self, mut wanted: Wanted, given: u32) -> Option<Place> {
        let (closed, now) = (Closed::default(), clock::now());
        if wanted.deadline.saturating_duration_since(now) < LEAST_LEFT {
            return None;
        }
        wanted.priority = self.priority(&wanted);
        let mut ask = wanted.ask(&closed, Duration::ZERO, now);
        ask.demand.leaves_with = Some(given);
        ask.demand.queued = LONG_ENOUGH;
        match self.registry.place(&ask, now) {
            Placed::At(place) => Some(place),
            Placed::Not(_) => None,
        }
    }

    /// Whether a worker is there that could go on with a request in a context that is known to be longer than those
    /// that were too short, whether it has room or not.
    #[must_use]
    pub fn has_longer(&self, wanted: &Wanted) -> bool {
        let now = clock::now();
        self.registry.has_longer(&wanted.ask(&Closed::default(), Duration::ZERO, now), now)
    }

    /// Whether a request would be refused at once, since nobody can take it.
    #[must_use]
    pub fn refuses(&self, wanted: &Wanted) -> bool {
        matches!(self.foresee(wanted), Decision::Reject { .. })
    }

    /// Whether a request that has waited in vain has nobody left but those that the operator's rules refuse. While
    /// it waits they are not asked about workers that are full or loaded: this is for its end.
    #[must_use]
    pub fn rules_refuse(&self, wanted: &Wanted) -> bool {
        if !self.registry.has_place_rules() {
            return false;
        }
        matches!(self.foresee(wanted), Decision::Reject { reason: RejectReason::Rules, .. })
    }

    fn priority(&self, wanted: &Wanted) -> Priority {
        self.registry.priority(&wanted.ask(&Closed::default(), Duration::ZERO, clock::now()))
    }

    /// What would be decided for a request now, with the priority that rules give it.
    fn foresee(&self, wanted: &Wanted) -> Decision {
        let (closed, now) = (Closed::default(), clock::now());
        let mut ask = wanted.ask(&closed, Duration::ZERO, now);
        ask.demand.queued = LONG_ENOUGH;
        let priority = self.registry.priority(&ask);
        self.registry.foresee(&Ask { priority, ..ask }, now)
    }

    /// Waits for a place in the order of the queue.
    async fn wait(&self, wanted: &Wanted, wait: Wait) -> Result<Place, NoPlace> {
        let (model, deadline) = (wanted.model.clone(), wanted.deadline);
        let (turn, answer) = self.enter(wanted, wait)?;
        self.registry.there_may_be_room();
        tokio::select! {
            biased;
            answer = answer => {
                drop(turn);
                // Nobody drops a waiting request without an answer but a queen that ends.
                answer.unwrap_or(Err(NoPlace::Stopping))
            }
            () = sleep_until(deadline.into()) => {
                Err(NoPlace::Deadline { model, word: turn.waited_for() })
            }
        }
    }

    /// Hands places out until `stop` fires. To be run by one task.
    pub async fn run(self, stop: CancellationToken) {
        let mut attempts = Attempts::default();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = attempts.next() => {
                    self.queues().starts.ended(ended, clock::now());
                    // All that have ended, before anything is begun again where it failed.
                    while let Some(Some(ended)) = attempts.next().now_or_never() {
                        self.queues().starts.ended(ended, clock::now());
                    }
                }
                () = self.registry.room() => {}
                () = self.trial_ends() => {}
            }
            self.hand_out(&mut attempts);
        }
    }

    /// Waits until the next request has had a worker to itself for long enough, where somebody waits.
    async fn trial_ends(&self) {
        match self.registry.next_trial_end(clock::now()) {
            Some(at) => sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// The place of a request that finds nobody waiting, or the reason why there will be none, if it has
    /// not to wait.
    fn place_at_once(&self, wanted: &Wanted) -> AtOnce {
        if wanted.is_late(clock::now()) {
            let late = NoPlace::Deadline { model: wanted.model.clone(), word: None };
            return AtOnce::Break(Err(late));
        }
        let queue = self.registry.queue_of(&wanted.model);
        let others = self.queues().admission.waiting_in(&queue);
        if others > 0 {
            return AtOnce::Continue(Wait::Turn { others });
        }
        let closed = Closed::default();
        let now = clock::now();
        let ask = wanted.ask(&closed, Duration::ZERO, now);
        match self.registry.place(&ask, now) {
            Placed::At(place) => AtOnce::Break(Ok(place)),
            Placed::Not(Decision::Reject { reason, retry_after_s }) => {
                AtOnce::Break(Err(self.refused(&wanted.model, reason, retry_after_s, None)))
            }
            Placed::Not(Decision::Wait(reason)) => AtOnce::Continue(Wait::For(reason)),
            Placed::Not(_) => AtOnce::Continue(Wait::Start),
        }
    }

    /// What is told where too many wait: half of them will have been served when it is worth trying again.
    fn queue_full(&self, model: &ModelAlias, limit: usize, gave_way: bool) -> NoPlace {
        let half = u64::try_from(limit / 2).unwrap_or(u64::MAX);
        let retry_after_s = self.registry.seconds_for(model, half, clock::now());
        let retry_after_s = retry_after_s.clamp(1, LONGEST_RETRY_S);
        NoPlace::QueueFull { model: model.clone(), limit, gave_way, retry_after_s }
    }

    /// What a refusal of the scheduler means for a model whose last start failed with `source`.
    fn refused(
        &self,
        model: &ModelAlias,
        reason: RejectReason,
        retry_after_s: Option<u64>,
        source: Option<&JobError>,
    ) -> NoPlace {
        let now = clock::now();
        if let RejectReason::Resting { worker } = &reason
            && let Some(resting) = self.registry.resting(worker, now)
        {
            return NoPlace::Resting(resting);
        }
        let source = source.map(|source| self.registry.with_kept(model, source.clone()));
        let source = source.as_ref();
        if reason == RejectReason::UnknownModel
            && source.is_none()
            && let Some(why) = self.spawner.missing_hive()
        {
            return NoPlace::HiveMissing { model: model.clone(), why };
        }
        if reason != RejectReason::NowhereToStart {
            let refused = NoPlace::refused(model, reason, retry_after_s, source);
            return refused.with_server(|| self.registry.unfit_server(model));
        }
        let failed = self.registry.failed_start(model, now);
        let known = match source {
            Some(source) => failed.map(|failed| StartRefusal { reason: source.clone(), ..failed }),
            None => failed.or_else(|| self.registry.memory_refusal(model, now)),
        };
        match known {
            Some(StartRefusal { reason, retry_after_s }) => {
                let source = match source {
                    Some(_) => reason,
                    None => self.registry.with_kept(model, reason),
                };
                NoPlace::SpawnFailed { model: model.clone(), source, retry_after_s }
            }
            None => NoPlace::refused(model, reason, retry_after_s, source),
        }
    }

    fn enter(
        &self,
        wanted: &Wanted,
        wait: Wait,
    ) -> Result<(Turn<'_>, oneshot::Receiver<Result<Place, NoPlace>>), NoPlace> {
        let (answer, receiver) = oneshot::channel();
        let model = &wanted.model;
        let queue = self.registry.queue_of(model);
        let entrant = Entrant {
            queue: &queue,
            model,
            caller: &wanted.caller,
            priority: wanted.priority,
            had_a_place: wanted.had_a_place,
        };
        let mut queues = self.queues();
        let (told, since) = (Cell::new(wait), clock::now());
        let waiting = Waiting { wanted: wanted.clone(), since, told, answer };
        let entered = queues.admission.enter(&entrant, waiting);
        self.registry.set_waiting(queues.admission.len());
        match entered {
            Ok((ticket, shed)) => {
                self.log_wait(wanted, &wait);
                let limit = queues.admission.limit();
                drop(queues);
                if let Some(shed) = shed {
                    let full = self.queue_full(&shed.wanted.model, limit, true);
                    shed.end(Err(full));
                }
                Ok((Turn { ticket, dispatcher: self }, receiver))
            }
            Err((QueueFull { limit }, _)) => {
                drop(queues);
                Err(self.queue_full(model, limit, false))
            }
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        // Nothing panics under this lock halfway through a change.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn is_late(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    fn ask<'a>(&'a self, closed: &'a Closed, waited: Duration, now: Instant) -> Ask<'a> {
        let demand = Demand {
            failed: &self.failed,
            barred: &self.barred,
            digest: self.digest.as_ref(),
            alone: self.alone,
            ways: self.ways,
            too_short: self.too_short,
            has_another_way: self.has_another_way,
            answer_tokens: self.answer_tokens,
            refused: &closed.sites,
            is_news_due: closed.is_news_due,
            waited,
            left: self.deadline.saturating_duration_since(now),
            ..Demand::of(&self.model)
        };
        Ask {
            demand,
            prompt: &self.prompt,
            session: self.session.as_ref(),
            caller: &self.caller,
            priority: self.priority,
            answers: self.answers,
        }
    }
}

impl Waiting {
    /// Whether it waits for a worker where it begins alone.
    fn is_alone(&self, now: Instant) -> bool {
        let left = self.wanted.deadline.saturating_duration_since(self.since);
        let longest = LONGEST_HOLD.min(left / PART_OF_ITS_TIME);
        self.wanted.alone && now.saturating_duration_since(self.since) < longest
    }

    /// Gives the answer; a place that nobody takes is free again.
    fn end(self, answer: Result<Place, NoPlace>) {
        let _ = self.answer.send(answer);
    }
}

/// A place in the queue, given up when dropped.
struct Turn<'a> {
    ticket: Ticket,
    dispatcher: &'a Dispatcher,
}

impl Turn<'_> {
    /// What is recorded that it waits for, while it has no answer.
    fn waited_for(&self) -> Option<String> {
        let queues = self.dispatcher.queues();
        let waiting = queues.admission.get(&self.ticket)?;
        Some(waiting.told.get().last_word())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queues = self.dispatcher.queues();
        let left = queues.admission.leave(&self.ticket);
        self.dispatcher.registry.set_waiting(queues.admission.len());
        drop(queues);
        // Whoever is behind may be placed.
        if left.is_some() {
            self.dispatcher.registry.there_may_be_room();
        }
        // A request that is dropped here holds no place, so nothing is locked twice.
        drop(left);
    }
}
