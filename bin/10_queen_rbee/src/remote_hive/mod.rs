//! Hives on other machines: put there, brought up to date, started, stopped and taken away over SSH.
//!
//! `probe` says what a machine is, `plan` what is to be done there; both are pure. `install` and
//! `lifecycle` do it, by the verbs of `script/hive.sh`. Everything lies in one folder of the machine's
//! user, `~/.local/share/rbee-hive`, which is the hive's `RBEE_HOME`. Each hive has a secret of its own.

mod address;
mod install;
mod lifecycle;
mod log;
mod look;
mod payload;
mod plan;
mod probe;
#[cfg(test)]
mod script_tests;
mod version;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use job_server::JobError;
use rbee_operations::SshTarget;
use worker_contract::HiveAlias;

pub(crate) use narration::with_causes;

pub(crate) use self::address::QueenAddress;
pub(crate) use self::log::RemoteLog;
use self::probe::Probe;
use crate::inventory::{Inventory, Machine, url_of};
use crate::keyring::Keyring;
use crate::registry::Registry;
use crate::ssh::{Script, Ssh, SshError};

const SCRIPT: &str = include_str!("script/hive.sh");

/// The hives on other machines. A clone shares its parts.
#[derive(Debug, Clone)]
pub(crate) struct RemoteHives {
    inventory: Inventory,
    keyring: Keyring,
    registry: Registry,
    queen: QueenAddress,
    /// The hives whose machines are being changed.
    busy: Arc<Mutex<BTreeSet<HiveAlias>>>,
}

/// A machine is being changed, for as long as this exists.
#[derive(Debug)]
struct Turn {
    hive: HiveAlias,
    busy: Arc<Mutex<BTreeSet<HiveAlias>>>,
}

/// A step on a machine that failed.
#[derive(Debug)]
struct StepFailed {
    hive: HiveAlias,
    /// What was being done, as an infinitive: `copy rbee-hive`.
    step: String,
    error: SshError,
}

/// A connection to the machine of a hive.
#[derive(Debug)]
struct Shell {
    hive: HiveAlias,
    ssh: Ssh,
}

impl RemoteHives {
    pub(crate) fn new(
        inventory: Inventory,
        keyring: Keyring,
        registry: Registry,
        queen: QueenAddress,
    ) -> Self {
        Self { inventory, keyring, registry, queen, busy: Arc::default() }
    }

    /// The right to change a machine, which one job at a time has.
    fn turn(&self, hive: &HiveAlias) -> Result<Turn, JobError> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(hive.clone()) {
            let message = format!("another job is at the machine of hive {hive}");
            return Err(JobError::new("hive_busy", message)
                .hint("`rbee-keeper job list` shows it; wait for its end, or cancel it"));
        }
        Ok(Turn { hive: hive.clone(), busy: Arc::clone(&self.busy) })
    }

    /// Whether SSH leads to the machine of a hive.
    pub(crate) fn has(&self, hive: &HiveAlias) -> bool {
        self.inventory.machine(hive).is_some_and(|machine| machine.ssh.is_some())
    }

    /// The queen's base URL as the machine of a hive reaches it, as far as that is known.
    pub(crate) fn queen_url(&self, hive: &HiveAlias) -> Option<String> {
        let told = self.inventory.machine(hive).and_then(|machine| machine.queen_url);
        told.or_else(|| {
            let QueenAddress { bound, advertise } = &self.queen;
            let named = advertise.as_ref().map(|host| url_of(host, bound.port()));
            named.or_else(|| (!bound.ip().is_unspecified()).then(|| format!("http://{bound}")))
        })
    }

    fn machine(&self, hive: &HiveAlias) -> Result<(Machine, SshTarget), JobError> {
        if hive.is_localhost() {
            let message = "the hive of the queen's own machine is not reached over SSH";
            return Err(JobError::new("hive_without_ssh", message)
                .hint("it is installed with the queen: `rbee-keeper hive start` starts it"));
        }
        let machine = self.inventory.machine(hive);
        match machine.and_then(|machine| machine.ssh.clone().map(|ssh| (machine, ssh))) {
            Some(found) => Ok(found),
            None => Err(JobError::new(
                "hive_without_ssh",
                format!("no SSH target is known for hive {hive}"),
            )
            .hint(format!("add it: rbee-keeper hive add {hive} --ssh USER@HOST"))),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hive);
    }
}

impl Shell {
    async fn connect(hive: &HiveAlias, target: &SshTarget) -> Result<Self, StepFailed> {
        match Ssh::connect(target).await {
            Ok(ssh) => Ok(Self { hive: hive.clone(), ssh }),
            Err(error) => {
                let step = "connect".to_owned();
                Err(StepFailed { hive: hive.clone(), step, error })
            }
        }
    }

    /// Runs a verb of the script; `step` says what for.
    async fn run(
        &self,
        step: &str,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<String, StepFailed> {
        let ran = self.ssh.run(script(), arguments, input).await;
        ran.map_err(|error| self.failed(step, error))
    }

    async fn probe(&self) -> Result<Probe, StepFailed> {
        Ok(Probe::read(&self.run("look at the machine", &["probe"], b"").await?))
    }

    fn failed(&self, step: &str, error: SshError) -> StepFailed {
        StepFailed { hive: self.hive.clone(), step: step.to_owned(), error }
    }
}

impl From<StepFailed> for JobError {
    fn from(failed: StepFailed) -> Self {
        let StepFailed { hive, step, error } = failed;
        let message = format!("hive {hive}, step \"{step}\": {}", with_causes(&error));
        match error.hint() {
            Some(hint) => Self::new(error.code(), message).hint(hint),
            None => Self::new(error.code(), message),
        }
    }
}

fn script() -> Script {
    Script { name: "hive.sh", text: SCRIPT }
}

/// The value of a line `name=value`.
fn fact<'t>(text: &'t str, name: &str) -> &'t str {
    let value = |line: &'t str| line.trim_end().strip_prefix(name)?.strip_prefix('=');
    text.lines().find_map(value).unwrap_or_default()
}

/// A base URL as somebody gave it, checked.
pub(crate) fn base_url(text: &str) -> Result<String, JobError> {
    Ok(address::base(text)?)
}
