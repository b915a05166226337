//! Operations that make hives of other machines known, put them there, and take them away.

use std::time::{Duration, Instant};

use access_tokens::Secret;
use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{DiscoveredHive, HiveAdd, HiveDiscover, HiveInstall, HiveUninstall};
use serde_json::json;
use worker_contract::HiveAlias;

use super::{Operations, outcome};
use crate::discovery::discover;
use crate::inventory::{InventoryError, Machine};
use crate::registry::Liveness;
use crate::remote_hive::with_causes;
use crate::ssh::config_hosts;

/// The longest search.
const MAX_SEARCH: Duration = Duration::from_secs(30);

impl Operations {
    /// Makes a machine known. Nothing is sent there.
    pub(super) fn hive_add(&self, add: HiveAdd) -> Result<Outcome, JobError> {
        let HiveAdd { hive_id, ssh, url, secret, port, advertise } = add;
        if hive_id.is_localhost() {
            let message = "localhost is the queen's own machine, which needs not be added";
            return Err(JobError::new("invalid_value", message));
        }
        if self.servers.has(&hive_id) {
            let message = format!("there is an attached server {hive_id} already");
            let hint =
                format!("choose another name, or first: rbee-keeper worker detach {hive_id}");
            return Err(JobError::new("name_taken", message).hint(hint));
        }
        let (machine, place) = match (ssh, url) {
            (Some(ssh), None) => {
                let place = format!("reached by ssh {ssh}");
                (Machine::by_ssh(ssh, port, checked_host(advertise)?), place)
            }
            (None, Some(url)) => {
                let url = crate::remote_hive::base_url(&url)?;
                let place = format!("at {url}");
                (Machine::by_url(url), place)
            }
            _ => {
                let message = "give either an SSH target or the URL of a hive that runs";
                return Err(JobError::new("invalid_value", message));
            }
        };
        let needs_secret = machine.ssh.is_none() && self.keyring.hives().get(&hive_id).is_none();
        let next = match (&machine.ssh, secret) {
            (None, None) if needs_secret => {
                let message = format!("hive {hive_id} cannot join without its secret");
                return Err(JobError::new("secret_missing", message).hint(
                    "the hive shows it on its console when it starts; give it with --secret-file FILE, or - for stdin",
                ));
            }
            (None, secret) => {
                self.inventory.add(&hive_id, machine)?;
                if let Some(secret) = secret {
                    let kept = self.keyring.hives().set(&hive_id, Secret::from(secret));
                    if let Err(error) = kept {
                        let _ = self.inventory.remove(&hive_id);
                        return Err(JobError::new("invalid_secret", with_causes(&error)));
                    }
                }
                String::new()
            }
            (Some(_), _) => {
                self.inventory.add(&hive_id, machine)?;
                format!("; next: rbee-keeper hive install {hive_id}")
            }
        };
        let data = json!({ "hive_id": hive_id });
        Ok(outcome(format!("Hive {hive_id} is added, {place}{next}"), &data))
    }

    /// Forgets a machine and its secret. What is installed there stays.
    pub(super) fn hive_remove(&self, hive: &HiveAlias) -> Result<Outcome, JobError> {
        let heard = self.registry.hive_heard(hive, Instant::now());
        match (self.inventory.ensure_added(hive), heard) {
            (Err(InventoryError::Unknown { .. }), Some((_, liveness))) if !hive.is_localhost() => {
                return self.take_off(hive, liveness);
            }
            (is_added, _) => is_added?,
        }
        self.forget_secret(hive)?;
        self.inventory.remove(hive)?;
        // An installation that is under way may have made another one.
        self.forget_secret(hive)?;
        // What came before with its secret is forgotten here, and what comes later is refused.
        self.registry.forget_hive(hive);
        let message =
            format!("Hive {hive} is removed; nothing that it reports is heard any longer");
        Ok(outcome(message, &json!({ "hive_id": hive })))
    }

    /// Forgets a hive that has only reported itself, once neither it nor a worker of it does any longer.
    fn take_off(&self, hive: &HiveAlias, liveness: Liveness) -> Result<Outcome, JobError> {
        let mut workers = self.registry.workers(Instant::now()).into_iter();
        let has_worker =
            workers.any(|worker| worker.said.hive_id == *hive && worker.server.is_none());
        if has_worker || liveness != Liveness::Gone {
            let message =
                format!("no hive {hive} was added: it, or a worker of it, reports by itself");
            return Err(JobError::new("hive_not_found", message).hint(format!(
                "stop it: rbee-keeper hive stop {hive}, or on its machine; then this takes it off the list"
            )));
        }
        self.registry.forget_hive(hive);
        let message = format!(
            "Hive {hive} is taken off the list; it was not added, and is there again when it reports"
        );
        Ok(outcome(message, &json!({ "hive_id": hive })))
    }

