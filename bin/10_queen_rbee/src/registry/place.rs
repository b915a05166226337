//! Places of requests at workers: who gets which, and what became of them there.
//!
//! A decision and the reservation that follows from it happen under the same lock, so that two requests
//! never take the same place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use worker_contract::{
    HiveAlias, ModelAlias, Sha256Digest, Timings, Usage, WorkerHeartbeat, WorkerId, WorkerState,
};

use super::places::Shown;
use super::worker::Worker;
use super::workers::Stay;
use super::{Due, Judging, Liveness, Registry, SessionKey, State, Target, Times};
use crate::admission::Priority;
use crate::clock;
use crate::prompt::PromptChain;
use crate::scheduler::{Circuit, Decision, Demand, FailedBy, Readiness, WaitReason, Why};

/// A request's place at a worker. Dropping it gives the place back.
#[derive(Debug)]
pub struct Place {
    /// The worker.
    pub worker_id: WorkerId,
    /// The name by which it runs its model, which may be another one than was asked for.
    pub model: ModelAlias,
    /// Where it takes requests.
    pub target: Arc<Target>,
    /// The id of its process on its machine, where it is known.
    pub pid: Option<u32>,
    /// The model file that it runs, where it is known.
    pub digest: Option<Sha256Digest>,
    /// How many tokens its context has; 0 where it does not tell.
    pub context_tokens: u32,
    /// Why this worker.
    pub why: Why,
    stay: Stay,
    registry: Registry,
}

impl Place {
    /// Its worker, as one that fails a request, or is to be avoided.
    #[must_use]
    pub fn as_failed(&self) -> FailedBy {
        FailedBy { worker: self.worker_id.clone(), process: self.target.holder }
    }

    /// Its worker's process as its hive knows it; `None` where its id is not known.
    #[must_use]
    pub fn process(&self) -> Option<WorkerProcess> {
        let (hive, worker) = (self.target.hive_id.clone(), self.worker_id.clone());
        self.pid.map(|pid| WorkerProcess { hive, worker, pid })
    }
}

/// A process of a hive's worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerProcess {
    /// The hive.
    pub hive: HiveAlias,
    /// The worker.
    pub worker: WorkerId,
    /// Its id on its machine.
    pub pid: u32,
}

/// How a worker has failed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The request's number in this queen.
    pub request: u64,
    /// Its connection broke.
    pub is_connection: bool,
}

/// What a worker's answer was.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Answered {
    /// How long the prompt was.
    pub prompt_bytes: u32,
    /// What was computed for all of the answer.
    pub usage: Usage,
    /// How many of its tokens others had given.
    pub before: u32,
    /// What that took, as the worker says.
    pub timings: Timings,
    /// What it took, as the queen saw.
    pub times: Times,
}

/// What a failure says of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blame {
    /// The request was the only one there all the time, or began alone beside others that had got something.
    pub was_alone: bool,
    /// The worker was being ended.
    pub was_ending: bool,
    /// The worker gets nothing for a while from this failure on.
    pub has_opened: bool,
    /// The worker reported on time when the request came, and has fallen silent since, though its hive is heard: that its
    /// process has ended for that, the hive tells later.
    pub hangs: bool,
}

/// What a worker takes before the first token that it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptTime {
    /// As long as its other prompts and answers took.
    pub shown: Duration,
    /// How many requests it runs at once.
    pub slots: u32,
}

/// What a request asks a place for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The request as the scheduler sees it; its session and its prompt's length are filled in.
    pub demand: Demand<'a>,
    /// Its prompt.
    pub prompt: &'a PromptChain,
    /// Its session.
    pub session: Option<&'a SessionKey>,
    /// Who asks.
    pub caller: &'a str,
    /// How urgent it is.
    pub priority: Priority,
    /// How many answers it asks for.
    pub answers: u32,
}

impl<'a> Ask<'a> {
    /// An interactive request of this machine without a session.
    #[must_use]
    pub fn of(demand: Demand<'a>, prompt: &'a PromptChain) -> Self {
        let priority = Priority::Interactive;
        Self { demand, prompt, session: None, caller: "local", priority, answers: 1 }
    }

    /// The demand with all but its session.
    fn whole_demand(&self) -> Demand<'a> {
        Demand { prompt_bytes: self.prompt.bytes(), priority: self.priority, ..self.demand }
    }
}

/// What became of a request: a [`Decision`] whose dispatch is carried out.
#[derive(Debug)]
pub enum Placed {
    /// It has a place.
    At(Place),
    /// Anything else.
    Not(Decision),
}

impl Registry {
    /// Decides what becomes of a request, and takes the place that the decision names.
    pub fn place(&self, ask: &Ask<'_>, now: Instant) -> Placed {
        let judging = self.judging(ask);
        loop {
            match (self.place_judged(ask, judging.as_ref(), now), &judging) {
                (Some(placed), _) => return placed,
                (None, Some(judging)) => judging.answer(),
                // Without rules there is nobody to ask.
                (None, None) => return Placed::Not(Decision::Wait(WaitReason::News)),
            }
        }
    }

