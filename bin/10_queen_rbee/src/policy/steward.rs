//! Carries the policies out, once a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use job_server::JobError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use worker_contract::{HiveAlias, ModelAlias, WorkerId};

use super::Policies;
use super::plan::{Action, ModelView, Need, Planner, Replica};
use crate::clock;
use crate::decisions::{Decided, Kind};
use crate::dispatch::{Dispatcher, NoPlace, for_clients};
use crate::registry::{Registry, ReplicaReport, StartRefusal};
use crate::scheduler::Spawn;
use crate::spawner::{Begun, Spawner};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);
/// For how long nothing is done once the queen can be heard: workers and hives report first.
const FIRST: Duration = Duration::from_secs(3);

/// Starts and ends workers as the policies want.
#[derive(Debug)]
pub struct Steward {
    policies: Policies,
    registry: Registry,
    dispatcher: Dispatcher,
    spawner: Spawner,
    planner: Planner,
}

/// Something that was begun has ended.
enum Ended {
    /// For a model, by the name that answers for it.
    Start {
        model: ModelAlias,
        name: ModelAlias,
        why: Need,
        result: Result<Begun, JobError>,
    },
    Stop(WorkerId, Result<(), JobError>),
}

impl Steward {
    /// A steward that looks at `registry` and the queues of `dispatcher`.
    #[must_use]
    pub fn new(policies: Policies, dispatcher: Dispatcher, spawner: Spawner) -> Self {
        let registry = dispatcher.registry().clone();
        Self { policies, registry, dispatcher, spawner, planner: Planner::default() }
    }

