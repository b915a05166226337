//! The daemons of this machine as processes: found by their run files, started, stopped.

use std::cell::Cell;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use access_tokens::TokenStore;
use daemon_lifecycle::{
    LEAVES_WORKERS, ProcessIdentity, RunFiles, Running, StopOutcome, process_start_time,
    start_detached,
};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::failure::Failure;
use crate::queen_build::{self, LOCAL_HIVE};
use crate::queen_client::{Queen, hangs, is_healthy, local_url};
use crate::session::Session;

/// How long a queen may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long after the end of a queen that was just started another one may show itself: the one that
/// won the race for the lock.
const RIVAL_PATIENCE: Duration = Duration::from_millis(500);
/// How long a daemon that is to be stopped may take until it listens.
const LISTEN_PATIENCE: Duration = Duration::from_secs(5);
/// How often a starting queen is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a daemon may take to end beyond the time that it gives its requests and workers.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How long a daemon that is to be stopped may take to say that it is there.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long one that did not say so may take to end by itself: a part of it may still work.
const HUNG_PATIENCE: Duration = Duration::from_secs(2);
/// How long the queen may take to say that she ends without the workers of her own hive.
const KEEP_PATIENCE: Duration = Duration::from_secs(3);
/// How much of a daemon's log an error tells, in lines.
const LOG_LINES: usize = 5;

/// A daemon that the keeper can start or stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    Queen,
    Hive,
}

impl Daemon {
    /// The name of its binary and of its run files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queen => "queen-rbee",
            Self::Hive => "rbee-hive",
        }
    }
}

/// A queen that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) addr: SocketAddr,
    /// Whether it did not run before.
    pub(crate) fresh: bool,
}

/// A process that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) pid: u32,
    /// Whether it did not end in time and was killed.
    pub(crate) killed: bool,
}

/// The daemon of this user, where it runs.
pub(crate) fn running(session: &Session, daemon: Daemon) -> Option<Running> {
    RunFiles::new(&session.paths.run, daemon.name()).read_running()
}

/// Where the daemon's output goes.
pub(crate) fn log(session: &Session, daemon: Daemon) -> PathBuf {
    RunFiles::new(&session.paths.run, daemon.name()).log_file()
}

/// Starts the queen, or finds the one that runs; returns when it answers.
///
/// Two of these at once start one queen: the daemon's own lock decides, and the loser finds the
/// winner's. A queen that is just ending is waited for.
pub(crate) async fn start(session: &Session, bind: Option<SocketAddr>) -> Result<Started, Failure> {
    let deadline = Instant::now() + START_PATIENCE;
    let mut child: Option<Child> = None;
    loop {
        if let Some(Running { pid, addr, .. }) = running(session, Daemon::Queen)
            && is_healthy(&local_url(addr)).await
        {
            let fresh = child.as_ref().is_some_and(|child| child.pid == pid);
            let started = Started { pid, addr, fresh };
            return if fresh { Ok(started) } else { as_wanted(started, bind) };
        }
        let is_held = is_held(session, Daemon::Queen);
        match &child {
            None if !is_held => child = Some(spawn(session, bind)?),
            Some(child) if !is_held && child.gone_for() >= RIVAL_PATIENCE => {
                return Err(child.failure("it ended"));
            }
            _ => {}
        }
        if Instant::now() >= deadline {
            let reason = format!("it does not answer after {} s", START_PATIENCE.as_secs());
            return Err(match child {
                Some(child) => child.failure(&reason),
                None => failed(reason, log(session, Daemon::Queen)),
            });
        }
        sleep(LOOK).await;
    }
}

/// Whether some process is the daemon, even if it does not listen yet.
fn is_held(session: &Session, daemon: Daemon) -> bool {
    let pid_file = RunFiles::new(&session.paths.run, daemon.name()).pid_file();
    let pid = std::fs::read_to_string(pid_file).ok().and_then(|pid| pid.trim().parse().ok());
    pid.is_some_and(|pid| process_start_time(pid).is_some())
}

