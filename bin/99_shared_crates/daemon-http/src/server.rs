//! Serving connections until told to stop.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

mod poll_again;
#[cfg(test)]
mod tests;

use self::poll_again::PollAgain;

/// The largest head of a request, in bytes; beyond it the answer is a bare 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long accepting rests after the system refused, for lack of file descriptors, say.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What one server takes on.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// The most connections at once; more wait in the system's backlog.
    connections: usize,
    /// How long a client may take to send a request's head, and how long a connection may idle
    /// between requests.
    head_time: Duration,
    /// How long a client may take nothing of an answer that waits for it. While it does, the answer
    /// itself is not looked at: neither its deadline nor what it holds.
    stall: Duration,
}

/// As patient with readers as nginx is by its `send_timeout`.
const BOUNDS: Bounds = Bounds {
    connections: 16_384,
    head_time: Duration::from_secs(30),
    stall: Duration::from_secs(60),
};

/// Serves `routes` until `stop`; then no connection is accepted, idle ones are closed, and answers
/// that are under way get `drain` to end before they are cut.
///
/// Each socket has `TCP_NODELAY`: without it a small event waits for a delayed acknowledgement.
/// Heads of requests are bounded in size and time; connections are bounded in number, and those whose
/// clients do not read are closed after a minute.
pub async fn serve<S: Routes>(
    listener: TcpListener,
    routes: S,
    stop: CancellationToken,
    drain: Duration,
) {
    serve_within(BOUNDS, listener, routes, stop, drain).await;
}

/// What answers the requests: [`edge`](crate::edge), or a router.
pub trait Routes:
    Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> Routes for S where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

async fn serve_within<S: Routes>(
    bounds: Bounds,
    listener: TcpListener,
    routes: S,
    stop: CancellationToken,
    drain: Duration,
) {
    let mut door = Door::new(listener, bounds.connections);
    let graceful = GracefulShutdown::new();
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some((stream, place)) = stop.run_until_cancelled(door.next()).await {
        let service = TowerToHyperService::new(routes.clone());
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(bounds.stall));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_time)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        // In a box: a task has what it awaits twice, as it was captured and as it is polled, and there
        // are many of these.
        let connection = PollAgain::new(graceful.watch(connection));
        let cut = cut.clone();
        tasks.spawn(async move {
            // A client that goes away is no error of ours.
            let _ = cut.run_until_cancelled(connection).await;
            drop(place);
        });
    }
    drop(door);
    if timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("answers were still under way at the end of the drain time");
    }
    cut.cancel();
    tasks.close();
    tasks.wait().await;
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    /// Whether the last attempt to accept failed; it is logged once in a row.
    is_stuck: bool,
}

impl Door {
    fn new(listener: TcpListener, places: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(places)), is_stuck: false }
    }

    /// The next connection, when there is a place for it.
    async fn next(&mut self) -> (TcpStream, Option<OwnedSemaphorePermit>) {
        // The semaphore is never closed, so a place always comes.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.is_stuck = false;
                    // It fails only on a connection that is gone already.
                    let _ = stream.set_nodelay(true);
                    return (stream, place);
                }
                Err(error) if is_clients_fault(&error) => {}
                Err(error) => {
                    if !self.is_stuck {
                        tracing::warn!(%error, "connections cannot be accepted; trying again");
                    }
                    self.is_stuck = true;
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }
}

/// Whether the error is that of one connection, which was gone before it was accepted.
fn is_clients_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};

    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
