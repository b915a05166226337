//! Putting a hive on a machine, or bringing it up to date.
//!
//! Everything arrives in a folder beside the installation and is put in its place in one step at the
//! end. What fails before that is taken away again.

use std::time::{Duration, Instant};

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{HiveInstall, Progress};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use worker_contract::{Device, HiveAlias};

use super::address::{Addresses, NoAddress, addresses};
use super::payload::{Content, Payload, PayloadFile, digest};
use super::plan::{Plan, Setting, Unsuitable, config_text, plan, read_manifest, unit_text};
use super::probe::Probe;
use super::{RemoteHives, Shell, StepFailed, fact, script};
use crate::inventory::url_of;

/// The shortest time between two progress events.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How long a machine that was lost is waited for, to take away what was copied.
const COME_BACK: Duration = Duration::from_secs(60);
/// How long between two attempts.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// The service of systemd's user manager.
const UNIT: &str = "rbee-hive.service";

/// What an installation brings along, all known before anything is sent.
struct Freight {
    payload: Payload,
    setting: Setting,
    unit: String,
    send: Vec<usize>,
    reuse: Vec<String>,
    bytes: u64,
    staging: String,
}

impl RemoteHives {
    /// Puts a hive on its machine. One that is there is brought up to date; its workers run on.
    pub(crate) async fn install(
        &self,
        request: HiveInstall,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        let hive = &request.hive_id;
        let (machine, target) = self.machine(hive)?;
        let _turn = self.turn(hive)?;
        let payload = tokio::task::spawn_blocking(Payload::of_this_machine);
        job.say(format!("Connecting to {target}"));
        let shell = Shell::connect(hive, &target).await?;
        job.say("Looking at the machine");
        let probe = shell.probe().await?;
        let found = addresses(hive, &machine, &self.queen, request.queen_url.as_deref(), &probe)?;
        let payload = payload.await.map_err(|error| incomplete(&error))?;
        let payload = payload.map_err(|error| incomplete(&error))?;
        let setting = self.setting(hive, &found)?;
        let manifest = match &probe.installed {
            Some(_) => shell.run("look at what is installed", &["manifest"], b"").await?,
            None => String::new(),
        };
        let url = url_of(&found.host, found.bind.port());
        let planned = plan(hive, &probe, &read_manifest(&manifest), &payload, &setting);
        let (send, reuse, bytes) = match planned.map_err(|error| unsuitable(hive, &error))? {
            Plan::Install { send, reuse, bytes } => (send, reuse, bytes),
            Plan::Nothing => {
                self.locate(hive, &url, &found.queen_url)?;
                let data = json!({ "hive_id": hive, "release": payload.release, "changed": false });
                return Ok(Outcome::new(format!("Hive {hive} is up to date"), data));
            }
        };
        job.say(describe(&probe));
        let staging = format!(".staging-{}", uuid::Uuid::new_v4().simple());
        let unit = unit_text(hive);
        let freight = Freight { payload, setting, unit, send, reuse, bytes, staging };
        let mut made = String::new();
        let brought = tokio::select! {
            brought = self.bring(&shell, &freight, &mut made, job) => brought.map_err(Failed::Step),
            () = job.cancelled().cancelled() => Err(Failed::Cancelled),
        };
        let (devices, manager) = match brought {
            Ok(brought) => brought,
            Err(failed) => {
                return Err(self.give_up(failed, shell, &freight.staging, &made, job).await);
            }
        };
        self.locate(hive, &url, &found.queen_url)?;
        if probe.is_running {
            job.say("Replacing the hive that runs; its workers run on");
            if let Err(error) = self.replace(hive, &shell).await {
                let error = self.bring_back(hive, &shell, error, job).await;
                shell.ssh.close().await;
                return Err(error);
            }
        }
        shell.run("remove earlier releases", &["accept"], b"").await?;
        shell.ssh.close().await;
        let verb = if probe.installed.is_some() { "brought up to date" } else { "installed" };
        let next = if probe.is_running {
            String::new()
        } else {
            format!("; start it: rbee-keeper hive start {hive}")
        };
        let data = json!({
            "hive_id": hive,
            "release": freight.payload.release,
            "changed": true,
            "copied_bytes": freight.bytes,
            "devices": devices,
            "manager": manager,
            "queen_url": found.queen_url,
            "url": url,
        });
        Ok(Outcome::new(format!("Hive {hive} is {verb}{next}"), data))
    }

