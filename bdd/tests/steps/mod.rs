//! What the sentences of the features mean, by noun.

/// `anyhow::ensure!` for steps as well: the error becomes what the function returns.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(anyhow::anyhow!($($message)+).into());
        }
    };
}

mod answer;
mod catalog;
mod chat;
mod cluster;
mod disaster;
mod events;
mod files;
mod job;
mod keeper;
mod lists;
mod machine;
mod model;
mod remote;
mod request;
mod reuse;
mod rules;
mod server;
mod stream;
mod table;
mod token;
mod urgency;
mod worker;

use std::fmt;
use std::net::TcpListener;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
use cucumber::World;
use test_cluster::{
    Answer, Api, ChatStream, Cluster, JobRun, KeeperRun, ModelHub, RunningKeeper, SmallDisk,
    SseStream, Transcript,
};
use testbed::Testbed;
use tokio::process::Child;
use tokio::task::JoinSet;
use worker_contract::{JobId, SupervisedWorker};

/// How long a change may take to be seen.
const SOON: Duration = Duration::from_secs(20);
/// How long a job may take that writes a very long answer, on a machine that does much else.
const IN_THE_END: Duration = Duration::from_secs(180);

/// What one scenario has and remembers.
#[derive(Debug, Default, World)]
pub(crate) struct Rbee {
    // Before the cluster: a disk is unmounted before the home is removed.
    disk: Option<SmallDisk>,
    pub(crate) cluster: Option<Cluster>,
    /// Somebody else's.
    server: Option<Cluster>,
    hub: Option<ModelHub>,
    testbed: Option<Testbed>,
    answers: Vec<Answer>,
    stream: Option<ChatStream>,
    open_streams: Vec<ChatStream>,
    transcripts: Vec<Transcript>,
    /// The queen's events, as they come.
    events: Option<SseStream>,
    /// Aborted when the scenario ends.
    waiting: JoinSet<Result<Answer>>,
    /// Requests of a priority, whose answers come in the order of their ends.
    urgent: JoinSet<Result<(String, Answer)>>,
    worker: Option<SupervisedWorker>,
    killed: Vec<u32>,
    job: Option<JobId>,
    job_runs: Vec<JobRun>,
    keeper_runs: Vec<KeeperRun>,
    running_keeper: Option<RunningKeeper>,
    hand_worker: Option<Child>,
    hand_stderr: String,
    ended: Option<ExitStatus>,
    port: Option<TcpListener>,
    secret: Option<String>,
}

/// Why a step failed, with all causes.
pub(crate) struct Failure(anyhow::Error);

/// How a step ends.
pub(crate) type Step = Result<(), Failure>;

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl Rbee {
    fn cluster(&self) -> Result<&Cluster> {
        self.cluster.as_ref().context("the scenario has no cluster")
    }

    fn cluster_mut(&mut self) -> Result<&mut Cluster> {
        self.cluster.as_mut().context("the scenario has no cluster")
    }

    fn hub(&self) -> Result<&ModelHub> {
        self.hub.as_ref().context("the scenario has no hub")
    }

    fn api(&self) -> Result<Api> {
        self.cluster()?.api()
    }

    fn answer(&self) -> Result<&Answer> {
        self.answers.last().context("nothing was asked")
    }

    fn transcript(&self) -> Result<&Transcript> {
        self.transcripts.last().context("nothing was streamed")
    }

    fn worker(&self) -> Result<&SupervisedWorker> {
        self.worker.as_ref().context("no worker was spawned")
    }

    fn job(&self) -> Result<&JobId> {
        self.job.as_ref().context("no job was started")
    }

    fn job_run(&self) -> Result<&JobRun> {
        self.job_runs.last().context("no job was followed")
    }

    fn keeper_run(&self) -> Result<&KeeperRun> {
        self.keeper_runs.last().context("no command was run")
    }
}

/// Fails unless `text` contains `wanted`, and then shows the text.
fn mentions(text: &str, wanted: &str) -> Result<()> {
    ensure!(text.contains(wanted), "{wanted:?} is not mentioned in: {text}");
    Ok(())
}
