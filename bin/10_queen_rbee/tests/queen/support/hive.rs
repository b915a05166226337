//! A double of a hive: real jobs over HTTP, and worker doubles instead of processes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use access_tokens::Authenticator;
use daemon_http::{Edge, edge};
use futures::future::BoxFuture;
use job_server::{Executor, JobContext, JobError, JobRegistry, Limits, Outcome};
use rbee_operations::{FitReport, Operation, WorkerFit, WorkerSpawn};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::DropGuard;
use worker_contract::{
    Device, DeviceId, DeviceKind, DeviceLoad, GgufSummary, HiveAlias, HiveHeartbeat, MemoryNeed,
    ModelEntry, SupervisedState, SupervisedWorker, WorkerHeartbeat, WorkerId,
};

use super::WorkerDouble;

/// A running double whose catalog has the model `m`.
pub(crate) struct HiveDouble {
    url: String,
    stage: Arc<Stage>,
    _server: DropGuard,
}

struct Stage {
    id: HiveAlias,
    /// Each start of a worker takes one.
    may_start: Semaphore,
    fails: bool,
    /// Whether it tells of its workers.
    lists: AtomicBool,
    spawns: AtomicUsize,
    /// What models take of its devices, in MiB, and whether it says so before it is asked to start one.
    needs: Mutex<(BTreeMap<&'static str, u64>, bool)>,
    /// How often it was asked what a model takes.
    questions: AtomicUsize,
    /// What it was asked for, in short.
    asked: Mutex<Vec<String>>,
    workers: Mutex<Vec<(WorkerDouble, WorkerSpawn)>>,
}

impl HiveDouble {
    /// A hive whose starts of workers wait for [`let_start`](Self::let_start), and then fail or not.
    pub(crate) fn start(fails: bool) -> Self {
        Self::start_as(HiveAlias::localhost(), fails)
    }

    /// The same under a name.
    pub(crate) fn start_as(id: HiveAlias, fails: bool) -> Self {
        let stage = Arc::new(Stage {
            id,
            may_start: Semaphore::new(0),
            fails,
            lists: AtomicBool::new(false),
            spawns: AtomicUsize::new(0),
            needs: Mutex::default(),
            questions: AtomicUsize::new(0),
            asked: Mutex::default(),
            workers: Mutex::default(),
        });
        let executor: Arc<dyn Executor> = Arc::new(Double(Arc::clone(&stage)));
        let jobs = JobRegistry::in_memory(Limits::default());
        let routes = job_server::routes(jobs, executor, Authenticator::open());
        let open = Edge { auth: Authenticator::open(), max_body_bytes: 1 << 20 };
        let (address, server) = super::serve(edge(routes, open), 0).unwrap();
        Self { url: format!("http://{address}"), stage, _server: server }
    }

    /// Lets workers that are being started come up, or fail.
    pub(crate) fn let_start(&self) {
        self.stage.may_start.add_permits(100);
    }

    /// From here on it tells of its workers to who asks.
    pub(crate) fn lists_workers(&self) {
        self.stage.lists.store(true, Ordering::SeqCst);
    }

    /// How many workers it was asked to start.
    pub(crate) fn spawns(&self) -> usize {
        self.stage.spawns.load(Ordering::SeqCst)
    }

