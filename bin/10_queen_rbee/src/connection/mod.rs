//! Connections to workers, driven by the task that reads the answer.
//!
//! A usual HTTP client drives each connection in a task of its own; each token then wakes one more
//! thread on its way, and each connection keeps buffers while nothing comes. Here the task that writes
//! to the client reads from the worker itself, into a buffer of its stack. Nobody drives an idle
//! connection: whether it still stands is found out when it is used again.

mod addresses;
mod own_limit;
mod retry_after;
mod stream;
mod tls;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http1_client::{AnswerReader, Head, Malformed};
use tokio::io::ReadBuf;
use tokio::time::timeout;
use tokio_rustls::rustls;

use self::own_limit::of_connecting;
pub(crate) use self::retry_after::seconds as retry_after_s;
use self::stream::Stream;
pub use self::tls::Trust;
pub(crate) use self::tls::lacks_trust;
use crate::clock::now;
use crate::registry::Address;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an unused connection to a worker of rbee is kept: less long than it keeps it.
const IDLE: Duration = Duration::from_secs(25);
/// How long one to a server of somebody else is kept; some close theirs after five seconds.
const SERVER_IDLE: Duration = Duration::from_secs(4);
/// A request that fails sooner on a connection that was idle has not begun: the worker had closed it.
const CLOSED: Duration = Duration::from_secs(1);
/// How often, at most, those are looked for that were kept for longer.
const SWEEP: Duration = Duration::from_secs(1);
/// How many unused connections are kept, over all workers.
const MAX_IDLE: usize = 1024;
/// How much of an answer is read at once.
const READ: usize = 16 * 1024;

/// Connections that can be used again. A clone is the same pool.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    trust: Trust,
    shelf: Arc<Mutex<Shelf>>,
}

/// The connections that wait for their next request.
#[derive(Debug, Default)]
struct Shelf {
    /// Under the names of their workers.
    idle: BTreeMap<String, Vec<Idle>>,
    /// When those that have waited for too long were thrown away.
    swept_at: Option<Instant>,
}

/// A request as it goes out.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Bytes,
}

/// An answer whose head is there. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    stream: Stream,
    reader: AnswerReader,
    /// What came of the body together with its head.
    early: Vec<u8>,
    /// The whole request has gone out.
    is_sent: bool,
    /// Under which name the connection is kept.
    kept_as: String,
    pool: Pool,
}

