//! A daemon that a test started, and can end in every way that daemons end.

use std::env;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use crate::home::tail;
use crate::{Api, Signal, send_signal, wait_until};

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(60);

/// How a daemon is started, each time alike.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// `queen-rbee` or `rbee-hive`.
    pub(crate) name: &'static str,
    /// The variable that sets its bind address.
    pub(crate) bind_variable: &'static str,
    pub(crate) binary: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) log: PathBuf,
    pub(crate) address_file: PathBuf,
}

/// A running daemon.
#[derive(Debug)]
pub struct StartedDaemon {
    /// Its process id.
    pub pid: u32,
    /// Its base URL: `http://127.0.0.1:41234`.
    pub address: String,
    child: Child,
    launch: Launch,
}

impl StartedDaemon {
    pub(crate) async fn start(launch: Launch) -> Result<Self> {
        let child = spawn(&launch)?;
        let pid = child.id().context("a fresh child has a pid")?;
        let mut daemon = Self { pid, address: String::new(), child, launch };
        daemon.wait_healthy().await?;
        Ok(daemon)
    }

    /// Waits until the daemon has written its address and answers there.
    pub async fn wait_healthy(&mut self) -> Result<()> {
        let missing = format!("{} to be healthy", self.launch.name);
        let end = wait_until(&missing, START, async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(Err(status));
            }
            let text = std::fs::read_to_string(&self.launch.address_file).ok()?;
            let text = text.trim();
            self.address =
                if text.starts_with("http") { text.into() } else { format!("http://{text}") };
            let health = Api::new(&self.address, None).ok()?.get("/health").await.ok()?;
            (health.status == 200).then_some(Ok(()))
        });
        match end.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                bail!("{} ended at start, {status}:\n{}", self.launch.name, self.log_tail())
            }
            Err(error) => Err(error.context(self.log_tail())),
        }
    }

    /// Kills it (SIGKILL): no clean-up, as in a power cut.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("{} cannot be killed", self.launch.name))
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        send_signal(self.pid, Signal::TERM);
        let end = tokio::time::timeout(STOP, self.child.wait()).await;
        Ok(end.with_context(|| format!("{} ignores SIGTERM", self.launch.name))??)
    }

    /// Terminates it and starts it again at the same address.
    pub async fn restart(&mut self) -> Result<()> {
        self.terminate().await?;
        self.start_again().await
    }

    /// Starts it again at the same address, after it was killed or terminated.
    pub async fn start_again(&mut self) -> Result<()> {
        let bind = self.address.trim_start_matches("http://").to_owned();
        let variable = self.launch.bind_variable;
        self.launch.environment.retain(|(name, _)| name != variable);
        self.launch.environment.push((variable.to_owned(), bind));
        self.child = spawn(&self.launch)?;
        self.pid = self.child.id().context("a fresh child has a pid")?;
        self.wait_healthy().await
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.launch.log, 40)
    }

    /// Its HTTP API, without a token.
    pub fn api(&self) -> Result<Api> {
        Api::new(&self.address, None)
    }
}

fn spawn(launch: &Launch) -> Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(&launch.log)?;
    clean_command(&launch.binary, &launch.environment)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} cannot be started", launch.binary.display()))
}

/// A command that sees only the `RBEE_` variables that its cluster gives it.
pub(crate) fn clean_command(binary: &Path, environment: &[(String, String)]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("RBEE_") {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}
