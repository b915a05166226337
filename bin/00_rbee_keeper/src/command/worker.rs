//! `worker …`

use rbee_operations::{HiveTarget, Operation, WorkerLogs, WorkerSpawn, WorkerTarget};
use worker_contract::SupervisedWorker;

use super::log_lines::LogLines;
use super::{data, list, now, read, run, run_and_tell};
use crate::cli::{LogsArgs, OnHive, SpawnArgs, WorkerArg, WorkerCommand};
use crate::failure::Failure;
use crate::job_run;
use crate::render::{detail, table};
use crate::session::Session;
use crate::wanted_model::WantedModel;

pub(super) async fn worker(session: &Session, command: WorkerCommand) -> Result<(), Failure> {
    match command {
        WorkerCommand::Spawn(args) => {
            let operation = spawn(session, args).await?;
            run_and_tell(session, operation).await
        }
        WorkerCommand::List(on) => list_all(session, on).await,
        WorkerCommand::Get(worker) => get(session, worker).await,
        WorkerCommand::Delete(worker) => {
            run_and_tell(session, Operation::WorkerDelete(target(worker))).await
        }
        WorkerCommand::Restart(worker) => {
            run_and_tell(session, Operation::WorkerRestart(target(worker))).await
        }
        WorkerCommand::Logs(args) => logs(session, args).await,
    }
}

async fn list_all(session: &Session, on: OnHive) -> Result<(), Failure> {
    let outcome = run(session, Operation::WorkerList(HiveTarget { hive_id: on.hive })).await?;
    let workers = list(outcome, "workers")?;
    session
        .output
        .result(&workers, |style| {
            let workers: Vec<SupervisedWorker> = read(&workers)?;
            Ok(if workers.is_empty() {
                "no workers: start one with `rbee-keeper worker spawn --model MODEL`\n".to_owned()
            } else {
                table::workers(&workers, now(), style)
            })
        })
        .await
}

async fn get(session: &Session, worker: WorkerArg) -> Result<(), Failure> {
    let worker = data(run(session, Operation::WorkerGet(target(worker))).await?);
    session.output.result(&worker, |_| Ok(detail::worker(&read(&worker)?, now()))).await
}

/// Prints the lines as they come. With `--json` they are the items of one array.
async fn logs(session: &Session, args: LogsArgs) -> Result<(), Failure> {
    let LogsArgs { worker, follow, lines } = args;
    let WorkerTarget { hive_id, worker_id } = target(worker);
    let logs = WorkerLogs { hive_id, worker_id, lines: Some(lines), follow };
    let queen = session.queen().await?;
    let mut lines = LogLines::new(session.output);
    let ended = job_run::run_with(session, &queen, &Operation::WorkerLogs(logs), &mut lines).await;
    lines.close().await?;
    ended.map(drop)
}

async fn spawn(session: &Session, args: SpawnArgs) -> Result<Operation, Failure> {
    let SpawnArgs { model, device, on, slots, ctx_size } = args;
    let hive_id = on.hive;
    let model = match model {
        WantedModel::Named(alias) => alias,
        reference @ WantedModel::From(_) => {
            let queen = session.queen().await?;
            reference.alias(session, &queen, Some(&hive_id)).await?
        }
    };
    Ok(Operation::WorkerSpawn(WorkerSpawn { hive_id, model, device, slots, ctx_size }))
}

fn target(worker: WorkerArg) -> WorkerTarget {
    WorkerTarget { hive_id: worker.on.hive, worker_id: worker.worker_id }
}
