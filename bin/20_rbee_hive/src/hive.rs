//! The hive itself: its parts, made once, and what others can ask of it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use access_tokens::local_secret;
use futures::future::BoxFuture;
use job_server::{Executor, JobContext, JobError, JobRegistry, Outcome};
use rbee_config::WorkerConfig;
use rbee_operations::Operation;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{
    Device, HiveAlias, HiveHeartbeat, ModelEntry, Sha256Digest, SupervisedWorker,
};

use crate::catalog::{Catalog, ModelUsage};
use crate::changes::Changes;
use crate::device::{Devices, Fit, Reservations};
use crate::download::Downloads;
use crate::heartbeat::beat;
use crate::kinds;
use crate::metrics::{self, Sample};
use crate::operation;
use crate::ports::PortPool;
use crate::supervisor::{Setup, Supervisor, Surroundings};
use crate::worker_binary::WorkerBinary;
use crate::{HiveError, HiveSettings};

/// The name of the file with the secret that all processes of this user share.
const TOKEN_FILE: &str = "local.token";
/// What workers on the queen's machine get instead, where their queen has made it: it opens reports only.
const LOCAL_WORKERS_TOKEN: &str = "hives/localhost.token";

/// One machine of rbee. Cheap to clone; all clones are the same hive.
///
/// Its own HTTP API and a queen in the same process ask the same thing of it:
/// [`execute`](Self::execute).
#[derive(Debug, Clone)]
pub struct Hive {
    parts: Arc<Parts>,
}

/// The parts of a hive. Each operation takes those that it uses.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) alias: HiveAlias,
    pub(crate) address: Option<String>,
    host: String,
    pub(crate) worker: WorkerConfig,
    /// The folder of the models.
    models: PathBuf,
    pub(crate) binary: WorkerBinary,
    pub(crate) supervisor: Supervisor,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) usage: ModelUsage,
    pub(crate) downloads: Arc<Downloads>,
    pub(crate) devices: Devices,
    pub(crate) fit: Fit,
    pub(crate) reservations: Reservations,
    pub(crate) changes: Changes,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Whether the workers are to go on when the hive ends.
    leaves_workers: AtomicBool,
    /// Held until the hive is shut down.
    lock: Mutex<Option<File>>,
}

impl Hive {
    /// Opens the catalog, asks the engine for devices, takes over the workers that an earlier hive
    /// left running, and begins to send heartbeats.
    ///
    /// A missing worker binary is no error here: it is told in the heartbeats, and when somebody wants a
    /// worker.
    pub async fn start(settings: HiveSettings) -> Result<Self, HiveError> {
        let paths = &settings.paths;
        paths.create_all().map_err(HiveError::Folders)?;
        let lock = lock(&paths.run.join("hive-files.lock"))?;
        local_secret(&paths.secrets).map_err(HiveError::Secret)?;
        let catalog = open_catalog(paths.data.join("hive.db"), paths.models.clone()).await?;
        let (changes, usage) = (Changes::default(), ModelUsage::default());
        let downloads = Downloads::new(&settings.hive, paths.secrets.clone(), catalog.partial());
        let binary = WorkerBinary::new(settings.worker_binary.clone());
        let (overcommits, most) = (settings.hive.overcommit_memory, settings.hive.memory);
        let reservations = Reservations::new(overcommits, most);
        let devices = Devices::new(binary.clone(), changes.clone(), reservations.clone());
        let fit = Fit::new(binary.clone());
        // A failure is noted and told there.
        let _ = devices.refresh().await;
        // The last wait: a start that is given up has adopted no worker.
        let setup = setup(&settings, changes.clone());
        let supervisor = Supervisor::start(setup, &usage, &reservations).await;
        let parts = Parts {
            alias: settings.alias,
            address: settings.address,
            host: settings.advertised_host,
            worker: settings.worker,
            models: settings.paths.models.clone(),
            binary,
            supervisor: supervisor.map_err(HiveError::supervisor)?,
            catalog: Arc::new(catalog),
            usage,
            downloads: Arc::new(downloads),
            devices,
            fit,
            reservations,
            changes,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            leaves_workers: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
        };
        let hive = Self { parts: Arc::new(parts) };
        hive.start_heartbeats(settings.heartbeats);
        let looking = hive.parts.devices.clone().keep_looking(hive.parts.stop.clone());
        hive.parts.tasks.spawn(looking);
        hive.find_kinds();
        Ok(hive)
    }

    /// Carries an operation out, telling of it through `job`, and ends early when that is cancelled.
    pub async fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> Result<Outcome, JobError> {
        operation::carry_out(&self.parts, operation, &job).await
    }

    /// What the queen is told: devices, models and workers as they are. Touches neither disk nor net.
    #[must_use]
    pub fn snapshot(&self) -> HiveHeartbeat {
        self.parts.snapshot()
    }

    /// Its name.
    #[must_use]
    pub fn alias(&self) -> &HiveAlias {
        &self.parts.alias
    }

