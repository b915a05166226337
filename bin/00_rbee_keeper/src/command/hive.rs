//! `hive …`

use rbee_operations::{HiveTarget, Operation};

use super::{data, list, now, read, run, run_and_tell};
use crate::cli::{HiveArg, HiveCommand};
use crate::failure::Failure;
use crate::job_run;
use crate::output::Output;
use crate::recommend::{Advice, Facts, advise, recommendation};
use crate::render::{detail, table};
use crate::session::Session;
use crate::view;

pub(super) async fn hive(session: &Session, command: HiveCommand) -> Result<(), Failure> {
    match command {
        HiveCommand::List => list_all(session).await,
        HiveCommand::Start { hive, yes } => start(session, hive, yes).await,
        HiveCommand::Stop(hive) => run_and_tell(session, Operation::HiveStop(target(hive))).await,
        HiveCommand::Status(hive) => status(session, hive).await,
    }
}

async fn list_all(session: &Session) -> Result<(), Failure> {
    let hives = list(run(session, Operation::HiveList {}).await?, "hives")?;
    session
        .output
        .result(&hives, |style| {
            let hives: Vec<view::Hive> = read(&hives)?;
            Ok(if hives.is_empty() {
                "no hives: start one with `rbee-keeper hive start`\n".to_owned()
            } else {
                table::hives(&hives, style)
            })
        })
        .await
}

async fn start(session: &Session, hive: HiveArg, yes: bool) -> Result<(), Failure> {
    let queen = session.queen().await?;
    let advice = advise(Facts {
        alias: &hive.alias,
        queen_has_local_hive: queen.build.has_local_hive(),
        can_ask: session.output.can_ask(),
        yes,
    });
    match advice {
        Advice::Start => {}
        Advice::SayAndStart => session.output.note(&recommendation()),
        Advice::Ask => {
            session.output.note(&recommendation());
            if !ask("Start a hive of its own all the same? [y/N] ").await? {
                return Err(Failure::Declined);
            }
        }
    }
    let outcome = job_run::run(session, &queen, &Operation::HiveStart(target(hive))).await?;
    let message = format!("{}\n", crate::render::printable(&outcome.message));
    session.output.result(&data(outcome), |_| Ok(message)).await
}

async fn status(session: &Session, hive: HiveArg) -> Result<(), Failure> {
    let hive = data(run(session, Operation::HiveStatus(target(hive))).await?);
    session.output.result(&hive, |style| Ok(detail::hive(&read(&hive)?, now(), style))).await
}

/// Asks on the terminal; only yes is yes.
pub(super) async fn ask(question: &str) -> Result<bool, Failure> {
    Output::stderr(question);
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    match answer.await {
        Ok(Ok(line)) => Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")),
        Ok(Err(error)) => Err(Failure::caused("cannot read the answer", error)),
        Err(_) => Ok(false),
    }
}

fn target(hive: HiveArg) -> HiveTarget {
    HiveTarget { hive_id: hive.alias }
}
