//! One worker, as it and its hive report it. Pure: `now` is passed in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use worker_contract::{
    DeviceId, HiveAlias, ModelAlias, Sha256Digest, SupervisedState, WorkerHeartbeat, WorkerId,
    WorkerState,
};

use super::breaker::Breaker;
use super::fits::Size;
use super::pace::{self, Pace};
use super::prefixes::Holder;
use super::rests::Rest;
use super::target::{Address, Target, next_number};
use super::{Due, FailureKind, Liveness, ReportError};
use crate::scheduler::{Circuit, Readiness, Speed, Ways, WorkerView};

/// How many tokens a context has that nobody tells.
const USUAL_CONTEXT: u32 = 16_384;
/// For how long nothing is concluded from a connection that has failed: a bit longer than it takes until
/// the worker or its hive reports next, who know better. Either one's word ends the doubt.
const DOUBT: Duration = Duration::from_millis(2_500);
/// Who has been silent for longer is not waited for, though its hive lists it: a hive takes less to end a worker that
/// hangs, and its own word tells of the next process.
const AWAITED: Duration = Duration::from_secs(60);

/// A worker that somebody reports.
#[derive(Debug)]
pub(super) struct Worker {
    /// Tells this entry from an earlier one of the same worker.
    pub(super) entry: u64,
    pub(super) hive_id: HiveAlias,
    /// Set by [`Numbers::set`] only, as the model's is.
    pub(super) hive_number: Option<u64>,
    /// Changed by [`Numbers::set`] only.
    pub(super) model: ModelAlias,
    pub(super) model_number: Option<u64>,
    pub(super) device: DeviceId,
    pub(super) target: Arc<Target>,
    /// As the target has it.
    pub(super) holder: Holder,
    pub(super) is_of_server: bool,
    /// It is of a server, and somebody has named its model.
    pub(super) is_named: bool,
    /// It is of a server that cannot be used, in this way.
    pub(super) failure: Option<FailureKind>,
    ways: Ways,
    /// What it said last; `None` while only its hive has reported it.
    pub(super) said: Option<Said>,
    /// The last change of the process that speaks under its name, or the last one that was refused.
    pub(super) rival: Option<Rival>,
    /// What its hive says; `None` where no hive lists it.
    pub(super) listed: Option<SupervisedState>,
    /// How large it was started, where this queen has.
    pub(super) size: Option<Size>,
    /// What it has of its device's memory, as its hive says.
    pub(super) memory_bytes: Option<u64>,
    /// The process that its hive named last, and whether it had ended then.
    pub(super) process: Option<Process>,
    /// Requests that were sent to it and have not ended.
    pub(super) in_flight: u32,
    /// How many of them are interactive.
    pub(super) interactive: u32,
    /// The answers that they ask for.
    pub(super) answers: u32,
    /// Answers to others, when it last reported.
    pub(super) foreign: u32,
    /// It answered that it cannot take more at present.
    pub(super) rest: Option<Rest>,
    /// It is being ended to make room for another one.
    pub(super) leaving_until: Option<Instant>,
    /// How many requests its process was given.
    pub(super) given: u64,
    /// The request that has it to itself, by its number, and until when.
    pub(super) taken_by: Option<(u64, Instant)>,
    /// Until when it takes nobody but a request that is to have it to itself.
    pub(super) held_until: Option<Instant>,
    /// The requests to which it has given nothing yet, by their numbers.
    pub(super) beginners: BTreeSet<u64>,
    /// Requests that it has answered, and failed, since the queen knows it.
    pub(super) answered: u64,
    pub(super) failures: u64,
    pub(super) times: Times,
    /// The request that shows whether it works again, by its number.
    pub(super) probed_by: Option<u64>,
    /// When it last had a request.
    pub(super) used_at: Instant,
    pub(super) breaker: Breaker,
    /// Another process took its place while its circuit was open, and nobody has been told.
    pub(super) is_renewed: bool,
    pub(super) pace: Pace,
    /// What is to be expected of it, by what it and its like have shown.
    pub(super) speed: Speed,
    /// The requests of other workers on its device, a moment ago.
    pub(super) neighbours: u32,
}