/// A connection broke, or could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// It could not be made.
    #[error("it cannot be reached: {0}")]
    Connect(#[source] io::Error),
    /// The queen may have no more of them; whoever was to be reached is not to blame.
    #[error("the queen has as many connections and files open as the system lets her: {0}")]
    OwnLimit(#[source] io::Error),
    /// It was not made in time.
    #[error("it does not accept connections")]
    ConnectTimeout,
    /// It was made, and TLS was not spoken in time.
    #[error("it does not begin to speak TLS")]
    HandshakeTimeout,
    /// It ended.
    #[error("its connection broke")]
    Ended(#[from] io::Error),
    /// It spoke no HTTP, or its answer was cut.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// One that was idle ended with the request, and no other could be made.
    #[error("its connection broke, and then {0}")]
    Lost(Box<Broken>),
}

impl Broken {
    /// Whether somebody is there whose certificate is not believed.
    pub(crate) fn is_untrusted(&self) -> bool {
        matches!(self.of_tls(), Some(rustls::Error::InvalidCertificate(_)))
    }

    /// Whether somebody is there who was to speak TLS, and speaks something else.
    pub(crate) fn is_no_tls(&self) -> bool {
        let no_tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        self.of_tls() == Some(&no_tls)
    }

    fn of_tls(&self) -> Option<&rustls::Error> {
        let Self::Connect(error) = self else { return None };
        error.get_ref().and_then(|error| error.downcast_ref())
    }

    /// Whether the request may have gone out before.
    pub(crate) fn may_have_sent(&self) -> bool {
        let is_before = matches!(
            self,
            Self::Connect(_) | Self::OwnLimit(_) | Self::ConnectTimeout | Self::HandshakeTimeout
        );
        !is_before
    }

    /// Whether the queen could not have one more connection.
    pub(crate) fn is_own_limit(&self) -> bool {
        match self {
            Self::OwnLimit(_) => true,
            Self::Lost(next) => next.is_own_limit(),
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Idle {
    stream: Stream,
    since: Instant,
}

impl Pool {
    /// No connections. Servers that are reached by TLS must be known to those that are trusted.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self { trust, shelf: Arc::default() }
    }

    /// Sends a request; gives its answer once the head is there. One that ends at once on a connection
    /// that was idle, since the worker has closed it meanwhile, is sent once more on a fresh one; so is
    /// one that has no head within `stale` there, if that is given: whoever answers at once has it from a
    /// network that forgot the connection.
    pub(crate) async fn send(
        &self,
        address: &Address,
        stale: Option<Duration>,
        request: &Outgoing,
    ) -> Result<Exchange, Broken> {
        let kept_for = if stale.is_some() { IDLE } else { SERVER_IDLE };
        let mut was_sent = false;
        if let Some(idle) = self.take(&kept_as(address), kept_for).await {
            let mut exchange = self.exchange(idle, address);
            let began = now();
            let called = match stale {
                Some(stale) => timeout(stale, exchange.call(request)).await.ok(),
                None => Some(exchange.call(request).await),
            };
            match called {
                Some(Ok(())) => return Ok(exchange),
                Some(Err(broken))
                    if exchange.reader.has_begun()
                        || now().saturating_duration_since(began) > CLOSED =>
                {
                    return Err(broken);
                }
                // The others go the same way: the worker has ended, or the network forgot them.
                _ => self.shelf().idle.remove(&*kept_as(address)),
            };
            was_sent = exchange.is_sent;
        }
        let fresh = self.connect(address).await;
        let lost = |broken| if was_sent { Broken::Lost(Box::new(broken)) } else { broken };
        let fresh = fresh.map_err(lost)?;
        let mut exchange = self.exchange(fresh, address);
        exchange.call(request).await?;
        Ok(exchange)
    }

    async fn connect(&self, address: &Address) -> Result<Stream, Broken> {
        let attempt = move || async move {
            let plain = timeout(CONNECT, Stream::connect(address)).await;
            plain.map_err(|_| Broken::ConnectTimeout)?.map_err(of_connecting)
        };
        // What waits for its next request can be made again.
        let plain = own_limit::patiently(attempt, || self.shelf().idle.clear()).await?;
        if !address.is_secure {
            return Ok(Stream::Plain(plain));
        }
        let secure = timeout(CONNECT, Stream::secure(plain, address, &self.trust)).await;
        secure.map_err(|_| Broken::HandshakeTimeout)?.map_err(Broken::Connect)
    }

    fn exchange(&self, stream: Stream, address: &Address) -> Exchange {
        Exchange {
            stream,
            reader: AnswerReader::default(),
            early: Vec::new(),
            is_sent: false,
            kept_as: kept_as(address).into_owned(),
            pool: self.clone(),
        }
    }

    /// The connection that was used last, the least likely to have been closed, if it still stands.
    async fn take(&self, kept_as: &str, kept_for: Duration) -> Option<Stream> {
        loop {
            let mut idle = self.shelf().idle.get_mut(kept_as)?.pop()?;
            let is_fresh = now().saturating_duration_since(idle.since) < kept_for;
            if is_fresh && says_nothing(&mut idle.stream).await {
                return Some(idle.stream);
            }
        }
    }

    fn keep(&self, kept_as: String, stream: Stream) {
        let (mut kept, now) = (self.shelf(), now());
        let is_full = kept.idle.values().map(Vec::len).sum::<usize>() >= MAX_IDLE;
        kept.sweep(now, is_full);
        kept.idle.entry(kept_as).or_default().push(Idle { stream, since: now });
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// Throws away what has waited for too long, such as the connections of workers that are no more; and
    /// all that waits, where that is too much.
    fn sweep(&mut self, now: Instant, is_full: bool) {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < SWEEP;
        if !is_full && self.swept_at.is_some_and(is_recent) {
            return;
        }
        self.swept_at = Some(now);
        self.idle.retain(|_, kept| {
            kept.retain(|idle| !is_full && now.saturating_duration_since(idle.since) < IDLE);
            !kept.is_empty()
        });
    }
}

impl Exchange {
    /// The head of the answer.
    pub(crate) fn head(&self) -> Option<&Head> {
        self.reader.head()
    }

    /// Gives what comes of the answer to `body`, as soon as something does. False at its end. Dropping
    /// the returned future loses nothing.
    pub(crate) async fn read(&mut self, body: &mut impl FnMut(&[u8])) -> Result<bool, Broken> {
        poll_fn(|context| self.poll_body(context, body)).await
    }

    /// The same, for who has something else to wait for.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        body: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<bool, Broken>> {
        if !self.early.is_empty() {
            body(&std::mem::take(&mut self.early));
            return Poll::Ready(Ok(true));
        }
        let mut came = false;
        while !came {
            if self.reader.is_ended() {
                return Poll::Ready(Ok(false));
            }
            let mut note = |part: &[u8]| {
                came = true;
                body(part);
            };
            match self.poll_read(context, &mut note) {
                Poll::Ready(read) => read?,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Whether all of the answer has been read.
    pub(crate) fn is_ended(&self) -> bool {
        self.reader.is_ended() && self.early.is_empty()
    }

    /// Keeps the connection, after the end of the answer has been read.
    pub(crate) fn keep(self) {
        if self.is_sent && self.reader.is_kept() {
            self.pool.keep(self.kept_as, self.stream);
        }
    }

    /// Sends the request and reads the head of its answer, which may come before the request is sent: a
    /// worker that refuses it need not read it.
    async fn call(&mut self, request: &Outgoing) -> Result<(), Broken> {
        let (mut sent, mut unsent) = (0, None);
        poll_fn(|context| {
            if !self.is_sent && unsent.is_none() {
                match self.poll_write(context, request, &mut sent) {
                    Poll::Ready(Ok(())) => self.is_sent = true,
                    Poll::Ready(Err(error)) => unsent = Some(error),
                    Poll::Pending => {}
                }
            }
            let mut early = std::mem::take(&mut self.early);
            let head = loop {
                if let Some(head) = self.reader.head() {
                    // A refusal need not read the request; who answers it does.
                    let is_refused = head.status() != 200 || unsent.is_some();
                    let is_over = self.is_sent || is_refused;
                    break if is_over { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
                match self.poll_read(context, &mut |part| early.extend_from_slice(part)) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(broken)) => break Poll::Ready(Err(broken)),
                    // Nobody answers what cannot be sent.
                    Poll::Pending => {
                        break unsent
                            .take()
                            .map_or(Poll::Pending, |error| Poll::Ready(Err(Broken::Ended(error))));
                    }
                }
            };
            self.early = early;
            head
        })
        .await
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        request: &Outgoing,
        sent: &mut usize,
    ) -> Poll<io::Result<()>> {
        let Outgoing { head, body } = request;
        while *sent < head.len() + body.len() {
            let of_head = (*sent).min(head.len());
            let parts = [IoSlice::new(&head[of_head..]), IoSlice::new(&body[*sent - of_head..])];
            match self.stream.poll_write(context, &parts) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(length)) => *sent += length,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.stream.poll_flush(context)
    }

    /// Reads once.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        body: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<(), Broken>> {
        let mut room = [MaybeUninit::<u8>::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut room);
        match self.stream.poll_read(context, &mut read) {
            Poll::Ready(Ok(())) if read.filled().is_empty() => {
                Poll::Ready(self.reader.closed().map_err(Broken::from))
            }
            Poll::Ready(Ok(())) => {
                Poll::Ready(self.reader.feed(read.filled(), body).map_err(Broken::from))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Whether nothing has come on an idle connection: neither its end, nor what would be taken for the
/// answer to the next request.
async fn says_nothing(stream: &mut Stream) -> bool {
    poll_fn(|context| {
        let mut room = [MaybeUninit::<u8>::uninit(); 1];
        let read = stream.poll_read(context, &mut ReadBuf::uninit(&mut room));
        Poll::Ready(read.is_pending())
    })
    .await
}

/// By what name connections to an address are kept.
fn kept_as(address: &Address) -> Cow<'_, str> {
    if address.is_secure {
        Cow::Owned(format!("https://{}", address.authority))
    } else {
        Cow::Borrowed(&address.authority)
    }
}