    /// Everything up to the moment from which the machine has the new installation.
    async fn bring(
        &self,
        shell: &Shell,
        freight: &Freight,
        made: &mut String,
        job: &JobContext,
    ) -> Result<(Value, String), StepFailed> {
        let staging = freight.staging.as_str();
        let begun = shell.run("make a folder", &["begin", staging], b"").await?;
        fact(&begun, "made").clone_into(made);
        if !freight.reuse.is_empty() {
            let mut arguments = vec!["reuse", staging];
            let files = freight.payload.files.iter();
            for file in files.filter(|file| freight.reuse.contains(&file.name)) {
                arguments.extend([file.name.as_str(), file.sha256.as_hex()]);
            }
            shell.run("take over files that are there", &arguments, b"").await?;
        }
        let mut before = 0;
        for file in freight.send.iter().map(|&index| &freight.payload.files[index]) {
            send(shell, staging, file, before, freight.bytes, job).await?;
            before += file.bytes;
        }
        job.say("Trying the programs");
        let devices = shell.run("try the programs", &["try", staging], b"").await?;
        let devices = listed(&devices);
        job.say_with(
            format!("The engine can use {}", names(&devices)),
            json!({ "devices": devices }),
        );
        job.say("Writing the configuration and the secret of this hive");
        let secret = format!("{}\n", freight.setting.secret.expose());
        for (name, text) in [
            ("config.toml", freight.setting.config.as_str()),
            ("local.token", secret.as_str()),
            (UNIT, freight.unit.as_str()),
        ] {
            put(shell, staging, name, text).await?;
        }
        let arguments = ["activate", staging, &freight.payload.release, shell.hive.as_str()];
        let activated = shell.run("put it in place", &arguments, b"").await?;
        let manager = fact(&activated, "manager").to_owned();
        if fact(&activated, "boot") == "yes" {
            job.say("systemd keeps it running, also after a restart of the machine");
        } else if manager == "systemd" {
            job.warn(
                "systemd keeps it running while its user is logged in; for longer, run there as root: \
                 loginctl enable-linger USER",
            );
        } else {
            job.warn(
                "no systemd runs there for this user: a shell keeps the hive running, and after a \
                 restart of the machine `rbee-keeper hive start` starts it",
            );
        }
        Ok((json!(devices), manager))
    }

    fn setting(&self, hive: &HiveAlias, found: &Addresses) -> Result<Setting, JobError> {
        let secret = self.keyring.hives().get_or_make(hive);
        let secret = secret.map_err(|error| JobError::new("secret", error.to_string()))?;
        if self.inventory.machine(hive).is_none() {
            // It was removed meanwhile, and is to be heard no longer.
            let removed = self.keyring.hives().remove(hive);
            removed.map_err(|error| JobError::new("secret", super::with_causes(&error)))?;
            return Err(self.machine(hive).err().unwrap_or_else(JobError::cancelled));
        }
        let config = config_text(hive, found);
        let config_digest = digest(config.as_bytes()).as_hex().to_owned();
        let secret_digest = digest(format!("{}\n", secret.expose()).as_bytes()).as_hex().to_owned();
        Ok(Setting { config, secret, config_digest, secret_digest })
    }

    fn locate(&self, hive: &HiveAlias, url: &str, queen_url: &str) -> Result<(), JobError> {
        let located = self.inventory.locate(hive, url, queen_url);
        located.map_err(|error| JobError::new("inventory", super::with_causes(&error)))
    }

