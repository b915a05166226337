//! The workers, as they and their hives report them. Pure: `now` is passed in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use worker_contract::{
    DeviceId, HiveAlias, ModelAlias, Sha256Digest, SupervisedState, WorkerHeartbeat, WorkerId,
    WorkerState,
};

use super::breaker::Breaker;
use super::numbers::Numbers;
use super::pace::{self, Pace};
use super::prefixes::Holder;
use super::target::{Address, Target, next_number, parse_address};
use super::{Answered, Failed, Liveness, ReportError, liveness};
use crate::scheduler::{Circuit, Readiness, Speed, Ways, WorkerView};

/// The most workers that are kept in mind.
const MAX_WORKERS: usize = 4096;
/// For how long nothing is concluded from a connection that has failed: a bit longer than it takes until
/// the worker or its hive reports next, who know better. Either one's word ends the doubt.
const DOUBT: Duration = Duration::from_millis(2_500);
/// How long a worker that is to make room may take to be gone.
const LEAVING: Duration = Duration::from_secs(60);

/// All workers that somebody reports.
#[derive(Debug, Default)]
pub(super) struct Workers {
    by_id: BTreeMap<WorkerId, Worker>,
    numbers: Numbers,
    /// Whom each hive listed last.
    pub(super) listed_by: HashMap<HiveAlias, Vec<WorkerId>>,
}

/// A worker that somebody reports.
#[derive(Debug)]
pub(super) struct Worker {
    /// Tells this entry from an earlier one of the same worker.
    entry: u64,
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
    ways: Ways,
    /// What it said last; `None` while only its hive has reported it.
    pub(super) said: Option<Said>,
    /// The process that spoke under its name before the one that does.
    spoke_before: Option<u32>,
    /// A process that is not heard under its name, because another one is meant.
    unheard: Option<u32>,
    /// What its hive says; `None` where no hive lists it.
    pub(super) listed: Option<SupervisedState>,
    /// What it has of its device's memory, as its hive says.
    pub(super) memory_bytes: Option<u64>,
    /// The process that its hive named last, and whether it had ended then.
    pub(super) process: Option<Process>,
    /// Requests that were sent to it and have not ended.
    pub(super) in_flight: u32,
    /// Requests of others, when it last reported.
    foreign: u32,
    /// It answered that it cannot take more at present.
    resting_until: Option<Instant>,
    /// It is being ended to make room for another one.
    leaving_until: Option<Instant>,
    /// How many requests its process was given.
    given: u64,
    /// The request that has it to itself until it has got a token, by its number.
    taken_by: Option<u64>,
    /// Requests that it has answered, and failed, since the queen knows it.
    pub(super) answered: u64,
    pub(super) failures: u64,
    pub(super) times: Times,
    /// The request that shows whether it works again, by its number.
    probed_by: Option<u64>,
    /// When it last had a request.
    pub(super) used_at: Instant,
    pub(super) breaker: Breaker,
    pub(super) pace: Pace,
    /// What is to be expected of it, by what it and its like have shown.
    pub(super) speed: Speed,
    /// The requests of other workers on its device, a moment ago.
    pub(super) neighbours: u32,
}

/// A process of a worker, which keeps its id when its hive starts it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) has_ended: bool,
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
    fn add(&mut self, other: Self) {
        self.first = self.first.saturating_add(other.first);
        self.rest = self.rest.saturating_add(other.rest);
        self.tokens = self.tokens.saturating_add(other.tokens);
    }
}

/// A request's stay at a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stay {
    /// Which entry of the worker counted it: one that was forgotten meanwhile begins at none.
    entry: u64,
    /// Its number among those that the worker was given.
    number: u64,
    /// How many others were there when it came.
    company: u32,
}

/// A heartbeat, and when it came.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) beat: WorkerHeartbeat,
    pub(super) at: Instant,
    /// When a connection has failed since.
    failed_at: Option<Instant>,
}