/// Stops the daemon, and with a hive its workers; `None` when it did not run.
pub(crate) async fn stop(session: &Session, daemon: Daemon) -> Result<Option<Ended>, Failure> {
    let Some(running) = running_soon(session, daemon).await else { return Ok(None) };
    end(session, daemon, &running, false).await
}

/// Stops the queen alone: the workers of a hive that is part of her run on; `None` when she did not run.
pub(crate) async fn stop_queen_alone(session: &Session) -> Result<Option<Ended>, Failure> {
    let Some(running) = running_soon(session, Daemon::Queen).await else { return Ok(None) };
    end(session, Daemon::Queen, &running, true).await
}

/// Ends a daemon, with all the time that it gives its requests and workers, unless it hangs.
async fn end(
    session: &Session,
    daemon: Daemon,
    running: &Running,
    keeps_workers: bool,
) -> Result<Option<Ended>, Failure> {
    let config = &session.config;
    let grace = STOP_PATIENCE
        + Duration::from_secs(config.queen.drain_s)
        + Duration::from_secs(config.hive.stop_grace_s);
    let drain = Duration::from_secs(config.queen.drain_s);
    if keeps_workers {
        leave_workers(session, running).await?;
    }
    // Its times count from here.
    session.output.note(&stopping(daemon, drain, grace));
    let url = local_url(running.addr);
    tokio::select! {
        // First: only once it was told to end can be seen whether it hangs.
        biased;
        ended = stop_process(running, grace) => return ended,
        () = is_hung(&url) => {}
    }
    session.output.warn(&hanging(daemon));
    let ended = stop_process(running, HUNG_PATIENCE).await?;
    // It may have ended just before.
    Ok(Some(ended.unwrap_or(Ended { pid: running.pid, killed: false })))
}

/// Returns once a daemon that was told to end is seen to hang: it takes calls and answers none. One that works takes no
/// call from then on, however many connections it has, and finishes its streams.
async fn is_hung(url: &str) {
    if !hangs(url, ANSWER_PATIENCE).await {
        std::future::pending::<()>().await;
    }
}

/// Asks the queen to end without the workers of her own hive, which a signal would end, too. It fails where she answers
/// that she does not, so that nobody signals her.
async fn leave_workers(session: &Session, running: &Running) -> Result<(), Failure> {
    let left = match timeout(KEEP_PATIENCE, ask_to_leave(session, running)).await {
        Ok(Ok(left)) => left,
        // One that takes no call is ending already, as she was told before.
        Ok(Err(Failure::Unreachable { .. })) => Left::NothingToLose,
        Ok(Err(failure)) => {
            return Err(Failure::caused("cannot stop the queen without her workers", failure)
                .with_hint("`rbee-keeper down` stops her and all workers of this machine"));
        }
        Err(_elapsed) if may_have_hive(session).await => Left::Unknown,
        Err(_elapsed) => Left::NothingToLose,
    };
    match left {
        Left::NothingToLose => {}
        Left::KnowsNotHow => session.output.warn(
            "the queen is of an earlier rbee, which cannot leave the workers of the hive in her: they end with her",
        ),
        Left::Unknown => session.output.warn(&format!(
            "the queen has not answered for {} s: the workers of the hive in her may end with her",
            KEEP_PATIENCE.as_secs()
        )),
    }
    Ok(())
}

/// What a signal does to the workers of the hive that is part of the queen.
enum Left {
    /// Nothing: she leaves them, or has none.
    NothingToLose,
    /// It ends them.
    KnowsNotHow,
    /// It may end them.
    Unknown,
}

async fn ask_to_leave(session: &Session, running: &Running) -> Result<Left, Failure> {
    let queen = own_queen(session, running).await?;
    let has = |wanted: &str| queen.build.features.iter().any(|feature| feature == wanted);
    if !has(LOCAL_HIVE) {
        return Ok(Left::NothingToLose);
    }
    if !has(LEAVES_WORKERS) {
        return Ok(Left::KnowsNotHow);
    }
    queen.post("/v1/shutdown?workers=keep", &json!({})).await?;
    Ok(Left::NothingToLose)
}

