//! The operator's rules, asked about the workers and places that bear on a request.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use worker_contract::{DeviceId, HiveAlias, ModelAlias};

use super::worker::Worker;
use super::{Ask, Liveness, Registry, State};
use crate::admission::Priority;
use crate::rules::{
    Judge, LoadFacts, PlaceFacts, RequestFacts, Rules, Script, ScriptError, SpotFacts, Traced,
    Verdict,
};
use crate::scheduler::{
    Decision, Demand, Readiness, RejectReason, Ruled, Snapshot, Spawn, WorkerView, place_another,
    schedule,
};

/// Who judges the places for a request, and for whom.
#[derive(Debug)]
pub struct Judging<'a> {
    rules: &'a Rules,
    judge: Judge,
}

impl Judging<'_> {
    /// Asks the rules what has to be known. It takes a while: nothing may be locked.
    pub fn answer(&self) {
        self.judge.answer();
    }

    /// The same for workers that have room, and places: not about those that the request would wait for.
    #[must_use]
    pub fn of_open(self) -> Self {
        let Self { rules, judge } = self;
        Self { rules, judge: judge.of_open() }
    }

    /// How long they have computed.
    #[must_use]
    pub fn spent(&self) -> Duration {
        self.judge.spent()
    }
}

/// What was said of the workers, for the places that are looked at later.
#[derive(Debug)]
pub(super) struct Ruling<'a> {
    judge: &'a Judge,
    hive_idle: BTreeMap<&'a HiveAlias, Duration>,
    /// Where a worker is that may not be taken: another one there would be no other.
    pub(super) denied: Vec<(&'a HiveAlias, DeviceId)>,
}

/// What a script says of the places for one model, and what follows.
#[derive(Debug, Clone, Serialize)]
pub struct RulesReport {
    model: ModelAlias,
    priority: Priority,
    places: Vec<Traced>,
    /// How the script failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    with_script: String,
    without_script: String,
}