impl Workers {
    /// Takes a worker's own report.
    pub(super) fn beat(&mut self, beat: WorkerHeartbeat, now: Instant) -> Result<(), ReportError> {
        // Nearly every report says what the one before said.
        let known = self.by_id.get(&beat.worker_id);
        let same =
            known.filter(|w| w.said.as_ref().is_some_and(|s| s.beat.address == beat.address));
        let address = match same {
            Some(worker) => worker.target.address.clone(),
            None => parse_address(&beat.address)?,
        };
        let full = self.by_id.len() >= MAX_WORKERS;
        let worker = match self.by_id.get_mut(&beat.worker_id) {
            // Only its own hive's secret may speak for a worker.
            Some(worker) if worker.hive_id != beat.hive_id || worker.is_of_server => {
                return Err(ReportError::Taken {
                    worker: beat.worker_id,
                    hive: worker.hive_id.clone(),
                });
            }
            Some(worker) => worker,
            None if full => return Err(ReportError::TooMany { limit: MAX_WORKERS }),
            None => {
                let address = address.clone();
                let worker =
                    Worker::new(&beat.hive_id, &beat.model.name, beat.device, address, now);
                self.by_id.entry(beat.worker_id.clone()).or_insert(worker)
            }
        };
        if worker.process == Some(Process { pid: beat.pid, has_ended: true }) {
            // Its last words, come late.
            return Ok(());
        }
        let speaker = worker.said.as_ref().map(|said| said.beat.pid);
        let is_another = speaker.is_some_and(|pid| pid != beat.pid);
        if worker.is_unheard(beat.pid, speaker) {
            return Err(ReportError::Twice { worker: beat.worker_id, pid: beat.pid });
        }
        if is_another {
            worker.spoke_before = speaker;
        }
        // One that was given up, and was only silent, is another one as far as requests are concerned.
        if is_another {
            worker.target.died.cancel();
        }
        if worker.target.address != address || is_another || worker.target.gone.is_cancelled() {
            worker.moved(address);
        }
        worker.device = beat.device;
        worker.foreign =
            beat.slots.busy.saturating_add(beat.queued).saturating_sub(worker.in_flight);
        worker.resting_until = None;
        if worker.is_busy() {
            worker.used_at = now;
        }
        self.numbers.set(worker, &beat.model.name);
        worker.said = Some(Said { beat, at: now, failed_at: None });
        Ok(())
    }

    /// Ends what is gone and wakes what has rested. Whether anything changed.
    pub(super) fn sweep(
        &mut self,
        interval: Duration,
        now: Instant,
        hive_is_gone: impl Fn(&HiveAlias) -> bool,
    ) -> bool {
        let before = self.by_id.len();
        let mut changed = false;
        self.by_id.retain(|_, worker| {
            if worker.resting_until.is_some_and(|until| until <= now) {
                worker.resting_until = None;
                changed = true;
            }
            if worker.leaving_until.is_some_and(|until| until <= now) {
                worker.leaving_until = None;
                changed = true;
            }
            // One that has said nothing is as gone as the hive that alone knows of it.
            let is_gone = if let Some(silence) = worker.silence(interval, now) {
                silence == Liveness::Gone
            } else {
                let known_for = now.saturating_duration_since(worker.used_at);
                liveness(known_for, interval, false) == Liveness::Gone
                    && hive_is_gone(&worker.hive_id)
            };
            if is_gone && !worker.target.gone.is_cancelled() {
                worker.target.gone.cancel();
                changed = true;
            }
            // One that its hive lists stays, so that the hive's word does not bring it back to life.
            !is_gone || (worker.listed.is_some() && !hive_is_gone(&worker.hive_id))
        });
        self.numbers.forget_all_but(self.by_id.values());
        changed || self.by_id.len() != before
    }

    /// Nobody was listening for so long.
    pub(super) fn excuse(&mut self, pause: Duration) {
        for worker in self.by_id.values_mut() {
            worker.used_at += pause;
            if let Some(said) = &mut worker.said {
                said.at += pause;
            }
        }
    }

    /// Counts a request that is being sent, and gives it a number. One that is `alone` has the worker
    /// to itself, if it is the first there.
    pub(super) fn reserve(
        &mut self,
        id: &WorkerId,
        alone: bool,
        now: Instant,
    ) -> Option<(&Worker, Stay)> {
        let worker = self.by_id.get_mut(id)?;
        let company = worker.load();
        worker.in_flight += 1;
        worker.given += 1;
        worker.used_at = now;
        let stay = Stay { entry: worker.entry, number: worker.given, company };
        if worker.breaker.circuit(now) == Circuit::HalfOpen {
            worker.probed_by = Some(stay.number);
        }
        if alone && company == 0 {
            worker.taken_by = Some(stay.number);
        }
        Some((worker, stay))
    }

    /// A request has ended.
    pub(super) fn release(&mut self, id: &WorkerId, stay: Stay, now: Instant) {
        if let Some(worker) = self.by_id.get_mut(id).filter(|worker| worker.entry == stay.entry) {
            worker.in_flight = worker.in_flight.saturating_sub(1);
            worker.used_at = now;
        }
        self.share(id, stay);
    }

