//! All parts of the queen, built once, in the order of their dependence.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(feature = "local-hive")]
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use access_tokens::{Authenticator, HiveSecrets, local_secret};
use anyhow::Context as _;
use daemon_http::{Edge, Edged, edge};
use daemon_lifecycle::{RunFiles, build_info};
use job_server::{Executor, JobRegistry, Limits};
use rbee_config::{Config, Paths};
use sqlite_file::StoreError;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::HiveAlias;

use crate::FEATURES;
use crate::attached::Servers;
use crate::clock::unix_seconds;
use crate::connection::{Pool, Trust};
use crate::decisions::{Decided, Decisions};
use crate::dispatch::Dispatcher;
use crate::events::Feed;
#[cfg(feature = "local-hive")]
use crate::hive_client::LocalHive;
use crate::hive_client::{HIVE_PROGRAM, HiveClients};
use crate::http::{Facts, HandlerParts, Handlers, router};
use crate::inventory::Inventory;
use crate::keyring::Keyring;
use crate::operation::Operations;
use crate::policy::{Policies, Steward};
use crate::registry::{Registry, ShownSecret};
use crate::relay::Relay;
use crate::remote_hive::{QueenAddress, RemoteHives};
use crate::rules::{self, Rules};
use crate::spawner::Spawner;

/// How often it is looked who has been silent for too long.
const SWEEP: Duration = Duration::from_millis(250);
/// The same when the queen has closed her door, and hears nobody. For the registry that is a pause after each look, which
/// counts as nobody's silence, so that a drain does not end the answers that it waits for.
const DEAF_SWEEP: Duration = Duration::from_secs(3);
/// How often it is tried to write records that could not be written.
const RETRY_RECORDS: Duration = Duration::from_secs(5);
/// How long cancelled jobs may take to clean up.
const JOB_GRACE: Duration = Duration::from_secs(3);

/// What a queen is built from.
#[derive(Debug)]
pub struct Settings {
    /// Her files.
    pub paths: Paths,
    /// Her configuration.
    pub config: Config,
    /// The address at which she listens.
    pub address: SocketAddr,
    /// Who may come in.
    pub auth: Authenticator,
    /// Ends her.
    pub stop: CancellationToken,
    /// The threads on which reports are heard.
    pub reports: Handle,
    /// Whether the hive of this machine is part of her process, in a build that has it.
    pub with_local_hive: bool,
}

/// All parts of a queen.
#[derive(Debug)]
pub struct App {
    routes: Edged,
    jobs: JobRegistry,
    decisions: Decisions,
    hives: HiveClients,
    tasks: TaskTracker,
    background: CancellationToken,
    /// Whether the workers of her own hive go on when she ends.
    keeps_workers: Arc<AtomicBool>,
}

impl App {
    /// Builds all parts, and starts the hive of this machine where it is one of them.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let Settings { paths, config, address, auth, stop, reports, with_local_hive } = settings;
        let hive_secrets = HiveSecrets::open(&paths.secrets)?;
        if let Err(error) = hive_secrets.get_or_make(&HiveAlias::localhost()) {
            let reason = anyhow::Error::new(error);
            let reason = format!("{reason:#}");
            tracing::warn!(reason, "the workers of this machine get the queen's own secret");
        }
        let auth = auth.with_hives(hive_secrets.clone());
        let own_secret = local_secret(&paths.secrets)?;
        let keyring = Keyring::new(own_secret.clone(), hive_secrets.clone())
            .with_configured(config.hives.keys().cloned());
        let inventory = Inventory::open(paths.data.join("hives.json"), &config.hives)?;
        tell_of_missing_secrets(&inventory, &keyring);
        let (tasks, background) = (TaskTracker::new(), CancellationToken::new());
        let hive_files = RunFiles::new(&paths.run, HIVE_PROGRAM);
        let has_past = has_run_before(&paths);
        let policies = open_policies(&paths, &config).await?;
        let decisions = open_decisions(&paths).await?;
        let rules = Rules::with_tokens(decisions.clone(), auth.clone());
        let registry = registry(&config, inventory.names(), with_local_hive, &hive_files)
            .with_policies(policies.clone())
            .with_rules(rules.clone());
        let registry = if has_past { registry.with_past() } else { registry };
        tasks.spawn(rules.watch(rules_file(&paths), background.clone()));

