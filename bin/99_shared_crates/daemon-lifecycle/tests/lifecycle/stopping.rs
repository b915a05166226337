//! How processes end.

use std::time::Duration;

use daemon_lifecycle::{ProcessIdentity, StopOutcome, stop};
use tokio::time::Instant;

use crate::support::{Daemon, LONG, within};

#[tokio::test]
async fn a_process_that_heeds_sigterm_ends_gracefully_and_at_once() {
    let daemon = Daemon::shell("echo ready; exec sleep 600");
    let (_daemon, identity) = ready(daemon);
    let start = Instant::now();
    let outcome = within("the end", stop(identity, LONG)).await.unwrap();
    assert_eq!(outcome, StopOutcome::Graceful);
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    assert!(!identity.is_running());
    assert_eq!(stop(identity, Duration::ZERO).await.unwrap(), StopOutcome::NotRunning);
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_after_its_grace() {
    let (_daemon, identity) =
        ready(Daemon::shell("trap '' TERM; echo ready; while :; do sleep 0.1; done"));
    let grace = Duration::from_millis(200);
    let start = Instant::now();
    let outcome = within("the end", stop(identity, grace)).await.unwrap();
    assert_eq!(outcome, StopOutcome::Killed);
    assert!(start.elapsed() >= grace, "{:?}", start.elapsed());
    assert!(!identity.is_running());
}

#[tokio::test]
async fn a_process_that_takes_its_time_within_its_grace_is_not_killed() {
    let script = "trap 'sleep 0.3; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let (mut daemon, identity) = ready(Daemon::shell(script));
    assert_eq!(stop(identity, LONG).await.unwrap(), StopOutcome::Graceful);
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_process_with_another_start_time_is_not_touched() {
    let (mut daemon, identity) = ready(Daemon::shell("echo ready; exec sleep 600"));
    let other = ProcessIdentity { start_time: identity.start_time + 1, ..identity };
    assert_eq!(stop(other, Duration::ZERO).await.unwrap(), StopOutcome::NotRunning);
    assert!(identity.is_running());
    assert!(daemon.0.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn a_process_that_ended_by_itself_and_was_not_taken_in_does_not_run() {
    let (mut daemon, identity) = ready(Daemon::shell("echo ready; read line"));
    drop(daemon.0.stdin.take());
    crate::support::until("its end", || (!identity.is_running()).then_some(())).await;
    assert_eq!(stop(identity, Duration::ZERO).await.unwrap(), StopOutcome::NotRunning);
}

#[tokio::test]
async fn no_id_that_means_several_processes_is_ever_signalled() {
    for pid in [0, u32::MAX, u32::MAX - 1] {
        let nobody = ProcessIdentity { pid, start_time: 0 };
        assert_eq!(stop(nobody, Duration::ZERO).await.unwrap(), StopOutcome::NotRunning, "{pid}");
    }
}

fn ready(mut daemon: Daemon) -> (Daemon, ProcessIdentity) {
    daemon.wait_for("ready");
    let identity = ProcessIdentity::of(daemon.0.id()).unwrap();
    (daemon, identity)
}