    /// A request needs its worker no longer to itself, and has shown whether it works.
    pub(super) fn share(&mut self, id: &WorkerId, stay: Stay) {
        let is_same = |worker: &&mut Worker| worker.entry == stay.entry;
        let Some(worker) = self.by_id.get_mut(id).filter(is_same) else { return };
        for held in [&mut worker.taken_by, &mut worker.probed_by] {
            if *held == Some(stay.number) {
                *held = None;
            }
        }
    }

    /// Whether a request was the only one at its worker all the time.
    pub(super) fn was_alone(&self, id: &WorkerId, stay: Stay) -> bool {
        let has_had_company =
            |worker: &Worker| worker.entry == stay.entry && worker.given != stay.number;
        stay.company == 0 && !self.by_id.get(id).is_some_and(has_had_company)
    }

    /// A request has failed at the process that `target` stands for; what another one did is not
    /// held against it. True when that opens its circuit.
    pub(super) fn failed(
        &mut self,
        id: &WorkerId,
        target: &Target,
        stay: Stay,
        failed: Failed,
        now: Instant,
    ) -> bool {
        let is_same = |worker: &&mut Worker| worker.target.holder == target.holder;
        let Some(worker) = self.by_id.get_mut(id).filter(is_same) else { return false };
        if let Some(said) = worker.said.as_mut().filter(|_| failed.is_connection) {
            said.failed_at = Some(now);
        }
        worker.failures += 1;
        let is_probe = worker.entry == stay.entry && worker.probed_by == Some(stay.number);
        worker.breaker.on_failure(failed.request, is_probe, now)
    }

    /// A request has been answered. Gives its worker, and how many others were beside it there.
    pub(super) fn answered(
        &mut self,
        id: &WorkerId,
        stay: Stay,
        answered: &Answered,
        now: Instant,
    ) -> Option<(&Worker, u32)> {
        let is_same = |worker: &&mut Worker| worker.entry == stay.entry;
        let worker = self.by_id.get_mut(id).filter(is_same)?;
        let Answered { prompt_bytes, usage, timings, times } = *answered;
        worker.answered += 1;
        worker.times.add(times);
        worker.breaker.on_success();
        let company = worker.load().saturating_sub(1).max(stay.company);
        let company = company.saturating_add(worker.neighbours);
        worker.pace.on_answer(prompt_bytes, usage, timings, company, now);
        Some((worker, company))
    }

    /// It is being ended to make room.
    pub(super) fn leaves(&mut self, id: &WorkerId, now: Instant) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.leaving_until = Some(now + LEAVING);
        }
    }

    /// It stays after all.
    pub(super) fn stays(&mut self, id: &WorkerId) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.leaving_until = None;
        }
    }

    /// It cannot take more for a while.
    pub(super) fn rest(&mut self, id: &WorkerId, until: Instant) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.resting_until = Some(until);
        }
    }

    /// Whether no other worker can be kept in mind.
    pub(super) fn is_full(&self) -> bool {
        self.by_id.len() >= MAX_WORKERS
    }

    pub(super) fn put(&mut self, id: &WorkerId, mut worker: Worker) {
        let model = worker.model.clone();
        self.numbers.set(&mut worker, &model);
        self.by_id.insert(id.clone(), worker);
    }

    /// A worker runs a model.
    pub(super) fn runs(&mut self, id: &WorkerId, model: &ModelAlias) {
        if let Some(worker) = self.by_id.get_mut(id) {
            self.numbers.set(worker, model);
        }
    }

    /// The workers of a model.
    pub(super) fn of_model(
        &self,
        model: &ModelAlias,
    ) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        // No model has the number 0.
        let number = self.numbers.of_model(model).unwrap_or(0);
        self.by_id.iter().filter(move |(_, worker)| worker.model_number == Some(number))
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&WorkerId, &mut Worker) -> bool) {
        self.by_id.retain(keep);
    }

    pub(super) fn get(&self, id: &WorkerId) -> Option<&Worker> {
        self.by_id.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &WorkerId) -> Option<&mut Worker> {
        self.by_id.get_mut(id)
    }

    pub(super) fn remove(&mut self, id: &WorkerId) -> Option<Worker> {
        self.by_id.remove(id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.by_id.values_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.by_id.iter()
    }
}

