//! Starting, stopping and taking away a hive that is installed on another machine.

use std::time::{Duration, Instant};

use daemon_lifecycle::{BuildInfo, LEAVES_WORKERS};
use job_server::{JobContext, JobError};
use rbee_operations::HiveUninstall;
use reqwest::StatusCode;
use tokio::time::timeout;
use worker_contract::HiveAlias;

use super::{RemoteHives, Shell, StepFailed, fact};
use crate::registry::Liveness;

/// How long a hive may take to answer.
const CALL: Duration = Duration::from_secs(5);
/// How long a hive may take until its first report.
const REPORT: Duration = Duration::from_secs(30);
/// How long a hive may take to end, in seconds: it gives its workers time.
const HALT: &str = "60";
/// How much of its log tells why a hive did not start, in lines.
const LAST_WORDS: &str = "15";

impl RemoteHives {
    /// Starts an installed hive and waits until it has reported.
    pub(crate) async fn start(&self, hive: &HiveAlias, job: &JobContext) -> Result<(), JobError> {
        let (_, target) = self.machine(hive)?;
        let _turn = self.turn(hive)?;
        job.say(format!("Connecting to {target}"));
        let shell = Shell::connect(hive, &target).await?;
        job.say(format!("Starting hive {hive}"));
        let since = Instant::now();
        shell.run("start the hive", &["start"], b"").await?;
        job.say("Waiting for its first report");
        let outcome = self.until_reported(hive, &shell, since).await;
        shell.ssh.close().await;
        outcome
    }

    /// Stops a hive and its workers. False if it did not run.
    pub(crate) async fn halt(&self, hive: &HiveAlias) -> Result<bool, JobError> {
        let (_, target) = self.machine(hive)?;
        let _turn = self.turn(hive)?;
        let shell = Shell::connect(hive, &target).await?;
        let was_running = shell.probe().await?.is_running;
        shell.run("stop the hive", &["halt", HALT], b"").await?;
        shell.ssh.close().await;
        Ok(was_running)
    }

    /// Takes a hive off its machine. Gives the folder with its models, where that stays.
    pub(crate) async fn uninstall(
        &self,
        request: &HiveUninstall,
        job: &JobContext,
    ) -> Result<Option<String>, JobError> {
        let hive = &request.hive_id;
        let (_, target) = self.machine(hive)?;
        let _turn = self.turn(hive)?;
        job.say(format!("Connecting to {target}"));
        let shell = Shell::connect(hive, &target).await?;
        let installed = shell.probe().await?.installed;
        if let Some(other) = installed.filter(|found| found.alias != hive.as_str()) {
            let message = format!("hive {}, and not {hive}, is installed there", other.alias);
            return Err(JobError::new("other_hive", message));
        }
        job.say("Stopping the hive and its workers");
        shell.run("stop the hive", &["halt", HALT], b"").await?;
        job.say("Taking it away");
        let purge = if request.purge { "yes" } else { "no" };
        let gone = shell.run("take it away", &["uninstall", purge], b"").await?;
        shell.ssh.close().await;
        let kept = fact(&gone, "kept");
        Ok((!kept.is_empty()).then(|| kept.to_owned()))
    }

    /// Starts what was just installed in the place of the hive that runs, whose workers run on. One that
    /// knows how ends by itself; any other, or one that cannot be asked, is killed.
    pub(super) async fn replace(&self, hive: &HiveAlias, shell: &Shell) -> Result<(), JobError> {
        let is_replaced = self.is_leaving(hive).await
            && shell.run("start the new hive", &["succeed", HALT], b"").await.is_ok();
        if !is_replaced {
            shell.run("replace the hive that runs", &["replace"], b"").await?;
        }
        // Only from here on it is not the one before that reports.
        self.until_reported(hive, shell, Instant::now()).await
    }

    /// Asks a hive to end without its workers. False if it does not know how, or does not answer.
    async fn is_leaving(&self, hive: &HiveAlias) -> bool {
        let Some(url) = self.inventory.url(hive) else { return false };
        let Ok(client) = reqwest::Client::builder().no_proxy().timeout(CALL).build() else {
            return false;
        };
        // Every hive that SSH leads to has one of its own.
        let Some(secret) = self.keyring.hives().get(hive) else { return false };
        let asked = client.get(format!("{url}/v1/build-info")).bearer_auth(secret.expose());
        let knows = async { asked.send().await?.json::<BuildInfo>().await }.await;
        if !knows.is_ok_and(|build| build.features.iter().any(|known| known == LEAVES_WORKERS)) {
            return false;
        }
        let asked = client.post(format!("{url}/v1/shutdown?workers=keep"));
        let answer = asked.bearer_auth(secret.expose()).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::ACCEPTED)
    }

    pub(super) async fn until_reported(
        &self,
        hive: &HiveAlias,
        shell: &Shell,
        since: Instant,
    ) -> Result<(), JobError> {
        let mut changes = self.registry.changes();
        let reported = async {
            while !self.has_reported(hive, since) {
                // The registry lives as long as the queen.
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        if timeout(REPORT, reported).await.is_ok() {
            return Ok(());
        }
        Err(self.why_silent(hive, shell).await?)
    }

    fn has_reported(&self, hive: &HiveAlias, since: Instant) -> bool {
        let now = Instant::now();
        let silent = |ms| Duration::from_millis(ms);
        self.registry.hives(now).iter().any(|known| {
            known.said.hive_id == *hive
                && known.liveness == Liveness::Alive
                && known.last_seen_ms.is_some_and(|ms| silent(ms) < now.duration_since(since))
        })
    }

    /// Why a hive that was started does not report. One that does not run is not tried any longer.
    async fn why_silent(&self, hive: &HiveAlias, shell: &Shell) -> Result<JobError, StepFailed> {
        let seconds = REPORT.as_secs();
        if shell.probe().await?.is_running {
            let message = format!(
                "hive {hive} runs, and no report of it has reached the queen in {seconds} s"
            );
            return Ok(JobError::new("hive_silent", message).hint(format!(
                "its machine must reach the queen: see `rbee-keeper hive logs {hive}`; if her address is \
                 wrong there, install again with --queen-url URL; a firewall may be in between"
            )));
        }
        let words = shell.run("read the log", &["logs", LAST_WORDS], b"").await;
        shell.run("stop the hive", &["halt", HALT], b"").await?;
        let words = words.unwrap_or_default();
        let message =
            format!("hive {hive} does not run after {seconds} s; its log ends with:\n{words}");
        Ok(JobError::new("hive_start_failed", message))
    }
}