/// This user's own queen, by this user's own secret: a token that was given may be one of another queen.
pub(crate) async fn own_queen(session: &Session, running: &Running) -> Result<Queen, Failure> {
    let secret = access_tokens::local_secret(&session.paths.secrets)
        .map_err(|error| Failure::caused("cannot read this user's own secret", error))?;
    Queen::connect(&local_url(running.addr), Some(secret)).await
}

/// Whether a queen who does not say so may have this machine's hive in her.
async fn may_have_hive(session: &Session) -> bool {
    running(session, Daemon::Hive).is_none() && queen_build::installed_has_local_hive().await
}

/// What is told of a stop before it: also how long it takes with a daemon that hangs.
fn stopping(daemon: Daemon, drain: Duration, grace: Duration) -> String {
    let (drain, grace) = (drain.as_secs(), grace.as_secs());
    let runs = match daemon {
        Daemon::Queen => format!("what runs has up to {drain} s to end; "),
        Daemon::Hive => String::new(),
    };
    format!(
        "stopping {}; {runs}it is killed if it does not answer for {} s, or has not ended after {grace} s",
        daemon.name(),
        (ANSWER_PATIENCE + HUNG_PATIENCE).as_secs()
    )
}

fn hanging(daemon: Daemon) -> String {
    format!(
        "{} hangs: it has not answered for {} s, and is killed if it does not end within {} s",
        daemon.name(),
        ANSWER_PATIENCE.as_secs(),
        HUNG_PATIENCE.as_secs()
    )
}

/// The daemon where it runs; one that is just starting is waited for.
async fn running_soon(session: &Session, daemon: Daemon) -> Option<Running> {
    let deadline = Instant::now() + LISTEN_PATIENCE;
    loop {
        let found = running(session, daemon);
        if found.is_some() || !is_held(session, daemon) || Instant::now() >= deadline {
            return found;
        }
        sleep(LOOK).await;
    }
}

/// Stops a process that is known by its pid and start time; `None` when it did not run.
pub(crate) async fn stop_process(
    process: impl Into<ProcessIdentity>,
    grace: Duration,
) -> Result<Option<Ended>, Failure> {
    let process = process.into();
    let pid = process.pid;
    let outcome = daemon_lifecycle::stop(process, grace)
        .await
        .map_err(|error| Failure::caused("cannot stop a process", error))?;
    Ok(match outcome {
        StopOutcome::Graceful => Some(Ended { pid, killed: false }),
        StopOutcome::Killed => Some(Ended { pid, killed: true }),
        StopOutcome::NotRunning => None,
    })
}

/// A queen that was just started and may not be the one that stays.
struct Child {
    pid: u32,
    /// When it was first seen to be gone.
    gone_since: Cell<Option<Instant>>,
    log: PathBuf,
    /// Where in the log its own lines begin.
    log_start: u64,
}

impl Child {
    /// For how long its process has been gone, as far as anybody looked.
    fn gone_for(&self) -> Duration {
        if process_start_time(self.pid).is_some() {
            return Duration::ZERO;
        }
        let since = self.gone_since.get().unwrap_or_else(Instant::now);
        self.gone_since.set(Some(since));
        since.elapsed()
    }

    fn failure(&self, otherwise: &str) -> Failure {
        let reason = match last_words(&self.log, self.log_start) {
            words if words.is_empty() => otherwise.to_owned(),
            words => words,
        };
        failed(reason, self.log.clone())
    }
}

fn failed(reason: String, log: PathBuf) -> Failure {
    Failure::DaemonFailed { daemon: Daemon::Queen.name(), reason, log }
}