        // A connection belongs to the threads that made it: jobs, and looks at servers, have their own.
        let trust = Trust::new(config.queen.server_ca_file.clone());
        tasks.spawn(background.clone().run_until_cancelled_owned(trust.clone().tell_of_file()));
        let pool = || Pool::new(trust.clone());
        let servers = Servers::open(
            paths.data.join("servers.json"),
            &paths.secrets,
            keyring.clone(),
            pool(),
            registry.clone(),
        )?;
        let every = Duration::from_millis(config.worker.heartbeat_interval_ms);
        tasks.spawn(servers.clone().run(every, background.clone()));
        tasks.spawn(servers.clone().keep_found(background.clone()));

        let queen_url = url_for_this_machine(address);
        #[cfg(feature = "local-hive")]
        let local = with_local_hive.then(|| {
            LocalHive::new(paths.clone(), config.clone(), queen_url.clone(), registry.clone())
        });
        let hives = HiveClients::new(
            registry.clone(),
            inventory.clone(),
            hive_files,
            keyring.clone(),
            #[cfg(feature = "local-hive")]
            local,
        );
        let spawner = Spawner::new(
            Arc::new(hives.clone()),
            registry.clone(),
            policies.clone(),
            tasks.clone(),
            background.clone(),
        );
        let max_queue = config.queen.max_queue_per_model;
        let dispatcher =
            Dispatcher::new(registry.clone(), spawner.clone(), decisions.clone(), max_queue);
        let steward = Steward::new(policies.clone(), dispatcher.clone(), spawner);
        tasks.spawn(steward.run(background.clone()));
        tasks.spawn(dispatcher.clone().run(background.clone()));
        let stall = Duration::from_secs(config.queen.stall_timeout_s);
        let cut = CancellationToken::new();
        let relay =
            Relay::new(dispatcher.clone(), keyring.clone(), pool(), stall).cut_by(cut.clone());
        let drain = Duration::from_secs(config.queen.drain_s);
        let cutting = cut_answers(stop.clone(), drain, cut);
        let ended = background.clone();
        tasks.spawn(async move { ended.run_until_cancelled(cutting).await });
        let http = reqwest::Client::builder().no_proxy().build()?;
        let request_timeout = Duration::from_secs(config.queen.request_timeout_s);
        let executor: Arc<dyn Executor> = Arc::new(Operations {
            // Jobs have their own end.
            relay: relay.clone().with_pool(pool()).cut_by(CancellationToken::new()),
            registry: registry.clone(),
            policies,
            hives: hives.clone(),
            http: http.clone(),
            remote: RemoteHives::new(
                inventory.clone(),
                keyring.clone(),
                registry.clone(),
                QueenAddress { bound: address, advertise: config.queen.advertise.clone() },
            ),
            inventory: inventory.clone(),
            keyring,
            servers: servers.clone(),
            logs: paths.logs.clone(),
            request_timeout,
            #[cfg(not(feature = "local-hive"))]
            hive_process: crate::operation::HiveProcess {
                paths: paths.clone(),
                queen_url,
                stop_grace: Duration::from_secs(config.hive.stop_grace_s),
                http,
            },
        });
        let jobs = open_jobs(&paths, config.queen.keep_jobs).await?;
        tasks.spawn(retry_records(jobs.clone(), decisions.clone(), background.clone()));
        let vigilant = registry.clone().with_vigil();
        let swept = sweep(vigilant, decisions.clone(), stop.clone(), background.clone());
        tasks.spawn_on(swept, &reports);
        let (told, decided) = (inventory.clone(), decisions.clone());
        let feed = Feed::new(dispatcher, told, jobs.clone(), decided, stop.clone());
        tasks.spawn(feed.clone().run(background.clone()));
        let keeps_workers = Arc::<AtomicBool>::default();
        let facts = Facts {
            build: build_info("queen-rbee", env!("CARGO_PKG_VERSION"), FEATURES),
            began: Instant::now(),
            began_at: unix_seconds(),
            address: format!("http://{address}"),
            request_timeout,
            stop,
            keeps_workers: Arc::clone(&keeps_workers),
        };
        let handlers = Handlers::new(HandlerParts {
            relay,
            registry: registry.clone(),
            hives: hives.clone(),
            jobs: jobs.clone(),
            decisions: decisions.clone(),
            feed,
            facts: Arc::new(facts),
            servers,
            auth: auth.clone(),
            secrets: hive_secrets,
        });
        let max_body_bytes = config.queen.max_body_bytes;
        let routes =
            edge(router(handlers, executor.clone()), Edge { auth, max_body_bytes }).open_to_pages();
        #[cfg(feature = "local-hive")]
        let routes = match hives.local() {
            Some(local) => {
                let files = crate::http::local_files(local.clone(), own_secret);
                routes.with_self_guarded(rbee_hive::is_model_file, files)
            }
            None => routes,
        };
        let app = Self { routes, jobs, decisions, hives, tasks, background, keeps_workers };
        app.start_local_hive(&executor).await;
        registry.opens(Instant::now());
        Ok(app)
    }

    /// All routes, with the edge before them.
    pub fn routes(&self) -> Edged {
        self.routes.clone()
    }

    /// Takes no more jobs and ends those that there are: answers that are given as jobs have `drain` until then, the
    /// others are cancelled at once. To be called when the queen is told to stop, beside serving: who follows a job is
    /// served until that has ended.
    pub async fn end_jobs(&self, drain: Duration) {
        self.jobs.close();
        self.leave_downloads();
        self.jobs.drain(drain).await;
        self.jobs.shutdown(JOB_GRACE).await;
    }

    /// Ends what still runs: the hive of this process with its workers unless they are to be kept, background tasks. To
    /// be called when no more requests come in, and jobs [have ended](Self::end_jobs).
    pub async fn shutdown(&self) {
        self.stop_local_hive().await;
        self.background.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.decisions.close().await;
    }

    #[cfg(feature = "local-hive")]
    async fn start_local_hive(&self, executor: &Arc<dyn Executor>) {
        let Some(local) = self.hives.local() else { return };
        local.resume_by(&self.jobs, executor);
        // A queen without her hive still serves the workers of others, and says why it is missing.
        if let Err(error) = local.start().await {
            tracing::debug!(reason = %error, "serving without a hive until it can be started");
        }
        local.keep_trying();
    }

    #[cfg(feature = "local-hive")]
    fn leave_downloads(&self) {
        if let Some(hive) = self.hives.local().and_then(LocalHive::running) {
            hive.leave_downloads();
        }
    }

    #[cfg(not(feature = "local-hive"))]
    fn leave_downloads(&self) {
        let _ = &self.hives;
    }

    #[cfg(feature = "local-hive")]
    async fn stop_local_hive(&self) {
        let Some(local) = self.hives.local() else { return };
        local.give_up().await;
        if self.keeps_workers.load(Ordering::Relaxed)
            && let Some(hive) = local.running()
        {
            hive.leave_workers();
        }
        if let Err(error) = local.stop().await {
            tracing::error!(reason = %error, "the hive of this machine could not be stopped");
        }
    }

    #[cfg(not(feature = "local-hive"))]
    #[expect(clippy::unused_async, reason = "the other build has a hive to start")]
    async fn start_local_hive(&self, _executor: &Arc<dyn Executor>) {
        let _ = &self.hives;
    }

    #[cfg(not(feature = "local-hive"))]
    #[expect(clippy::unused_async, reason = "the other build has a hive to stop")]
    async fn stop_local_hive(&self) {
        let _ = &self.keeps_workers;
    }
}

