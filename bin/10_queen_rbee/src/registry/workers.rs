//! The workers that somebody reports, by their ids. Pure: `now` is passed in.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use worker_contract::{HiveAlias, ModelAlias, ModelKind, Sha256Digest, WorkerHeartbeat, WorkerId};

use super::ends::Ends;
use super::fits::Size;
use super::lengths::Lengths;
use super::numbers::Numbers;
use super::plausible::plausible;
use super::rests::Rest;
use super::target::{ShownSecret, Target, parse_address};
use super::vigil::excused;
use super::worker::{Said, Worker};
use super::{Answered, Due, Failed, Liveness, ReportError};
use crate::admission::Priority;
use crate::scheduler::Circuit;

/// The most workers that are kept in mind,
const MAX_WORKERS: usize = 4096;
/// and those of one hive, so that no hive's secret leaves others without room.
pub(super) const MAX_OF_HIVE: usize = 512;
/// For how long a request that may be what ends workers has one to itself after its first token: who ends them does so
/// with the prompt or the first tokens,
const TRIAL: Duration = Duration::from_millis(500);
/// and with a long prompt at most.
const LONGEST_TRIAL: Duration = Duration::from_secs(30);
/// For how long a worker is held for such a request, each time that it is looked at: at the end of that, too, while it
/// waits.
const HELD: Duration = Duration::from_millis(500);
/// How long a worker that is to make room may take to be gone.
const LEAVING: Duration = Duration::from_secs(60);

/// All workers that somebody reports.
#[derive(Debug, Default)]
pub(super) struct Workers {
    by_id: BTreeMap<WorkerId, Worker>,
    numbers: Numbers,
    pub(super) lengths: Lengths,
    pub(super) ends: Ends,
    /// Whom each hive listed last.
    pub(super) listed_by: HashMap<HiveAlias, Vec<WorkerId>>,
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
    /// It came to begin alone, and all others there had got something.
    began_alone: bool,
    /// How many answers it asks for.
    answers: u32,
    is_interactive: bool,
    /// When it came.
    pub(super) at: Instant,
}

impl Workers {
    /// Takes a worker's own report. Workers report every `interval`.
    pub(super) fn beat(
        &mut self,
        beat: WorkerHeartbeat,
        shown: ShownSecret,
        interval: Duration,
        now: Instant,
    ) -> Result<(), ReportError> {
        let beat = plausible(beat);
        // Nearly every report says what the one before said.
        let known = self.by_id.get(&beat.worker_id);
        let same =
            known.filter(|w| w.said.as_ref().is_some_and(|s| s.beat.address == beat.address));
        let address = match same {
            Some(worker) => worker.target.address.clone(),
            None => parse_address(&beat.address)?,
        };
        let room = known.map_or_else(|| self.room_for(&beat.hive_id), |_| Ok(()));
        let worker = match self.by_id.get_mut(&beat.worker_id) {
            // Only its own hive's secret may speak for a worker.
            Some(worker) if worker.hive_id != beat.hive_id || worker.is_of_server => {
                return Err(ReportError::Taken {
                    worker: beat.worker_id,
                    hive: worker.hive_id.clone(),
                });
            }
            Some(worker) => worker,
            None => {
                room?;
                let address = address.clone();
                let worker =
                    Worker::new(&beat.hive_id, &beat.model.name, beat.device, address, now);
                self.by_id.entry(beat.worker_id.clone()).or_insert(worker)
            }
        };
        let process = worker.process.as_ref();
        if process.is_some_and(|process| process.has_ended && process.pid == beat.pid) {
            // Its last words, come late.
            return Ok(());
        }
        // In containers each process may have the same pid, but no two listen at one address.
        let is_elsewhere = worker.target.address != address;
        let is_other = |said: &Said| is_elsewhere || said.beat.pid != beat.pid;
        let is_another = worker.said.as_ref().is_some_and(is_other);
        if is_another {
            let was_to_live = worker.is_to_live();
            worker.followed_by(&beat, &address, Due::at(now, interval), now)?;
            if was_to_live {
                self.ends.add(worker.holder, &worker.model, now);
            }
        }
        if is_elsewhere || is_another || worker.target.gone.is_cancelled() {
            worker.moved(address);
        }
        worker.target.has_shown(shown);
        worker.device = beat.device;
        worker.foreign = beat.slots.busy.saturating_add(beat.queued).saturating_sub(worker.answers);
        worker.rest = None;
        if worker.is_busy() {
            worker.used_at = now;
        }
        // One that makes vectors counts the tokens of its texts.
        let is_of_answers = beat.model.kind == ModelKind::Generative && !is_another;
        let said = worker.said.as_ref().filter(|_| is_of_answers);
        if let Some(running) = said.and_then(|said| said.running_until(&beat, interval, now)) {
            worker.pace.on_report(beat.tokens_per_second, running, now);
        }
        self.numbers.set(worker, &beat.model.name);
        if let Some(file) = &beat.model.digest {
            self.numbers.has_file(worker, file);
        }
        let is_news = worker.context_tokens() != beat.model.context_length;
        worker.said = Some(Said { beat, at: now, failed_at: None });
        if is_news {
            self.lengths.shown(worker);
        }
        Ok(())
    }

