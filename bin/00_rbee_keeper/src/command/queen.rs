//! `queen …`

use std::time::Duration;

use daemon_lifecycle::Running;
use serde_json::json;
use tokio::time::timeout;

use super::status::absent;
use super::{SUCCESS, down};
use crate::cli::{QueenCommand, RebuildArgs, StartArgs};
use crate::failure::Failure;
use crate::queen_build::{self, LOCAL_HIVE, Rebuilt};
use crate::queen_client::local_url;
use crate::queen_process::{self, Daemon, Started};
use crate::render::detail::pairs;
use crate::render::for_people;
use crate::session::Session;

/// How long the running queen may take to say what she is.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn queen(session: &Session, command: QueenCommand) -> Result<u8, Failure> {
    match command {
        QueenCommand::Start(args) => start(session, &args).await.map(|()| SUCCESS),
        QueenCommand::Stop => stop(session).await.map(|()| SUCCESS),
        QueenCommand::Restart(args) => restart(session, &args).await.map(|()| SUCCESS),
        QueenCommand::Status => status(session).await,
        QueenCommand::Info => info(session).await.map(|()| SUCCESS),
        QueenCommand::Rebuild(args) => rebuild(session, &args).await.map(|()| SUCCESS),
    }
}

async fn start(session: &Session, args: &StartArgs) -> Result<(), Failure> {
    session.only_local("queen start")?;
    tell_started(session, queen_process::start(session, args.bind).await?).await
}

/// Workers report to the address that the queen had when they were started, so she keeps it.
async fn restart(session: &Session, args: &StartArgs) -> Result<(), Failure> {
    session.only_local("queen restart")?;
    let before = queen_process::running(session, Daemon::Queen).map(|running| running.addr);
    queen_process::stop_queen_alone(session).await?;
    tell_started(session, queen_process::start(session, args.bind.or(before)).await?).await
}

async fn tell_started(session: &Session, started: Started) -> Result<(), Failure> {
    let url = local_url(started.addr);
    if session.output.is_json() {
        let document = json!({ "address": url, "pid": started.pid, "started": started.fresh });
        return session.output.document(&document).await;
    }
    let text = if started.fresh {
        format!("queen-rbee is running at {url}, pid {}\n", started.pid)
    } else {
        format!("queen-rbee was running already at {url}, pid {}\n", started.pid)
    };
    session.output.text(text).await
}

async fn stop(session: &Session) -> Result<(), Failure> {
    session.only_local("queen stop")?;
    let ended = queen_process::stop_queen_alone(session).await?;
    let workers = down::workers(session).len();
    if session.output.is_json() {
        let document = match &ended {
            Some(ended) => json!({
                "stopped": true, "pid": ended.pid, "killed": ended.killed, "workers": workers,
            }),
            None => json!({ "stopped": false, "workers": workers }),
        };
        return session.output.document(&document).await;
    }
    let text = match ended {
        Some(ended) if ended.killed => format!("killed queen-rbee, pid {}\n", ended.pid),
        Some(ended) => format!("stopped queen-rbee, pid {}\n", ended.pid),
        None => "queen-rbee was not running\n".to_owned(),
    };
    session.output.text(format!("{text}{}", who_runs_on(workers))).await
}

/// What is told of workers that are left.
fn who_runs_on(workers: usize) -> String {
    match workers {
        0 => String::new(),
        1 => "1 worker runs on; `rbee-keeper down` ends it, too\n".to_owned(),
        many => format!("{many} workers run on; `rbee-keeper down` ends them, too\n"),
    }
}

async fn status(session: &Session) -> Result<u8, Failure> {
    let queen = match session.running_queen().await {
        Ok(queen) => queen,
        Err(failure @ (Failure::NotRunning | Failure::Unreachable { .. })) => {
            return absent(session, &failure).await;
        }
        Err(failure) => return Err(failure),
    };
    if session.output.is_json() {
        let document = json!({
            "running": true,
            "address": queen.url,
            "version": queen.build.version,
            "features": queen.build.features,
        });
        session.output.document(&document).await?;
    } else {
        let version = &queen.build.version;
        session.output.text(format!("queen-rbee {version} is running at {}\n", queen.url)).await?;
    }
    Ok(SUCCESS)
}