/// A registry that waits, for a moment after the start, for the hives that should report.
fn registry(
    config: &Config,
    mut expected: Vec<HiveAlias>,
    with_local_hive: bool,
    hive_files: &RunFiles,
) -> Registry {
    let is_inside = cfg!(feature = "local-hive") && with_local_hive;
    if is_inside || hive_files.read_running().is_some() {
        expected.push(HiveAlias::localhost());
    }
    let interval = Duration::from_millis(config.worker.heartbeat_interval_ms);
    Registry::new(interval, expected, Instant::now()).shut()
}

/// Who is added and lacks a secret is silent without a word: its reports are refused.
fn tell_of_missing_secrets(inventory: &Inventory, keyring: &Keyring) {
    for (hive, url) in inventory.places() {
        let missing = keyring.secret(&hive, ShownSecret::OfHive).err();
        // One that was never installed is at no URL, and gets its secret when it is.
        if let (Some(missing), Some(_)) = (missing, url) {
            let remedy = missing.hint();
            tracing::error!(%hive, remedy, "{missing}, and what it reports is refused");
        }
    }
}

/// Whether a queen with these files has run before.
fn has_run_before(paths: &Paths) -> bool {
    paths.data.join("decisions.db").exists()
}

/// The operator's rules lie beside the configuration.
fn rules_file(paths: &Paths) -> PathBuf {
    paths.config_file.with_file_name(rules::FILE)
}

