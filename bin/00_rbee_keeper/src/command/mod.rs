//! One file for each noun of the command line.

pub(crate) mod completions;
mod down;
mod hive;
mod infer;
mod job;
mod lists;
mod log_lines;
mod model;
mod place;
mod policy;
mod queen;
mod request;
mod rules;
mod status;
mod token;
mod up;
mod worker;

use std::time::{SystemTime, UNIX_EPOCH};

use rbee_operations::{JobEvent, Operation};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::Command;
use crate::failure::Failure;
use crate::job_run;
use crate::render;
use crate::session::Session;

/// The exit code of a command that did what it was asked to.
const SUCCESS: u8 = 0;
/// The exit code of a status command that found nothing running, as `systemctl status` has it.
const NOT_RUNNING: u8 = 3;

/// Carries out the command and gives the exit code.
pub(crate) async fn dispatch(command: Command, session: &Session) -> Result<u8, Failure> {
    match command {
        Command::Up(args) => up::up(session, &args).await.map(|()| SUCCESS),
        Command::Down => down::down(session).await.map(|()| SUCCESS),
        Command::Status => status::status(session).await,
        Command::Queen(command) => queen::queen(session, command).await,
        Command::Hive(command) => hive::hive(session, command).await.map(|()| SUCCESS),
        Command::Worker(command) => worker::worker(session, command).await.map(|()| SUCCESS),
        Command::Model(command) => model::model(session, command).await.map(|()| SUCCESS),
        Command::Infer(args) => infer::infer(session, args).await.map(|()| SUCCESS),
        Command::Job(command) => job::job(session, command).await.map(|()| SUCCESS),
        Command::Request(command) => request::request(session, command).await.map(|()| SUCCESS),
        Command::Policy(command) => rules::rules(session, command).await.map(|()| SUCCESS),
        Command::Token(command) => token::token(session, command).await.map(|()| SUCCESS),
        Command::Completions { shell } => completions::print(shell, session.output).await,
    }
}

/// Runs the operation on the queen, which is started if it does not run.
async fn run(session: &Session, operation: Operation) -> Result<JobEvent, Failure> {
    let queen = session.queen().await?;
    job_run::run(session, &queen, &operation).await
}

/// Runs the operation on the queen that runs; `NotRunning` where none does.
async fn run_at_running(session: &Session, operation: Operation) -> Result<JobEvent, Failure> {
    let queen = session.running_queen().await?;
    job_run::run(session, &queen, &operation).await
}

/// Runs the operation and prints its result: the data with `--json`, else what the daemon says.
async fn run_and_tell(session: &Session, operation: Operation) -> Result<(), Failure> {
    tell(session, run(session, operation).await?).await
}

/// Prints what came of an operation in the same way.
async fn tell(session: &Session, outcome: JobEvent) -> Result<(), Failure> {
    let message = format!("{}\n", render::printable(&outcome.message));
    session.output.result(&data(outcome), |_| Ok(message)).await
}

/// The typed result of a job as it came; an object in any case.
fn data(outcome: JobEvent) -> Value {
    outcome.data.unwrap_or_else(|| Value::Object(serde_json::Map::new()))
}

/// The list in a job's result.
fn list(outcome: JobEvent, field: &str) -> Result<Value, Failure> {
    match data(outcome).get_mut(field).map(Value::take) {
        Some(list @ Value::Array(_)) => Ok(list),
        _ => Err(Failure::Protocol(format!("it has no list {field:?}"))),
    }
}

/// Reads a result into a type, for people.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| Failure::Protocol(error.to_string()))
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
