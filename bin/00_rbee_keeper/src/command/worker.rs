//! `worker …`

use rbee_operations::{HiveTarget, Operation, WorkerSpawn, WorkerTarget};
use worker_contract::SupervisedWorker;

use super::{data, list, now, read, run, run_and_tell};
use crate::cli::{OnHive, SpawnArgs, WorkerArg, WorkerCommand};
use crate::failure::Failure;
use crate::render::{detail, table};
use crate::session::Session;

pub(super) async fn worker(session: &Session, command: WorkerCommand) -> Result<(), Failure> {
    match command {
        WorkerCommand::Spawn(args) => run_and_tell(session, spawn(args)).await,
        WorkerCommand::List(on) => list_all(session, on).await,
        WorkerCommand::Get(worker) => get(session, worker).await,
        WorkerCommand::Delete(worker) => {
            run_and_tell(session, Operation::WorkerDelete(target(worker))).await
        }
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

fn spawn(args: SpawnArgs) -> Operation {
    Operation::WorkerSpawn(WorkerSpawn {
        hive_id: args.on.hive,
        model: args.model,
        device: args.device,
        slots: args.slots,
        ctx_size: args.ctx_size,
    })
}

fn target(worker: WorkerArg) -> WorkerTarget {
    WorkerTarget { hive_id: worker.on.hive, worker_id: worker.worker_id }
}