    /// The same by what the rules have said so far. `None` where they have to be asked first.
    pub fn place_judged(
        &self,
        ask: &Ask<'_>,
        judging: Option<&Judging<'_>>,
        now: Instant,
    ) -> Option<Placed> {
        let mut state = self.state();
        let model = ask.demand.model;
        let session = ask.session.and_then(|session| state.sessions.get(session, model).cloned());
        let demand = Demand { session: session.as_ref(), ..ask.whole_demand() };
        let decision = self.decide(&state, &demand, ask, judging, now)?;
        Some(self.carry_out(&mut state, decision, ask, now))
    }

    /// What would be decided for a request now. Nothing is carried out.
    #[must_use]
    pub fn foresee(&self, ask: &Ask<'_>, now: Instant) -> Decision {
        let (judging, demand) = (self.judging(ask), ask.whole_demand());
        loop {
            let decision = self.decide(&self.state(), &demand, ask, judging.as_ref(), now);
            match (decision, &judging) {
                (Some(decision), _) => return decision,
                (None, Some(judging)) => judging.answer(),
                // Without rules there is nobody to ask.
                (None, None) => return Decision::Wait(WaitReason::News),
            }
        }
    }

    fn carry_out(
        &self,
        state: &mut State,
        decision: Decision,
        ask: &Ask<'_>,
        now: Instant,
    ) -> Placed {
        match decision {
            Decision::Dispatch { worker, why } => match state.reserve(&worker, ask, now) {
                Some((target, digest, stay)) => {
                    let placed = state.workers.get(&worker);
                    let context = placed.map(Worker::context_tokens);
                    let pid = placed.and_then(Worker::pid);
                    let model = placed.map_or(ask.demand.model, |placed| &placed.model).clone();
                    Placed::At(Place {
                        worker_id: worker,
                        model,
                        target,
                        pid,
                        digest,
                        context_tokens: context.unwrap_or(0),
                        why,
                        stay,
                        registry: self.clone(),
                    })
                }
                None => Placed::Not(Decision::Wait(WaitReason::News)),
            },
            Decision::Hold(worker) => {
                state.workers.hold(&worker, now);
                Placed::Not(Decision::Wait(WaitReason::Alone))
            }
            decision => Placed::Not(decision),
        }
    }

    /// A worker has failed a request.
    pub fn worker_failed(&self, place: &Place, failed: Failed, now: Instant) -> Blame {
        let id = &place.worker_id;
        let mut state = self.state();
        let was_alone = state.workers.was_alone(id, place.stay);
        let worker = state.workers.get(id);
        let was_ending = worker.is_some_and(|it| matches!(it.state(), WorkerState::Draining));
        let hangs = worker.is_some_and(|worker| {
            let hive_at = state.hives.get(&worker.hive_id).map(|hive| hive.heard_at);
            worker.hangs_since(&place.target, place.stay.at, hive_at, self.shared.interval)
        });
        let has_opened = state.workers.failed(id, &place.target, place.stay, failed, now);
        drop(state);
        if has_opened {
            tracing::warn!(worker_id = %id, "a worker fails again and again: it gets nothing for a while");
        }
        self.touch();
        Blame { was_alone, was_ending, has_opened, hangs }
    }

    /// A worker has given the first part of an answer. True when that closes its circuit.
    pub fn worker_works(&self, place: &Place, now: Instant) -> bool {
        let mut state = self.state();
        let worker = state.workers.get_mut(&place.worker_id);
        let has_closed = worker.is_some_and(|worker| worker.breaker.on_beginning());
        let may_be_room = state.workers.works(&place.worker_id, place.stay, now);
        drop(state);
        if may_be_room {
            self.there_may_be_room();
        }
        has_closed
    }

    /// Whether a worker has more requests than it runs at once.
    #[must_use]
    pub fn is_crowded(&self, place: &Place) -> bool {
        let state = self.state();
        let worker = state.workers.get(&place.worker_id);
        worker.is_some_and(|worker| worker.load() > worker.slots())
    }

    /// Whether requests wait in a worker of rbee that computes others, as it said last.
    #[must_use]
    pub fn has_queue(&self, place: &Place) -> bool {
        self.says(place, |beat| beat.queued > 0 && beat.slots.busy > 0)
    }

    /// Whether requests wait in a worker of rbee that gives tokens to others, as it said last.
    #[must_use]
    pub fn gives_beside_queue(&self, place: &Place) -> bool {
        self.says(place, |beat| beat.queued > 0 && beat.tokens_per_second > 0.0)
    }

    /// What the last report of a worker of rbee says.
    fn says(&self, place: &Place, what: impl FnOnce(&WorkerHeartbeat) -> bool) -> bool {
        let state = self.state();
        let worker = state.workers.get(&place.worker_id).filter(|worker| !worker.is_of_server);
        worker.and_then(|worker| worker.said.as_ref()).is_some_and(|said| what(&said.beat))
    }

