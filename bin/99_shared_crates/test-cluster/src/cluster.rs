//! A queen, its hive, its workers.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rbee_operations::{ModelImport, Operation, WorkerSpawn};
use serde_json::Value;
use tokio::process::Command;
use worker_contract::{DeviceId, HiveAlias, ModelEntry, SupervisedWorker};

use crate::daemon::{Launch, clean_command};
use crate::{
    Api, DEMO_ALIAS, Home, KeeperRun, ProcessInfo, RunningKeeper, StartedDaemon, demo_model,
    wait_until,
};

const QUEEN: &str = "queen-rbee";
const HIVE: &str = "rbee-hive";
const SOON: Duration = Duration::from_secs(30);

/// Where the hive of the queen's own machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// In the queen's process (`local-hive`).
    Integrated,
    /// In a process of its own, reached over HTTP.
    Distributed,
}

/// What a cluster is to be.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    topology: Topology,
    with_daemons: bool,
    environment: Vec<(String, String)>,
}

/// Daemons and workers in a home of their own. Dropping it ends them all and removes the home.
#[derive(Debug)]
pub struct Cluster {
    queen: Option<StartedDaemon>,
    hive: Option<StartedDaemon>,
    topology: Topology,
    environment: Vec<(String, String)>,
    token: Option<String>,
    machines: Vec<Machine>,
    // The last field: it is dropped, and kills what is left, after the handles above.
    home: Home,
}

/// Another machine of the house, as far as one computer can be two.
#[derive(Debug)]
struct Machine {
    // Dropped first, as in a cluster.
    _hive: StartedDaemon,
    home: Home,
}

impl ClusterBuilder {
    /// The queen has the hive in its own process.
    #[must_use]
    pub fn integrated(self) -> Self {
        self.topology(Topology::Integrated)
    }

    /// The hive is a process of its own.
    #[must_use]
    pub fn distributed(self) -> Self {
        self.topology(Topology::Distributed)
    }

    /// The hive is where `topology` says.
    #[must_use]
    pub fn topology(self, topology: Topology) -> Self {
        Self { topology, ..self }
    }

    /// Only the home is made; the test starts daemons through the keeper.
    #[must_use]
    pub fn without_daemons(self) -> Self {
        Self { with_daemons: false, ..self }
    }

    /// Sets an environment variable for all daemons and commands: `RBEE_WORKER__SLOTS`, …
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the home and starts the daemons.
    pub async fn start(self) -> Result<Cluster> {
        let home = Home::create(self.topology)?;
        let mut environment = environment_of(&home);
        environment.extend(self.environment);
        let mut cluster = Cluster {
            queen: None,
            hive: None,
            topology: self.topology,
            environment,
            token: None,
            machines: Vec::new(),
            home,
        };
        if self.with_daemons {
            cluster.start_queen().await?;
            if cluster.topology == Topology::Distributed {
                cluster.start_hive().await?;
            }
            cluster.wait_for_hive().await?;
        }
        Ok(cluster)
    }
}

