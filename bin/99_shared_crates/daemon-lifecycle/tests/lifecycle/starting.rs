//! Daemons in the background.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use daemon_lifecycle::{LifecycleError, ProcessIdentity, StopOutcome, start_detached, stop};
use rustix::process::getpgid;

use crate::support::{LONG, as_pid, until};

#[tokio::test]
async fn a_started_daemon_writes_its_log_and_stands_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("logs/daemon.log");
    let script = "read line || echo \"no input, $GREETING\"; echo trouble >&2; exec sleep 600";
    let args = ["-c", script].map(OsString::from);
    let envs = [(OsString::from("GREETING"), OsString::from("hello"))];
    let pid = start_detached(Path::new("/bin/sh"), &args, &envs, &log).unwrap();
    let identity = ProcessIdentity::of(pid).unwrap();
    let complete = || fs::read_to_string(&log).ok().filter(|text| text.contains("trouble"));
    assert_eq!(until("the log", complete).await, "no input, hello\ntrouble\n");
    assert_eq!(getpgid(Some(as_pid(pid))).unwrap(), as_pid(pid), "its group is its own");
    assert_eq!(stop(identity, LONG).await.unwrap(), StopOutcome::Graceful);
}

#[tokio::test]
async fn a_daemon_that_ends_at_once_is_seen_to_be_gone() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("daemon.log");
    let args = ["-c", "echo error: no; exit 1"].map(OsString::from);
    let pid = start_detached(Path::new("/bin/sh"), &args, &[], &log).unwrap();
    until("its end", || ProcessIdentity::of(pid).is_none().then_some(())).await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "error: no\n");
}

#[test]
fn a_binary_or_a_log_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("daemon.log");
    let missing = folder.path().join("no-such-binary");
    let error = start_detached(&missing, &[], &[], &log).unwrap_err();
    assert!(matches!(error, LifecycleError::Start { .. }), "{error}");
    assert!(error.to_string().contains("no-such-binary"), "{error}");
    fs::write(folder.path().join("logs"), "in the way").unwrap();
    let log = folder.path().join("logs/daemon.log");
    let error = start_detached(Path::new("/bin/sh"), &[], &[], &log).unwrap_err();
    assert!(error.to_string().contains("logs/daemon.log"), "{error}");
}
