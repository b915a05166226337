//! Several machines on one computer, for tests: `hosts.sh` makes them of Linux namespaces, each with
//! its own network, processes, home and sshd, and a switch between them.
//!
//! The first machine is `desk`, where the queen is; its user may log in to all others by SSH.
#![warn(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use test_cluster::{
    Binaries, KeeperRun, RunningKeeper, Topology, demo_model, skip_test, wait_until,
};

/// The machine where the queen is.
pub const DESK: &str = "desk";

/// The queen's settings: she listens for all machines.
const CONFIG: &str = r#"[queen]
bind = "0.0.0.0:8500"
drain_s = 5

[hive]
stop_grace_s = 5

[worker]
slots = 2
ctx_size = 2048
heartbeat_interval_ms = 500
threads = 1
"#;

/// Machines that run. Dropping them ends them all.
#[derive(Debug)]
pub struct Testbed {
    dir: TempDir,
}

impl Testbed {
    /// The queen's machine and the others; `None`, and the test is told as skipped, where this computer
    /// does not permit it.
    pub fn start(others: &[&str]) -> Result<Option<Self>> {
        if let Some(reason) = Self::unavailable() {
            skip_test(&reason);
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("rbee-testbed-").tempdir()?;
        let testbed = Self { dir };
        let mut up = hosts(&["up"]);
        up.arg(testbed.dir.path()).arg(DESK).args(others);
        ran(up)?;
        testbed.equip_desk()?;
        Ok(Some(testbed))
    }

    /// Why this computer can have no machines, if so.
    #[must_use]
    pub fn unavailable() -> Option<String> {
        match hosts(&["may"]).output() {
            Ok(may) if may.status.success() => None,
            Ok(may) => Some(text(&may.stderr).trim().to_owned()),
            Err(error) => Some(format!("hosts.sh cannot be run: {error}")),
        }
    }

    /// The home of a machine's user.
    #[must_use]
    pub fn home(&self, machine: &str) -> PathBuf {
        self.dir.path().join(machine).join("home")
    }

    /// Where an installed hive is.
    #[must_use]
    pub fn hive_root(&self, machine: &str) -> PathBuf {
        self.home(machine).join(".local/share/rbee-hive")
    }

    /// Runs a command on a machine, as its user.
    pub fn run(&self, machine: &str, command: &[&str]) -> Result<Output> {
        self.command("exec", machine, command).output().context("hosts.sh cannot be run")
    }

    /// Runs a script of the shell on a machine as its root, which has to succeed.
    pub fn as_root(&self, machine: &str, script: &str) -> Result<String> {
        ran(self.command("root", machine, &["sh", "-c", script]))
    }

    /// Runs a script of the shell on a machine as its user, which has to succeed.
    pub fn sh(&self, machine: &str, script: &str) -> Result<String> {
        ran(self.command("exec", machine, &["sh", "-c", script]))
    }

    /// Runs a command of the keeper on the queen's machine.
    pub async fn keeper(&self, line: &str) -> Result<KeeperRun> {
        self.start_keeper(&words(line))?.finish().await
    }

    /// The same, and its JSON document; it has to succeed.
    pub async fn json(&self, line: &str) -> Result<Value> {
        self.keeper(&format!("{line} --json")).await?.expect_success()?.json()
    }

    /// Starts a command of the keeper on the queen's machine.
    pub fn start_keeper(&self, words: &[&str]) -> Result<RunningKeeper> {
        let mut command = vec!["rbee-keeper"];
        command.extend(words);
        RunningKeeper::start(self.command("exec", DESK, &command).into())
    }

    /// Starts systemd's user manager on a machine; false, and the test is told as skipped, where this
    /// computer cannot do it.
    pub fn start_systemd(&self, machine: &str) -> Result<bool> {
        let started =
            self.command("systemd", machine, &[]).output().context("hosts.sh cannot be run")?;
        if !started.status.success() {
            skip_test(&text(&started.stderr));
        }
        Ok(started.status.success())
    }

    /// Pulls a machine's network cable.
    pub fn cut(&self, machine: &str) -> Result<()> {
        self.verb("cut", machine)
    }

    /// Puts it back.
    pub fn heal(&self, machine: &str) -> Result<()> {
        self.verb("heal", machine)
    }

    /// Takes a machine's power.
    pub fn power_off(&self, machine: &str) -> Result<()> {
        self.verb("kill", machine)
    }

    /// Puts the demo model into a machine's home, and gives its path there.
    pub fn bring_model(&self, machine: &str) -> Result<String> {
        let file = "SmolLM2-135M-Instruct.gguf";
        fs::copy(demo_model()?, self.home(machine).join(file))?;
        self.as_root(machine, &format!("chown bee:bee /home/bee/{file}"))?;
        Ok(format!("/home/bee/{file}"))
    }

    /// Starts the queen, with a token, as any queen has that other machines can reach.
    pub async fn start_queen(&self) -> Result<()> {
        self.keeper("token create --name test").await?.expect_success()?;
        self.keeper("up").await?.expect_success()?;
        Ok(())
    }

    /// What the queen says of a hive, once it is as wanted.
    pub async fn hive_when(
        &self,
        hive: &str,
        missing: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let missing = format!("hive {hive}: {missing}");
        wait_until(&missing, Duration::from_secs(40), async || {
            let hives = self.json("hive list").await.ok()?;
            let found = hives.as_array()?.iter().find(|known| known["hive_id"] == hive)?.clone();
            wanted(&found).then_some(found)
        })
        .await
    }

    /// Adds, installs and starts a hive on the machine of the same name.
    pub async fn settle(&self, machine: &str) -> Result<()> {
        for line in [
            format!("hive add {machine} --ssh {machine}"),
            format!("hive install {machine}"),
            format!("hive start {machine}"),
        ] {
            self.keeper(&line).await?.expect_success().with_context(|| line)?;
        }
        Ok(())
    }

    /// Puts the demo model into a hive's catalog and starts a worker for it. Gives the worker's id.
    pub async fn employ(&self, machine: &str) -> Result<String> {
        let file = self.bring_model(machine)?;
        let import = format!("model import {file} --alias demo --hive {machine}");
        self.keeper(&import).await?.expect_success()?;
        let worker = self.json(&format!("worker spawn --model demo --hive {machine}")).await?;
        worker["worker_id"].as_str().map(str::to_owned).context("no worker id")
    }

    fn verb(&self, verb: &str, machine: &str) -> Result<()> {
        ran(self.command(verb, machine, &[])).map(drop)
    }

    fn command(&self, verb: &str, machine: &str, words: &[&str]) -> Command {
        let mut command = hosts(&[verb]);
        command.arg(self.dir.path()).arg(machine).args(words);
        command
    }

    /// The programs as real files: what they are linked to is not visible there.
    fn equip_desk(&self) -> Result<()> {
        let (binaries, bin) = (Binaries::find()?, self.home(DESK).join("bin"));
        fs::create_dir_all(bin.join("rbee-engine"))?;
        let worker = binaries.get("llm-worker-rbee")?;
        for (file, name) in [
            (binaries.queen(Topology::Integrated)?, "queen-rbee"),
            (binaries.get("rbee-keeper")?, "rbee-keeper"),
            (binaries.get("rbee-hive")?, "rbee-hive"),
            (worker.clone(), "llm-worker-rbee"),
        ] {
            fs::copy(&file, bin.join(name)).with_context(|| format!("{}", file.display()))?;
        }
        let engine = worker.parent().context("a file has a folder")?.join("rbee-engine");
        for entry in fs::read_dir(&engine).with_context(|| format!("{}", engine.display()))? {
            let entry = entry?;
            fs::copy(entry.path(), bin.join("rbee-engine").join(entry.file_name()))?;
        }
        let config = self.home(DESK).join(".config/rbee");
        fs::create_dir_all(&config)?;
        fs::write(config.join("config.toml"), CONFIG)?;
        self.as_root(DESK, "chown -R bee:bee /home/bee").map(drop)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // What does not end now ends with the computer; there is nobody to tell.
        let _ = hosts(&["down"]).arg(self.dir.path()).output();
    }
}

/// The words of a line, without quotes.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').filter(|word| !word.is_empty()).collect()
}

fn hosts(words: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts.sh"));
    command.args(words);
    command
}

fn ran(mut command: Command) -> Result<String> {
    let ended = command.output().context("hosts.sh cannot be run")?;
    let (said, complaint) = (text(&ended.stdout), text(&ended.stderr));
    ensure!(ended.status.success(), "{command:?} failed: {said}{complaint}");
    Ok(said)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
