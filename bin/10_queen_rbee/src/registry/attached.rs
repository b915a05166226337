//! Workers that are models of attached servers: known by what the queen's own probes found, instead of
//! by reports.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use serde::Serialize;
use worker_contract::{
    DeviceId, DeviceKind, HiveAlias, KvCacheUse, ModelAlias, ModelInUse, ModelKind, Slots,
    WorkerHeartbeat, WorkerId, WorkerState,
};

use super::names::LATEST;
use super::worker::{Said, Worker};
use super::workers::Workers;
use super::{Place, Registry, State, Target};
use crate::attached::{Engine, ServerUrl};
use crate::scheduler::Readiness;

/// For how long a server that refused the queen's token is not asked again.
const LOCKED_OUT: Duration = Duration::from_secs(60);
/// What clients are told of one that is reached, and is not as it has to be.
const UNFIT: &str = "it does not answer as it should";

/// A model at its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where the server is.
    pub url: ServerUrl,
    /// The model's name there.
    pub model: String,
    /// What it is.
    pub engine: Engine,
    /// How many answers it makes to one request at most; `None` where it makes any number.
    pub most_answers: Option<u32>,
    /// Its answers tell the listed name of the model that gave them.
    pub names_its_model: bool,
}

/// A model that a server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The worker that it is.
    pub worker_id: WorkerId,
    /// Its name here.
    pub alias: ModelAlias,
    /// Its name there.
    pub name: String,
    /// Its longest context, in tokens; 0 where the server does not tell.
    pub context_length: u32,
}

/// What a probe of a server has found.
#[derive(Debug, Clone)]
pub struct ServerReport {
    /// The server.
    pub name: HiveAlias,
    /// Where it is.
    pub url: ServerUrl,
    /// What it is.
    pub engine: Engine,
    /// How many requests each model runs at once.
    pub slots: u32,
    /// How many answers it makes to one request at most; `None` where it makes any number.
    pub most_answers: Option<u32>,
    /// Its answers tell the listed name of the model that gave them.
    pub names_its_model: bool,
    /// Its models, as far as they are wanted.
    pub models: Vec<Served>,
    /// Whether somebody has named them: then they have their share also of requests for a name that a hive's
    /// catalog has.
    pub is_named: bool,
    /// Why it cannot be used.
    pub failure: Option<ServerFailure>,
}

/// Why a server cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFailure {
    /// For a person.
    pub reason: String,
    /// What follows from it.
    pub kind: FailureKind,
}

/// What follows from a server's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// It is out of reach of the queen's looks: it is given nothing, and perhaps it is another one when it is
    /// back. What it computes may come all the same, since one that does one thing at a time cannot be looked
    /// at meanwhile.
    Gone,
    /// The same, and nothing listens at its port any more: it ends, or has ended.
    Shut,
    /// It loads its model, so that it is worth waiting for.
    Loading,
    /// It does not take the queen's token, and the reason is in her words.
    Locked,
    /// It is given nothing until a look finds it well again.
    Unfit,
}

/// A server that does not take the queen's token.
#[derive(Debug)]
pub(super) struct Lockout {
    reason: String,
    until: Instant,
}

/// The server of a worker, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerFacts {
    /// Its base URL.
    pub url: String,
    /// What it is.
    pub engine: &'static str,
    /// The model's name there.
    pub model: String,
}

impl Registry {
    /// Takes what a probe of a server has found.
    pub fn server_probed(&self, report: &ServerReport, now: Instant) {
        let mut state = self.state();
        match state.lockout(report, now) {
            Some(failure) => {
                let report = ServerReport { failure: Some(failure), ..report.clone() };
                state.workers.probed(&report, now);
            }
            None => state.workers.probed(report, now),
        }
        state.expected_servers.retain(|name| *name != report.name);
        self.shared.has_servers.store(true, SeqCst);
        drop(state);
        self.touch();
    }