    /// Its base URL as the queen reaches it; `None` when it is part of the queen's process.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.parts.address.as_deref()
    }

    /// The host name or IP under which the queen reaches it and its workers.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.parts.host
    }

    /// The devices of this machine as they were last seen, with what is left of them for workers.
    #[must_use]
    pub fn devices(&self) -> Vec<Device> {
        self.parts.reservations.without_held(self.parts.devices.list())
    }

    /// The models on this machine, by name.
    #[must_use]
    pub fn models(&self) -> Vec<ModelEntry> {
        self.parts.catalog.list()
    }

    /// How many bytes of models came over the network since the start.
    #[must_use]
    pub fn downloaded_bytes(&self) -> u64 {
        self.parts.downloads.received_bytes()
    }

    /// Where a file of a model is, by its digest. Nobody has looked at it.
    #[must_use]
    pub fn model_file(&self, digest: &Sha256Digest) -> Option<PathBuf> {
        self.parts.catalog.file_with(digest)
    }

    /// The workers, those that failed included, in the order of their start.
    #[must_use]
    pub fn workers(&self) -> Vec<SupervisedWorker> {
        self.parts.supervisor.list()
    }

    /// The answer to `GET /metrics`.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let free = |stat: rustix::fs::StatVfs| stat.f_bavail.saturating_mul(stat.f_frsize);
        metrics::text(Sample {
            hive: self.snapshot(),
            restarts: self.parts.supervisor.restarts(),
            downloaded_bytes: self.downloaded_bytes(),
            disk_free_bytes: rustix::fs::statvfs(&self.parts.models).ok().map(free),
        })
    }

    /// Lets the workers go on when the hive is shut down: the next hive of these files adopts them.
    pub fn leave_workers(&self) {
        self.parts.leaves_workers.store(true, Ordering::Relaxed);
    }

    /// Leaves the downloads that are cancelled from now on to the next hive of these files.
    pub fn leave_downloads(&self) {
        self.parts.downloads.leave();
    }

    /// Goes on with what an earlier hive of these files was downloading when it ended, as jobs like any
    /// other.
    pub fn resume_downloads(&self, jobs: &JobRegistry, executor: &Arc<dyn Executor>) {
        for operation in self.parts.catalog.unfinished_downloads() {
            match jobs.submit(&operation, operation::RESUMER, executor) {
                Ok(job) => tracing::info!(%job, "going on with a download"),
                Err(error) => tracing::warn!(%error, "a download cannot be gone on with"),
            }
        }
    }

    /// Stops all workers at once, tells the queen, and lets nothing else start. Done when the last
    /// process is gone, at the latest a moment after the grace for stopping. Another hive can take
    /// over the files then.
    pub async fn shutdown(&self) {
        self.parts.downloads.shutdown().await;
        if self.parts.leaves_workers.load(Ordering::Relaxed) {
            self.parts.supervisor.leave_all().await;
        } else {
            self.parts.supervisor.stop_all().await;
        }
        self.parts.stop.cancel();
        self.parts.tasks.close();
        self.parts.tasks.wait().await;
        drop(self.parts.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Finds out what models can do that an earlier hive added.
    fn find_kinds(&self) {
        let Parts { catalog, binary, changes, stop, tasks, .. } = &*self.parts;
        let (catalog, binary) = (Arc::clone(catalog), binary.clone());
        tasks.spawn(kinds::find_missing(catalog, binary, changes.clone(), stop.clone()));
    }

    fn start_heartbeats(&self, sink: crate::HeartbeatSink) {
        let parts = Arc::clone(&self.parts);
        let (changes, stop) = (self.parts.changes.subscribe(), self.parts.stop.clone());
        self.parts.tasks.spawn(beat(sink, move || parts.snapshot(), changes, stop));
    }
}

impl Executor for Hive {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let hive = self.clone();
        Box::pin(async move { hive.execute(operation, job).await })
    }

    fn only_looks(&self, operation: &Operation) -> bool {
        operation.only_looks()
    }
}

impl Parts {
    pub(crate) fn snapshot(&self) -> HiveHeartbeat {
        HiveHeartbeat {
            hive_id: self.alias.clone(),
            address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            devices: self.reservations.without_held(self.devices.list()),
            catalog: kinds::as_run(self.catalog.list(), &self.worker.arguments),
            workers: self.supervisor.list(),
            trouble: self.devices.trouble(),
        }
    }
}

fn setup(settings: &HiveSettings, changes: Changes) -> Setup {
    let (paths, hive, worker) = (&settings.paths, &settings.hive, &settings.worker);
    Setup {
        surroundings: Surroundings {
            hive_id: settings.alias.clone(),
            host: settings.worker_host,
            advertised_host: settings.advertised_host.clone(),
            queen_url: settings.queen_url.clone(),
            token_file: paths.secrets.join(TOKEN_FILE),
            reports_token: settings
                .alias
                .is_localhost()
                .then(|| paths.secrets.join(LOCAL_WORKERS_TOKEN)),
            heartbeat_interval: Duration::from_millis(worker.heartbeat_interval_ms),
            threads: worker.threads,
            arguments: worker.arguments.clone(),
        },
        ports: PortPool::new(settings.worker_host, hive.worker_ports),
        logs: paths.logs.clone(),
        run: paths.run.clone(),
        start_timeout: Duration::from_secs(hive.start_timeout_s),
        stop_grace: Duration::from_secs(hive.stop_grace_s),
        silence: Duration::from_secs(hive.unresponsive_after_s),
        max_failures: hive.max_failures as usize,
        failure_window: Duration::from_secs(hive.failure_window_s),
        changes,
    }
}

async fn open_catalog(file: PathBuf, models: PathBuf) -> Result<Catalog, HiveError> {
    let opened = tokio::task::spawn_blocking(move || {
        Catalog::open(&file, &models).map_err(|error| HiveError::catalog(file, &error))
    });
    opened.await.expect("opening a catalog does not panic, and nobody aborts it")
}

/// Two hives on the same files would both adopt the same workers.
fn lock(path: &Path) -> Result<File, HiveError> {
    let failed = |source| HiveError::Lock { lock: path.into(), source };
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HiveError::Busy { lock: path.into() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
