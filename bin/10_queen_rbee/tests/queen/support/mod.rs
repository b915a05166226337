//! A queen, doubles of what she talks to, and a client.

mod client;
mod hive;
mod queen;
mod server;
mod worker;

use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub(crate) use client::{Reply, Stream, chat, completion};
pub(crate) use hive::HiveDouble;
pub(crate) use queen::{Home, Queen};
pub(crate) use server::{Plays, ServerDouble};
pub(crate) use worker::{Script, WorkerDouble, done};

/// The longest that a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds; at the deadline says what was missing.
pub(crate) async fn until(missing: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "not within {PATIENCE:?}: {missing}");
}

/// Serves routes on a free port, or on the one given, until the guard is dropped; then listener and
/// connections are closed at once.
pub(crate) fn serve(
    routes: impl daemon_http::Routes,
    port: u16,
) -> Option<(SocketAddr, DropGuard)> {
    let (listener, address) = daemon_http::bind(([127, 0, 0, 1], port).into()).ok()?;
    let stop = CancellationToken::new();
    TaskTracker::new().spawn(daemon_http::serve(listener, routes, stop.clone(), Duration::ZERO));
    Some((address, stop.drop_guard()))
}
