//! Connections to workers, driven by the task that reads the answer.
//!
//! A usual HTTP client drives each connection in a task of its own; each token then wakes one more
//! thread on its way. Here the task that writes to the client reads from the worker itself. Nobody
//! drives an idle connection: whether it still stands is found out when it is used again.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::http::{Request, Response, response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
#[cfg(not(test))]
use tokio::net::TcpStream;
use tokio::time::timeout;
#[cfg(test)]
use turmoil::net::TcpStream;

use crate::clock::now;
use crate::registry::Address;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How many unused connections are kept, over all workers.
const MAX_IDLE: usize = 1024;
/// How much of an answer is read ahead of its reader, in bytes.
const READ_AHEAD: usize = 64 * 1024;

/// Connections that can be used again. A clone is the same pool.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool {
    idle: Arc<Mutex<HashMap<String, Vec<Idle>>>>,
}

/// A request and its answer on one connection. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Exchange {
    connection: Connection,
    body: Incoming,
    authority: String,
    pool: Pool,
}

/// A connection broke, or could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// It could not be made.
    #[error("it cannot be reached: {0}")]
    Connect(#[from] std::io::Error),
    /// It was not made in time.
    #[error("it does not accept connections")]
    ConnectTimeout,
    /// It ended or spoke no HTTP.
    #[error("its connection broke")]
    Http(#[from] hyper::Error),
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    driver: Option<Driver>,
}

type Driver = Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>;

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// Sends a request; gives the head of its answer. One that fails on a connection that was idle,
    /// and that the worker may have closed meanwhile, is sent once more on a fresh one; so is one that
    /// has no head within `stale` there.
    pub(super) async fn send(
        &self,
        address: &Address,
        stale: Duration,
        request: impl Fn() -> Request<Full<Bytes>>,
    ) -> Result<(response::Parts, Exchange), Broken> {
        if let Some(mut idle) = self.take(&address.authority) {
            if let Ok(Ok(response)) = timeout(stale, idle.call(request())).await {
                return Ok(self.exchange(idle, response, address));
            }
            // The others go the same way: the worker has ended, or the network forgot them.
            self.idle().remove(&address.authority);
        }
        let mut fresh = timeout(CONNECT, Connection::open(address))
            .await
            .map_err(|_| Broken::ConnectTimeout)??;
        let response = fresh.call(request()).await?;
        Ok(self.exchange(fresh, response, address))
    }

    fn exchange(
        &self,
        connection: Connection,
        response: Response<Incoming>,
        address: &Address,
    ) -> (response::Parts, Exchange) {
        let (head, body) = response.into_parts();
        let authority = address.authority.clone();
        (head, Exchange { connection, body, authority, pool: self.clone() })
    }

    /// The connection that was used last: the least likely to have been closed.
    fn take(&self, authority: &str) -> Option<Connection> {
        let idle = self.idle().get_mut(authority)?.pop()?;
        (now().saturating_duration_since(idle.since) < IDLE).then_some(idle.connection)
    }

    fn keep(&self, authority: String, connection: Connection) {
        let mut idle = self.idle();
        if idle.values().map(Vec::len).sum::<usize>() >= MAX_IDLE {
            idle.clear();
        }
        let now = now();
        // Those of workers that are no more go with the first connection that is kept after them.
        idle.retain(|_, kept| {
            kept.retain(|idle| now.duration_since(idle.since) < IDLE);
            !kept.is_empty()
        });
        idle.entry(authority).or_default().push(Idle { connection, since: now });
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<String, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange {
    /// The next piece of the answer; `None` at its end. Dropping the returned future loses nothing.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match drive(&mut self.connection.driver, self.body.frame()).await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Keeps the connection, after the end of the answer has been read.
    pub(super) fn keep(self) {
        if self.connection.driver.is_some() && !self.connection.sender.is_closed() {
            self.pool.keep(self.authority, self.connection);
        }
    }
}

impl Connection {
    async fn open(address: &Address) -> Result<Self, Broken> {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) =
            http1::Builder::new().max_buf_size(READ_AHEAD).handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Some(Box::pin(driver)) })
    }

    async fn call(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        drive(&mut self.driver, self.sender.ready()).await?;
        drive(&mut self.driver, self.sender.send_request(request)).await
    }
}

/// Waits for something that a connection brings about, and drives the connection meanwhile.
async fn drive<F: Future>(driver: &mut Option<Driver>, awaited: F) -> F::Output {
    let mut awaited = pin!(awaited);
    poll_fn(|context| {
        if let Poll::Ready(output) = awaited.as_mut().poll(context) {
            return Poll::Ready(output);
        }
        if let Some(connection) = driver
            && connection.as_mut().poll(context).is_ready()
        {
            // What is awaited learns of the end when the connection is dropped.
            *driver = None;
        }
        awaited.as_mut().poll(context)
    })
    .await
}