impl Cluster {
    /// An integrated cluster with all daemons, unless told otherwise.
    #[must_use]
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            topology: Topology::Integrated,
            with_daemons: true,
            environment: Vec::new(),
        }
    }

    /// Its home.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Its topology.
    #[must_use]
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// The queen that the test started.
    pub fn queen(&mut self) -> Result<&mut StartedDaemon> {
        self.queen.as_mut().context("this test has not started the queen")
    }

    /// The hive process that the test started.
    pub fn hive(&mut self) -> Result<&mut StartedDaemon> {
        self.hive.as_mut().context("this cluster has no hive process")
    }

    /// The queen's HTTP API, whoever started the queen.
    pub fn api(&self) -> Result<Api> {
        Api::new(&self.home.address(QUEEN)?, self.token.as_deref())
    }

    /// Sends this API token with every further request.
    pub fn use_token(&mut self, token: Option<String>) {
        self.token = token;
    }

    /// The processes of this cluster.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessInfo> {
        self.home.processes()
    }

    /// Its worker processes.
    #[must_use]
    pub fn worker_processes(&self) -> Vec<ProcessInfo> {
        let mut found = self.processes();
        found.retain(|process| process.name == "llm-worker-rbee");
        found
    }

    /// Imports the demo model as [`DEMO_ALIAS`] on the queen's machine.
    pub async fn import_demo_model(&self) -> Result<ModelEntry> {
        self.import_demo_model_on(&HiveAlias::localhost()).await
    }

    /// Imports the demo model as [`DEMO_ALIAS`] on a machine.
    pub async fn import_demo_model_on(&self, hive: &HiveAlias) -> Result<ModelEntry> {
        let import = ModelImport {
            hive_id: hive.clone(),
            path: demo_model()?.to_string_lossy().into_owned(),
            alias: Some(DEMO_ALIAS.parse()?),
            link: false,
            projector: None,
        };
        self.api()?.run_job(&Operation::ModelImport(import)).await?.result()
    }

    /// Spawns a worker for the demo model on the queen's machine, on the device `$RBEE_TEST_DEVICE` or else
    /// `CPU-0`, and waits until she can use it.
    pub async fn spawn_worker(&self) -> Result<SupervisedWorker> {
        self.spawn_worker_on(&HiveAlias::localhost()).await
    }

    /// Spawns a worker for the demo model on a machine and waits until the queen can use it.
    pub async fn spawn_worker_on(&self, hive: &HiveAlias) -> Result<SupervisedWorker> {
        let spawn = WorkerSpawn {
            hive_id: hive.clone(),
            model: DEMO_ALIAS.parse()?,
            device: Some(device()?),
            slots: None,
            ctx_size: None,
        };
        let run = self.api()?.run_job(&Operation::WorkerSpawn(spawn)).await?;
        let worker: SupervisedWorker = run.result()?;
        self.wait_for_worker(&format!("worker {} to be ready", worker.worker_id), |listed| {
            // It has none until it reports itself: before, its hive speaks for it.
            let has_slots = listed["slots"]["total"].as_u64() > Some(0);
            let is_it = listed["worker_id"] == worker.worker_id.as_str();
            is_it && has_slots && listed["state"] == "ready"
        })
        .await?;
        Ok(worker)
    }

    /// The queen's own view: `GET /v1/status`.
    pub async fn status(&self) -> Result<Value> {
        self.api()?.get("/v1/status").await?.expect_status(200)?.json()
    }

    /// The workers in the queen's registry.
    pub async fn workers(&self) -> Result<Vec<Value>> {
        let status = self.status().await?;
        status["workers"].as_array().cloned().context("the queen's status lists no workers")
    }

    /// Waits for a worker in the queen's registry.
    pub async fn wait_for_worker(
        &self,
        missing: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait_until(missing, SOON, async || {
            self.workers().await.ok()?.into_iter().find(|worker| wanted(worker))
        })
        .await
    }

    /// Waits until no request is running in any worker.
    pub async fn wait_until_idle(&self) -> Result<()> {
        wait_until("all slots to be free", SOON, async || {
            let workers = self.workers().await.ok()?;
            let idle = |worker: &Value| worker["slots"]["busy"] == 0 && worker["in_flight"] == 0;
            workers.iter().all(idle).then_some(())
        })
        .await
    }

    /// Runs a command of the keeper to its end.
    pub async fn keeper<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<KeeperRun> {
        self.start_keeper(arguments)?.finish().await
    }

    /// Starts a command of the keeper.
    pub fn start_keeper<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<RunningKeeper> {
        let mut command = self.command("rbee-keeper");
        command.args(arguments);
        RunningKeeper::start(command)
    }

    /// A command of this cluster: its binary, in its environment.
    #[must_use]
    pub fn command(&self, binary: &str) -> Command {
        clean_command(&self.home.bin().join(binary), &self.environment)
    }

    /// Starts the queen.
    pub async fn start_queen(&mut self) -> Result<()> {
        let launch = self.launch(QUEEN, "RBEE_QUEEN__BIND");
        self.queen = Some(StartedDaemon::start(launch).await?);
        Ok(())
    }

    /// Starts a hive process that reports to the queen.
    pub async fn start_hive(&mut self) -> Result<()> {
        let mut launch = self.launch(HIVE, "RBEE_HIVE__BIND");
        let queen = self.home.address(QUEEN)?;
        launch.environment.push(("RBEE_HIVE__QUEEN_URL".to_owned(), queen));
        self.hive = Some(StartedDaemon::start(launch).await?);
        Ok(())
    }

    /// Adds a machine: a hive with a home of its own, which has the queen's secret.
    pub async fn add_machine(&mut self, alias: &HiveAlias) -> Result<()> {
        let home = Home::create(Topology::Distributed)?;
        let secrets = home.path().join("data/secrets");
        fs::create_dir_all(&secrets)?;
        let secret = self.home.path().join("data/secrets/local.token");
        fs::copy(secret, secrets.join("local.token")).context("the queen has no secret")?;

        let mut environment = environment_of(&home);
        environment.push(("RBEE_HIVE__ALIAS".to_owned(), alias.to_string()));
        environment.push(("RBEE_HIVE__QUEEN_URL".to_owned(), self.home.address(QUEEN)?));
        let launch = launch(&home, HIVE, "RBEE_HIVE__BIND", environment);
        let hive = StartedDaemon::start(launch).await?;
        self.machines.push(Machine { _hive: hive, home });
        self.wait_for_hive_called(alias).await
    }

    /// Takes the power of the machine that was added last: its processes are killed at once.
    pub fn cut_power(&mut self) -> Result<()> {
        let machine = self.machines.pop().context("no machine was added")?;
        drop(machine.home);
        Ok(())
    }

    /// Waits until the queen lists the hive of her own machine.
    pub async fn wait_for_hive(&self) -> Result<()> {
        self.wait_for_hive_called(&HiveAlias::localhost()).await
    }

    async fn wait_for_hive_called(&self, alias: &HiveAlias) -> Result<()> {
        wait_until(&format!("the hive {alias} in the queen's list"), SOON, async || {
            let status = self.status().await.ok()?;
            let hives = status["hives"].as_array()?;
            hives.iter().any(|hive| hive["hive_id"] == alias.as_str()).then_some(())
        })
        .await
    }

    fn launch(&self, name: &'static str, bind_variable: &'static str) -> Launch {
        launch(&self.home, name, bind_variable, self.environment.clone())
    }
}

/// Where workers run.
fn device() -> Result<DeviceId> {
    let told = env::var("RBEE_TEST_DEVICE").unwrap_or_else(|_| "CPU-0".to_owned());
    told.parse().with_context(|| format!("RBEE_TEST_DEVICE is {told}"))
}

fn launch(
    home: &Home,
    name: &'static str,
    bind_variable: &'static str,
    environment: Vec<(String, String)>,
) -> Launch {
    Launch {
        name,
        bind_variable,
        binary: home.bin().join(name),
        environment,
        log: home.logs().join(format!("{name}.log")),
        address_file: home.path().join("run").join(format!("{name}.addr")),
    }
}

fn environment_of(home: &Home) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    vec![
        ("RBEE_HOME".to_owned(), text(home.path())),
        ("RBEE_BIN_DIR".to_owned(), text(&home.bin())),
    ]
}