impl Registry {
    /// The same registry, which asks the operator's rules. They are given once.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        let _ = self.shared.rules.set(rules);
        self
    }

    /// How often the operator's rules have failed.
    #[must_use]
    pub fn rule_failures(&self) -> u64 {
        self.shared.rules.get().map_or(0, Rules::failures)
    }

    /// Whether requests can have this caller: one without a token, or the holder of one that is valid.
    #[must_use]
    pub fn knows_caller(&self, caller: &str) -> bool {
        let is_token = |rules: &Rules| !rules.token_of(caller).is_empty();
        matches!(caller, "local" | "queen") || self.shared.rules.get().is_some_and(is_token)
    }

    /// Whether the operator's rules have a say in where requests go.
    #[must_use]
    pub fn has_place_rules(&self) -> bool {
        self.shared.rules.get().is_some_and(|rules| rules.for_places().is_some())
    }

    /// How urgent a request is: as it says itself, or as the operator's rules say.
    #[must_use]
    pub fn priority(&self, ask: &Ask<'_>) -> Priority {
        match self.shared.rules.get().filter(|rules| rules.judge_requests()) {
            Some(rules) => {
                let model_bytes = self.state().model_bytes(ask.demand.model);
                rules.priority(&facts(ask, &rules.token_of(ask.caller), model_bytes))
            }
            None => ask.priority,
        }
    }

    /// What a script would make of a request; nothing is changed.
    #[must_use]
    pub fn try_rules(&self, script: &Arc<Script>, ask: &Ask<'_>, now: Instant) -> RulesReport {
        let token =
            self.shared.rules.get().map_or_else(String::new, |rules| rules.token_of(ask.caller));
        let request = facts(ask, &token, self.state().model_bytes(ask.demand.model));
        let said = script.priority_of(&request);
        let priority = said.as_ref().copied().unwrap_or(ask.priority);
        let as_asked =
            Demand { prompt_bytes: ask.prompt.bytes(), priority: ask.priority, ..ask.demand };
        let demand = Demand { priority, ..as_asked };
        let (policies, interval) = (self.shared.policies.get(), self.shared.interval);
        let request = RequestFacts { priority, ..request };
        let judge = Judge::new(Arc::clone(script), &request, true);
        let decided = until_judged(Some(&judge), || {
            let state = self.state();
            let judge = Some(&judge);
            let snapshot = state.snapshot(&demand, ask.prompt, interval, policies, judge, now);
            LazyCell::force(&snapshot.fleet);
            schedule(&snapshot, &demand)
        });
        let with_script = after_rules(decided, &judge);
        let without_script = self.built_in(&self.state(), &as_asked, ask, now);
        let error: Option<ScriptError> = judge.error().or(said.err());
        let is_used = judge.error().is_none();
        RulesReport {
            model: demand.model.clone(),
            priority,
            places: judge.traced(),
            with_script: if is_used { told(&with_script) } else { told(&without_script) },
            error: error.map(|error| error.to_string()),
            without_script: told(&without_script),
        }
    }

    /// Who judges the places for a request, where the operator's rules have a say in that.
    #[must_use]
    pub fn judging(&self, ask: &Ask<'_>) -> Option<Judging<'_>> {
        let rules = self.shared.rules.get()?;
        let script = rules.for_places()?;
        let model_bytes = self.state().model_bytes(ask.demand.model);
        let token = rules.token_of(ask.caller);
        let request = facts(ask, &token, model_bytes);
        Some(Judging { rules, judge: Judge::new(script, &request, false) })
    }

    /// Decides, as the operator's rules want where there are some and they can be followed. `None` where
    /// they have to be asked first.
    pub(super) fn decide(
        &self,
        state: &State,
        demand: &Demand<'_>,
        ask: &Ask<'_>,
        judging: Option<&Judging<'_>>,
        now: Instant,
    ) -> Option<Decision> {
        let Some(Judging { rules, judge }) = judging else {
            return Some(self.built_in(state, demand, ask, now));
        };
        let (policies, interval) = (self.shared.policies.get(), self.shared.interval);
        let snapshot = state.snapshot(demand, ask.prompt, interval, policies, Some(judge), now);
        let decision = schedule(&snapshot, demand);
        if judge.has_questions() || state.asks_again(judge, &snapshot, &decision, demand, now) {
            return None;
        }
        let error = judge.error();
        rules.heard(error.as_ref());
        Some(match error {
            Some(_) => self.built_in(state, demand, ask, now),
            None => after_rules(decision, judge),
        })
    }

    /// The place of another worker of a model, where the operator's rules want none but that.
    pub(super) fn another_place(
        &self,
        model: &ModelAlias,
        must: bool,
        now: Instant,
    ) -> Option<Spawn> {
        let place = |judge| self.another_place_by(judge, model, must, now);
        let rules = self.shared.rules.get();
        let Some((rules, script)) = rules.and_then(|rules| Some((rules, rules.for_places()?)))
        else {
            return place(None);
        };
        let request = RequestFacts {
            model,
            model_bytes: self.state().model_bytes(model),
            caller: "queen",
            token: "",
            priority: Priority::Interactive,
            prompt_bytes: 0,
            has_session: false,
        };
        let judge = Judge::new(script, &request, false);
        let spawn = place(Some(&judge));
        let error = judge.error();
        rules.heard(error.as_ref());
        if error.is_some() { place(None) } else { spawn }
    }

    /// Whether there would be a place for another worker of a model without the operator's rules, where there are some.
    #[must_use]
    pub fn has_place_but_for_rules(&self, model: &ModelAlias, must: bool, now: Instant) -> bool {
        self.has_place_rules() && self.another_place_by(None, model, must, now).is_some()
    }

    fn another_place_by(
        &self,
        judge: Option<&Judge>,
        model: &ModelAlias,
        must: bool,
        now: Instant,
    ) -> Option<Spawn> {
        let policy = |model: &ModelAlias| self.policy(model);
        until_judged(judge, || {
            let state = self.state();
            let ruling = judge.map(|judge| Ruling {
                judge,
                hive_idle: state.hive_idle(now),
                denied: Vec::new(),
            });
            place_another(&state.fleet(model, &policy, ruling, now), model, must)
        })
    }

    fn built_in(
        &self,
        state: &State,
        demand: &Demand<'_>,
        ask: &Ask<'_>,
        now: Instant,
    ) -> Decision {
        let (policies, interval) = (self.shared.policies.get(), self.shared.interval);
        schedule(&state.snapshot(demand, ask.prompt, interval, policies, None, now), demand)
    }
}

