//! A queen, doubles of what she talks to, and a client.

mod client;
mod hive;
mod queen;
mod worker;

use std::time::Duration;

pub(crate) use client::{Reply, Stream, chat, completion};
pub(crate) use hive::HiveDouble;
pub(crate) use queen::Queen;
pub(crate) use worker::{Script, WorkerDouble};

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

/// Serves a router on a free port for as long as the handle lives.
pub(crate) fn serve(
    routes: axum::Router,
) -> (std::net::SocketAddr, tokio_util::task::AbortOnDropHandle<()>) {
    let (listener, address) = daemon_http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let tasks = tokio_util::task::TaskTracker::new();
    let server = tasks.spawn(daemon_http::serve(listener, routes, stop, Duration::ZERO));
    (address, tokio_util::task::AbortOnDropHandle::new(server))
}