/// A process of a worker, which keeps its id when its hive starts it again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Its base URL.
    pub(super) address: String,
    pub(super) has_ended: bool,
}

/// Another process that wanted to speak under a worker's name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rival {
    pub(super) at: Instant,
    is_refused: bool,
}

/// What answers took, as the queen saw them come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// From sending the request to the first part of the answer.
    pub first: Duration,
    /// From there to the end.
    pub rest: Duration,
    /// The tokens that came.
    pub tokens: u64,
}

impl Times {
    pub(super) fn add(&mut self, other: Self) {
        self.first = self.first.saturating_add(other.first);
        self.rest = self.rest.saturating_add(other.rest);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }
}

/// A heartbeat, and when it came.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) beat: WorkerHeartbeat,
    pub(super) at: Instant,
    /// When a connection has failed since.
    pub(super) failed_at: Option<Instant>,
}

impl Said {
    pub(super) fn at(beat: WorkerHeartbeat, at: Instant) -> Self {
        Self { beat, at, failed_at: None }
    }

    /// How many requests ran, as far as it tells, while it made the tokens of its next report; `None` where
    /// it was idle at the beginning or the end, or reports in between are missing.
    pub(super) fn running_until(
        &self,
        next: &WorkerHeartbeat,
        interval: Duration,
        now: Instant,
    ) -> Option<u32> {
        let since = now.saturating_duration_since(self.at);
        let is_next = since >= interval / 2 && since <= interval * 3 / 2;
        let (before, after) = (self.beat.slots.busy, next.slots.busy);
        (is_next && before.min(after) > 0).then(|| before.max(after))
    }

    /// Its hive says that its process lives and is ready: it was the connection that failed.
    pub(super) fn vouched_for(&mut self) {
        self.failed_at = None;
    }
}

impl Worker {
    pub(super) fn new(
        hive_id: &HiveAlias,
        model: &ModelAlias,
        device: DeviceId,
        address: Address,
        now: Instant,
    ) -> Self {
        Self::at(Target::new(address, hive_id), hive_id, model, device, now)
    }

    /// One that takes requests at a place.
    pub(super) fn at(
        target: Arc<Target>,
        hive_id: &HiveAlias,
        model: &ModelAlias,
        device: DeviceId,
        now: Instant,
    ) -> Self {
        Self {
            entry: next_number(),
            hive_id: hive_id.clone(),
            hive_number: None,
            model: model.clone(),
            model_number: None,
            device,
            holder: target.holder,
            is_of_server: target.server.is_some(),
            is_named: false,
            failure: None,
            ways: target.ways(),
            target,
            said: None,
            listed: None,
            size: None,
            memory_bytes: None,
            process: None,
            in_flight: 0,
            interactive: 0,
            answers: 0,
            foreign: 0,
            rest: None,
            leaving_until: None,
            rival: None,
            given: 0,
            taken_by: None,
            held_until: None,
            beginners: BTreeSet::new(),
            probed_by: None,
            answered: 0,
            failures: 0,
            times: Times::default(),
            used_at: now,
            breaker: Breaker::default(),
            is_renewed: false,
            pace: Pace::default(),
            speed: pace::usual(device.kind),
            neighbours: 0,
        }
    }

    /// Another process than the one that speaks under its name reports: it takes its place, or is refused.
    pub(super) fn followed_by(
        &mut self,
        beat: &WorkerHeartbeat,
        address: &Address,
        due: Due,
        now: Instant,
    ) -> Result<(), ReportError> {
        let gives_way = self.gives_way(beat, address, due);
        let is_known = self.is_contested(due) && self.rival.is_some_and(|rival| rival.is_refused);
        self.rival = Some(Rival { at: now, is_refused: !gives_way });
        if gives_way {
            // One that was given up, and was only silent, is another one as far as requests are concerned.
            self.target.died.cancel();
            return Ok(());
        }
        let refused = ReportError::Twice {
            worker: beat.worker_id.clone(),
            pid: beat.pid,
            address: address.url(),
            speaker: self.target.address.url(),
        };
        if !is_known {
            tracing::warn!(hive = %self.hive_id, "two workers have one id: {refused}");
        }
        Err(refused)
    }