    fn forget_secret(&self, hive: &HiveAlias) -> Result<(), JobError> {
        let removed = self.keyring.hives().remove(hive);
        removed.map_err(|error| JobError::new("secret", with_causes(&error)))
    }

    pub(super) async fn hive_install(
        &self,
        install: HiveInstall,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        self.remote.install(install, job).await
    }

    pub(super) async fn hive_uninstall(
        &self,
        uninstall: &HiveUninstall,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        let hive = &uninstall.hive_id;
        let kept = self.remote.uninstall(uninstall, job).await?;
        self.registry.hive_stopped(hive);
        let message = match &kept {
            Some(folder) => format!(
                "Hive {hive} is taken away; its models stay in {folder}, `--purge` takes them, too"
            ),
            None => format!("Hive {hive} is taken away with all that was its"),
        };
        Ok(outcome(message, &json!({ "hive_id": hive, "kept": kept })))
    }

    /// Shows which hives announce themselves on the network.
    pub(super) async fn hive_discover(
        &self,
        request: &HiveDiscover,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        let wait = Duration::from_millis(u64::from(request.wait_ms)).min(MAX_SEARCH);
        job.say("Listening for hives on the network");
        let found = tokio::select! {
            found = discover(wait) => found,
            () = job.cancelled().cancelled() => return Err(JobError::cancelled()),
        };
        let found = found.map_err(|error| {
            JobError::new("no_mdns", format!("the network cannot be searched: {error}"))
        })?;
        let known = |hive: DiscoveredHive| {
            let said = self.hives.address(&hive.hive_id);
            DiscoveredHive { is_known: said.as_ref() == Some(&hive.url), ..hive }
        };
        let hives: Vec<_> = found.into_iter().map(known).collect();
        let message = match hives.len() {
            1 => "1 hive announces itself".to_owned(),
            n => format!("{n} hives announce themselves"),
        };
        Ok(outcome(message, &json!({ "hives": hives })))
    }

    /// The hosts of `~/.ssh/config`, each with the hive that was added by it.
    pub(super) fn hive_ssh_hosts(&self) -> Result<Outcome, JobError> {
        let home = std::env::home_dir().unwrap_or_default();
        let file = home.join(".ssh/config");
        let mut hosts = config_hosts(&file).map_err(|reason| {
            JobError::new("ssh_config", format!("{} cannot be read: {reason}", file.display()))
        })?;
        for host in &mut hosts {
            host.hive_id = self.inventory.by_ssh(|target| target.host() == host.alias);
        }
        let message = match hosts.len() {
            1 => "1 host".to_owned(),
            n => format!("{n} hosts"),
        };
        Ok(outcome(message, &json!({ "hosts": hosts })))
    }
}

/// A host that can stand in a configuration file.
fn checked_host(host: Option<String>) -> Result<Option<String>, JobError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    match host {
        Some(host) if host.is_empty() || host.len() > 253 || !host.chars().all(legal) => {
            let message = format!(
                "{:?} is neither a host name nor an address",
                host.chars().take(80).collect::<String>()
            );
            Err(JobError::new("invalid_value", message))
        }
        host => Ok(host),
    }
}

impl From<InventoryError> for JobError {
    fn from(error: InventoryError) -> Self {
        let (code, hint) = match &error {
            InventoryError::NameTaken { hive, .. } => (
                "name_taken",
                format!("choose another name, or first: rbee-keeper hive remove {hive}"),
            ),
            InventoryError::Configured { hive } => (
                "hive_configured",
                format!("change or remove [hives.{hive}] there, then restart the queen"),
            ),
            InventoryError::Unknown { .. } => {
                ("hive_not_found", "`rbee-keeper hive list` shows which there are".to_owned())
            }
            InventoryError::TooMany => ("too_many_hives", "remove some".to_owned()),
            InventoryError::File { .. } | InventoryError::Damaged { .. } => {
                return Self::new("inventory", with_causes(&error));
            }
        };
        Self::new(code, error.to_string()).hint(hint)
    }
}
