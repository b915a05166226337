//! Which daemon runs.

use std::fs;
use std::path::PathBuf;

use daemon_lifecycle::{LifecycleError, ProcessIdentity, RunFiles};

use crate::support::{Daemon, FOLDER, until};

const ADDRESS: &str = "127.0.0.1:8500";

#[test]
fn a_second_daemon_is_told_who_runs_until_that_one_ends() {
    let folder = tempfile::tempdir().unwrap();
    let files = RunFiles::new(&folder.path().join("run"), "queen-rbee");
    assert_eq!(files.read_running(), None);
    let lock = files.acquire().unwrap();
    assert_eq!(files.read_running(), None, "it does not listen yet");
    assert_eq!(files.holder(), ProcessIdentity::of(std::process::id()));
    lock.publish_addr(ADDRESS.parse().unwrap()).unwrap();
    let pid = std::process::id();
    let error = files.acquire().unwrap_err().to_string();
    assert_eq!(error, format!("queen-rbee runs already as process {pid} at {ADDRESS}"));
    let running = files.read_running().unwrap();
    assert_eq!((running.pid, running.addr.to_string().as_str()), (pid, ADDRESS));
    assert_eq!(fs::read_to_string(files.pid_file()).unwrap(), format!("{pid}\n"));
    assert_eq!(fs::read_to_string(files.addr_file()).unwrap(), format!("{ADDRESS}\n"));
    drop(lock);
    assert_eq!(files.read_running(), None);
    assert!(!files.pid_file().exists() && !files.addr_file().exists());
    drop(files.acquire().unwrap());
}

#[test]
fn room_is_kept_for_the_files_of_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let files = RunFiles::new(folder.path(), "queen-rbee");
    let reserve = folder.path().join("queen-rbee.reserve");
    files.acquire().unwrap().publish_addr(ADDRESS.parse().unwrap()).unwrap();
    let kept = fs::metadata(&reserve).unwrap().len();
    assert!(kept >= 3 * 4096, "a block for each file");
    files.acquire().unwrap().publish_addr(ADDRESS.parse().unwrap()).unwrap();
    assert_eq!(fs::metadata(&reserve).unwrap().len(), kept, "it does not grow");
}

#[test]
fn daemons_of_two_kinds_do_not_hinder_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let _queen = RunFiles::new(folder.path(), "queen-rbee").acquire().unwrap();
    RunFiles::new(folder.path(), "rbee-hive").acquire().unwrap();
}

#[test]
fn of_many_that_start_at_once_one_becomes_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let files = RunFiles::new(folder.path(), "queen-rbee");
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..8).map(|_| scope.spawn(|| files.acquire())).collect();
        starting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert!(matches!(refused, LifecycleError::AlreadyRunning { .. }), "{refused}");
    }
}

#[tokio::test]
async fn what_a_killed_daemon_left_behind_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let files = RunFiles::new(folder.path(), "queen-rbee");
    let mut daemon = Daemon::start("running::be_a_daemon", folder.path());
    daemon.wait_for("listens");
    let running = files.read_running().unwrap();
    assert_eq!(running.pid, daemon.0.id());
    assert!(matches!(
        files.acquire(),
        Err(LifecycleError::AlreadyRunning { pid: Some(pid), addr: Some(_), .. }) if pid == running.pid
    ));

    daemon.0.kill().unwrap();
    // It is not waited for, so it stays a zombie with its pid.
    until("the daemon to be gone", || files.read_running().is_none().then_some(())).await;
    assert!(files.addr_file().exists());
    // Its first thread is gone; the lock is free when the last one is.
    let lock = until("the lock to be free", || files.acquire().ok()).await;
    assert_eq!(files.read_running(), None, "the old address belongs to nobody");
    lock.publish_addr("127.0.0.1:1".parse().unwrap()).unwrap();
    assert_eq!(files.read_running().unwrap().pid, std::process::id());
}

#[test]
fn a_later_process_with_the_same_pid_is_not_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let files = RunFiles::new(folder.path(), "queen-rbee");
    fs::write(files.addr_file(), ADDRESS).unwrap();
    let own = ProcessIdentity::of(std::process::id()).unwrap();
    let (pid, start) = (own.pid, own.start_time);
    for (text, counts) in [
        (format!("{pid} {start}\n"), true),
        (format!("{pid} {}\n", start - 1), false),
        (format!("{pid} {start}"), false),
        (format!("{pid}\n"), false),
        (String::new(), false),
        ("damaged\n".to_owned(), false),
        (format!("-1 {start}\n"), false),
    ] {
        fs::write(files.lock_file(), &text).unwrap();
        assert_eq!(files.read_running().is_some(), counts, "{text:?}");
    }
    fs::write(files.lock_file(), format!("{pid} {start}\n")).unwrap();
    fs::write(files.addr_file(), "nowhere").unwrap();
    assert_eq!(files.read_running(), None);
}

#[test]
fn a_run_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("run"), "in the way").unwrap();
    let error = RunFiles::new(&folder.path().join("run"), "queen-rbee").acquire().unwrap_err();
    assert!(error.to_string().contains("run/queen-rbee.lock"), "{error}");
}

#[test]
#[ignore = "run by the tests above, as a process of its own"]
fn be_a_daemon() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("the starting test sets it"));
    let lock = RunFiles::new(&folder, "queen-rbee").acquire().unwrap();
    lock.publish_addr(ADDRESS.parse().unwrap()).unwrap();
    println!("listens");
    // Until it is killed.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