    /// It was started with a size.
    pub(super) fn started_as(&mut self, id: &WorkerId, size: Size) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.size = Some(size);
            self.lengths.shown(worker);
        }
    }

    /// Ends what is gone and wakes what has rested. Whether anything changed.
    pub(super) fn sweep(
        &mut self,
        due: Due,
        now: Instant,
        hive_is_gone: impl Fn(&HiveAlias) -> bool,
    ) -> bool {
        let before = self.by_id.len();
        let mut changed = false;
        self.by_id.retain(|_, worker| {
            if worker.rest.as_ref().is_some_and(|rest| rest.until <= now) {
                worker.rest = None;
                changed = true;
            }
            if worker.leaving_until.is_some_and(|until| until <= now) {
                worker.leaving_until = None;
                changed = true;
            }
            // One that has said nothing is as gone as the hive that alone knows of it.
            let is_gone = if let Some(silence) = worker.silence(due) {
                silence == Liveness::Gone
            } else {
                due.liveness(worker.used_at, false) == Liveness::Gone
                    && hive_is_gone(&worker.hive_id)
            };
            if is_gone && !worker.target.gone.is_cancelled() {
                if worker.is_to_live() {
                    self.ends.add(worker.holder, &worker.model, now);
                }
                worker.target.gone.cancel();
                changed = true;
            }
            // One that its hive lists stays, so that the hive's word does not bring it back to life.
            !is_gone || (worker.listed.is_some() && !hive_is_gone(&worker.hive_id))
        });
        self.numbers.forget_all_but(self.by_id.values());
        changed || self.by_id.len() != before
    }

    /// Nobody was listening for so long, until `now`.
    pub(super) fn excuse(&mut self, pause: Duration, now: Instant) {
        for worker in self.by_id.values_mut() {
            worker.used_at = excused(worker.used_at, pause, now);
            if let Some(said) = &mut worker.said {
                said.at = excused(said.at, pause, now);
            }
            if let Some(rival) = &mut worker.rival {
                rival.at = excused(rival.at, pause, now);
            }
        }
    }

    /// Counts a request for so many answers that is being sent, and gives it a number. One that is `alone` keeps
    /// others away for a while, if all that are there have got something; at a server nothing is to be found out. What
    /// was held for such a request is free then: those that still wait hold one again.
    pub(super) fn reserve(
        &mut self,
        id: &WorkerId,
        answers: u32,
        alone: bool,
        priority: Priority,
        now: Instant,
    ) -> Option<(&Worker, Stay)> {
        let may_begin = |it: &Worker| alone && !it.is_of_server && it.beginners.is_empty();
        let began_alone = self.by_id.get(id).is_some_and(may_begin);
        if began_alone {
            self.release_holds(id);
        }
        let worker = self.by_id.get_mut(id)?;
        let company = worker.load();
        let most = worker.target.server.as_ref().and_then(|server| server.most_answers);
        let answers = answers.clamp(1, most.unwrap_or(u32::MAX).max(1));
        let is_interactive = priority == Priority::Interactive;
        worker.in_flight += 1;
        worker.interactive += u32::from(is_interactive);
        worker.answers = worker.answers.saturating_add(answers);
        worker.given += 1;
        worker.used_at = now;
        let (entry, number) = (worker.entry, worker.given);
        let stay = Stay { entry, number, company, began_alone, answers, is_interactive, at: now };
        worker.beginners.insert(number);
        if worker.breaker.circuit(now) == Circuit::HalfOpen {
            worker.probed_by = Some(stay.number);
        }
        if began_alone {
            worker.taken_by = Some((number, now + LONGEST_TRIAL));
        }
        Some((worker, stay))
    }

    /// No worker of the same model is held any more.
    fn release_holds(&mut self, id: &WorkerId) {
        let Some(model) = self.by_id.get(id).map(|worker| worker.model_number) else { return };
        for worker in self.by_id.values_mut().filter(|worker| worker.model_number == model) {
            worker.held_until = None;
        }
    }

    /// When the next worker that a request has to itself, or that is held for one, is free of that.
    pub(super) fn next_trial_end(&self, now: Instant) -> Option<Instant> {
        let ends = |worker: &Worker| [worker.taken_by.map(|(_, until)| until), worker.held_until];
        let all = self.by_id.values().flat_map(ends).flatten();
        all.filter(|until| *until > now).min()
    }

    /// A request that may be what ends workers waits for one: it takes nobody else for a moment.
    pub(super) fn hold(&mut self, id: &WorkerId, now: Instant) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.held_until = Some(now + HELD);
        }
    }

    /// A request has ended.
    pub(super) fn release(&mut self, id: &WorkerId, stay: Stay, now: Instant) {
        if let Some(worker) = self.by_id.get_mut(id).filter(|worker| worker.entry == stay.entry) {
            worker.in_flight = worker.in_flight.saturating_sub(1);
            worker.interactive -= u32::from(stay.is_interactive).min(worker.interactive);
            worker.answers = worker.answers.saturating_sub(stay.answers);
            worker.used_at = now;
        }
        if let Some(worker) = self.begun(id, stay) {
            worker.taken_by = worker.taken_by.filter(|(by, _)| *by != stay.number);
        }
    }

    /// A request has got something: it has shown whether its worker works, and soon needs it no longer to itself. Whether
    /// that bears on those that wait to have one so.
    pub(super) fn works(&mut self, id: &WorkerId, stay: Stay, now: Instant) -> bool {
        let Some(worker) = self.begun(id, stay) else { return false };
        if let Some((by, until)) = &mut worker.taken_by
            && *by == stay.number
        {
            *until = (*until).min(now + TRIAL);
        }
        let is_taken = worker.taken_by.is_some_and(|(_, until)| now < until);
        is_taken || worker.held_until.is_some_and(|until| now < until)
    }

    /// A request is no longer at the beginning. Gives its worker, where that is the same.
    fn begun(&mut self, id: &WorkerId, stay: Stay) -> Option<&mut Worker> {
        let worker = self.by_id.get_mut(id).filter(|worker| worker.entry == stay.entry)?;
        worker.beginners.remove(&stay.number);
        worker.probed_by = worker.probed_by.filter(|by| *by != stay.number);
        Some(worker)
    }

    /// Whether a request was the only one at its worker all the time, or the only one that had just come there.
    pub(super) fn was_alone(&self, id: &WorkerId, stay: Stay) -> bool {
        let has_had_company =
            |worker: &Worker| worker.entry == stay.entry && worker.given != stay.number;
        (stay.company == 0 || stay.began_alone) && !self.by_id.get(id).is_some_and(has_had_company)
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
        let is_its = worker.entry == stay.entry;
        let is_probe = is_its && worker.probed_by == Some(stay.number);
        let is_news = !(failed.is_connection && is_its)
            || worker.breaker.on_break(stay.number, worker.given, now);
        if !is_news && !is_probe {
            return false;
        }
        worker.breaker.on_failure(failed.request, is_probe, now)
    }

    /// A request has been answered. Gives its worker, how many others were beside it there, and whether that
    /// closes its circuit.
    pub(super) fn answered(
        &mut self,
        id: &WorkerId,
        stay: Stay,
        answered: &Answered,
        now: Instant,
    ) -> Option<(&Worker, u32, bool)> {
        let is_same = |worker: &&mut Worker| worker.entry == stay.entry;
        let worker = self.by_id.get_mut(id).filter(is_same)?;
        let Answered { prompt_bytes, usage, before, timings, times } = *answered;
        worker.answered += 1;
        worker.times.add(times);
        let has_closed = worker.breaker.on_success();
        let company = worker.load().saturating_sub(1).max(stay.company);
        let company = company.saturating_add(worker.neighbours);
        worker.pace.on_answer(prompt_bytes, usage, before, timings, company, now);
        Some((worker, company, has_closed))
    }

    /// Those whose circuits were open when another process took their place.
    pub(super) fn take_renewed(&mut self) -> Vec<(WorkerId, ModelAlias)> {
        let renewed = |(id, worker): (&WorkerId, &mut Worker)| {
            let is_renewed = std::mem::take(&mut worker.is_renewed);
            is_renewed.then(|| (id.clone(), worker.model.clone()))
        };
        self.by_id.iter_mut().filter_map(renewed).collect()
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
    pub(super) fn rest(&mut self, id: &WorkerId, rest: Rest) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.rest = Some(rest);
        }
    }

    /// Whether another worker of a hive can be kept in mind.
    pub(super) fn room_for(&self, hive: &HiveAlias) -> Result<(), ReportError> {
        if self.is_full() {
            return Err(ReportError::TooMany { limit: MAX_WORKERS });
        }
        let of_it = self.by_id.values().filter(|worker| worker.hive_id == *hive);
        if of_it.count() >= MAX_OF_HIVE {
            return Err(ReportError::TooManyOfHive { hive: hive.clone(), limit: MAX_OF_HIVE });
        }
        Ok(())
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

    /// Whether some worker may run a file by another name than this one.
    pub(super) fn may_run_by_another_name(&self, file: &Sha256Digest, model: &ModelAlias) -> bool {
        self.numbers.may_run_by_another_name(file, model)
    }

    /// How many there are, of all models.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
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