async fn open_policies(paths: &Paths, config: &Config) -> anyhow::Result<Policies> {
    let (file, models) = (paths.data.join("policies.db"), config.models.clone());
    let idle_s = config.queen.idle_ttl_s;
    let opened = tokio::task::spawn_blocking(move || Policies::open(&file, models, idle_s)).await?;
    Ok(opened?)
}

async fn open_jobs(paths: &Paths, keep_jobs: usize) -> anyhow::Result<JobRegistry> {
    let file = paths.data.join("queen.db");
    let limits = Limits { keep_jobs, ..Limits::default() };
    let shown = file.display().to_string();
    let open = move || match JobRegistry::open(limits, &file) {
        // What is in it is the past: that it is lost is no reason not to serve.
        Err(StoreError::Use { source, .. }) if sqlite_file::is_of_content(&source) => {
            let kept = sqlite_file::set_aside(&file)?;
            tracing::error!(reason = %source, kept = %kept.display(), "the jobs of the past are damaged: they are set aside");
            anyhow::Ok(JobRegistry::open(limits, &file)?)
        }
        opened => Ok(opened?),
    };
    let opened = tokio::task::spawn_blocking(open).await?;
    opened.with_context(|| format!("the jobs in {shown} cannot be opened"))
}

/// The log of decisions. Without its file the queen decides as well, and says why it is missing.
async fn open_decisions(paths: &Paths) -> anyhow::Result<Decisions> {
    let file = paths.data.join("decisions.db");
    let open = move || match Decisions::open(&file) {
        Err(StoreError::Use { source, .. }) if sqlite_file::is_of_content(&source) => {
            let kept = sqlite_file::set_aside(&file)?;
            tracing::error!(reason = %source, kept = %kept.display(), "the decisions of the past are damaged: they are set aside");
            anyhow::Ok(Decisions::open(&file)?)
        }
        opened => Ok(opened?),
    };
    let opened = tokio::task::spawn_blocking(open).await?;
    Ok(opened.unwrap_or_else(|error| {
        let reason = format!("{error:#}");
        tracing::error!(reason, "decisions are kept in memory only");
        Decisions::in_memory()
    }))
}

/// Sees to it that what could not be recorded is, when there is room again, though nothing else is to be recorded.
async fn retry_records(jobs: JobRegistry, decisions: Decisions, end: CancellationToken) {
    while end.run_until_cancelled(tokio::time::sleep(RETRY_RECORDS)).await.is_some() {
        if jobs.records_trouble().is_some() {
            jobs.retry_records();
        }
        if decisions.trouble().is_some() {
            decisions.retry();
        }
    }
}

/// Looks after everybody, until `deaf` as somebody who hears them, until `end` as one who does not.
async fn sweep(
    registry: Registry,
    decisions: Decisions,
    deaf: CancellationToken,
    end: CancellationToken,
) {
    for (every, stop, is_deaf) in [(SWEEP, deaf, false), (DEAF_SWEEP, end, true)] {
        if is_deaf {
            registry.hears_nobody();
        }
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => registry.sweep(Instant::now()),
            }
            for (worker, model) in registry.take_renewed() {
                decisions.record(Decided::renewed(&worker, &model));
            }
        }
    }
}

/// Cuts answers off by a last word, when the time is over that they have after the queen was told to stop.
async fn cut_answers(stop: CancellationToken, drain: Duration, cut: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(drain).await;
    cut.cancel();
}

/// The base URL under which processes of this machine reach an address.
fn url_for_this_machine(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}
