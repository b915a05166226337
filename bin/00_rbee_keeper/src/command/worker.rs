//! `worker …`

use rbee_operations::{
    AttachedWorker, HiveTarget, Operation, ServerApi, WorkerAttach, WorkerDetach, WorkerLogs,
    WorkerSpawn, WorkerTarget,
};
use serde_json::Value;
use worker_contract::{HiveAlias, SupervisedWorker};

use super::hive::read_secret;
use super::log_lines::LogLines;
use super::{data, now, read, run, run_and_tell};
use crate::cli::{AttachArgs, LogsArgs, OnHive, SpawnArgs, WorkerArg, WorkerCommand};
use crate::failure::Failure;
use crate::job_run;
use crate::render::{detail, table};
use crate::session::Session;
use crate::view::{Hive, Status, Worker};
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
            let target = target(session, worker).await?;
            run_and_tell(session, Operation::WorkerDelete(target)).await
        }
        WorkerCommand::Restart(worker) => {
            let target = target(session, worker).await?;
            run_and_tell(session, Operation::WorkerRestart(target)).await
        }
        WorkerCommand::Logs(args) => logs(session, args).await,
        WorkerCommand::Attach(args) => run_and_tell(session, attach(args).await?).await,
        WorkerCommand::Detach { name } => {
            run_and_tell(session, Operation::WorkerDetach(WorkerDetach { name })).await
        }
    }
}

async fn list_all(session: &Session, on: OnHive) -> Result<(), Failure> {
    let outcome = run(session, Operation::WorkerList(HiveTarget { hive_id: on.hive })).await?;
    let mut outcome = data(outcome);
    let Some(Value::Array(own)) = outcome.get_mut("workers").map(Value::take) else {
        return Err(Failure::Protocol("it has no list \"workers\"".to_owned()));
    };
    let attached = match outcome.get_mut("attached").map(Value::take) {
        Some(Value::Array(attached)) => attached,
        _ => Vec::new(),
    };
    let all: Value = own.iter().chain(&attached).cloned().collect();
    session
        .output
        .result(&all, |style| {
            let own: Vec<SupervisedWorker> = read(&own.into())?;
            let attached: Vec<AttachedWorker> = read(&attached.into())?;
            let tables = [
                (!own.is_empty()).then(|| table::workers(&own, now(), style)),
                (!attached.is_empty()).then(|| table::attached(&attached, style)),
            ];
            let tables: Vec<String> = tables.into_iter().flatten().collect();
            Ok(if tables.is_empty() {
                "no workers: start one with `rbee-keeper worker spawn --model MODEL`\n".to_owned()
            } else {
                tables.join("\n")
            })
        })
        .await
}

/// The operation, with the token that a file or stdin holds: on the command line others could see it.
async fn attach(args: AttachArgs) -> Result<Operation, Failure> {
    let AttachArgs { url, api: _, name, secret_file, slots, models } = args;
    let token = match secret_file {
        Some(file) => Some(read_secret(&file).await?),
        None => None,
    };
    let api = ServerApi::Openai;
    Ok(Operation::WorkerAttach(WorkerAttach { url, api, name, token, slots, models }))
}

async fn get(session: &Session, worker: WorkerArg) -> Result<(), Failure> {
    let target = target(session, worker).await?;
    let worker = data(run(session, Operation::WorkerGet(target)).await?);
    let is_of_server = worker.get("server").is_some();
    session
        .output
        .result(&worker, |_| {
            Ok(if is_of_server {
                detail::attached(&read(&worker)?)
            } else {
                detail::worker(&read(&worker)?, now())
            })
        })
        .await
}

/// Prints the lines as they come. With `--json` they are the items of one array.
async fn logs(session: &Session, args: LogsArgs) -> Result<(), Failure> {
    let LogsArgs { worker, follow, lines } = args;
    let WorkerTarget { hive_id, worker_id } = target(session, worker).await?;
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

/// The worker, on the hive that has it where nobody said which. Where none has it, this machine's hive
/// says so.
async fn target(session: &Session, worker: WorkerArg) -> Result<WorkerTarget, Failure> {
    let WorkerArg { worker_id, hive } = worker;
    if let Some(hive_id) = hive {
        return Ok(WorkerTarget { hive_id, worker_id });
    }
    let status: Status = read(&session.queen().await?.get("/v1/status").await?)?;
    // The queen answers for the models of attached servers.
    let is_of_server =
        |known: &&Worker| known.worker_id == worker_id.as_str() && known.server.is_some();
    if let Some(attached) = status.workers.iter().find(is_of_server) {
        let hive_id = attached.hive_id.parse();
        let hive_id = hive_id.map_err(|error| Failure::Protocol(format!("{error}")))?;
        return Ok(WorkerTarget { hive_id, worker_id });
    }
    let has_it = |hive: &&Hive| hive.workers.iter().any(|worker| worker.worker_id == worker_id);
    let hive_id = match status.hives.iter().find(has_it) {
        Some(hive) => {
            hive.hive_id.parse().map_err(|error| Failure::Protocol(format!("{error}")))?
        }
        None => HiveAlias::localhost(),
    };
    Ok(WorkerTarget { hive_id, worker_id })
}