    /// Waits, a moment, for what is found at servers, before a model is said to be unknown.
    pub fn expect_servers(&self, names: Vec<HiveAlias>) {
        self.shared.has_servers.fetch_or(!names.is_empty(), SeqCst);
        self.state().expected_servers = names;
    }

    /// Whether servers of others have been attached since the start.
    #[must_use]
    pub fn has_servers(&self) -> bool {
        self.shared.has_servers.load(SeqCst)
    }

    /// A server has refused the queen's token: it is given nothing for a minute, whatever its looks find,
    /// or until it is attached again.
    pub fn server_refuses(&self, name: &HiveAlias, reason: &str, now: Instant) {
        let mut state = self.state();
        if state.workers.shut(name, reason) {
            let lockout = Lockout { reason: reason.to_owned(), until: now + LOCKED_OUT };
            state.lockouts.insert(name.clone(), lockout);
        }
        drop(state);
        self.touch();
    }

    /// A server is attached, perhaps with another token than before.
    pub fn server_attached(&self, name: &HiveAlias) {
        let mut state = self.state();
        state.lockouts.remove(name);
        state.wake_server(name);
    }

    /// Whether a model has a worker beside some that takes requests, or will.
    #[must_use]
    pub fn has_other_workers(&self, model: &ModelAlias, but: &[WorkerId]) -> bool {
        let state = self.state();
        state.workers.of_model(model).any(|(id, worker)| {
            !but.contains(id) && worker.readiness_for_requests() != Readiness::Ending
        })
    }

    /// What looks find at the server of a place, where they do not reach it.
    #[must_use]
    pub fn missed(&self, place: &Place) -> Option<String> {
        let state = self.state();
        let worker = state.workers.get(&place.worker_id).filter(|worker| worker.is_missed())?;
        match worker.state() {
            WorkerState::Failed { reason } => Some(reason),
            _ => None,
        }
    }

    /// Whether nothing listens at the port of a place's server any more.
    #[must_use]
    pub fn is_shut(&self, place: &Place) -> bool {
        let state = self.state();
        let worker = state.workers.get(&place.worker_id);
        worker.is_some_and(|worker| worker.failure == Some(FailureKind::Shut))
    }

    /// Whether looks find the server of a place well, or loading its model.
    #[must_use]
    pub fn looks_reach(&self, place: &Place) -> bool {
        let state = self.state();
        let found = state.workers.get(&place.worker_id).map(Worker::state);
        matches!(found, Some(WorkerState::Ready | WorkerState::Loading { .. }))
    }

    /// A server that would answer for a model and cannot be used, and what is wrong with it, in rbee's words.
    #[must_use]
    pub fn unfit_server(&self, model: &ModelAlias) -> Option<(HiveAlias, String)> {
        let state = self.state();
        let servers = state
            .workers
            .of_model(model)
            .filter(|(_, worker)| worker.is_of_server && state.answers_to_its_name(worker));
        servers.map(|(_, worker)| worker).find_map(|worker| match worker.state() {
            WorkerState::Failed { reason } => {
                // What is wrong with one that is reached it may have said itself.
                let is_locked = worker.failure == Some(FailureKind::Locked);
                let is_in_our_words = worker.is_missed() || is_locked;
                let reason = if is_in_our_words { reason } else { UNFIT.to_owned() };
                Some((worker.hive_id.clone(), reason))
            }
            _ => None,
        })
    }

    /// Whether some hive's catalog has a model.
    #[must_use]
    pub fn is_in_catalog(&self, model: &ModelAlias) -> bool {
        self.state().is_in_catalog(model)
    }

    /// Forgets a server and its workers. Answers that they give go on.
    pub fn server_detached(&self, name: &HiveAlias) {
        let mut state = self.state();
        state.workers.detached(name);
        state.lockouts.remove(name);
        state.expected_servers.retain(|expected| expected != name);
        drop(state);
        self.touch();
    }

