//! A hive in this process, in a temporary home, with the real worker binary or a double of it.

use std::fs;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use daemon_lifecycle::process_start_time;
use job_server::{JobContext, JobError, Outcome};
use rbee_config::{Config, Paths};
use rbee_hive::{HeartbeatSink, Hive, HiveSettings};
use rbee_operations::{
    HiveTarget, ModelImport, ModelTarget, Operation, WorkerExcuse, WorkerFit, WorkerLogs,
    WorkerSpawn, WorkerTarget,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;
use test_cluster::{Api, Binaries, Signal, send_signal, wait_until};
use tokio_util::sync::CancellationToken;
use worker_contract::{
    HiveAlias, ModelAlias, ModelEntry, SupervisedState, SupervisedWorker, WorkerId,
};

/// How long anything that must happen may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A home, which can have one hive after the other.
pub(crate) struct Home {
    dir: TempDir,
    pub(crate) settings: fn(&mut HiveSettings),
}

/// A running hive.
pub(crate) struct TestHive {
    pub(crate) hive: Hive,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder can be made"), settings: |_| {} }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn models(&self) -> PathBuf {
        Paths::under(self.path()).models
    }

    /// A home whose hives may give workers so little memory that not two doubles that need much find room.
    pub(crate) fn with_little_memory() -> Self {
        let mut home = Self::new();
        home.settings = little_memory;
        home
    }

    /// A hive whose workers are the real binary.
    pub(crate) async fn start(&self) -> Result<TestHive> {
        self.start_with(Binaries::find()?.get("llm-worker-rbee")?).await
    }

    /// A hive whose workers are the given program.
    pub(crate) async fn start_with(&self, worker_binary: PathBuf) -> Result<TestHive> {
        let mut settings = self.settings(worker_binary)?;
        (self.settings)(&mut settings);
        Ok(TestHive { hive: Hive::start(settings).await? })
    }

    pub(crate) fn settings(&self, worker_binary: PathBuf) -> Result<HiveSettings> {
        let paths = Paths::under(self.path());
        let config = "[hive]\nworker_ports = \"0\"\nstop_grace_s = 5\n\
                      [worker]\nslots = 2\nctx_size = 512\nthreads = 1\nheartbeat_interval_ms = 200\n";
        let config = Config::parse(config, &paths.config_file, [])?;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(HiveSettings {
            alias: HiveAlias::localhost(),
            address: None,
            paths,
            hive: config.hive,
            worker: config.worker,
            worker_host: loopback,
            advertised_host: loopback.to_string(),
            queen_url: None,
            heartbeats: HeartbeatSink::None,
            worker_binary: Some(worker_binary),
        })
    }

    /// A program that stands in for the worker; see `worker_double.py` for what it can do.
    pub(crate) fn double(&self, behaviour: &str) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hive/worker_double.py");
        let path = self.path().join(format!("worker-{behaviour}"));
        let script = format!(
            "#!/bin/sh\nexec python3 {} {behaviour} {} \"$@\"\n",
            source.display(),
            self.path().display()
        );
        fs::write(&path, script).expect("the home can be written to");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        path
    }

    /// Tells a double something: the contents of a file that it looks for.
    pub(crate) fn tell_double(&self, name: &str, what: &str) {
        fs::write(self.path().join(name), what).expect("the home can be written to");
    }

    pub(crate) fn untell_double(&self, name: &str) {
        fs::remove_file(self.path().join(name)).expect("it was told before");
    }

    /// The list of processes that a hive keeps for the next one.
    pub(crate) fn ledger(&self) -> Value {
        let text = fs::read_to_string(self.path().join("run/workers.json"));
        serde_json::from_str(&text.expect("it is there")).expect("it is JSON")
    }

    /// A file that the double takes for a model.
    pub(crate) fn double_model(&self) -> PathBuf {
        let path = self.path().join("double.gguf");
        fs::write(&path, b"GGUF of a double").expect("the home can be written to");
        path
    }
}

/// What hives of a [home with little memory](Home::with_little_memory) may give their workers.
pub(crate) const LITTLE_MEMORY: u64 = 64 << 20;

pub(crate) fn little_memory(settings: &mut HiveSettings) {
    settings.hive.memory = Some(LITTLE_MEMORY);
}

impl Drop for Home {
    fn drop(&mut self) {
        kill_workers_left(self.path());
    }
}

/// Ends what a test that failed half way has left: the ledger of the home names it.
pub(crate) fn kill_workers_left(home: &Path) {
    let ledger = fs::read_to_string(home.join("run/workers.json")).unwrap_or_default();
    let ledger: Value = serde_json::from_str(&ledger).unwrap_or_default();
    for worker in ledger["workers"].as_array().into_iter().flatten() {
        let pid = worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let Some(pid) = pid.filter(|pid| process_start_time(*pid) == worker["start_time"].as_u64())
        else {
            continue;
        };
        send_signal(pid, Signal::KILL);
    }
}

impl TestHive {
    pub(crate) async fn run(&self, operation: Operation) -> Result<Outcome, JobError> {
        self.run_until(operation, CancellationToken::new()).await
    }

