//! `worker …`

use rbee_operations::{
    Operation, ServerApi, WorkerAttach, WorkerDetach, WorkerLogs, WorkerSpawn, WorkerTarget,
};
use worker_contract::HiveAlias;

use super::hive::read_secret;
use super::log_lines::LogLines;
use super::{data, lists, now, place, read, run, run_and_tell};
use crate::cli::{AttachArgs, LogsArgs, SpawnArgs, WorkerArg, WorkerCommand};
use crate::failure::Failure;
use crate::job_run;
use crate::render::detail;
use crate::session::Session;

pub(super) async fn worker(session: &Session, command: WorkerCommand) -> Result<(), Failure> {
    match command {
        WorkerCommand::Spawn(args) => {
            let operation = spawn(session, args).await?;
            run_and_tell(session, operation).await
        }
        WorkerCommand::List(of) => lists::workers(session, of).await,
        WorkerCommand::Get(worker) => get(session, worker).await,
        WorkerCommand::Delete(worker) => {
            let target = place::worker(session, worker).await?;
            run_and_tell(session, Operation::WorkerDelete(target)).await
        }
        WorkerCommand::Restart(worker) => {
            let target = place::worker(session, worker).await?;
            run_and_tell(session, Operation::WorkerRestart(target)).await
        }
        WorkerCommand::Logs(args) => logs(session, args).await,
        WorkerCommand::Attach(args) => run_and_tell(session, attach(args).await?).await,
        WorkerCommand::Detach { name } => {
            run_and_tell(session, Operation::WorkerDetach(WorkerDetach { name })).await
        }
    }
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
    let target = place::worker(session, worker).await?;
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
    let WorkerTarget { hive_id, worker_id } = place::worker(session, worker).await?;
    let logs = WorkerLogs { hive_id, worker_id, lines: Some(lines), follow };
    let queen = session.queen().await?;
    let mut lines = LogLines::new(session.output);
    let ended = job_run::run_with(session, &queen, &Operation::WorkerLogs(logs), &mut lines).await;
    lines.close().await?;
    ended.map(drop)
}

async fn spawn(session: &Session, args: SpawnArgs) -> Result<Operation, Failure> {
    let SpawnArgs { model, device, hive, slots, ctx_size } = args;
    let queen = session.queen().await?;
    // What is named by where it comes from is this machine's, which gets it if it has it not.
    let hive = hive.or_else(|| model.is_reference().then(HiveAlias::localhost));
    let model = model.alias(session, &queen, hive.as_ref()).await?;
    let hive_id = match hive {
        Some(hive) => hive,
        None => place::of_worker(session, &queen, &model).await?,
    };
    Ok(Operation::WorkerSpawn(WorkerSpawn { hive_id, model, device, slots, ctx_size }))
}