    /// What so many bytes of a prompt, and so many tokens of an answer behind it, take at a worker; `None` where
    /// it has computed none yet. The tokens are taken to be computed one by one, as they are in batch-invariant
    /// mode.
    #[must_use]
    pub fn prompt_time(&self, place: &Place, bytes: u64, again: u32) -> Option<PromptTime> {
        let state = self.state();
        let worker = state.workers.get(&place.worker_id)?;
        let prompt_us = worker.pace.prefill_us_per_kib()?.saturating_mul(bytes) / 1024;
        let again_us = match again {
            0 => 0,
            again => worker.pace.token_us()?.0.saturating_mul(u64::from(again)),
        };
        let shown_us = prompt_us.saturating_add(again_us);
        Some(PromptTime { shown: Duration::from_micros(shown_us), slots: worker.slots() })
    }

    /// Whether one of the other workers of a model may have a context of more than so many tokens.
    #[must_use]
    pub fn has_longer_context(
        &self,
        model: &ModelAlias,
        tokens: u32,
        others_than: &[WorkerId],
    ) -> bool {
        let policies = self.shared.policies.get();
        self.state().has_longer_context(model, policies, tokens, others_than)
    }

    /// Whether a worker works, or loads, that could go on with a request in a context that is known to be longer than
    /// those that were too short. What the operator's rules say of it is not asked.
    #[must_use]
    pub fn has_longer(&self, ask: &Ask<'_>, now: Instant) -> bool {
        let (demand, state) = (ask.whole_demand(), self.state());
        let (policies, interval) = (self.shared.policies.get(), self.shared.interval);
        let snapshot = state.snapshot(&demand, ask.prompt, interval, policies, None, now);
        snapshot.workers.iter().any(|worker| {
            worker.serves(&demand)
                && worker.context_tokens > 0
                && worker.circuit == Circuit::Closed
                && matches!(worker.readiness, Readiness::Ready | Readiness::Coming)
        })
    }

    /// A worker has answered a request. True when that closes its circuit.
    pub fn worker_answered(&self, place: &Place, answered: &Answered, now: Instant) -> bool {
        let State { workers, places, .. } = &mut *self.state();
        let told = workers.answered(&place.worker_id, place.stay, answered, now);
        let Some((worker, company, has_closed)) = told else { return false };
        if !worker.is_of_server {
            let Answered { usage, before, timings, .. } = *answered;
            let shown = Shown { usage, before, timings, company };
            places.take((&worker.hive_id, worker.device), &worker.model, shown, now);
        }
        has_closed
    }

    /// The workers, with their models, whose circuits were open when another process took their place, since
    /// this was asked last.
    #[must_use]
    pub fn take_renewed(&self) -> Vec<(WorkerId, ModelAlias)> {
        self.state().workers.take_renewed()
    }

    /// A worker that would take requests for a model if it had not failed again and again, where all that are
    /// there have, and none is coming.
    #[must_use]
    pub fn shut_worker(&self, model: &ModelAlias, now: Instant) -> Option<WorkerId> {
        let state = self.state();
        let files = state.shared_files(model, None, self.shared.policies.get());
        if state.is_coming(model, &files) {
            return None;
        }
        let mut ready = state
            .answering(model, &files)
            .filter(|(_, worker)| {
                worker.readiness_for_requests() == Readiness::Ready
                    && state.answers_to_its_name(worker)
            })
            .peekable();
        let (first, _) = *ready.peek()?;
        let are_shut = ready.all(|(_, worker)| worker.breaker.circuit(now) != Circuit::Closed);
        are_shut.then(|| first.clone())
    }

    /// How many seconds the workers of a model take for so many requests, as fast as they have shown to
    /// be.
    #[must_use]
    pub fn seconds_for(&self, model: &ModelAlias, requests: u64, now: Instant) -> u64 {
        let (state, due) = (self.state(), Due::at(now, self.shared.interval));
        let files = state.shared_files(model, None, self.shared.policies.get());
        let ready = state.answering(model, &files).filter(|(_, worker)| {
            let hive = || state.hives.liveness(&worker.hive_id, now);
            worker.readiness_for_requests() == Readiness::Ready
                && worker.liveness(due, hive) == Liveness::Alive
                && state.answers_to_its_name(worker)
        });
        // Requests that they serve in a thousand seconds.
        let served = ready.map(|(_, worker)| {
            let service_us = worker.speed.service_us.max(1);
            u64::from(worker.slots()).saturating_mul(1_000_000_000) / service_us
        });
        let served = served.fold(0, u64::saturating_add);
        requests.saturating_mul(1000).checked_div(served).unwrap_or(u64::MAX)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.state().workers.release(&self.worker_id, self.stay, clock::now());
        self.registry.there_may_be_room();
    }
}