    /// Whether the process that speaks under its name makes way for that of a report: two that took turns
    /// would have the requests of either cut off with each report. The hive's word decides. Without it
    /// one that starts follows one that has ended unseen, but not again while others want the name, too.
    fn gives_way(&self, beat: &WorkerHeartbeat, address: &Address, due: Due) -> bool {
        let Some(said) = &self.said else { return true };
        let speaker = said.beat.pid;
        let living = self.process.as_ref().filter(|process| !process.has_ended);
        let is_meant = living.is_some_and(|process| {
            process.pid == beat.pid && (speaker != beat.pid || process.address == beat.address)
        });
        let is_ending =
            matches!(said.beat.state, WorkerState::Draining | WorkerState::Failed { .. });
        let is_silent = due.liveness(said.at, false) == Liveness::Gone;
        let is_over =
            is_ending || is_silent || said.failed_at.is_some() || self.target.gone.is_cancelled();
        if is_meant || is_over {
            return true;
        }
        let is_listed = living.is_some_and(|process| process.pid == speaker);
        let is_elsewhere = self.target.address != *address;
        !(self.is_contested(due) || is_listed && is_elsewhere)
    }

    /// Whether several processes wanted its name lately.
    fn is_contested(&self, due: Due) -> bool {
        self.rival.is_some_and(|rival| due.liveness(rival.at, false) != Liveness::Gone)
    }

    /// Another process stands behind its name, or the same one elsewhere.
    pub(super) fn moved(&mut self, address: Address) {
        self.target.gone.cancel();
        self.replace(Target::new(address, &self.hive_id));
    }

    /// It takes requests at another place. What was sent to the one before ends there.
    pub(super) fn replace(&mut self, target: Arc<Target>) {
        (self.holder, self.ways) = (target.holder, target.ways());
        self.is_of_server = target.server.is_some();
        self.target = target;
        self.rest = None;
        self.is_renewed |= self.breaker.on_another();
        self.taken_by = None;
        self.beginners.clear();
        self.probed_by = None;
    }

    /// Whether its end would be one that nobody wanted.
    pub(super) fn is_to_live(&self) -> bool {
        let is_known = self.said.is_some() || self.listed.is_some();
        let is_to_end = self.readiness_for_requests() == Readiness::Ending;
        is_known && !is_to_end && !self.is_of_server && !self.target.died.is_cancelled()
    }

    /// Whether a hive can end it: not one of a server, nor one whose process somebody has started beside the hive.
    pub(super) fn can_be_ended(&self) -> bool {
        self.listed.is_some() && !self.is_of_server
    }

    /// Whether more than its own word speaks for it: a hive's list, or an answer that it has given.
    pub(super) fn is_borne_out(&self) -> bool {
        self.listed.is_some() || self.answered > 0
    }

    /// Whether the process that `target` stands for has fallen silent over a request that came at a time: its last report
    /// was on time then, and its hive has been heard long after that. Workers report every `interval`.
    pub(super) fn hangs_since(
        &self,
        target: &Target,
        came_at: Instant,
        hive_at: Option<Instant>,
        interval: Duration,
    ) -> bool {
        let interval = interval.max(Duration::from_secs(1));
        let was_on_time = |said: &Said| said.at + interval * 3 / 2 >= came_at;
        let is_alone = |said: &Said| hive_at.is_some_and(|at| at >= said.at + interval * 2);
        let hangs = |said: &Said| was_on_time(said) && is_alone(said);
        self.is_silent_in(target.holder)
            && !target.died.is_cancelled()
            && self.said.as_ref().is_some_and(hangs)
    }

