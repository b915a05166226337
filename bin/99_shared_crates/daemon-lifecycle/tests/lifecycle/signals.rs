//! The first signal asks, the second insists.

use std::path::Path;

use daemon_lifecycle::shutdown_token;
use rustix::process::Signal;

use crate::support::Daemon;

#[test]
fn the_first_signal_cancels_and_the_second_ends_the_process() {
    for (first, second, code) in [
        (Signal::TERM, Signal::TERM, 143),
        (Signal::INT, Signal::INT, 130),
        (Signal::INT, Signal::TERM, 143),
    ] {
        let mut daemon = Daemon::start("signals::drain_without_end", Path::new("."));
        daemon.wait_for("ready");
        daemon.signal(first);
        daemon.wait_for("draining");
        assert!(daemon.0.try_wait().unwrap().is_none());
        daemon.signal(second);
        assert_eq!(daemon.0.wait().unwrap().code(), Some(code), "{first:?} {second:?}");
    }
}

#[tokio::test]
#[ignore = "run by the test above, as a process of its own"]
async fn drain_without_end() {
    let stop = shutdown_token().unwrap();
    println!("ready");
    stop.cancelled().await;
    println!("draining");
    std::future::pending::<()>().await;
}
