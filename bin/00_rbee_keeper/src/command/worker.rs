//! `worker …`

use rbee_operations::{HiveTarget, JobEvent, Operation, WorkerLogs, WorkerSpawn, WorkerTarget};
use worker_contract::SupervisedWorker;

use super::{data, list, now, read, run, run_and_tell};
use crate::cli::{LogsArgs, OnHive, SpawnArgs, WorkerArg, WorkerCommand};
use crate::failure::Failure;
use crate::job_run::{self, Listener};
use crate::output::Output;
use crate::render::{detail, json, printable, table};
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
    let mut lines = Lines { output: session.output, written: 0 };
    let ended = job_run::run_with(session, &queen, &Operation::WorkerLogs(logs), &mut lines).await;
    lines.close().await?;
    ended.map(drop)
}

/// The lines of a log on stdout.
struct Lines {
    output: Output,
    written: usize,
}

impl Lines {
    async fn close(&self) -> Result<(), Failure> {
        match (self.output.is_json(), self.written) {
            (false, _) => Ok(()),
            (true, 0) => self.output.text("[]\n").await,
            (true, _) => self.output.text("\n]\n").await,
        }
    }
}

impl Listener for Lines {
    async fn event(&mut self, event: &JobEvent) -> Result<(), Failure> {
        if event.event != "log" {
            return Ok(());
        }
        let mut text = String::new();
        for line in event.message.split('\n') {
            if self.output.is_json() {
                text.push_str(if self.written == 0 { "[\n" } else { ",\n" });
                text.push_str(&json::line(line));
            } else {
                text.push_str(line);
                text.push('\n');
            }
            self.written += 1;
        }
        let shown = if self.output.stdout_is_terminal() { printable(&text) } else { text };
        self.output.text(shown).await
    }
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