    /// Works until `stop` fires. To be run by one task.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + FIRST, INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way: FuturesUnordered<BoxFuture<'static, Ended>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = under_way.next() => self.ended(ended),
                _ = ticks.tick() => {
                    let now = clock::now();
                    for action in self.due(now) {
                        under_way.extend(self.begin(action, now));
                    }
                }
            }
        }
    }

    /// What is to be done; nothing before those could report that run.
    fn due(&mut self, now: Instant) -> Vec<Action> {
        if self.registry.open_for(now).is_none_or(|heard| heard < FIRST) {
            return Vec::new();
        }
        self.planner.plan(&self.look(now), now)
    }

    /// The models that have workers, a policy or requests that wait.
    fn look(&self, now: Instant) -> BTreeMap<ModelAlias, ModelView> {
        let mut models: BTreeMap<ModelAlias, Vec<Replica>> = BTreeMap::new();
        for model in self.policies.all().into_keys() {
            models.entry(model).or_default();
        }
        for model in self.dispatcher.waiting_by_model().into_keys() {
            models.entry(model).or_default();
        }
        for worker in self.registry.replicas(now) {
            let ReplicaReport { id, model, is_coming, idle, is_borne_out } = worker;
            let replica = Replica { id, is_coming, idle, is_borne_out };
            models.entry(model).or_default().push(replica);
        }
        let view = |(model, workers): (ModelAlias, Vec<Replica>)| {
            let policy = self.policies.of(&model);
            let waiting = self.dispatcher.waiting_for(&model);
            let is_starting = self.registry.is_coming(&model);
            (model, ModelView { policy, workers, waiting, is_starting })
        };
        models.into_iter().map(view).collect()
    }

    fn begin(&mut self, action: Action, now: Instant) -> Option<BoxFuture<'static, Ended>> {
        match action {
            Action::Start { model, why } => {
                let Some((name, spawn)) = self.place_another(&model, why, now) else {
                    self.no_place(&model, why, now);
                    return None;
                };
                let Some(mut attempt) = self.spawner.spawn(&name, &spawn) else {
                    // One that was to make room has just got a request.
                    self.planner.not_started(&model);
                    return None;
                };
                if attempt.is_first && !spawn.asks {
                    self.log_start(&name, &spawn, why);
                }
                Some(Box::pin(async move {
                    let result = attempt.ended().await;
                    Ended::Start { model, name, why, result }
                }))
            }
            Action::Stop { worker, idle } => {
                // A request may have come between the look and now.
                let hive = self.registry.retire(&worker, now)?;
                tracing::info!(%worker, %hive, idle_s = idle.as_secs(), "an idle worker is ended");
                self.log_stop(&worker, &hive, idle);
                let spawner = self.spawner.clone();
                Some(Box::pin(async move {
                    let result = spawner.end(&hive, &worker).await;
                    Ended::Stop(worker, result)
                }))
            }
        }
    }

    /// The place of another worker, and its name: that of the workers which answer for a model that has none of its
    /// own, so that they help each other.
    fn place_another(
        &self,
        model: &ModelAlias,
        why: Need,
        now: Instant,
    ) -> Option<(ModelAlias, Spawn)> {
        self.names(model, why).find_map(|name| {
            let spawn = self.registry.place_another(&name, why == Need::Min, now)?;
            Some((name, spawn))
        })
    }

    fn names(&self, model: &ModelAlias, why: Need) -> impl Iterator<Item = ModelAlias> + use<> {
        let other = if why == Need::Min { None } else { self.registry.answers_as(model) };
        other.into_iter().chain([model.clone()])
    }

    fn log_start(&self, model: &ModelAlias, spawn: &Spawn, why: Need) {
        let hive = &spawn.hive;
        let reason = why.as_str();
        tracing::info!(%model, %hive, reason, "another worker of a model is started");
        let decisions = self.dispatcher.decisions();
        for worker in &spawn.evict {
            let of = self.registry.model_of(worker);
            decisions.record(Decided::evict(worker, of.as_ref(), model, &spawn.hive));
        }
        let because = match why {
            Need::Min => "the model's policy wants as many",
            Need::Crowd => "requests have waited for a while",
        };
        let device = spawn.device.map(|device| format!(" {device}")).unwrap_or_default();
        let told = format!("another worker is started on {}{device}: {because}", spawn.hive);
        decisions.record(Decided::told(Kind::Spawn, reason, told).model(model));
    }

    /// There is no place for another worker: it is told why, unless it was a moment ago.
    fn no_place(&mut self, model: &ModelAlias, why: Need, now: Instant) {
        let (wants, full) = match why {
            Need::Min => ("its policy wants another worker", "no device has room for it"),
            Need::Crowd
                if self.registry.runs(model) || self.registry.answers_as(model).is_some() =>
            {
                ("requests wait", "no other device that is as fast has room")
            }
            Need::Crowd => ("requests wait", "no device has room for it"),
        };
        let (lacks, words) = self.lacks(model, why, now);
        if !self.planner.no_place(model, why, lacks, now) {
            return;
        }
        let told = format!("{wants}, and {}", words.as_deref().unwrap_or(full));
        tracing::info!(%model, told, "a model gets no further worker");
        let decided = Decided::told(Kind::NoPlace, why.as_str(), told).model(model);
        self.dispatcher.decisions().record(decided);
    }

    /// What a place is lacking for, in a word, and as it is told; `None` where that is room.
    fn lacks(&self, model: &ModelAlias, why: Need, now: Instant) -> (&'static str, Option<String>) {
        let refused = |name: &_| self.registry.has_place_but_for_rules(name, why == Need::Min, now);
        if !self.registry.is_in_catalog(model) {
            ("model", Some("no hive has the model".to_owned()))
        } else if !self.registry.is_at_hand(model, now) {
            ("hive", Some("no hive that has the model reports".to_owned()))
        } else if let Some(failed) = self.registry.failed_start(model, now) {
            let StartRefusal { reason, retry_after_s } = failed;
            let reason = for_clients(&reason.to_string());
            let told = "its start failed a moment ago";
            ("start", Some(format!("{told}: {reason} (again in {retry_after_s} s)")))
        } else if self.names(model, why).any(|name| refused(&name)) {
            let told = "the rules of this queen refuse the places that there are (the caller that they see is \
                        `queen`)";
            ("rules", Some(told.to_owned()))
        } else {
            ("room", None)
        }
    }

    fn log_failed(&self, model: &ModelAlias, source: JobError) {
        let failed = NoPlace::SpawnFailed { model: model.clone(), source, retry_after_s: 0 };
        let decided = Decided::told(Kind::NoPlace, "start_failed", failed.for_clients());
        self.dispatcher.decisions().record(decided.model(model));
    }

    fn log_stop(&self, worker: &WorkerId, hive: &HiveAlias, idle: Duration) {
        let told = format!("{worker} on {hive} has had no request for {} s", idle.as_secs());
        let decided = Decided::told(Kind::Retire, "idle", told).worker(worker);
        let model = self.registry.model_of(worker);
        let decided = match &model {
            Some(model) => decided.model(model),
            None => decided,
        };
        self.dispatcher.decisions().record(decided);
    }

    fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Start { result: Ok(Begun::Worker), .. } | Ended::Stop(_, Ok(())) => {}
            // It is looked again at once, and knows more.
            Ended::Start { model, result: Ok(Begun::Word), .. } => self.planner.not_started(&model),
            Ended::Start { model, name, why, result: Err(error) } => {
                let reason = error.message.as_str();
                tracing::warn!(model = %name, reason, "another worker could not be started");
                let now = clock::now();
                // There it is not tried again for a while: perhaps somewhere else, at once.
                match self.registry.failed_start(&name, now) {
                    Some(failed) if failed.reason == error => self.planner.not_started(&model),
                    _ => self.planner.start_failed(&model, why, now),
                }
                self.log_failed(&name, error);
            }
            Ended::Stop(worker, Err(error)) => {
                let reason = error.message.as_str();
                tracing::warn!(%worker, reason, "an idle worker could not be ended");
                self.registry.worker_stays(&worker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::task::TaskTracker;
    use worker_contract::{HiveHeartbeat, SupervisedState, SupervisedWorker};

    use super::*;
    use crate::decisions::Decisions;
    use crate::doubles::{NeverReady, device, entry};
    use crate::registry::Size;
    use crate::rules::Rules;

    const GIB: u64 = 1 << 30;

    #[tokio::test]
    async fn only_a_start_that_begins_is_told_and_not_a_question_or_one_that_is_joined() {
        // The model has 4 GiB in weights; 4.8 are believed to be needed.
        for (because, free, told) in [
            ("there is room", 64 * GIB, 1),
            ("its hive is asked whether there is", 4 * GIB + GIB / 2, 0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (mut steward, decisions) = steward(folder.path(), free);
            let model: ModelAlias = "m".parse().unwrap();
            let mut begin = || {
                let action = Action::Start { model: model.clone(), why: Need::Min };
                steward.begin(action, clock::now()).expect(because)
            };
            let under_way = [begin(), begin()];
            assert!(steward.registry.is_starting(&model));
            let spawns =
                decisions.counts().into_iter().filter(|((kind, _), _)| *kind == Kind::Spawn);
            assert_eq!(spawns.map(|(_, count)| count).sum::<u64>(), told, "{because}");
            drop(under_way);
        }
    }

    #[tokio::test]
    async fn nothing_is_done_before_workers_could_report_however_long_the_start_takes() {
        let folder = tempfile::tempdir().unwrap();
        let (mut steward, _) = steward(folder.path(), 64 * GIB);
        let policy = r#"{"model": "m", "policy": {"min": 1}}"#;
        steward.policies.set_fields(&serde_json::from_str(policy).unwrap()).unwrap();
        let registry = steward.registry.clone().shut();
        let now = clock::now();
        let mut is_idle = |seconds| steward.due(now + Duration::from_secs(seconds)).is_empty();
        assert!(is_idle(0) && is_idle(20), "nobody could be heard");
        registry.opens(now + Duration::from_secs(20));
        assert!(is_idle(20) && is_idle(22), "they are about to report");
        assert!(!is_idle(23));
    }

    #[tokio::test]
    async fn why_a_model_gets_no_further_worker_is_told_as_it_is() {
        let after = Duration::from_secs(60);
        for (model, later, told) in [
            ("m", Duration::ZERO, "no device has room for it"),
            ("other", Duration::ZERO, "no hive has the model"),
            ("m", after, "no hive that has the model reports"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (mut steward, decisions) = steward(folder.path(), 0);
            let action = Action::Start { model: model.parse().unwrap(), why: Need::Min };
            assert!(steward.begin(action, clock::now() + later).is_none(), "{told}");
            let last = decisions.since(0).pop().expect("it is told");
            let why = last.decided.because.why();
            assert!(why.contains(told), "{why}");
        }
    }

    #[tokio::test]
    async fn rules_that_refuse_all_places_are_why_there_is_no_other_and_not_want_of_room() {
        const SCRIPT: &str = r#"fn filter(request, worker) { request.token == "alice" }"#;
        for (free, told) in [
            (64 * GIB, "the rules of this queen refuse the places that there are"),
            (0, "no device has room for it"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (mut steward, decisions) = steward(folder.path(), free);
            let rules = Rules::none(Decisions::in_memory());
            rules.load(SCRIPT).unwrap();
            steward.registry = steward.registry.clone().with_rules(rules);
            let action = Action::Start { model: "m".parse().unwrap(), why: Need::Min };
            assert!(steward.begin(action, clock::now()).is_none(), "{told}");
            let why = decisions.since(0).pop().expect("it is told").decided.because.why();
            assert!(why.contains(told), "{why}");
        }
    }

    #[tokio::test]
    async fn a_start_that_has_just_failed_is_why_there_is_no_other_and_not_want_of_room() {
        for (need, fails, told) in [
            (Need::Min, true, "its start failed a moment ago: the file is … (again in 30 s)"),
            (Need::Crowd, true, "its start failed a moment ago: the file is … (again in 30 s)"),
            (Need::Crowd, false, "requests wait, and no device has room for it"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (mut steward, decisions) = steward(folder.path(), if fails { 64 * GIB } else { 0 });
            let (model, now): (ModelAlias, _) = ("m".parse().unwrap(), clock::now());
            if fails {
                let spawn = steward.registry.place_another(&model, true, now).expect("room");
                let trial = steward.registry.trial(&model, &spawn, Size::default()).unwrap();
                let error = JobError::new("worker_failed", "the file is /x/m.gguf\nand its log");
                steward.registry.start_failed(&trial, &error, now);
            }
            assert!(steward.begin(Action::Start { model, why: need }, now).is_none(), "{told}");
            let why = decisions.since(0).pop().expect("it is told").decided.because.why();
            assert!(why.ends_with(told), "{why}");
        }
    }

    #[tokio::test]
    async fn a_crowd_gets_a_worker_by_the_name_that_answers_for_it_and_else_by_its_own() {
        for (answers, devices, told) in [
            (true, vec![device("GPU-0", 0), device("GPU-1", 64 * GIB)], (true, false)),
            (false, vec![device("GPU-0", 64 * GIB)], (false, true)),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (mut steward, _) = steward(folder.path(), 0);
            let [m, again] = ["m", "again"].map(|name| name.parse::<ModelAlias>().unwrap());
            let workers = if answers { vec![listed(&again)] } else { Vec::new() };
            let catalog = vec![entry("m", 4 * GIB), entry("again", 4 * GIB)];
            let beat = HiveHeartbeat { devices, catalog, workers, ..beat(0) };
            steward.registry.hive_beat(beat, clock::now()).unwrap();
            let action = Action::Start { model: m.clone(), why: Need::Crowd };
            let under_way = steward.begin(action, clock::now());
            assert!(under_way.is_some());
            let starting = (steward.registry.is_starting(&again), steward.registry.is_starting(&m));
            assert_eq!(starting, told, "{answers}");
        }
    }

    /// A steward whose only hive has the model, and so much memory, and never answers.
    fn steward(folder: &std::path::Path, free: u64) -> (Steward, Decisions) {
        let policies = Policies::open(&folder.join("policies.db"), BTreeMap::new(), 0).unwrap();
        let registry = Registry::new(Duration::from_secs(2), Vec::new(), clock::now());
        let registry = registry.with_policies(policies.clone());
        registry.hive_beat(beat(free), clock::now()).unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let hives = Arc::new(NeverReady);
        let spawner = Spawner::new(hives, registry.clone(), policies.clone(), tasks, stop);
        let decisions = Decisions::in_memory();
        let dispatcher = Dispatcher::new(registry, spawner.clone(), decisions.clone(), 8);
        (Steward::new(policies, dispatcher, spawner), decisions)
    }

    fn listed(model: &ModelAlias) -> SupervisedWorker {
        SupervisedWorker {
            worker_id: "w".parse().unwrap(),
            hive_id: HiveAlias::localhost(),
            model: model.clone(),
            device: "GPU-0".parse().unwrap(),
            address: "http://127.0.0.1:9300".into(),
            port: 9300,
            pid: 1,
            started_at: 0,
            state: SupervisedState::Ready,
            restarts: None,
            memory_bytes: None,
        }
    }

    fn beat(free: u64) -> HiveHeartbeat {
        HiveHeartbeat {
            hive_id: HiveAlias::localhost(),
            address: None,
            version: String::new(),
            devices: vec![device("GPU-0", free)],
            catalog: vec![entry("m", 4 * GIB)],
            trouble: None,
            workers: Vec::new(),
        }
    }
}