    /// From here on these models take so many MiB of its devices, of which the processor has 4 GiB and the
    /// card 8, and it starts none that does not fit. If it `tells`, it says so where it is asked.
    pub(crate) fn takes<const N: usize>(&self, needs: [(&'static str, u64); N], tells: bool) {
        *self.stage.needs.lock().unwrap() = (needs.into(), tells);
    }

    /// How often it was asked what a model takes.
    pub(crate) fn questions(&self) -> usize {
        self.stage.questions.load(Ordering::SeqCst)
    }

    /// The starts of workers that have come up, as they were asked for.
    pub(crate) fn started(&self) -> Vec<WorkerSpawn> {
        let workers = self.stage.workers.lock().unwrap();
        workers.iter().map(|(_, spawn)| spawn.clone()).collect()
    }

    /// What it was asked for: `spawn MODEL DEVICE`, `delete WORKER`, `excuse WORKER [PROCESS, …]`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.stage.asked.lock().unwrap().clone()
    }

    /// The report of one with a processor and a graphics card, where 4 GiB and so much is free; it has
    /// the models `m` and `other` of 6 GiB each, too.
    pub(crate) fn beat_with_workers(&self, free_gib: u64) -> HiveHeartbeat {
        let device = |id: &str, gib: u64| Device {
            id: id.parse().unwrap(),
            backend: "Vulkan".into(),
            name: "double".into(),
            memory_total_bytes: 8 << 30,
            memory_free_bytes: gib << 30,
            pci_address: None,
            load: DeviceLoad::default(),
            is_gone: false,
        };
        let large = |name: &str| {
            let mut entry = entry();
            entry.alias = name.parse().unwrap();
            entry.gguf.size_bytes = 6 << 30;
            entry
        };
        HiveHeartbeat {
            devices: vec![device("CPU-0", 4), device("GPU-0", free_gib)],
            catalog: vec![
                large("m"),
                // A file of its own.
                ModelEntry { sha256: "1".repeat(64).parse().unwrap(), ..large("other") },
            ],
            ..self.beat()
        }
    }

    /// The reports of the workers that it has started.
    pub(crate) fn worker_beats(&self) -> Vec<WorkerHeartbeat> {
        let workers = self.stage.workers.lock().unwrap();
        let beats = workers.iter().map(|(worker, spawn)| {
            let mut beat = worker.beat();
            beat.model.name = spawn.model.clone();
            beat.device = spawn.device.unwrap_or(beat.device);
            beat
        });
        beats.collect()
    }

    /// Its report.
    pub(crate) fn beat(&self) -> HiveHeartbeat {
        let workers = self.stage.workers.lock().unwrap();
        let workers = workers.iter().map(|(worker, spawn)| listed(worker, spawn)).collect();
        HiveHeartbeat {
            hive_id: self.stage.id.clone(),
            address: Some(self.url.clone()),
            version: "0".into(),
            devices: Vec::new(),
            catalog: vec![entry()],
            workers,
            trouble: None,
        }
    }
}

fn listed(worker: &WorkerDouble, spawn: &WorkerSpawn) -> SupervisedWorker {
    let listed = worker.listed(SupervisedState::Ready);
    SupervisedWorker {
        hive_id: spawn.hive_id.clone(),
        model: spawn.model.clone(),
        device: spawn.device.unwrap_or(listed.device),
        ..listed
    }
}

struct Double(Arc<Stage>);

impl Executor for Double {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let stage = Arc::clone(&self.0);
        Box::pin(async move {
            match operation {
                Operation::WorkerFit(asked) => stage.fit(&asked),
                Operation::WorkerSpawn(asked) => spawn(&stage, asked, &job).await,
                Operation::WorkerDelete(target) => {
                    stage.asked.lock().unwrap().push(format!("delete {}", target.worker_id));
                    let is_it = |name: &str| name == target.worker_id.as_str();
                    stage.workers.lock().unwrap().retain(|(worker, _)| !is_it(&worker.name));
                    Ok(Outcome::said("ended"))
                }
                Operation::WorkerExcuse(told) => {
                    let said = format!("excuse {} {:?}", told.worker_id, told.processes);
                    stage.asked.lock().unwrap().push(said);
                    Ok(Outcome::said("excused"))
                }
                Operation::ModelList(_) => {
                    job.say("looking");
                    job.say("found");
                    Ok(Outcome::new("1 model", json!({"models": [entry()]})))
                }
                Operation::WorkerList(_) if stage.lists.load(Ordering::SeqCst) => {
                    let workers = stage.workers.lock().unwrap();
                    let list: Vec<_> =
                        workers.iter().map(|(it, spawn)| listed(it, spawn)).collect();
                    Ok(Outcome::new("listed", json!({ "workers": list })))
                }
                Operation::WorkerGet(target) => {
                    let message = format!("there is no worker {} on this hive", target.worker_id);
                    Err(JobError::new("worker_not_found", message))
                }
                Operation::ModelAlias(_) => {
                    let model = serde_json::to_value(entry()).expect("plain data");
                    Ok(Outcome::new("named", model))
                }
                _ => Err(JobError::new("not_in_the_script", "what?").hint("ask something else")),
            }
        })
    }
}

impl Stage {
    /// What a model takes, in MiB, and whether there is too little for it on a device without some.
    fn need(
        &self,
        model: &str,
        device: Option<DeviceId>,
        without: &[WorkerId],
    ) -> Option<(u64, bool)> {
        let needs = self.needs.lock().unwrap();
        let need = |model: &str| needs.0.get(model).copied();
        let card = device.is_some_and(|device| device.kind == DeviceKind::Gpu);
        let workers = self.workers.lock().unwrap();
        let here = workers.iter().filter(|(worker, spawn)| {
            spawn.device == device && without.iter().all(|gone| gone.as_str() != worker.name)
        });
        let used: u64 = here.filter_map(|(_, spawn)| need(spawn.model.as_str())).sum();
        let all = if card { 8 << 10 } else { 4 << 10 };
        need(model).map(|need| (need, used + need > all))
    }

