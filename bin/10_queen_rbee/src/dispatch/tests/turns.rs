//! Models of which one at a time fits, on a simulated clock: dispatcher, spawner and registry as they are.

use std::sync::OnceLock;

use futures::future::BoxFuture;
use job_server::{JobContext, Outcome};
use rbee_operations::{FitReport, ModelPolicySet, Operation, WorkerFit, WorkerSpawn};
use tokio::time::sleep;
use worker_contract::{
    HiveHeartbeat, MemoryNeed, SupervisedState, SupervisedWorker, WorkerHeartbeat, WorkerId,
};

use super::*;
use crate::decisions::Kind;
use crate::doubles::{device, entry};
use crate::hive_client::HiveClient;

const GIB: u64 = 1 << 30;
/// What its only device has, and each model takes.
const MEMORY: u64 = 8 * GIB;
const NEED: u64 = 6 * GIB;
/// How long a start takes.
const LOADING: Duration = Duration::from_secs(4);
/// The model whose workers never come up, of which its hive cannot tell what it takes.
const BROKEN: &str = "broken";

#[tokio::test(start_paused = true)]
async fn two_models_that_are_always_asked_for_take_turns_and_neither_is_starved() {
    let town = Town::new();
    let first = [town.asks_on("first", 2_900, 0), town.asks_on("first", 2_300, 700)];
    let second = [town.asks_on("second", 2_900, 3_000), town.asks_on("second", 2_300, 3_700)];
    sleep(Duration::from_secs(300)).await;
    let counts: Vec<_> = first.iter().chain(&second).map(|it| it.count()).collect();
    assert!(counts.iter().all(|served| *served >= 12), "{counts:?}");
    let longest = first.iter().chain(&second).map(|it| it.longest()).max().unwrap();
    // Its own patience, what is finished, two starts, and the turn of the other one.
    assert!(longest < Duration::from_secs(30), "{longest:?}");
    let starts = town.hive.asked("spawn");
    assert!(
        (10..=20).contains(&starts),
        "{starts} starts in 300 s: a turn is ten seconds at least"
    );
    assert_eq!(town.hive.asked("busy"), 0, "somebody was ended over its requests");
    town.is_told(Kind::MakeWay);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_one_thing_after_another_does_not_lose_its_worker_in_between() {
    let town = Town::new();
    let clients = [town.asks_after("first", 500, 0, 5), town.asks_after("second", 500, 100, 5)];
    sleep(Duration::from_secs(300)).await;
    let starts = town.hive.asked("spawn");
    assert!(
        (10..=24).contains(&starts),
        "{starts} starts in 300 s: a turn is ten seconds at least"
    );
    for client in clients {
        assert!(client.count() >= 100, "{}", client.count());
        assert!(client.longest() < Duration::from_secs(30), "{:?}", client.longest());
    }
}

#[tokio::test(start_paused = true)]
async fn two_names_of_one_file_that_are_asked_for_at_once_load_it_once() {
    let town = Town::new();
    let patience = Duration::from_secs(60);
    let (first, second) = tokio::join!(town.ask("first", patience), town.ask("namesake", patience));
    assert_eq!(first.unwrap().worker_id, second.unwrap().worker_id);
    assert_eq!((town.hive.asked("spawn"), town.hive.asked("delete")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_pinned_is_never_told_to_make_way() {
    let town = Town::new();
    let pin = r#"{"model":"first","policy":{"pin":true}}"#;
    let pin: ModelPolicySet = serde_json::from_str(pin).unwrap();
    town.policies.set_fields(&pin).unwrap();
    let first = [town.asks_on("first", 2_900, 0), town.asks_on("first", 2_300, 700)];
    sleep(Duration::from_secs(10)).await;
    let refused = town.ask("second", Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(refused, NoPlace::SpawnFailed { .. } | NoPlace::Deadline { .. }), "{refused}");
    assert_eq!(town.hive.asked("spawn"), 1);
    assert!(first[0].longest() < Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_used_again_when_the_one_that_waited_has_gone() {
    let town = Town::new();
    // An answer that outlasts the patience of the one that waits.
    let long = town.ask("first", Duration::from_secs(60)).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    let more = async {
        sleep(Duration::from_secs(6)).await;
        assert_eq!(town.registry().making_way(), 1);
        town.ask("first", Duration::from_secs(60)).await.unwrap()
    };
    let (second, place) = tokio::join!(town.ask("second", Duration::from_secs(8)), more);
    let Err(late @ NoPlace::Deadline { .. }) = second else { panic!("{second:?}") };
    let told = "before its deadline; the last word on it: it waits for memory";
    assert!(late.to_string().contains(told), "{late}");
    assert_eq!((town.registry().making_way(), town.hive.asked("spawn")), (0, 1));
    assert_eq!(place.worker_id, long.worker_id);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_be_loaded_costs_others_their_worker_once_and_not_with_each_request() {
    let town = Town::new();
    let patience = Duration::from_secs(60);
    let ask = async |model: &'static str| town.ask(model, patience).await.map(drop);
    for round in 0..5 {
        ask("first").await.unwrap();
        let refused = ask(BROKEN).await.unwrap_err();
        let NoPlace::SpawnFailed { source, retry_after_s, .. } = refused else {
            panic!("it is refused for another reason")
        };
        assert_eq!(source.code, "worker_failed", "the true reason");
        assert!((20..=60).contains(&retry_after_s), "{retry_after_s} in round {round}");
    }
    let ends = || town.hive.asked("delete");
    assert_eq!(
        (town.hive.asked("spawn first"), town.hive.asked("spawn broken"), ends()),
        (2, 1, 1)
    );
    // With another file it is another model.
    town.hive.replace(BROKEN, '1');
    town.hive.report();
    ask(BROKEN).await.unwrap_err();
    assert_eq!((town.hive.asked("spawn broken"), ends()), (2, 2));
    // Where nobody has to go, it is tried again after a pause.
    sleep(Duration::from_secs(20)).await;
    ask(BROKEN).await.unwrap_err();
    assert_eq!(town.hive.asked("spawn broken"), 2, "it was a moment ago");
    sleep(Duration::from_secs(11)).await;
    ask(BROKEN).await.unwrap_err();
    assert_eq!((town.hive.asked("spawn broken"), ends()), (3, 2));
}

/// A queen's dispatcher with one hive, whose device holds one worker at a time.
struct Town {
    dispatcher: Dispatcher,
    policies: Policies,
    hive: Arc<OneHive>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

/// What became of one who asks again and again.
#[derive(Debug, Default)]
struct Served {
    waits: Mutex<Vec<Duration>>,
}

impl Served {
    fn count(&self) -> usize {
        lock(&self.waits).len()
    }

    fn longest(&self) -> Duration {
        lock(&self.waits).iter().max().copied().unwrap_or_default()
    }
}

impl Town {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = Policies::open(&folder.path().join("p.db"), BTreeMap::new(), 0).unwrap();
        let registry = Registry::new(Duration::from_secs(2), Vec::new(), clock::now())
            .with_policies(policies.clone());
        let hive = Arc::new(OneHive::default());
        hive.registry.set(registry.clone()).unwrap();
        hive.report();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let hives: Arc<dyn FindHive> = Arc::new(Found(Arc::clone(&hive)));
        let spawner =
            Spawner::new(hives, registry.clone(), policies.clone(), tasks.clone(), stop.clone());
        let dispatcher = Dispatcher::new(registry.clone(), spawner, Decisions::in_memory(), 32);
        tasks.spawn(dispatcher.clone().run(stop.clone()));
        let reporter = Arc::clone(&hive);
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            for tick in 0_u64.. {
                if tick.is_multiple_of(4) {
                    reporter.report();
                }
                registry.sweep(clock::now());
                sleep(Duration::from_millis(250)).await;
            }
        }));
        Self { dispatcher, policies, hive, tasks, stop, _folder: folder }
    }

    fn registry(&self) -> &Registry {
        self.dispatcher.registry()
    }

    async fn ask(&self, model: &str, patience: Duration) -> Result<Place, NoPlace> {
        self.dispatcher.place(wanted_of(model, patience)).await
    }

    /// Somebody who asks for a model without an end; each answer takes so long.
    fn asks_on(&self, model: &'static str, answer_ms: u64, from_ms: u64) -> Arc<Served> {
        self.asks_after(model, answer_ms, from_ms, 0)
    }

    /// The same, who needs a moment from each answer to the next question.
    fn asks_after(
        &self,
        model: &'static str,
        answer_ms: u64,
        from_ms: u64,
        pause_ms: u64,
    ) -> Arc<Served> {
        let (served, dispatcher) = (Arc::new(Served::default()), self.dispatcher.clone());
        let seen = Arc::clone(&served);
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(async move {
            sleep(Duration::from_millis(from_ms)).await;
            loop {
                let began = clock::now();
                let wanted = wanted_of(model, Duration::from_secs(600));
                let place = dispatcher.place(wanted).await.unwrap();
                lock(&seen.waits).push(clock::now() - began);
                sleep(Duration::from_millis(answer_ms)).await;
                drop(place);
                if pause_ms > 0 {
                    sleep(Duration::from_millis(pause_ms)).await;
                }
            }
        }));
        served
    }

    fn is_told(&self, kind: Kind) {
        let counts = self.dispatcher.decisions().counts();
        assert!(counts.keys().any(|(its, _)| *its == kind), "{counts:?}");
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn wanted_of(model: &str, patience: Duration) -> Wanted {
    let model = model.parse().unwrap();
    Wanted { model, deadline: clock::now() + patience, ..wanted(None) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hive that starts and ends workers of which only the queen knows.
#[derive(Debug, Default)]
struct OneHive {
    registry: OnceLock<Registry>,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    workers: Vec<SupervisedWorker>,
    asked: Vec<String>,
    replaced: Option<(&'static str, char)>,
}

#[derive(Debug)]
struct Found(Arc<OneHive>);

impl FindHive for Found {
    fn find(&self, _: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }
}

impl HiveClient for Found {
    fn execute(
        &self,
        operation: Operation,
        _: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let hive = Arc::clone(&self.0);
        Box::pin(async move {
            match operation {
                Operation::WorkerFit(asked) => Ok(hive.fit(&asked)),
                Operation::WorkerSpawn(asked) => hive.spawn(asked).await,
                Operation::WorkerDelete(target) => {
                    hive.end(&target.worker_id);
                    Ok(Outcome::said("gone"))
                }
                other => panic!("{other:?}"),
            }
        })
    }
}

/// The digest of a model's file, of which one has two names.
fn file_of(model: &str) -> String {
    let digit = match model {
        "first" | "namesake" => "0",
        "second" => "2",
        _ => "3",
    };
    digit.repeat(64)
}

/// What a worker says of itself.
fn said(worker: &SupervisedWorker) -> WorkerHeartbeat {
    let beat = json!({
        "worker_id": worker.worker_id, "hive_id": "localhost", "address": worker.address,
        "model": {
            "name": worker.model, "digest": file_of(worker.model.as_str()), "context_length": 1,
        },
        "device": "GPU-0",
        "state": "ready", "slots": {"total": 2, "busy": 0}, "queued": 0,
        "kv_cache": {"used_tokens": 0, "capacity_tokens": 0}, "tokens_per_second": 0.0,
        "engine_build": "x", "pid": worker.pid,
    });
    serde_json::from_value(beat).unwrap()
}

impl OneHive {
    /// How often it was asked for something.
    fn asked(&self, what: &str) -> usize {
        lock(&self.inside).asked.iter().filter(|asked| asked.starts_with(what)).count()
    }

    fn replace(&self, model: &'static str, digit: char) {
        lock(&self.inside).replaced = Some((model, digit));
    }

    fn registry(&self) -> &Registry {
        self.registry.get().expect("it is set first of all")
    }

    fn report(&self) {
        let inside = lock(&self.inside);
        let used = inside.workers.len() as u64 * NEED;
        let catalog = ["first", "namesake", "second", BROKEN].map(|name| {
            let mut entry = entry(name, 5 * GIB);
            entry.sha256 = file_of(name).parse().unwrap();
            if let Some((_, digit)) = inside.replaced.filter(|(model, _)| *model == name) {
                entry.sha256 = digit.to_string().repeat(64).parse().unwrap();
            }
            entry
        });
        let beat = HiveHeartbeat {
            hive_id: HiveAlias::localhost(),
            address: None,
            version: "0".into(),
            devices: vec![device("GPU-0", MEMORY - used)],
            catalog: catalog.into(),
            workers: inside.workers.clone(),
            trouble: None,
        };
        drop(inside);
        let said: Vec<_> = beat.workers.iter().map(said).collect();
        self.registry().hive_beat(beat, clock::now()).unwrap();
        for beat in said {
            self.registry().worker_beat(beat, clock::now()).unwrap();
        }
    }

    fn fit(&self, asked: &WorkerFit) -> Outcome {
        let inside = lock(&self.inside);
        let goes = |worker: &SupervisedWorker| asked.without.contains(&worker.worker_id);
        let fits = inside.workers.iter().all(goes);
        let need = MemoryNeed {
            device: "GPU-0".parse().unwrap(),
            weights_bytes: NEED,
            mapped_bytes: 0,
            context_bytes: 0,
            compute_bytes: 0,
        };
        let is_known = asked.start.model.as_str() != BROKEN;
        let report = FitReport {
            needs: is_known.then(|| vec![need]),
            fits: fits || !is_known,
            ..FitReport::unknown()
        };
        Outcome::new("reckoned", serde_json::to_value(report).unwrap())
    }

    async fn spawn(&self, asked: WorkerSpawn) -> Result<Outcome, JobError> {
        let number = {
            let asked_for = &mut lock(&self.inside).asked;
            asked_for.push(format!("spawn {}", asked.model));
            asked_for.len()
        };
        sleep(LOADING).await;
        if asked.model.as_str() == BROKEN {
            return Err(JobError::new("worker_failed", "unknown model architecture"));
        }
        let mut inside = lock(&self.inside);
        let worker = SupervisedWorker {
            worker_id: format!("w-{number}").parse().unwrap(),
            hive_id: HiveAlias::localhost(),
            model: asked.model,
            device: "GPU-0".parse().unwrap(),
            address: format!("http://127.0.0.1:{}", 9300 + number),
            port: 1,
            pid: u32::try_from(number).unwrap(),
            started_at: 0,
            state: SupervisedState::Ready,
            restarts: None,
            memory_bytes: Some(NEED),
        };
        inside.workers.push(worker.clone());
        Ok(Outcome::new("ready", serde_json::to_value(worker).unwrap()))
    }

    fn end(&self, id: &WorkerId) {
        let workers = self.registry().workers(clock::now());
        let is_busy = workers.iter().any(|it| it.said.worker_id == *id && it.in_flight > 0);
        let mut inside = lock(&self.inside);
        inside.asked.push(format!("delete {id}"));
        if is_busy {
            inside.asked.push("busy".into());
        }
        inside.workers.retain(|worker| worker.worker_id != *id);
        drop(inside);
        self.report();
    }
}