impl State {
    /// Asks about the workers that could take a request: takes those out that may not, and tells the
    /// others' score. Where none could, about those that it would wait for.
    pub(super) fn rule_workers<'a>(
        &'a self,
        judge: &'a Judge,
        workers: &mut Vec<WorkerView<'a>>,
        demand: &Demand<'_>,
        now: Instant,
    ) -> Ruling<'a> {
        let mut ruling = Ruling { judge, hive_idle: self.hive_idle(now), denied: Vec::new() };
        workers.retain_mut(|view| {
            let could = view.is_there() && takes_some(view, demand.priority);
            let Some(worker) = self.workers.get(view.id).filter(|_| could) else {
                view.is_unjudged = true;
                return true;
            };
            // One that makes way is waited for: it counts as it will be when its turn comes.
            let as_judged = if view.readiness == Readiness::MakesWay { idle(view) } else { *view };
            let verdict = self.verdict(&ruling, &as_judged, worker, demand);
            view.extra_us = verdict.extra_ms.saturating_mul(1000);
            if !verdict.is_allowed {
                ruling.denied.push((&worker.hive_id, worker.device));
            }
            verdict.is_allowed
        });
        self.rule_awaited(&mut ruling, workers, demand);
        ruling
    }

    /// Asks about the workers that a request would wait for, where none takes it now, and takes out those
    /// that it may not have. They count as they will be then: without requests.
    fn rule_awaited<'a>(
        &'a self,
        ruling: &mut Ruling<'a>,
        workers: &mut Vec<WorkerView<'a>>,
        demand: &Demand<'_>,
    ) {
        let takes_it = |view: &WorkerView<'_>| {
            view.readiness == Readiness::Ready
                && view.has_room(demand.priority)
                && view.serves(demand)
                && !demand.was_failed_by(view.id)
        };
        if ruling.judge.is_of_open() || workers.iter().any(takes_it) {
            return;
        }
        let is_awaited = |view: &WorkerView<'_>| {
            let serves = view.serves(demand)
                && view.readiness != Readiness::Ending
                && !takes_some(view, demand.priority);
            serves || view.may_return(demand)
        };
        let is_allowed = |view: &WorkerView<'_>| {
            let worker = self.workers.get(view.id);
            worker.is_none_or(|worker| self.verdict(ruling, &idle(view), worker, demand).is_allowed)
        };
        // One that it may have is enough: the others are asked about only where that one is refused.
        let is_in_time = |view: &&WorkerView<'_>| is_awaited(view) && view.rests_for <= demand.left;
        if workers.iter().find(is_in_time).is_some_and(is_allowed) {
            return;
        }
        let mut denied = Vec::new();
        workers.retain(|view| {
            let may_stay = !is_awaited(view) || is_allowed(view);
            if let Some(worker) = self.workers.get(view.id).filter(|_| !may_stay) {
                denied.push((&worker.hive_id, worker.device));
            }
            may_stay
        });
        ruling.denied.append(&mut denied);
    }

    /// Asks again about the worker that is to get a request where it was judged as it no longer is: others have
    /// come to it since, or it was full or loaded then. Whether it does.
    fn asks_again(
        &self,
        judge: &Judge,
        snapshot: &Snapshot<'_>,
        decision: &Decision,
        demand: &Demand<'_>,
        now: Instant,
    ) -> bool {
        let Decision::Dispatch { worker: chosen, .. } = decision else { return false };
        let view = snapshot.workers.iter().find(|view| view.id == chosen);
        let Some((view, worker)) = view.zip(self.workers.get(chosen)) else { return false };
        if judge.error().is_some()
            || judge.is_of_now(&self.worker_facts(view, worker, demand, None))
        {
            return false;
        }
        let hive_idle = self.hive_idle(now).get(&worker.hive_id).copied();
        judge.ask_again(&self.worker_facts(view, worker, demand, hive_idle));
        true
    }

    fn verdict(
        &self,
        ruling: &Ruling<'_>,
        view: &WorkerView<'_>,
        worker: &Worker,
        demand: &Demand<'_>,
    ) -> Verdict {
        let hive_idle = ruling.hive_idle.get(&worker.hive_id).copied();
        ruling.judge.verdict(&self.worker_facts(view, worker, demand, hive_idle))
    }

    fn worker_facts<'a>(
        &self,
        view: &WorkerView<'a>,
        worker: &'a Worker,
        demand: &Demand<'_>,
        hive_idle: Option<Duration>,
    ) -> PlaceFacts<'a> {
        let (memory_total_bytes, memory_free_bytes) = self.memory(&worker.hive_id, worker.device);
        PlaceFacts {
            worker: Some(view.id),
            hive: &worker.hive_id,
            spot: SpotFacts {
                device: Some(worker.device),
                memory_total_bytes,
                memory_free_bytes,
                is_alive: view.liveness == Liveness::Alive,
                hive_idle,
                load: LoadFacts {
                    requests: view.load(),
                    slots: view.slots,
                    held_bytes: view.held_bytes,
                    expected_ms: view.expected_us(demand.prompt_bytes, demand.answer_tokens) / 1000,
                },
            },
        }
    }

    /// Asks about the places where a worker of a model could be started.
    pub(super) fn rule_places<'a>(
        &'a self,
        ruling: &Ruling<'a>,
        model: &ModelAlias,
        now: Instant,
    ) -> Vec<Ruled<'a>> {
        let with_model = self.hives.iter().filter(|hive| {
            hive.liveness(now) != Liveness::Gone
                && hive.beat.catalog.iter().any(|entry| entry.alias == *model)
        });
        let mut ruled = Vec::new();
        for hive in with_model {
            let (id, is_alive) = (&hive.beat.hive_id, hive.liveness(now) == Liveness::Alive);
            let devices = hive.beat.devices.iter();
            let devices = devices.map(|device| {
                (Some(device.id), device.memory_total_bytes, device.memory_free_bytes)
            });
            // A hive that lists no device chooses itself.
            let chosen = hive.beat.devices.is_empty().then_some((None, 0, 0));
            for (device, memory_total_bytes, memory_free_bytes) in devices.chain(chosen) {
                let verdict = ruling.judge.verdict(&PlaceFacts {
                    worker: None,
                    hive: id,
                    spot: SpotFacts {
                        device,
                        memory_total_bytes,
                        memory_free_bytes,
                        is_alive,
                        hive_idle: ruling.hive_idle.get(id).copied(),
                        load: LoadFacts::default(),
                    },
                });
                let is_denied = |(other, its): &(&HiveAlias, DeviceId)| {
                    *other == id && device.is_none_or(|device| device == *its)
                };
                let is_allowed = verdict.is_allowed && !ruling.denied.iter().any(is_denied);
                ruled.push(Ruled { hive: id, device, is_allowed, extra_ms: verdict.extra_ms });
            }
        }
        ruled
    }

    /// For how long no worker of each hive has had a request.
    fn hive_idle(&self, now: Instant) -> BTreeMap<&HiveAlias, Duration> {
        let mut idle = BTreeMap::new();
        for (_, worker) in self.workers.iter() {
            let its = if worker.is_busy() {
                Duration::ZERO
            } else {
                now.saturating_duration_since(worker.used_at)
            };
            let least = idle.entry(&worker.hive_id).or_insert(its);
            *least = its.min(*least);
        }
        idle
    }

    /// The memory of a device, and what of it is free.
    fn memory(&self, hive: &HiveAlias, device: DeviceId) -> (u64, u64) {
        let devices = self.hives.get(hive).map_or(&[][..], |hive| &hive.beat.devices);
        let found = devices.iter().find(|known| known.id == device);
        found.map_or((0, 0), |device| (device.memory_total_bytes, device.memory_free_bytes))
    }

    /// The size of a model's file, where a catalog has it.
    fn model_bytes(&self, model: &ModelAlias) -> u64 {
        let mut entries = self.hives.iter().flat_map(|hive| &hive.beat.catalog);
        entries.find(|entry| entry.alias == *model).map_or(0, |entry| entry.gguf.size_bytes)
    }
}