    /// The name here of a model that somebody calls by its name at a server, with or without `:latest`.
    #[must_use]
    pub fn alias_of(&self, name: &str) -> Option<ModelAlias> {
        let state = self.state();
        let called = |name: &str| {
            let is_it =
                |worker: &&Worker| worker.target.server.as_ref().is_some_and(|s| s.model == name);
            state.workers.iter().map(|(_, worker)| worker).find(is_it).map(|w| w.model.clone())
        };
        called(name).or_else(|| called(&format!("{name}{LATEST}")))
    }
}

impl State {
    /// What is held against a server that is well by its looks.
    fn lockout(&mut self, report: &ServerReport, now: Instant) -> Option<ServerFailure> {
        self.lockouts.retain(|_, lockout| lockout.until > now);
        let lockout = self.lockouts.get(&report.name).filter(|_| report.failure.is_none())?;
        Some(ServerFailure { reason: lockout.reason.clone(), kind: FailureKind::Locked })
    }
}

impl Workers {
    /// A server's workers get nothing. True if there are any.
    fn shut(&mut self, server: &HiveAlias, reason: &str) -> bool {
        let mut is_any = false;
        let of_it = |worker: &&mut Worker| worker.is_of_server && worker.hive_id == *server;
        for worker in self.iter_mut().filter(of_it) {
            let Some(said) = &mut worker.said else { continue };
            said.beat.state = WorkerState::Failed { reason: reason.to_owned() };
            worker.failure = Some(FailureKind::Locked);
            is_any = true;
        }
        is_any
    }

    fn probed(&mut self, report: &ServerReport, now: Instant) {
        for model in &report.models {
            let server = Server {
                url: report.url.clone(),
                model: model.name.clone(),
                engine: report.engine,
                most_answers: report.most_answers,
                names_its_model: report.names_its_model,
            };
            self.served(report, model, server, now);
        }
        self.retain(|id, worker| {
            let is_of_it = worker.hive_id == report.name && worker.is_of_server;
            if !is_of_it || report.models.iter().any(|model| model.worker_id == *id) {
                return true;
            }
            if let Some(said) = &mut worker.said {
                said.beat.state = WorkerState::Draining;
            }
            worker.in_flight > 0
        });
    }

    fn served(&mut self, report: &ServerReport, model: &Served, server: Server, now: Instant) {
        let (id, hive) = (&model.worker_id, &report.name);
        let is_there = self.get(id).is_some();
        if !is_there {
            if self.is_full() {
                tracing::warn!(worker_id = %id, "there are too many workers: a server's model is left out");
                return;
            }
            let target = Target::of_server(server.clone(), hive);
            self.put(id, Worker::at(target, hive, &model.alias, device(), now));
        }
        let Some(worker) = self.get_mut(id) else { return };
        let is_own = worker.hive_id == *hive && worker.is_of_server;
        if !is_own {
            tracing::warn!(worker_id = %id, server = %hive, "another worker has the id of a server's model");
            return;
        }
        let is_changed = worker.target.server.as_ref() != Some(&server);
        let failure = report.failure.as_ref().map(|failure| failure.kind);
        let was_missed = worker.is_missed();
        worker.failure = failure;
        let is_back = was_missed && !worker.is_missed();
        if is_changed || is_back {
            worker.replace(Target::of_server(server, hive));
        }
        worker.is_named = report.is_named;
        worker.said = Some(Said::at(beat(report, model, worker.in_flight), now));
        self.runs(id, &model.alias);
    }

    fn detached(&mut self, name: &HiveAlias) {
        self.retain(|_, worker| worker.hive_id != *name || !worker.is_of_server);
    }
}

impl Target {
    /// The server, where it is one of somebody else.
    pub(super) fn facts(&self) -> Option<ServerFacts> {
        self.server.as_ref().map(|server| ServerFacts {
            url: server.url.to_string(),
            engine: server.engine.as_str(),
            model: server.model.clone(),
        })
    }