    pub(crate) async fn run_until(
        &self,
        operation: Operation,
        cancel: CancellationToken,
    ) -> Result<Outcome, JobError> {
        let job = JobContext::silent(&operation, "test", cancel);
        self.hive.execute(operation, job).await
    }

    pub(crate) async fn import(&self, file: &Path, alias: &str) -> Result<ModelEntry, JobError> {
        let outcome = self.run(import(file, Some(alias))).await?;
        Ok(result(outcome))
    }

    pub(crate) async fn spawn(&self, model: &str) -> Result<SupervisedWorker, JobError> {
        Ok(result(self.run(spawn(model)).await?))
    }

    pub(crate) async fn delete(&self, id: &WorkerId) -> Result<Outcome, JobError> {
        self.run(delete_worker(id)).await
    }

    /// Waits for another process of the worker that is ready.
    pub(crate) async fn wait_for_next(&self, before: &SupervisedWorker) -> SupervisedWorker {
        self.wait_for_worker("the next process of the worker", |next| {
            next.worker_id == before.worker_id
                && next.pid != before.pid
                && next.state == SupervisedState::Ready
        })
        .await
        .expect("it comes")
    }

    /// Waits for a state of the only worker.
    pub(crate) async fn wait_for_worker(
        &self,
        missing: &str,
        wanted: impl Fn(&SupervisedWorker) -> bool,
    ) -> Result<SupervisedWorker> {
        wait_until(missing, SOON, async || self.hive.workers().into_iter().find(&wanted))
            .await
            .with_context(|| format!("workers: {:?}", self.hive.workers()))
    }
}

pub(crate) fn import(file: &Path, alias: Option<&str>) -> Operation {
    Operation::ModelImport(ModelImport {
        hive_id: HiveAlias::localhost(),
        path: file.to_str().expect("test paths are UTF-8").into(),
        alias: alias.map(|alias| alias.parse().expect("test aliases are legal")),
        link: false,
        projector: None,
    })
}

pub(crate) fn spawn(model: &str) -> Operation {
    Operation::WorkerSpawn(spawn_request(model))
}

pub(crate) fn spawn_request(model: &str) -> WorkerSpawn {
    WorkerSpawn {
        hive_id: HiveAlias::localhost(),
        model: alias(model),
        device: None,
        slots: None,
        ctx_size: None,
    }
}

pub(crate) fn would_fit(model: &str, without: Vec<WorkerId>) -> Operation {
    Operation::WorkerFit(WorkerFit { start: spawn_request(model), without })
}

pub(crate) fn delete_worker(id: &WorkerId) -> Operation {
    let target = WorkerTarget { hive_id: HiveAlias::localhost(), worker_id: id.clone() };
    Operation::WorkerDelete(target)
}

pub(crate) fn restart_worker(id: &WorkerId) -> Operation {
    let target = WorkerTarget { hive_id: HiveAlias::localhost(), worker_id: id.clone() };
    Operation::WorkerRestart(target)
}

pub(crate) fn excuse(id: &WorkerId, process: u32) -> Operation {
    let (hive_id, worker_id) = (HiveAlias::localhost(), id.clone());
    Operation::WorkerExcuse(WorkerExcuse { hive_id, worker_id, processes: vec![process] })
}

pub(crate) fn worker_logs(id: &WorkerId, lines: u32) -> Operation {
    let hive_id = HiveAlias::localhost();
    let (worker_id, lines, follow) = (id.clone(), Some(lines), false);
    Operation::WorkerLogs(WorkerLogs { hive_id, worker_id, lines, follow })
}

pub(crate) fn model_target(model: &str) -> ModelTarget {
    ModelTarget { hive_id: HiveAlias::localhost(), model: alias(model) }
}

pub(crate) fn hive_target() -> HiveTarget {
    HiveTarget { hive_id: HiveAlias::localhost() }
}

pub(crate) fn alias(name: &str) -> ModelAlias {
    name.parse().expect("test aliases are legal")
}

pub(crate) fn result<T: DeserializeOwned>(outcome: Outcome) -> T {
    serde_json::from_value(outcome.data).expect("the result has the type that was agreed on")
}

pub(crate) fn failure_reason(worker: &SupervisedWorker) -> Option<&str> {
    match &worker.state {
        SupervisedState::Failed { reason } => Some(reason),
        _ => None,
    }
}

/// The API of a hive that is a process of its own, once that answers.
pub(crate) async fn api_of_daemon(home: &Path) -> Api {
    let file = home.join("run/rbee-hive.addr");
    wait_until("a healthy hive", SOON, async || {
        let address = format!("http://{}", fs::read_to_string(&file).ok()?.trim());
        let api = Api::new(&address, None).ok()?;
        let is_healthy = api.get("/health").await.is_ok_and(|answer| answer.status == 200);
        is_healthy.then_some(api)
    })
    .await
    .expect("it starts")
}

/// Runs a future in a runtime of its own and then drops everything in it at once, as `kill -9` does
/// to a process: no task gets to clean up.
pub(crate) fn in_a_life_that_ends_at_once<T: Send + 'static, Life: Future<Output = T>>(
    life: impl FnOnce() -> Life + Send + 'static,
) -> T {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
        let value = runtime.block_on(life());
        runtime.shutdown_background();
        value
    })
    .join()
    .expect("the life does not panic")
}