    fn fit(&self, asked: &WorkerFit) -> Result<Outcome, JobError> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        let tells = self.needs.lock().unwrap().1;
        let need = self.need(asked.start.model.as_str(), asked.start.device, &asked.without);
        let Some((need, is_too_much)) = need.filter(|_| tells) else {
            return Err(JobError::new("invalid_type", "unknown variant `WorkerFit`"));
        };
        let needs = asked.start.device.map(|device| MemoryNeed {
            device,
            weights_bytes: need << 20,
            mapped_bytes: 0,
            context_bytes: 0,
            compute_bytes: 0,
        });
        let report = FitReport {
            needs: Some(needs.into_iter().collect()),
            fits: !is_too_much,
            reason: is_too_much.then(too_much),
            ..FitReport::unknown()
        };
        Ok(Outcome::new("looked", serde_json::to_value(report).unwrap()))
    }
}

fn too_much() -> String {
    "the double cannot hold this".to_owned()
}

async fn spawn(stage: &Stage, asked: WorkerSpawn, job: &JobContext) -> Result<Outcome, JobError> {
    let device = asked.device.map_or("?".to_owned(), |device| device.to_string());
    stage.asked.lock().unwrap().push(format!("spawn {} {device}", asked.model));
    let number = stage.spawns.fetch_add(1, Ordering::SeqCst);
    let permit = tokio::select! {
        permit = stage.may_start.acquire() => permit,
        () = job.cancelled().cancelled() => return Err(JobError::cancelled()),
    };
    drop(permit);
    if stage.need(asked.model.as_str(), asked.device, &[]).is_some_and(|(_, too_much)| too_much) {
        return Err(JobError::new("not_enough_memory", too_much()));
    }
    if stage.fails {
        let log = "worker w-9 failed: tensor data is truncated; its last log lines:\n  a line";
        return Err(JobError::new("worker_failed", log));
    }
    let worker = WorkerDouble::start(&format!("w-spawned-{number}"), []);
    let listed = listed(&worker, &asked);
    stage.workers.lock().unwrap().push((worker, asked));
    Ok(Outcome::new("ready", serde_json::to_value(listed).unwrap()))
}

fn entry() -> ModelEntry {
    ModelEntry {
        alias: "m".parse().unwrap(),
        sha256: "0".repeat(64).parse().unwrap(),
        source: "test".into(),
        added_at: 1_700_000_000,
        shards: Vec::new(),
        projector: None,
        gguf: GgufSummary {
            architecture: "llama".into(),
            name: None,
            license: None,
            quantization: "Q4_1".into(),
            parameters: 1,
            context_length: 2048,
            embedding_length: None,
            kind: None,
            has_chat_template: true,
            size_bytes: 1,
        },
    }
}