    /// Puts the former hive in the place of one that does not work.
    async fn bring_back(
        &self,
        hive: &HiveAlias,
        shell: &Shell,
        error: JobError,
        job: &JobContext,
    ) -> JobError {
        job.warn(format!("{}; putting the former hive back", error.message));
        let mut former = self.put_former_back(hive, shell).await;
        if former == Former::Unknown
            && let Ok((_, target)) = self.machine(hive)
        {
            job.warn(format!("{target} is not there; waiting for it, to put the former hive back"));
            let come_back = async {
                loop {
                    if let Ok(shell) = Shell::connect(hive, &target).await {
                        let former = self.put_former_back(hive, &shell).await;
                        shell.ssh.close().await;
                        if former != Former::Unknown {
                            return former;
                        }
                    }
                    sleep(TRY_AGAIN).await;
                }
            };
            former = timeout(COME_BACK, come_back).await.unwrap_or(Former::Unknown);
        }
        former.told(hive, error)
    }

    async fn put_former_back(&self, hive: &HiveAlias, shell: &Shell) -> Former {
        match shell.run("put the former hive back", &["bring_back"], b"").await {
            Err(step) if step.error.is_lost() => Former::Unknown,
            Err(_) => Former::IsDown,
            Ok(_) => match self.until_reported(hive, shell, Instant::now()).await {
                Ok(()) => Former::Runs,
                Err(_) => Former::IsDown,
            },
        }
    }

    /// Takes away what was brought, also when the machine has to be waited for.
    async fn give_up(
        &self,
        failed: Failed,
        shell: Shell,
        staging: &str,
        made: &str,
        job: &JobContext,
    ) -> JobError {
        let hive = shell.hive.clone();
        let is_lost = matches!(&failed, Failed::Step(step) if step.error.is_lost());
        job.say("Taking away what was copied");
        let step = "take away what was copied";
        let mut undone =
            !is_lost && shell.run(step, &["rollback", staging, made], b"").await.is_ok();
        shell.ssh.close().await;
        if !undone && let Ok((_, target)) = self.machine(&hive) {
            job.warn(format!(
                "{target} is not there; waiting for it, to take away what was copied"
            ));
            let come_back = async {
                loop {
                    if let Ok(shell) = Shell::connect(&hive, &target).await
                        && shell.run(step, &["rollback", staging, made], b"").await.is_ok()
                    {
                        shell.ssh.close().await;
                        return;
                    }
                    sleep(TRY_AGAIN).await;
                }
            };
            undone = timeout(COME_BACK, come_back).await.is_ok();
        }
        let error = match failed {
            Failed::Cancelled => JobError::cancelled(),
            Failed::Step(step) => step.into(),
        };
        if undone {
            return error;
        }
        let left = "what was copied is still in ~/.local/share/rbee-hive there; the next `hive install` \
                    or `hive uninstall` takes it away";
        let hint = error.hint.as_ref().map_or(left.to_owned(), |hint| format!("{hint}; {left}"));
        error.hint(hint)
    }
}

/// What became of the hive that was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Former {
    Runs,
    IsDown,
    /// Its machine could not be asked.
    Unknown,
}

impl Former {
    /// The error of an upgrade, with what became of the hive.
    fn told(self, hive: &HiveAlias, error: JobError) -> JobError {
        let hint = error.hint.as_ref().map_or(String::new(), |hint| format!("{hint}; "));
        error.hint(match self {
            Self::Runs => format!("{hint}the former hive runs again, with its workers"),
            Self::IsDown => format!(
                "{hint}the former hive could not be started again either: see \
                 `rbee-keeper hive logs {hive}`, then `rbee-keeper hive install {hive}`"
            ),
            Self::Unknown => format!(
                "{hint}its machine is not heard, so nobody knows which of the two hives runs there: once \
                 it is back, see `rbee-keeper hive status {hive}`, then `rbee-keeper hive install {hive}`"
            ),
        })
    }
}

enum Failed {
    Step(StepFailed),
    Cancelled,
}