/// Whether a worker takes requests now, or will when its turn comes: the others are waited for.
fn takes_some(view: &WorkerView<'_>, priority: Priority) -> bool {
    match view.readiness {
        Readiness::Ready => view.has_room(priority),
        Readiness::MakesWay => true,
        Readiness::Coming | Readiness::Resting | Readiness::Ending => false,
    }
}

/// A worker as it will be when those have ended that it runs.
fn idle<'a>(view: &WorkerView<'a>) -> WorkerView<'a> {
    WorkerView { in_flight: 0, foreign: 0, ..*view }
}

/// Decides, under a lock that `decide` takes, until the judge has no more questions; it answers them in
/// between.
fn until_judged<T>(judge: Option<&Judge>, decide: impl Fn() -> T) -> T {
    loop {
        let decided = decide();
        match judge.filter(|judge| judge.has_questions()) {
            Some(judge) => judge.answer(),
            None => return decided,
        }
    }
}

fn facts<'a>(ask: &Ask<'a>, token: &'a str, model_bytes: u64) -> RequestFacts<'a> {
    RequestFacts {
        model: ask.demand.model,
        model_bytes,
        caller: ask.caller,
        token,
        priority: ask.priority,
        prompt_bytes: ask.prompt.bytes(),
        has_session: ask.session.is_some(),
    }
}

/// The decision, which is the rules' doing where they have refused a place and none is left. When to try again,
/// nobody knows: they may refuse it for ever.
fn after_rules(decision: Decision, judge: &Judge) -> Decision {
    match decision {
        // It was left to be waited for.
        Decision::Reject { reason: RejectReason::Resting { .. }, .. } => decision,
        Decision::Reject { .. } if judge.has_denied() => {
            Decision::Reject { reason: RejectReason::Rules, retry_after_s: None }
        }
        decision => decision,
    }
}

fn told(decision: &Decision) -> String {
    match decision {
        Decision::Dispatch { why, .. } => why.to_string(),
        Decision::Spawn(spawn) => spawn.to_string(),
        Decision::MakeWay(_) => "it waits, and others make way for it".to_owned(),
        Decision::Hold(worker) => format!("it waits, and {worker} takes nobody else"),
        Decision::Wait(reason) => format!("it waits ({})", reason.as_str()),
        Decision::Reject { reason: RejectReason::Rules, .. } => "the rules refuse it".to_owned(),
        Decision::Reject { reason: RejectReason::UnknownModel, .. } => {
            "it is refused: no hive has the model".to_owned()
        }
        Decision::Reject { .. } => "it is refused: no worker, and no place for one".to_owned(),
    }
}
