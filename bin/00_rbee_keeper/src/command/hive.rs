//! `hive …`

use std::io::Read as _;
use std::path::Path;

use rbee_operations::{
    DiscoveredHive, HiveAdd, HiveDiscover, HiveInstall, HiveLogs, HiveTarget, HiveUninstall,
    Operation, SshHost,
};

use super::log_lines::LogLines;
use super::{data, list, now, read, run, run_and_tell, run_at_running, tell};
use crate::cli::{HiveAddArgs, HiveArg, HiveCommand, NamedHive};
use crate::failure::Failure;
use crate::job_run;
use crate::output::Output;
use crate::queen_process::{self, Daemon};
use crate::recommend::{Advice, Facts, advise, recommendation};
use crate::render::{detail, table};
use crate::session::Session;
use crate::view;

/// The longest secret that is read from stdin, in bytes.
const MAX_SECRET: u64 = 4096;

pub(super) async fn hive(session: &Session, command: HiveCommand) -> Result<(), Failure> {
    match command {
        HiveCommand::List => list_all(session).await,
        HiveCommand::Start { hive, yes } => start(session, hive, yes).await,
        HiveCommand::Stop(hive) => stop(session, hive).await,
        HiveCommand::Status(hive) => status(session, hive).await,
        HiveCommand::Restart(hive) => {
            run_and_tell(session, Operation::HiveRestart(target(hive))).await
        }
        HiveCommand::Refresh(hive) => {
            run_and_tell(session, Operation::HiveRefresh(target(hive))).await
        }
        HiveCommand::Logs { hive, follow: false, lines } => logs(session, hive, lines).await,
        HiveCommand::Logs { hive, follow: true, lines } => follow(session, hive, lines).await,
        HiveCommand::Add(args) => run_and_tell(session, add(args).await?).await,
        HiveCommand::Discover { wait } => discover(session, wait).await,
        HiveCommand::ImportSsh => ssh_hosts(session).await,
        HiveCommand::Remove(hive) => {
            run_and_tell(session, Operation::HiveRemove(HiveTarget { hive_id: hive.alias })).await
        }
        HiveCommand::Install { hive: NamedHive { alias }, queen_url } => {
            let install = HiveInstall { hive_id: alias, queen_url };
            run_and_tell(session, Operation::HiveInstall(install)).await
        }
        HiveCommand::Uninstall { hive: NamedHive { alias }, purge } => {
            let uninstall = HiveUninstall { hive_id: alias, purge };
            run_and_tell(session, Operation::HiveUninstall(uninstall)).await
        }
    }
}

/// The operation, with the secret that a file or stdin holds: on the command line others could see it.
async fn add(args: HiveAddArgs) -> Result<Operation, Failure> {
    let HiveAddArgs { alias, ssh, url, secret_file, port, advertise } = args;
    let secret = match secret_file {
        Some(file) => Some(read_secret(&file).await?),
        None => None,
    };
    Ok(Operation::HiveAdd(HiveAdd { hive_id: alias, ssh, url, secret, port, advertise }))
}

/// What a file or stdin holds.
pub(super) async fn read_secret(file: &Path) -> Result<String, Failure> {
    let file = file.to_owned();
    let shown = file.display().to_string();
    let read = tokio::task::spawn_blocking(move || {
        if file != Path::new("-") {
            return std::fs::read_to_string(&file);
        }
        let mut text = String::new();
        std::io::stdin().take(MAX_SECRET).read_to_string(&mut text).map(|_| text)
    });
    match read.await {
        Ok(Ok(text)) => Ok(text.trim().to_owned()),
        Ok(Err(error)) => {
            Err(Failure::caused(format!("cannot read the secret from {shown}"), error))
        }
        Err(error) => Err(Failure::caused("cannot read the secret", error)),
    }
}

async fn logs(session: &Session, hive: HiveArg, lines: u16) -> Result<(), Failure> {
    let logs = HiveLogs { hive_id: hive.alias, lines, follow: false };
    let data = data(run(session, Operation::HiveLogs(logs)).await?);
    let text = data["text"].as_str().map(crate::render::printable).unwrap_or_default();
    session.output.result(&data, |_| Ok(text.clone())).await
}

async fn follow(session: &Session, hive: HiveArg, lines: u16) -> Result<(), Failure> {
    let logs = HiveLogs { hive_id: hive.alias, lines, follow: true };
    let queen = session.queen().await?;
    let mut lines = LogLines::new(session.output);
    let ended = job_run::run_with(session, &queen, &Operation::HiveLogs(logs), &mut lines).await;
    lines.close().await?;
    ended.map(drop)
}

async fn discover(session: &Session, wait: u32) -> Result<(), Failure> {
    let operation = Operation::HiveDiscover(HiveDiscover { wait_ms: wait.saturating_mul(1000) });
    let hives = list(run(session, operation).await?, "hives")?;
    session
        .output
        .result(&hives, |style| {
            let hives: Vec<DiscoveredHive> = read(&hives)?;
            Ok(if hives.is_empty() {
                "no hive announces itself on this network\n".to_owned()
            } else {
                table::discovered(&hives, style)
            })
        })
        .await
}

async fn ssh_hosts(session: &Session) -> Result<(), Failure> {
    let hosts = list(run(session, Operation::HiveSshHosts {}).await?, "hosts")?;
    session
        .output
        .result(&hosts, |style| {
            let hosts: Vec<SshHost> = read(&hosts)?;
            Ok(if hosts.is_empty() {
                "~/.ssh/config names no host: `rbee-keeper hive add ALIAS --ssh USER@HOST` needs none\n".to_owned()
            } else {
                table::ssh_hosts(&hosts, style)
            })
        })
        .await
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
    tell(session, outcome).await
}

async fn stop(session: &Session, hive: HiveArg) -> Result<(), Failure> {
    let is_here = hive.alias.is_localhost();
    match run_at_running(session, Operation::HiveStop(target(hive))).await {
        Err(Failure::NotRunning) => {
            let running = is_here.then(|| queen_process::running(session, Daemon::Hive));
            if let Some(hive) = running.flatten() {
                let pid = hive.pid;
                session.output.note(&format!(
                    "rbee-hive is running without a queen, pid {pid}; `rbee-keeper down` stops it"
                ));
            }
            Err(Failure::NotRunning)
        }
        outcome => tell(session, outcome?).await,
    }
}

async fn status(session: &Session, hive: HiveArg) -> Result<(), Failure> {
    let hive = data(run_at_running(session, Operation::HiveStatus(target(hive))).await?);
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
