//! Serving connections until told to stop.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures::future::poll_fn;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

mod own_threads;
mod patient;
mod poll_again;
mod seat;
#[cfg(test)]
mod tests;
mod unhurried;

pub use self::own_threads::OwnThreads;
pub use self::patient::{AnswerEnds, Unfinished};
use self::patient::{Carried, Patient};
use self::poll_again::PollAgain;
use self::seat::Seats;
pub use self::unhurried::Unhurried;

/// The largest head of a request, in bytes; beyond it the answer is a bare 431. Heads take memory before
/// anybody has shown a token.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How many open files are kept for everything but connections.
const OTHER_FILES: u64 = 64;
/// As few connections as these are always taken.
const FEWEST_CONNECTIONS: usize = 16;

/// Places are short when fewer than this part of them is free.
const SHORT_PART: usize = 4;
/// How often the door looks, while places are short, for connections on which nobody asks anything.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long accepting rests after the system refused, for lack of file descriptors, say.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What one server takes on.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// The most connections at once; more wait in the system's backlog. Before there are so many, those on
    /// which nobody asks anything are closed.
    connections: usize,
    /// How long a client may take to send a request's head, and how long a connection may idle
    /// between requests.
    head_time: Duration,
    /// How long a client may take nothing of an answer that waits for it. While it does, the answer
    /// itself is not looked at.
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
/// Heads of requests are bounded in size and time; connections are bounded in number, by what files the
/// system lets this process open, too: when three quarters of the places are taken, those that have sent
/// nothing yet are closed, and then those between two requests, the longest waiting first, so that who asks
/// finds a place. Those whose clients do not read are closed after a minute, or when the
/// [answer's time](AnswerEnds) is over.
pub async fn serve<S: Routes>(
    listener: TcpListener,
    routes: S,
    stop: CancellationToken,
    drain: Duration,
) {
    serve_within(bounds(), listener, routes, None, stop, drain).await;
}

/// As [`serve`], where some connections are carried by a thread of their own.
pub async fn serve_beside<S: Routes>(
    listener: TcpListener,
    routes: S,
    unhurried: Unhurried,
    stop: CancellationToken,
    drain: Duration,
) {
    serve_within(bounds(), listener, routes, Some(unhurried), stop, drain).await;
}

fn bounds() -> Bounds {
    Bounds { connections: connections_within(getrlimit(Resource::Nofile).current), ..BOUNDS }
}

/// How many connections are taken where so many files may be open: half of them, since the answer to a
/// request may need a connection elsewhere.
fn connections_within(files: Option<u64>) -> usize {
    let half = files.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES) / 2;
    usize::try_from(half).unwrap_or(usize::MAX).clamp(FEWEST_CONNECTIONS, BOUNDS.connections)
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
    unhurried: Option<Unhurried>,
    stop: CancellationToken,
    drain: Duration,
) {
    let mut door = Door::new(listener, bounds.connections);
    let graceful = GracefulShutdown::new();
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some(Accepted { stream, place, carried }) =
        stop.run_until_cancelled(door.next()).await
    {
        let cut = cut.clone();
        let (routes, watcher) = (routes.clone(), graceful.watcher());
        let one = One { stream, routes, bounds, watcher, place, carried };
        let Some(unhurried) = unhurried.clone() else {
            tasks.spawn(one.carry(cut));
            continue;
        };
        let (stop, here) = (stop.clone(), tasks.clone());
        tasks.spawn(async move {
            let sorted = one.carried.seat.unless_it_leaves(unhurried.takes(&one.stream));
            match stop.run_until_cancelled(timeout(bounds.head_time, sorted)).await {
                Some(Ok(Some(true))) => one.carry_by(&unhurried, &here, cut),
                Some(Ok(Some(false))) => drop(here.spawn(one.carry(cut))),
                // It has sent nothing so far.
                Some(Ok(None) | Err(_)) | None => {}
            }
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

/// A connection that was accepted.
struct One<S> {
    stream: TcpStream,
    routes: S,
    bounds: Bounds,
    watcher: Watcher,
    place: Option<OwnedSemaphorePermit>,
    carried: Arc<Carried>,
}

impl<S: Routes> One<S> {
    /// Answers what it asks, until it ends or is cut.
    fn carry(self, cut: CancellationToken) -> impl Future<Output = ()> + Send + use<S> {
        let Self { stream, routes, bounds, watcher, place, carried } = self;
        let stream = Patient::new(stream, bounds.stall, Arc::clone(&carried));
        let service =
            service_fn(move |request| answer(routes.clone(), request, Arc::clone(&carried)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_time)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        // In a box: a task has what it awaits twice, as it was captured and as it is polled, and there
        // are many of these.
        let connection = PollAgain::new(watcher.watch(connection));
        async move {
            // A client that goes away is no error of ours.
            let _ = cut.run_until_cancelled(connection).await;
            drop(place);
        }
    }

    /// The same, on a thread for those who can wait.
    fn carry_by(self, unhurried: &Unhurried, tasks: &TaskTracker, cut: CancellationToken) {
        // A socket belongs to the threads on which it was made.
        let Ok(stream) = self.stream.into_std() else { return };
        let Self { routes, bounds, watcher, place, carried, .. } = self;
        let carrying = async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                Self { stream, routes, bounds, watcher, place, carried }.carry(cut).await;
            }
        };
        tasks.spawn_on(carrying, unhurried.runtime());
    }
}

async fn answer<S: Routes>(
    mut routes: S,
    request: Request<Incoming>,
    carried: Arc<Carried>,
) -> Result<axum::http::Response<Answer>, Infallible> {
    carried.seat.begin();
    poll_fn(|context| routes.poll_ready(context)).await?;
    let response = routes.call(request).await?;
    carried.begin(response.extensions());
    Ok(response.map(|body| Answer { body, carried }))
}

/// The body of an answer. When it is dropped, its connection waits for the next request.
struct Answer {
    body: Body,
    carried: Arc<Carried>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.carried.seat.end();
    }
}

/// A connection that has just come in.
struct Accepted {
    stream: TcpStream,
    place: Option<OwnedSemaphorePermit>,
    carried: Arc<Carried>,
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    /// As many places are to be free.
    wanted: usize,
    seats: Seats,
    looked: Instant,
    /// Whether the last attempt to accept failed; it is logged once in a row.
    is_stuck: bool,
}

impl Door {
    fn new(listener: TcpListener, places: usize) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(places)),
            wanted: (places / SHORT_PART).max(1),
            seats: Seats::default(),
            looked: Instant::now(),
            is_stuck: false,
        }
    }

    /// The next connection, when there is a place for it.
    async fn next(&mut self) -> Accepted {
        let place = self.place().await;
        let stream = self.accept().await;
        let carried = Arc::default();
        self.seats.add(&carried);
        Accepted { stream, place, carried }
    }

    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        loop {
            self.make_room();
            let place = timeout(LOOK_EVERY, Arc::clone(&self.places).acquire_owned());
            if let Ok(place) = place.await {
                // The semaphore is never closed, so a place always comes.
                return place.ok();
            }
        }
    }

    /// Where places are short, connections on which nobody asks anything are asked to leave.
    fn make_room(&mut self) {
        let short = self.wanted.saturating_sub(self.places.available_permits());
        if short > 0 && self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.seats.make_room(short);
        }
    }

    async fn accept(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.is_stuck = false;
                    // It fails only on a connection that is gone already.
                    let _ = stream.set_nodelay(true);
                    return stream;
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
