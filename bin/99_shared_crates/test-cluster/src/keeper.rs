//! The command line, as a person or a script uses it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::{Signal, send_signal};

/// The longest that a command may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct KeeperRun {
    /// The exit code; `None` when a signal ended the process.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// A command that is still running.
#[derive(Debug)]
pub struct RunningKeeper {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
    seen: Vec<u8>,
}

impl KeeperRun {
    /// This run, if its exit code is 0.
    pub fn expect_success(self) -> Result<Self> {
        ensure!(self.code == Some(0), "the command failed: {self}");
        Ok(self)
    }

    /// Its stdout as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("stdout is not JSON: {self}"))
    }
}

impl std::fmt::Display for KeeperRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {:?}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}

impl RunningKeeper {
    /// Starts a command whose output is to be looked at.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("rbee-keeper cannot be started")?;
        let stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let stderr = child.stderr.take().context("stderr is piped")?;
        Ok(Self { child, stdout, stderr, seen: Vec::new() })
    }

    /// Waits for the first bytes on stdout.
    pub async fn wait_for_output(&mut self) -> Result<()> {
        let mut piece = [0; 256];
        let read = tokio::time::timeout(DEADLINE, self.stdout.read(&mut piece));
        let count = read.await.context("rbee-keeper wrote nothing")??;
        ensure!(count > 0, "rbee-keeper closed its stdout");
        self.seen.extend(&piece[..count]);
        Ok(())
    }

    /// Waits until it has written something on stdout.
    pub async fn wait_for(&mut self, text: &str) -> Result<()> {
        let seen = |seen: &[u8]| String::from_utf8_lossy(seen).contains(text);
        while !seen(&self.seen) {
            let waited = self.wait_for_output().await;
            waited.with_context(|| {
                format!("waiting for {text:?}, after {}", String::from_utf8_lossy(&self.seen))
            })?;
        }
        Ok(())
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        if let Some(pid) = self.child.id() {
            send_signal(pid, Signal::INT);
        }
    }

    /// Waits for its end.
    pub async fn finish(mut self) -> Result<KeeperRun> {
        let mut stderr = Vec::new();
        let all = async {
            let (out, err) = tokio::join!(
                self.stdout.read_to_end(&mut self.seen),
                self.stderr.read_to_end(&mut stderr)
            );
            out.and(err)?;
            self.child.wait().await
        };
        let status = tokio::time::timeout(DEADLINE, all).await;
        let stdout = String::from_utf8_lossy(&self.seen).into_owned();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        let status = status.with_context(|| {
            format!("rbee-keeper does not end\nstdout: {stdout}\nstderr: {stderr}")
        })??;
        Ok(KeeperRun { code: status.code(), stdout, stderr })
    }
}
