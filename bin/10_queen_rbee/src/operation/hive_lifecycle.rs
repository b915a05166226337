//! Operations on hives, which the queen carries out herself.

use std::time::{Duration, Instant};

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{HiveTarget, Operation};
use reqwest::StatusCode;
use serde::Deserialize as _;
use serde_json::json;
use tokio::time::timeout;
use worker_contract::{HiveAlias, HiveHeartbeat};

#[cfg(not(feature = "local-hive"))]
use super::hive_process::Answering;
use super::{Operations, outcome};
#[cfg(not(feature = "local-hive"))]
use crate::registry::ReportError;
use crate::registry::{HiveReport, Liveness, Sender, ShownSecret};

/// How long a hive may take to accept that it is to stop.
const CALL: Duration = Duration::from_secs(5);
/// How long a hive elsewhere may take to stop its workers and end.
const END: Duration = Duration::from_secs(60);
/// For how long a hive that has just been started waits for its name, which one that was killed had elsewhere.
#[cfg(not(feature = "local-hive"))]
const NAME_FREE: Duration = Duration::from_secs(12);
/// How long between two looks whether a hive has ended, or has its name.
const LOOK: Duration = Duration::from_millis(50);

impl Operations {
    pub(super) async fn hive_list(&self) -> Outcome {
        self.registry.warmed_up(false).await;
        let hives = self.hives.all(Instant::now());
        let message = match hives.len() {
            1 => "1 hive".to_owned(),
            n => format!("{n} hives"),
        };
        outcome(message, &json!({ "hives": hives }))
    }

    /// Shows a hive; of one that is silent, what SSH tells of its machine.
    pub(super) async fn hive_status(
        &self,
        id: &HiveAlias,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        let known = self.known(id)?;
        if known.data["liveness"] != json!(Liveness::Gone) || !self.remote.has(id) {
            return Ok(known);
        }
        job.say(format!("Hive {id} is silent; looking at its machine by SSH"));
        let looked = job.cancelled().run_until_cancelled(self.remote.look(id)).await;
        let found = looked.ok_or_else(JobError::cancelled)?;
        let message = format!("Hive {id} is silent: {}", found.summary);
        let mut data = known.data;
        data["found"] = json!(found);
        Ok(Outcome::new(message, data))
    }

    /// What is known of a hive.
    fn known(&self, id: &HiveAlias) -> Result<Outcome, JobError> {
        let hives = self.hives.with_trouble(self.registry.hives(Instant::now()));
        if let Some(hive) = hives.into_iter().find(|hive| hive.said.hive_id == *id) {
            return Ok(outcome(summary(&hive), &hive));
        }
        if !self.inventory.names().contains(id) {
            // Says what is known instead, if nothing is.
            self.hives.get(id)?;
        }
        let address = self.hives.address(id);
        Ok(outcome(
            format!("Hive {id} has not reported yet"),
            &HiveReport::silent(id.clone(), address),
        ))
    }

    /// Asks the hive at once instead of waiting for its next report.
    pub(super) async fn hive_refresh(
        &self,
        id: &HiveAlias,
        job: JobContext,
    ) -> Result<Outcome, JobError> {
        let operation = Operation::HiveRefresh(HiveTarget { hive_id: id.clone() });
        let client = self.hives.get(id)?;
        let secret = self.keyring.secret(id, self.registry.shown_by(id))?;
        let answer = client.execute(operation, job).await?;
        let report = HiveHeartbeat::deserialize(&answer.data).map_err(|error| {
            JobError::new("hive_lost", format!("hive {id} gave an unexpected report: {error}"))
        })?;
        let reported_as = report.hive_id.clone();
        let is_own = self.keyring.is_own(&secret);
        // Another machine speaks for itself only; a process of this user has the name it likes.
        if reported_as != *id && (!is_own || self.inventory.names().contains(id)) {
            let message = format!("what answers as hive {id} calls itself {reported_as}");
            return Err(JobError::new("other_hive", message)
                .hint(format!("give it its name: [hive] alias = \"{id}\"")));
        }
        let counts = || self.keyring.hives().is_secret_of(id, secret.expose());
        let sender = if is_own {
            Sender::of(ShownSecret::Own)
        } else {
            Sender::new(ShownSecret::OfHive, &counts)
        };
        self.registry
            .hive_beat_by(report, sender, Instant::now())
            .map_err(|error| JobError::new("hive_refused", error.to_string()))?;
        self.known(&reported_as)
    }

    pub(super) async fn hive_restart(
        &self,
        id: &HiveAlias,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        if !id.is_localhost() && !self.remote.has(id) {
            return Err(elsewhere(id, "restarted"));
        }
        self.hive_stop(id, job).await?;
        self.hive_start(id, job).await
    }

    pub(super) async fn hive_start(
        &self,
        id: &HiveAlias,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        if !id.is_localhost() {
            let hives = self.registry.hives(Instant::now());
            let running = hives.into_iter().find(|hive| hive.said.hive_id == *id);
            return match running.filter(|hive| hive.liveness != Liveness::Gone) {
                Some(hive) => Ok(outcome(format!("Hive {id} is running"), &hive)),
                None if self.remote.has(id) => {
                    self.remote.start(id, job).await?;
                    let status = self.known(id)?;
                    Ok(Outcome::new(format!("Hive {id} has started"), status.data))
                }
                None => Err(elsewhere(id, "started")),
            };
        }
        job.say("Starting the hive of this machine");
        let is_fresh = self.start_local(job).await?;
        let status = self.known(id)?;
        let message = if is_fresh { "has started" } else { "was running already" };
        Ok(Outcome::new(format!("Hive {id} {message}"), status.data))
    }

