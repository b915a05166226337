//! `down`: stops queen, hive and workers of this machine, in this order, so that requests which run
//! can still be finished.

use std::time::Duration;

use daemon_lifecycle::{ProcessIdentity, find_started_with};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::json;
use worker_contract::{ModelAlias, WorkerId};

use crate::failure::Failure;
use crate::queen_process::{self, Daemon};
use crate::session::Session;

/// A process that has been stopped.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Stopped {
    name: String,
    pid: u32,
    /// Whether it did not end in time and was killed.
    killed: bool,
}

pub(super) async fn down(session: &Session) -> Result<(), Failure> {
    session.only_local("down")?;
    let workers = workers(session);
    let mut stopped = Vec::new();
    for daemon in [Daemon::Queen, Daemon::Hive] {
        if let Some(ended) = queen_process::stop(session, daemon).await? {
            let name = daemon.name().to_owned();
            stopped.push(Stopped { name, pid: ended.pid, killed: ended.killed });
        }
    }
    let grace = Duration::from_secs(session.config.hive.stop_grace_s);
    stopped.extend(try_join_all(workers.iter().map(|worker| end(worker, grace))).await?);
    // Those that no list names: it is damaged, or their hive was killed before it wrote them down.
    let strays = try_join_all(strays(session).into_iter().map(|stray| end_stray(stray, grace)));
    stopped.extend(strays.await?);
    tell(session, &stopped).await
}

/// Waits for the end of a worker, which its hive has brought about unless the hive was killed.
async fn end(worker: &Worker, grace: Duration) -> Result<Stopped, Failure> {
    let ended = queen_process::stop_process(worker.identity(), grace).await?;
    let name = format!("worker {} ({})", worker.id, worker.model);
    Ok(Stopped { name, pid: worker.pid, killed: ended.is_some_and(|ended| ended.killed) })
}

async fn end_stray(process: ProcessIdentity, grace: Duration) -> Result<Stopped, Failure> {
    let ended = queen_process::stop_process(process, grace).await?;
    let killed = ended.is_some_and(|ended| ended.killed);
    Ok(Stopped { name: "a worker that no list names".to_owned(), pid: process.pid, killed })
}

/// The worker processes that run, by what a hive puts into their environment: a token that begins with
/// what is in a file of these files' hives, and a point.
fn strays(session: &Session) -> Vec<ProcessIdentity> {
    let shared = std::fs::read_to_string(session.paths.run.join("worker-tokens"));
    let Some(shared) = shared.ok().filter(|shared| !shared.trim().is_empty()) else {
        return Vec::new();
    };
    let beginning = format!("{}.", shared.trim());
    let is_ours = |token: &str| token.starts_with(&beginning);
    let found = find_started_with("RBEE_WORKER_TOKEN", is_ours);
    found.into_iter().map(|(process, _)| process).collect()
}

/// The worker processes that run, by the list that the hive keeps of them for its successor.
pub(super) fn workers(session: &Session) -> Vec<Worker> {
    let text = std::fs::read_to_string(session.paths.run.join("workers.json"));
    let ledger: Option<Ledger> = text.ok().and_then(|text| serde_json::from_str(&text).ok());
    // Start times count from the boot, so those of another boot mean nothing.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let ledger = ledger.filter(|ledger| ledger.boot == boot.trim());
    let mut workers = ledger.map(|ledger| ledger.workers).unwrap_or_default();
    workers.retain(|worker| worker.identity().is_running());
    workers
}

#[derive(Debug, Deserialize)]
struct Ledger {
    boot: String,
    workers: Vec<Worker>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Worker {
    #[serde(rename = "worker_id")]
    id: WorkerId,
    model: ModelAlias,
    pid: u32,
    start_time: u64,
}

impl Worker {
    fn identity(&self) -> ProcessIdentity {
        ProcessIdentity { pid: self.pid, start_time: self.start_time }
    }
}

async fn tell(session: &Session, stopped: &[Stopped]) -> Result<(), Failure> {
    if session.output.is_json() {
        return session.output.document(&json!({ "stopped": stopped })).await;
    }
    session.output.text(report(stopped)).await
}

fn report(stopped: &[Stopped]) -> String {
    if stopped.is_empty() {
        return "nothing was running\n".to_owned();
    }
    let line = |process: &Stopped| {
        let verb = if process.killed { "killed" } else { "stopped" };
        format!("{verb} {}, pid {}\n", process.name, process.pid)
    };
    stopped.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_each_process_and_how_it_ended() {
        let process = |name: &str, pid, killed| Stopped { name: name.to_owned(), pid, killed };
        insta::assert_snapshot!(report(&[
            process("queen-rbee", 10, false),
            process("rbee-hive", 11, true),
            process("worker w-1 (smollm2)", 12, false),
        ]), @r"
        stopped queen-rbee, pid 10
        killed rbee-hive, pid 11
        stopped worker w-1 (smollm2), pid 12
        ");
        assert_eq!(report(&[]), "nothing was running\n");
    }
}
