//! A temporary `RBEE_HOME`, and everything that runs in it.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{Binaries, ProcessInfo, Topology, processes};

/// Free ports, short waits, and one thread a worker: many clusters share the machine.
const CONFIG: &str = r#"[queen]
bind = "127.0.0.1:0"
drain_s = 5

[hive]
bind = "127.0.0.1:0"
worker_ports = "0"
stop_grace_s = 5
unresponsive_after_s = 6

[worker]
slots = 4
ctx_size = 4096
heartbeat_interval_ms = 200
threads = 1
"#;

const PREFIX: &str = "rbee-test-";
const LOG_LINES: usize = 40;

/// The folder that `RBEE_HOME` names. Dropping it kills its processes and removes it.
#[derive(Debug)]
pub struct Home {
    /// `None` only while it is dropped.
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Home {
    /// Makes the folder, its config and its `bin/`, where daemons and keeper find each other.
    pub fn create(topology: Topology) -> Result<Self> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep_left_behind);

        let prefix = format!("{PREFIX}{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        let path = dir.path().canonicalize()?;
        let home = Self { dir: Some(dir), path };
        fs::write(home.path().join("config.toml"), CONFIG)?;
        fs::create_dir_all(home.logs())?;
        home.link_binaries(topology)?;
        Ok(home)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The binaries of this home, as links to those under test.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.path.join("bin")
    }

    /// The logs of this home's daemons and workers.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join("run/logs")
    }

    /// The base URL of a daemon that runs in this home: what it wrote to its address file.
    pub fn address(&self, daemon: &str) -> Result<String> {
        let file = self.path.join("run").join(format!("{daemon}.addr"));
        let text = fs::read_to_string(&file)
            .with_context(|| format!("{daemon} has no address file {}", file.display()))?;
        let text = text.trim();
        Ok(if text.starts_with("http") { text.to_owned() } else { format!("http://{text}") })
    }

    /// The processes that run in this home.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessInfo> {
        processes::of_home(&self.path)
    }

    /// The last lines of every log of this home, each file under its name.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let mut files = Vec::new();
        collect_files(&self.path.join("run"), &mut files);
        files.sort();
        let is_log = |file: &&PathBuf| file.extension().is_some_and(|kind| kind == "log");
        files.iter().filter(is_log).fold(String::new(), |all, file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            format!("{all}--- {name}\n{}\n", tail(file, LOG_LINES))
        })
    }

    fn link_binaries(&self, topology: Topology) -> Result<()> {
        let binaries = Binaries::find()?;
        fs::create_dir(self.bin())?;
        symlink(binaries.queen(topology)?, self.bin().join("queen-rbee"))?;
        for name in ["rbee-hive", "llm-worker-rbee", "rbee-keeper"] {
            symlink(binaries.get(name)?, self.bin().join(name))?;
        }
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_tails(&self.log_tails());
        }
        processes::kill_all(&self.path);
        if let (Some(dir), true) = (self.dir.take(), env::var_os("RBEE_TEST_KEEP").is_some()) {
            let _kept = dir.keep();
        }
    }
}

/// The last lines of a file; of one that cannot be read, the reason.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    match fs::read(file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({error})"),
    }
}

fn collect_files(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect_files(&path, into);
        } else {
            into.push(path);
        }
    }
}

/// Removes the homes, and kills the processes, of test runs that no longer exist.
fn sweep_left_behind() {
    let Ok(entries) = fs::read_dir(env::temp_dir()) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let owner = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
        if owner.is_some_and(|pid: u32| !processes::is_alive(pid)) {
            processes::kill_all(&path);
            // Another test run may be sweeping the same folder.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[expect(clippy::print_stderr, reason = "the reader of a failed test needs the daemons' words")]
fn print_tails(tails: &str) {
    eprintln!("{tails}");
}