    pub(super) async fn hive_stop(
        &self,
        id: &HiveAlias,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        job.say(format!("Stopping hive {id} and its workers"));
        let was_running = if id.is_localhost() {
            self.stop_local().await?
        } else if self.remote.has(id) {
            // Also ends what would start it again.
            self.remote.halt(id).await?
        } else {
            self.stop_remote(id).await?
        };
        self.registry.hive_stopped(id);
        let message = if was_running { "has stopped" } else { "was not running" };
        Ok(outcome(format!("Hive {id} {message}"), &json!({ "hive_id": id })))
    }

    #[cfg(feature = "local-hive")]
    async fn start_local(&self, _job: &JobContext) -> Result<bool, JobError> {
        match self.hives.local() {
            Some(local) => local.start().await,
            None => Err(JobError::new("no_local_hive", "this queen was started without her hive")),
        }
    }

    #[cfg(feature = "local-hive")]
    async fn stop_local(&self) -> Result<bool, JobError> {
        let local = self.hives.local();
        if let Some(local) = local {
            local.leave();
        }
        match local.filter(|local| local.is_running()) {
            Some(local) => local.stop().await,
            None => self.stop_remote(&HiveAlias::localhost()).await,
        }
    }

    #[cfg(not(feature = "local-hive"))]
    async fn start_local(&self, job: &JobContext) -> Result<bool, JobError> {
        let Answering { url, is_fresh } = self.hive_process.start(job).await?;
        // Its first report can be late, and it may be elsewhere than the one before it: what it says now is what the
        // next operation needs.
        let localhost = HiveAlias::localhost();
        let operation = Operation::HiveStatus(HiveTarget { hive_id: localhost.clone() });
        let silent = JobContext::silent(&operation, job.caller(), job.cancelled().clone());
        let answer = self.hives.at(&localhost, &url)?.execute(operation, silent).await?;
        let Ok(report) = HiveHeartbeat::deserialize(&answer.data) else { return Ok(is_fresh) };
        let own = || Sender::of(ShownSecret::Own);
        let until = Instant::now() + NAME_FREE;
        loop {
            match self.registry.hive_beat_by(report.clone(), own(), Instant::now()) {
                Ok(()) => return Ok(is_fresh),
                // That of a killed one, elsewhere, is kept for it for a while.
                Err(ReportError::NameTaken { .. }) if is_fresh && Instant::now() < until => {}
                Err(error) => return Err(JobError::new("hive_refused", error.to_string())),
            }
            let free = tokio::time::sleep(LOOK);
            job.cancelled().run_until_cancelled(free).await.ok_or_else(JobError::cancelled)?;
        }
    }

    #[cfg(not(feature = "local-hive"))]
    async fn stop_local(&self) -> Result<bool, JobError> {
        let asked = self.stop_remote(&HiveAlias::localhost()).await;
        let ended = self.hive_process.stop().await?;
        Ok(asked.unwrap_or(false) || ended)
    }

    /// Asks a hive over HTTP to stop, and waits until nothing listens there any longer.
    async fn stop_remote(&self, id: &HiveAlias) -> Result<bool, JobError> {
        let Some(address) = self.hives.address(id) else {
            if id.is_localhost() {
                return Ok(false);
            }
            // Names the hives that there are.
            return self.hives.get(id).map(|_| false);
        };
        let secret = self.keyring.secret(id, self.registry.shown_by(id))?;
        let call = self.http.post(format!("{address}/v1/shutdown"));
        let call = call.bearer_auth(secret.expose()).timeout(CALL);
        match call.send().await {
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => {}
            Ok(answer) => {
                let message = format!("hive {id} refused to stop: HTTP {}", answer.status());
                return Err(JobError::new("hive_refused", message));
            }
            Err(error) if error.is_connect() => return Ok(false),
            Err(_) => {
                let message = format!("hive {id} does not answer at {address}");
                return Err(JobError::new("hive_unreachable", message));
            }
        }
        let ended = async {
            while self.http.get(format!("{address}/health")).timeout(CALL).send().await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(END, ended).await.map_err(|_| {
            let message = format!("hive {id} was asked to stop and has not ended");
            JobError::new("hive_does_not_end", message)
        })?;
        Ok(true)
    }
}

fn summary(HiveReport { said: hive, liveness, .. }: &HiveReport) -> String {
    if let (Liveness::Gone, Some(trouble)) = (liveness, &hive.trouble) {
        return format!("Hive {}: {trouble}", hive.hive_id);
    }
    format!(
        "Hive {}: {} devices, {} models, {} workers",
        hive.hive_id,
        hive.devices.len(),
        hive.catalog.len(),
        hive.workers.len()
    )
}

fn elsewhere(id: &HiveAlias, what: &str) -> JobError {
    let message = format!("hive {id} is on another machine and cannot be {what} from here");
    JobError::new("hive_elsewhere", message)
        .hint(format!("let the queen do it by SSH: rbee-keeper hive add {id} --ssh USER@HOST"))
}