fn spawn(session: &Session, bind: Option<SocketAddr>) -> Result<Child, Failure> {
    refuse_open_door(session, bind.unwrap_or(session.config.queen.bind))?;
    session
        .paths
        .create_all()
        .map_err(|error| Failure::caused("cannot make rbee's folders", error))?;
    let cannot_start = |error| Failure::caused("cannot start queen-rbee", error);
    let binary = daemon_lifecycle::find_binary(Daemon::Queen.name()).map_err(cannot_start)?;
    let arguments: Vec<OsString> =
        bind.map(|bind| vec!["--bind".into(), bind.to_string().into()]).unwrap_or_default();
    let log = log(session, Daemon::Queen);
    let log_start = std::fs::metadata(&log).map_or(0, |log| log.len());
    let pid = start_detached(&binary, &arguments, &[], &log).map_err(cannot_start)?;
    Ok(Child { pid, gone_since: Cell::new(None), log, log_start })
}

/// Refuses an address that others can reach while nobody needs a token.
fn refuse_open_door(session: &Session, bind: SocketAddr) -> Result<(), Failure> {
    if bind.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let are_needed = TokenStore::open(&session.paths.secrets)
        .are_needed()
        .map_err(|error| Failure::caused("cannot read the tokens", error))?;
    if are_needed {
        return Ok(());
    }
    Err(Failure::local(format!(
        "{bind} can be reached by other machines, and there is no token that they would need"
    ))
    .with_hint("make one with `rbee-keeper token create`, then try again"))
}

/// The queen that runs, if it listens where it was asked to.
fn as_wanted(running: Started, bind: Option<SocketAddr>) -> Result<Started, Failure> {
    let wanted = |bind: SocketAddr| {
        bind.ip() == running.addr.ip() && (bind.port() == 0 || bind.port() == running.addr.port())
    };
    match bind {
        Some(bind) if !wanted(bind) => Err(Failure::local(format!(
            "queen-rbee runs already, at {} and not at {bind}",
            running.addr
        ))
        .with_hint("stop it first: `rbee-keeper queen stop`")),
        _ => Ok(running),
    }
}

/// Why a daemon ended, by what it has written to its log since `start`: its `error:`, or else its
/// last lines.
fn last_words(log: &Path, start: u64) -> String {
    let Ok(bytes) = std::fs::read(log) else { return String::new() };
    let since = usize::try_from(start).ok().and_then(|start| bytes.get(start..));
    let text = String::from_utf8_lossy(since.unwrap_or(&bytes));
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.iter().rev().find_map(|line| line.strip_prefix("error: ")) {
        Some(reason) => reason.to_owned(),
        None => lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_queen_is_good_for_whoever_asked_for_its_address_or_for_none() {
        let running = Started { pid: 1, addr: "127.0.0.1:8500".parse().unwrap(), fresh: false };
        for (bind, good) in [
            (None, true),
            (Some("127.0.0.1:8500"), true),
            (Some("127.0.0.1:0"), true),
            (Some("127.0.0.1:8501"), false),
            (Some("0.0.0.0:8500"), false),
        ] {
            let bind = bind.map(|bind| bind.parse().unwrap());
            assert_eq!(as_wanted(running, bind).is_ok(), good, "{bind:?}");
        }
    }

    #[test]
    fn a_stop_tells_how_long_it_takes_at_most() {
        let seconds = Duration::from_secs;
        assert_eq!(
            stopping(Daemon::Queen, seconds(30), seconds(70)),
            "stopping queen-rbee; what runs has up to 30 s to end; it is killed if it does not answer for \
             12 s, or has not ended after 70 s"
        );
        assert_eq!(
            stopping(Daemon::Hive, seconds(30), seconds(70)),
            "stopping rbee-hive; it is killed if it does not answer for 12 s, or has not ended after 70 s"
        );
    }

    #[test]
    fn the_last_words_are_those_of_this_start() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("queen.log");
        std::fs::write(&log, "error: old\nbegins\nends\n\n").unwrap();
        assert_eq!(last_words(&log, 11), "begins\nends");
        assert_eq!(last_words(&log, 0), "old");
        assert_eq!(last_words(&log, 999), "old", "the log was put aside and is a fresh one");
        assert_eq!(last_words(&folder.path().join("none"), 0), "");
    }
}