    fn of_server(server: Server, name: &HiveAlias) -> Arc<Self> {
        let address = server.url.address().clone();
        Arc::new(Self { server: Some(server), ..Self::at(address, name) })
    }
}

/// What it runs on nobody knows; whoever attaches a server mostly has a graphics card in it.
fn device() -> DeviceId {
    DeviceId { kind: DeviceKind::Gpu, index: 0 }
}

/// The report that the worker would send.
fn beat(report: &ServerReport, model: &Served, in_flight: u32) -> WorkerHeartbeat {
    let state = match &report.failure {
        Some(failure) if failure.kind == FailureKind::Loading => {
            WorkerState::Loading { progress: 0.0 }
        }
        Some(failure) => WorkerState::Failed { reason: failure.reason.clone() },
        None => WorkerState::Ready,
    };
    WorkerHeartbeat {
        worker_id: model.worker_id.clone(),
        hive_id: report.name.clone(),
        address: report.url.to_string(),
        model: ModelInUse {
            name: model.alias.clone(),
            digest: None,
            context_length: model.context_length,
            kind: ModelKind::default(),
        },
        device: device(),
        state,
        slots: Slots { total: report.slots, busy: in_flight.min(report.slots) },
        queued: in_flight.saturating_sub(report.slots),
        kv_cache: KvCacheUse::default(),
        tokens_per_second: 0.0,
        engine_build: report.engine.as_str().to_owned(),
        pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use worker_contract::{HiveHeartbeat, InferenceRequest, Prompt, RequestId, Task};

    use super::*;
    use crate::doubles::entry;
    use crate::prompt::PromptChain;
    use crate::registry::{Ask, Placed};
    use crate::scheduler::{Decision, Demand, WaitReason};

    #[test]
    fn models_of_a_server_are_workers_for_as_long_as_it_lists_them() {
        let (registry, now) = registry();
        registry.server_probed(&report(&["a", "org/b"]), now);
        assert_eq!(registry.alias_of("org/b").unwrap().as_str(), "org-b");
        let place = take(&registry, "org-b", now).expect("a place");
        assert_eq!(place.target.server.as_ref().unwrap().model, "org/b");
        registry.server_probed(&report(&["a"]), now);
        assert!(take(&registry, "org-b", now).is_none(), "it is listed no longer");
        assert!(!place.target.gone.is_cancelled(), "its answer is being given");
        drop(place);
        registry.server_probed(&report(&["a"]), now);
        let names: Vec<_> = registry.models(now).into_keys().collect();
        assert_eq!(names.iter().map(ModelAlias::as_str).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_name_that_a_catalog_has_is_not_the_servers_unless_somebody_named_it() {
        let (registry, now) = registry();
        let catalog = vec![entry("a", 1), entry("b", 1)];
        let hive = |catalog| HiveHeartbeat {
            hive_id: HiveAlias::localhost(),
            address: None,
            version: String::new(),
            devices: Vec::new(),
            catalog,
            trouble: None,
            workers: Vec::new(),
        };
        registry.server_probed(&report(&["a", "c"]), now);
        assert!(take(&registry, "a", now).is_some(), "no catalog has it");
        registry.hive_beat(hive(catalog), now).unwrap();
        assert!(take(&registry, "a", now).is_none(), "it would be another file");
        let workers = || registry.models(now).remove(&"a".parse().unwrap()).unwrap().workers;
        assert!(workers().is_empty(), "nor is it said to answer for it");
        assert!(take(&registry, "c", now).is_some());
        registry.server_probed(&ServerReport { is_named: true, ..report(&["a"]) }, now);
        assert!(take(&registry, "a", now).is_some(), "somebody wants it so");
        assert_eq!(workers().len(), 1);
        registry.server_probed(&report(&["a"]), now);
        assert!(take(&registry, "a", now).is_none());
        registry.hive_beat(hive(Vec::new()), now).unwrap();
        assert!(take(&registry, "a", now).is_some(), "no catalog has it any longer");
    }

    #[test]
    fn a_server_out_of_reach_takes_nothing_and_is_another_when_it_is_back_and_ends_what_it_began() {
        let (registry, now) = registry();
        registry.server_probed(&report(&["a"]), now);
        let place = take(&registry, "a", now).unwrap();
        let failure = ServerFailure { reason: "refused".into(), kind: FailureKind::Gone };
        registry.server_probed(&ServerReport { failure: Some(failure), ..report(&["a"]) }, now);
        assert!(take(&registry, "a", now).is_none());
        assert_eq!(registry.missed(&place).as_deref(), Some("refused"));
        assert!(!registry.looks_reach(&place));
        let told = ("nas".parse().unwrap(), "refused".to_owned());
        assert_eq!(registry.unfit_server(&"a".parse().unwrap()), Some(told));
        let shown = &registry.workers(now)[0];
        assert_eq!(shown.said.state.name(), "failed", "it is shown with its reason");
        registry.server_probed(&report(&["a"]), now);
        let again = take(&registry, "a", now).unwrap();
        assert!(!Arc::ptr_eq(&again.target, &place.target));
        assert_eq!(registry.missed(&place), None);
        assert!(registry.looks_reach(&place));
        let url = "http://elsewhere:1".parse().unwrap();
        registry.server_probed(&ServerReport { url, ..report(&["a"]) }, now);
        registry.server_detached(&"nas".parse().unwrap());
        assert!(take(&registry, "a", now).is_none());
        for place in [place, again] {
            assert!(!place.target.gone.is_cancelled(), "its answer is being given");
        }
    }

    #[test]
    fn what_conversations_a_server_holds_is_remembered_of_several() {
        let (registry, now) = registry();
        registry.server_probed(&report(&["a"]), now);
        let model = "a".parse().unwrap();
        let held = |conversation: u8| {
            let text = char::from(b'a' + conversation).to_string().repeat(10 << 10);
            let task = Task::Completion { prompt: Prompt::Text(text) };
            let prompt = PromptChain::of(&InferenceRequest::new(RequestId::random(), task));
            match registry.place(&Ask::of(Demand::of(&model), &prompt), now) {
                Placed::At(place) => place.why.chosen.held_bytes,
                Placed::Not(decision) => panic!("{decision:?}"),
            }
        };
        assert!((0..6).all(|conversation| held(conversation) == 0));
        assert!((0..6).all(|conversation| held(conversation) >= 10_000));
    }

    #[test]
    fn a_server_that_loads_is_waited_for() {
        let (registry, now) = registry();
        let failure = ServerFailure { reason: "it loads".into(), kind: FailureKind::Loading };
        registry.server_probed(&ServerReport { failure: Some(failure), ..report(&["a"]) }, now);
        let (model, prompt) = ("a".parse().unwrap(), PromptChain::default());
        let placed = registry.place(&Ask::of(Demand::of(&model), &prompt), now);
        assert!(matches!(placed, Placed::Not(Decision::Wait(WaitReason::Coming))), "{placed:?}");
        assert_eq!(registry.workers(now)[0].said.state.name(), "loading");
        registry.server_probed(&report(&["a"]), now);
        assert!(take(&registry, "a", now).is_some());
    }

    #[test]
    fn a_server_that_refuses_the_token_gets_nothing_for_a_minute_or_until_it_is_attached_again() {
        let (registry, now) = registry();
        let name = "nas".parse().unwrap();
        let shut = |now| {
            registry.server_refuses(&name, "it refuses the token", now);
            assert!(take(&registry, "a", now).is_none() && take(&registry, "b", now).is_none());
            registry.server_probed(&report(&["a", "b"]), now);
            assert!(take(&registry, "a", now).is_none(), "its list is open to all");
            let state = registry.workers(now)[0].said.state.clone();
            assert_eq!(state, WorkerState::Failed { reason: "it refuses the token".into() });
            let told = (name.clone(), "it refuses the token".to_owned());
            assert_eq!(registry.unfit_server(&"a".parse().unwrap()), Some(told));
        };
        registry.server_probed(&report(&["a", "b"]), now);
        shut(now);
        registry.server_attached(&name);
        registry.server_probed(&report(&["a", "b"]), now);
        assert!(take(&registry, "a", now).is_some());
        shut(now);
        let later = now + LOCKED_OUT;
        registry.server_probed(&report(&["a", "b"]), later);
        assert!(take(&registry, "a", later).is_some(), "it is tried again");
        registry.server_detached(&name);
        registry.server_refuses(&name, "it refuses the token", later);
        registry.server_probed(&report(&["a", "b"]), later);
        assert!(take(&registry, "a", later).is_some(), "it was of one that was detached");
    }

    #[test]
    fn only_workers_that_take_requests_are_others() {
        let (registry, now) = registry();
        let (model, id) = ("a".parse().unwrap(), "nas-a".parse().unwrap());
        assert!(!registry.has_other_workers(&model, &[]));
        registry.server_probed(&report(&["a"]), now);
        assert!(registry.has_other_workers(&model, &[]));
        assert!(!registry.has_other_workers(&model, &[id]));
        registry.server_refuses(&"nas".parse().unwrap(), "no", now);
        assert!(!registry.has_other_workers(&model, &[]));
    }

    #[test]
    fn nobody_speaks_for_the_worker_of_a_server() {
        let (registry, now) = registry();
        registry.server_probed(&report(&["a"]), now);
        let forged = beat(&report(&["a"]), &report(&["a"]).models[0], 0);
        let forged = WorkerHeartbeat { address: "http://127.0.0.1:6666".into(), ..forged };
        assert!(registry.worker_beat(forged, now).is_err());
        assert_eq!(take(&registry, "a", now).unwrap().target.address.host, "nas");
        registry.server_detached(&"nas".parse().unwrap());
        assert!(registry.workers(now).is_empty());
    }

    #[test]
    fn a_dashboard_is_shown_what_a_server_is_and_no_device() {
        let (registry, now) = registry();
        registry.server_probed(&report(&["a"]), now);
        let mut shown = Vec::new();
        registry.look(now, |_| {}, |_, worker| shown.push(serde_json::to_value(worker).unwrap()));
        assert_eq!(shown[0]["device"], serde_json::Value::Null);
        assert_eq!(shown[0]["server"], "ollama");
    }

    #[test]
    fn silence_between_two_probes_is_no_sign() {
        let (registry, now) = registry();
        registry.server_probed(&report(&["a"]), now);
        let later = now + std::time::Duration::from_secs(600);
        registry.sweep(later);
        assert!(take(&registry, "a", later).is_some());
    }

    fn registry() -> (Registry, Instant) {
        let now = Instant::now();
        (Registry::new(std::time::Duration::from_secs(2), Vec::new(), now), now)
    }

    fn take(registry: &Registry, model: &str, now: Instant) -> Option<Place> {
        let (model, prompt) = (model.parse().unwrap(), PromptChain::default());
        let ask = Ask::of(Demand::of(&model), &prompt);
        match registry.place(&ask, now) {
            Placed::At(place) => Some(place),
            Placed::Not(_) => None,
        }
    }

    fn report(models: &[&str]) -> ServerReport {
        let served = |name: &&str| Served {
            worker_id: format!("nas-{}", name.replace('/', "-")).parse().unwrap(),
            alias: name.replace('/', "-").parse().unwrap(),
            name: (*name).to_owned(),
            context_length: 0,
        };
        ServerReport {
            name: "nas".parse().unwrap(),
            url: "http://nas:11434".parse().unwrap(),
            engine: Engine::Ollama,
            slots: 4,
            most_answers: None,
            names_its_model: false,
            models: models.iter().map(served).collect(),
            is_named: false,
            failure: None,
        }
    }
}
