//! `down`: stops workers, hive and queen of this machine, in this order.

use std::time::Duration;

use daemon_lifecycle::ProcessIdentity;
use futures::future::join_all;
use rbee_operations::{HiveTarget, Operation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use worker_contract::{HiveAlias, WorkerId};

use super::read;
use crate::failure::Failure;
use crate::job_run;
use crate::queen_client::Queen;
use crate::queen_process::{self, Daemon};
use crate::session::Session;
use crate::view;

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
    let mut stopped = Vec::new();
    if queen_process::running(session, Daemon::Queen).is_some() {
        // A queen that does not answer is stopped all the same, by its process.
        if let Ok(queen) = session.running_queen().await {
            stopped.extend(local_workers(session, &queen).await);
            stop_hive(session, &queen, &mut stopped).await;
        }
    }
    for daemon in [Daemon::Hive, Daemon::Queen] {
        if let Some(ended) = queen_process::stop(session, daemon).await? {
            let name = daemon.name().to_owned();
            stopped.push(Stopped { name, pid: ended.pid, killed: ended.killed });
        }
    }
    stopped.extend(stop_orphans(session).await?);
    tell(session, &stopped).await
}

/// The workers of this machine: they end with their hive.
async fn local_workers(session: &Session, queen: &Queen) -> Vec<Stopped> {
    let Ok(status) = queen.get("/v1/status").await else { return Vec::new() };
    let Ok(status) = read::<view::Status>(&status) else { return Vec::new() };
    let alias = session.config.hive.alias.as_str();
    let local_hive = status.hives.into_iter().filter(|hive| hive.hive_id == alias);
    local_hive
        .flat_map(|hive| hive.workers)
        .map(|worker| Stopped {
            name: format!("worker {} ({})", worker.worker_id, worker.model),
            pid: worker.pid,
            killed: false,
        })
        .collect()
}

/// Stops a hive beside the queen by a job, so that the queen knows of it.
async fn stop_hive(session: &Session, queen: &Queen, stopped: &mut Vec<Stopped>) {
    let Some(hive) = queen_process::running(session, Daemon::Hive) else { return };
    let localhost = HiveTarget { hive_id: HiveAlias::localhost() };
    match job_run::run(session, queen, &Operation::HiveStop(localhost)).await {
        Ok(_) => stopped.push(Stopped {
            name: Daemon::Hive.name().to_owned(),
            pid: hive.pid,
            killed: false,
        }),
        Err(failure) => {
            session.output.warn(&format!("the queen could not stop the hive: {failure}"));
        }
    }
}

/// Stops the workers that a killed hive left behind, by the list that it kept of them.
async fn stop_orphans(session: &Session) -> Result<Vec<Stopped>, Failure> {
    let grace = Duration::from_secs(session.config.hive.stop_grace_s);
    let stopping = orphans(session).into_iter().map(async |orphan: Orphan| {
        let process = ProcessIdentity { pid: orphan.pid, start_time: orphan.start_time };
        let ended = queen_process::stop_process(process, grace).await?;
        let name = format!("worker {}", orphan.worker_id);
        Ok(ended.map(|ended| Stopped { name, pid: ended.pid, killed: ended.killed }))
    });
    let ended: Result<Vec<_>, Failure> = join_all(stopping).await.into_iter().collect();
    Ok(ended?.into_iter().flatten().collect())
}

/// The hive's list of the worker processes that it has started.
fn orphans(session: &Session) -> Vec<Orphan> {
    let text = std::fs::read_to_string(session.paths.run.join("workers.json"));
    let ledger: Option<Ledger> = text.ok().and_then(|text| serde_json::from_str(&text).ok());
    // Start times count from the boot, so those of another boot mean nothing.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    ledger.filter(|ledger| ledger.boot == boot.trim()).map(|l| l.workers).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
struct Ledger {
    boot: String,
    workers: Vec<Orphan>,
}

#[derive(Debug, Deserialize)]
struct Orphan {
    worker_id: WorkerId,
    pid: u32,
    start_time: u64,
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
            process("worker w-1 (smollm2)", 12, false),
            process("rbee-hive", 11, true),
            process("queen-rbee", 10, false),
        ]), @r"
        stopped worker w-1 (smollm2), pid 12
        killed rbee-hive, pid 11
        stopped queen-rbee, pid 10
        ");
        assert_eq!(report(&[]), "nothing was running\n");
    }
}