async fn info(session: &Session) -> Result<(), Failure> {
    let queen = session.running_queen().await?;
    // Of this machine, and not the one that `--queen` may name.
    let process = queen_process::running(session, Daemon::Queen).filter(|running| {
        let port = format!(":{}", running.addr.port());
        session.queen_is_here() && queen.url.ends_with(&port)
    });
    let log = queen_process::log(session, Daemon::Queen).display().to_string();
    if session.output.is_json() {
        let mut document = queen.get("/v1/build-info").await?;
        if let Some(fields) = document.as_object_mut() {
            fields.insert("address".to_owned(), json!(queen.url));
            if let Some(running) = process {
                fields.insert("pid".to_owned(), json!(running.pid));
                fields.insert("log".to_owned(), json!(log));
            }
        }
        return session.output.document(&document).await;
    }
    let mut lines = vec![
        ("name", queen.build.name.clone()),
        ("version", queen.build.version.clone()),
        ("features", features(&queen.build.features)),
        ("address", queen.url.clone()),
    ];
    if let Some(running) = process {
        lines.push(("pid", running.pid.to_string()));
        lines.push(("log", log));
    }
    session.output.text(pairs(&lines)).await
}

fn features(all: &[String]) -> String {
    match for_people(all).as_slice() {
        [] => "-".to_owned(),
        some => some.join(", "),
    }
}

async fn rebuild(session: &Session, args: &RebuildArgs) -> Result<(), Failure> {
    session.only_local("queen rebuild")?;
    let source = args.source.as_deref();
    let Rebuilt { binary, has_local_hive } =
        queen_build::rebuild(session.output, source, args.local_hive()).await?;
    let running = queen_process::running(session, Daemon::Queen);
    if session.output.is_json() {
        let features = if has_local_hive { vec!["local-hive"] } else { Vec::new() };
        let document =
            json!({ "binary": binary, "features": features, "restart_needed": running.is_some() });
        return session.output.document(&document).await;
    }
    session.output.text(format!("queen-rbee is built: {}\n", binary.display())).await?;
    if let Some(running) = running {
        session.output.note(how_to_take(has_local_hive, had_local_hive(session, &running).await));
    }
    Ok(())
}

/// Whether the queen that runs has this machine's hive in her, if she says.
async fn had_local_hive(session: &Session, running: &Running) -> Option<bool> {
    let asked = queen_process::own_queen(session, running);
    let queen = timeout(ANSWER_PATIENCE, asked).await.ok()?.ok()?;
    Some(queen.build.features.iter().any(|feature| feature == LOCAL_HIVE))
}

/// How the queen that was built, with this machine's hive inside or not, takes the place of the one `before`. Workers
/// run on under the hive that they have; where another one is to have them, they begin anew.
fn how_to_take(is_inside: bool, before: Option<bool>) -> &'static str {
    if before.is_some_and(|before| before != is_inside) {
        "the running queen is the one from before, and this machine's hive moves; take the new one with \
         `rbee-keeper down && rbee-keeper up`, which ends all workers"
    } else {
        "the running queen is the one from before; take the new one with `rbee-keeper queen restart`"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuilt_queen_is_taken_without_ending_workers_unless_the_hive_moves() {
        for (is_inside, before, ends) in [
            (true, Some(true), false),
            (false, Some(false), false),
            (true, Some(false), true),
            (false, Some(true), true),
            (true, None, false),
        ] {
            let told = how_to_take(is_inside, before);
            assert_eq!(
                told.contains("down && rbee-keeper up"),
                ends,
                "{is_inside} {before:?}: {told}"
            );
            assert_eq!(told.contains("queen restart"), !ends, "{is_inside} {before:?}: {told}");
        }
    }

    #[test]
    fn no_mark_for_programs_is_a_feature() {
        for (told, shown) in [
            (&["local-hive", "leaves-workers"][..], "local-hive"),
            (&["leaves-workers"][..], "-"),
            (&["local-hive", "other"][..], "local-hive, other"),
            (&[][..], "-"),
        ] {
            let told: Vec<_> = told.iter().map(ToString::to_string).collect();
            assert_eq!(features(&told), shown, "{told:?}");
        }
    }

    #[test]
    fn whoever_stops_the_queen_is_told_how_to_end_the_workers() {
        assert_eq!(who_runs_on(0), "");
        assert_eq!(who_runs_on(1), "1 worker runs on; `rbee-keeper down` ends it, too\n");
        assert_eq!(who_runs_on(3), "3 workers run on; `rbee-keeper down` ends them, too\n");
    }
}