    /// Whether the process that has this number is still the last one that was heard of, and gone.
    pub(super) fn is_silent_in(&self, process: u64) -> bool {
        self.holder == process && self.target.gone.is_cancelled()
    }

    /// Whether its hive says that it lives, and it has not been silent for long.
    fn is_awaited(&self, now: Instant) -> bool {
        let lives = self.listed.is_some() && self.readiness_for_requests() != Readiness::Ending;
        let heard = self.said.as_ref().map(|said| said.at);
        lives && heard.is_some_and(|at| now.saturating_duration_since(at) < AWAITED)
    }

    /// Whether its hive says that it has failed.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.listed, Some(SupervisedState::Failed { .. }))
    }

    /// Whether it is of a server that the last looks did not reach.
    pub(super) fn is_missed(&self) -> bool {
        matches!(self.failure, Some(FailureKind::Gone | FailureKind::Shut))
    }

    /// Whether it has requests.
    pub(super) fn is_busy(&self) -> bool {
        self.load() > 0
    }

    /// All answers that it is known to be asked for.
    #[inline]
    pub(super) fn load(&self) -> u32 {
        self.answers.saturating_add(self.foreign)
    }

    /// The id of the process that takes its requests, where it or its hive has told it.
    pub(super) fn pid(&self) -> Option<u32> {
        let living = self.process.as_ref().filter(|process| !process.has_ended);
        let said = self.said.as_ref().map(|said| said.beat.pid);
        said.or_else(|| living.map(|process| process.pid))
    }

    /// How many requests it runs at once.
    #[inline]
    pub(super) fn slots(&self) -> u32 {
        self.said.as_ref().map_or(1, |said| said.beat.slots.total).max(1)
    }

    /// The model file that it runs, where it is known.
    #[inline]
    pub(super) fn digest(&self) -> Option<&Sha256Digest> {
        self.said.as_ref().and_then(|said| said.beat.model.digest.as_ref())
    }

    /// How many tokens its KV cache has room for. One that does not tell, as a server of somebody else, has room for
    /// a context in each slot.
    pub(super) fn cache_tokens(&self) -> u32 {
        let told = self.said.as_ref().map_or(0, |said| said.beat.kv_cache.capacity_tokens);
        if told > 0 {
            return told;
        }
        let context = match self.context_tokens() {
            0 => USUAL_CONTEXT,
            context => context,
        };
        context.saturating_mul(self.slots())
    }

    /// How many tokens a prompt and its answer may have; 0 where it does not tell.
    #[inline]
    pub(super) fn context_tokens(&self) -> u32 {
        self.said.as_ref().map_or(0, |said| said.beat.model.context_length)
    }

    /// For how many tokens it has room beside the requests that run, where it tells.
    #[inline]
    fn free_tokens(&self) -> Option<u32> {
        let kv_cache = self.said.as_ref()?.beat.kv_cache;
        let is_told = kv_cache.capacity_tokens > 0;
        is_told.then(|| kv_cache.capacity_tokens.saturating_sub(kv_cache.used_tokens))
    }

    /// The liveness by its own reports; `None` while it has sent none.
    #[inline]
    pub(super) fn silence(&self, due: Due) -> Option<Liveness> {
        let said = self.said.as_ref()?;
        if self.is_of_server {
            // Its probes say whether it is there, however seldom they come.
            let has_failed = said.failed_at.is_some();
            return Some(if has_failed { Liveness::Suspect } else { Liveness::Alive });
        }
        Some(due.liveness(said.at, said.failed_at.is_some()))
    }

    /// Its liveness: by its own reports, else that of the hive that lists it.
    #[inline]
    pub(super) fn liveness(&self, due: Due, hive: impl FnOnce() -> Liveness) -> Liveness {
        self.silence(due).unwrap_or_else(hive)
    }

    /// Its state. That it ends is believed of either side; everything else it knows best itself.
    pub(super) fn state(&self) -> WorkerState {
        match (&self.listed, &self.said) {
            (Some(SupervisedState::Failed { reason }), _) => {
                WorkerState::Failed { reason: reason.clone() }
            }
            (Some(SupervisedState::Stopping), _) => WorkerState::Draining,
            (_, Some(said)) => said.beat.state.clone(),
            (Some(SupervisedState::Starting { progress }), None) => {
                WorkerState::Loading { progress: *progress }
            }
            (Some(SupervisedState::Ready), None) => WorkerState::Ready,
            (None, None) => WorkerState::Loading { progress: 0.0 },
        }
    }

    #[inline]
    fn readiness(&self) -> Readiness {
        let by_hive = match &self.listed {
            Some(SupervisedState::Failed { .. } | SupervisedState::Stopping) => Readiness::Ending,
            Some(SupervisedState::Ready) => Readiness::Ready,
            Some(SupervisedState::Starting { .. }) | None => Readiness::Coming,
        };
        let by_itself = self.said.as_ref().map(|said| match said.beat.state {
            WorkerState::Loading { .. } => Readiness::Coming,
            WorkerState::Ready => Readiness::Ready,
            WorkerState::Draining | WorkerState::Failed { .. } => Readiness::Ending,
        });
        match (by_hive, by_itself) {
            (Readiness::Ending, _) => Readiness::Ending,
            // The hive learned of it before the worker's own report arrived.
            (Readiness::Ready, Some(Readiness::Coming)) => Readiness::Ready,
            (_, Some(by_itself)) => by_itself,
            (by_hive, None) => by_hive,
        }
    }

    /// Whether it takes requests, as far as is known.
    #[inline]
    pub(super) fn readiness_for_requests(&self) -> Readiness {
        match self.readiness() {
            Readiness::Ready if self.leaving_until.is_some() => Readiness::Ending,
            Readiness::Ready if self.rest.is_some() && self.is_of_server => Readiness::Resting,
            // One of rbee's soon says itself what it takes.
            Readiness::Ready if self.rest.is_some() => Readiness::Coming,
            readiness => readiness,
        }
    }

    /// How the scheduler sees it. `makes_way` says that another model has its turn.
    #[inline]
    pub(super) fn view<'a>(
        &'a self,
        id: &'a WorkerId,
        liveness: Liveness,
        held_bytes: u32,
        makes_way: bool,
        now: Instant,
    ) -> WorkerView<'a> {
        let failed_at = self.said.as_ref().and_then(|said| said.failed_at);
        WorkerView {
            id,
            process: self.holder,
            readiness: match self.readiness_for_requests() {
                Readiness::Ready if makes_way => Readiness::MakesWay,
                readiness => readiness,
            },
            rests_for: self.rest.as_ref().map_or(Duration::ZERO, |rest| rest.left(now)),
            liveness,
            circuit: match self.breaker.circuit(now) {
                // One at a time.
                Circuit::HalfOpen if self.probed_by.is_some() => Circuit::Open,
                circuit => circuit,
            },
            is_taken: self.taken_by.is_some_and(|(_, until)| now < until),
            is_held: self.held_until.is_some_and(|until| now < until),
            has_beginners: !self.beginners.is_empty(),
            has_interactive: self.interactive > 0,
            is_in_doubt: failed_at.is_some_and(|at| now.saturating_duration_since(at) < DOUBT),
            is_awaited: liveness == Liveness::Gone && self.is_awaited(now),
            slots: self.slots(),
            in_flight: self.answers,
            foreign: self.foreign,
            queued: self.said.as_ref().map_or(0, |said| said.beat.queued),
            held_bytes,
            free_tokens: self.free_tokens(),
            context_tokens: self.context_tokens(),
            extra_us: 0,
            is_unjudged: false,
            speed: self.speed,
            digest: self.digest(),
            ways: self.ways,
        }
    }
}