async fn send(
    shell: &Shell,
    staging: &str,
    file: &PayloadFile,
    before: u64,
    total: u64,
    job: &JobContext,
) -> Result<(), StepFailed> {
    let step = format!("copy {}", file.name);
    let bytes = file.bytes.to_string();
    let arguments =
        ["receive", staging, file.name.as_str(), file.mode, bytes.as_str(), file.sha256.as_hex()];
    let doing = format!("Copying {}", file.name);
    let mut told: Option<Instant> = None;
    let tell = |done: u64| {
        let is_due = told.is_none_or(|told| told.elapsed() >= TELL_EVERY);
        if is_due || before + done >= total {
            told = Some(Instant::now());
            let progress =
                Progress { done: before + done, total: Some(total), unit: "bytes".into() };
            job.progress(doing.clone(), progress);
        }
    };
    let sent = match &file.content {
        Content::File(path) => shell.ssh.send(script(), &arguments, path, tell).await,
        Content::Text(text) => shell.ssh.run(script(), &arguments, text.as_bytes()).await,
    };
    sent.map(drop).map_err(|error| shell.failed(&step, error))
}

async fn put(shell: &Shell, staging: &str, name: &str, text: &str) -> Result<(), StepFailed> {
    let (bytes, sha256) = (text.len().to_string(), digest(text.as_bytes()));
    let arguments = ["receive", staging, name, "600", bytes.as_str(), sha256.as_hex()];
    shell.run(&format!("write {name}"), &arguments, text.as_bytes()).await.map(drop)
}

/// The devices that the worker over there listed.
fn listed(text: &str) -> Vec<Device> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum List {
        Bare(Vec<Device>),
        Named { devices: Vec<Device> },
    }
    match serde_json::from_str(text) {
        Ok(List::Bare(devices) | List::Named { devices }) => devices,
        Err(_) => Vec::new(),
    }
}

fn names(devices: &[Device]) -> String {
    let names: Vec<String> = devices.iter().map(|d| format!("{} ({})", d.id, d.name)).collect();
    if names.is_empty() { "no device".to_owned() } else { names.join(", ") }
}

fn describe(probe: &Probe) -> String {
    let Probe { os, arch, free_bytes, gpu_nodes, .. } = probe;
    let glibc = probe.glibc.map(|glibc| format!(", glibc {glibc}")).unwrap_or_default();
    let gpus = match gpu_nodes {
        0 => String::new(),
        1 => ", 1 GPU".to_owned(),
        n => format!(", {n} GPU device files"),
    };
    format!("{os} on {arch}{glibc}, {} MiB free{gpus}", free_bytes >> 20)
}

fn incomplete(error: &dyn std::error::Error) -> JobError {
    let message = format!("the queen has not all that a hive needs: {}", super::with_causes(error));
    JobError::new("incomplete_installation", message)
}

fn unsuitable(hive: &HiveAlias, error: &Unsuitable) -> JobError {
    let message = format!("hive {hive}, step \"look at the machine\": {error}");
    JobError::new(error.code(), message).hint(error.hint())
}

impl From<NoAddress> for JobError {
    fn from(error: NoAddress) -> Self {
        Self::new("no_address", error.to_string()).hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_machine_that_is_not_heard_nobody_says_what_runs_there() {
        let hive: HiveAlias = "gpu-1".parse().unwrap();
        let told = |former: Former, hint: Option<&str>| {
            let error = JobError::new("ssh_lost", "the connection broke");
            let error = hint.map_or(error.clone(), |hint| error.hint(hint));
            former.told(&hive, error).hint.unwrap()
        };
        for (former, said, not_said) in [
            (Former::Runs, "the former hive runs again", "could not be started"),
            (Former::IsDown, "could not be started again either", "runs again"),
            (Former::Unknown, "nobody knows which of the two hives runs", "could not be started"),
        ] {
            let hint = told(former, Some("look at the cable"));
            assert!(hint.starts_with("look at the cable; "), "{hint}");
            assert!(hint.contains(said) && !hint.contains(not_said), "{hint}");
            assert!(!told(former, None).contains("; the former"), "nothing stands before it");
        }
    }
}