impl Said {
    pub(super) fn at(beat: WorkerHeartbeat, at: Instant) -> Self {
        Self { beat, at, failed_at: None }
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
            ways: target.ways(),
            target,
            said: None,
            listed: None,
            memory_bytes: None,
            process: None,
            in_flight: 0,
            foreign: 0,
            resting_until: None,
            leaving_until: None,
            spoke_before: None,
            unheard: None,
            given: 0,
            taken_by: None,
            probed_by: None,
            answered: 0,
            failures: 0,
            times: Times::default(),
            used_at: now,
            breaker: Breaker::default(),
            pace: Pace::default(),
            speed: pace::usual(device.kind),
            neighbours: 0,
        }
    }

    /// Whether a process may not speak under its name: two that take turns would have the requests of
    /// either cut off with each report. The hive's word decides which one is meant.
    fn is_unheard(&mut self, pid: u32, speaker: Option<u32>) -> bool {
        let is_meant = |pid: u32| self.process.is_some_and(|process| process.pid == pid);
        if self.unheard == Some(pid) && is_meant(pid) {
            self.unheard = speaker;
        }
        // One that was followed by another speaks again: both live.
        if self.spoke_before == Some(pid) && speaker.is_some_and(|speaker| speaker != pid) {
            self.unheard = if is_meant(pid) { speaker } else { Some(pid) };
        }
        self.unheard == Some(pid)
    }

    /// Another process stands behind its name, or the same one elsewhere.
    pub(super) fn moved(&mut self, address: Address) {
        self.replace(Target::new(address, &self.hive_id));
    }

    /// It takes requests at another place.
    pub(super) fn replace(&mut self, target: Arc<Target>) {
        self.target.gone.cancel();
        (self.holder, self.ways) = (target.holder, target.ways());
        self.is_of_server = target.server.is_some();
        self.target = target;
        self.breaker = Breaker::default();
        self.taken_by = None;
        self.probed_by = None;
    }

    /// Whether its hive says that it has failed.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.listed, Some(SupervisedState::Failed { .. }))
    }

    /// Whether it has requests.
    pub(super) fn is_busy(&self) -> bool {
        self.load() > 0
    }

    /// All requests that are known to be in it.
    pub(super) fn load(&self) -> u32 {
        self.in_flight.saturating_add(self.foreign)
    }

    /// How many requests it runs at once.
    pub(super) fn slots(&self) -> u32 {
        self.said.as_ref().map_or(1, |said| said.beat.slots.total).max(1)
    }

    /// The model file that it runs, where it is known.
    pub(super) fn digest(&self) -> Option<&Sha256Digest> {
        self.said.as_ref().and_then(|said| said.beat.model.digest.as_ref())
    }

    /// How many tokens its KV cache has room for.
    pub(super) fn cache_tokens(&self) -> u32 {
        self.said.as_ref().map_or(0, |said| said.beat.kv_cache.capacity_tokens)
    }

    /// The liveness by its own reports; `None` while it has sent none.
    fn silence(&self, interval: Duration, now: Instant) -> Option<Liveness> {
        let said = self.said.as_ref()?;
        if self.is_of_server {
            // Its probes say whether it is there, however seldom they come.
            let has_failed = said.failed_at.is_some();
            return Some(if has_failed { Liveness::Suspect } else { Liveness::Alive });
        }
        Some(liveness(now.saturating_duration_since(said.at), interval, said.failed_at.is_some()))
    }

    /// Its liveness: by its own reports, else that of the hive that lists it.
    pub(super) fn liveness(
        &self,
        interval: Duration,
        hive: impl FnOnce() -> Liveness,
        now: Instant,
    ) -> Liveness {
        self.silence(interval, now).unwrap_or_else(hive)
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
    pub(super) fn readiness_for_requests(&self) -> Readiness {
        match self.readiness() {
            Readiness::Ready if self.leaving_until.is_some() => Readiness::Ending,
            Readiness::Ready if self.resting_until.is_some() => Readiness::Coming,
            readiness => readiness,
        }
    }

    /// How the scheduler sees it.
    pub(super) fn view<'a>(
        &'a self,
        id: &'a WorkerId,
        liveness: Liveness,
        held_bytes: u32,
        now: Instant,
    ) -> WorkerView<'a> {
        let failed_at = self.said.as_ref().and_then(|said| said.failed_at);
        WorkerView {
            id,
            readiness: self.readiness_for_requests(),
            liveness,
            circuit: match self.breaker.circuit(now) {
                // One at a time.
                Circuit::HalfOpen if self.probed_by.is_some() => Circuit::Open,
                circuit => circuit,
            },
            is_taken: self.taken_by.is_some(),
            is_in_doubt: failed_at.is_some_and(|at| now.saturating_duration_since(at) < DOUBT),
            slots: self.slots(),
            in_flight: self.in_flight,
            foreign: self.foreign,
            held_bytes,
            extra_us: 0,
            speed: self.speed,
            digest: self.digest(),
            ways: self.ways,
        }
    }
}
