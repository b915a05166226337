//! One exchange with one worker: the request out, its events in. A worker of rbee speaks the worker's
//! contract; a server of somebody else OpenAI's API, which is translated.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use http1_client::{RequestHead, Unfit};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::WaitForCancellationFutureOwned;
use worker_contract::{ApiErrorBody, ErrorDetail, ErrorKind, HiveAlias, InferenceRequest};

use super::failure::Trouble;
use super::prefill::Prefill;
use super::reason::{Reason, status_and_code};
use super::speech::Speech;
use super::sse::EventCutter;
use crate::attached::VIA;
use crate::attached::{
    Endpoint, Engine, Meaning, Original, Told, Unmet, detail_of, said_otherwise, wordless,
};
use crate::clock::unix_seconds;
use crate::connection::{Exchange, Outgoing, Pool, retry_after_s};
use crate::keyring::{Keyring, NoSecret};
use crate::registry::{Server, Target};

/// How long a worker may take to begin its answer, which it does before it reads the prompt.
const BEGIN: Duration = Duration::from_secs(30);
/// How long a worker may take to do so on a connection that was idle: what is between the two may have
/// forgotten the connection.
const STALE: Duration = Duration::from_secs(5);
/// Why nothing more comes of a worker that is known to be gone.
const GONE: &str = "its process has ended, or is silent";
/// The longest error, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// How long the text of an error may take.
const ERROR_TEXT: Duration = Duration::from_secs(3);
/// How long the usage and the end of an answer are waited for of which all else is there.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the end of a complete answer is waited for, so that its connection can be used again.
const LAST_BYTES: Duration = Duration::from_millis(20);

/// The field by which a server is asked for a stream, which some have not for every answer.
const STREAM: &str = "stream";
/// The field by which a server is asked what an answer used, and which some refuse.
const STREAM_OPTIONS: &str = "stream_options";

/// The time that another queen may take, in milliseconds.
const DEADLINE: &str = "x-rbee-deadline-ms";

/// Sends requests to workers over connections that are kept.
#[derive(Debug, Clone)]
pub(super) struct WorkerClient {
    pool: Pool,
    keyring: Keyring,
}

/// The events of an answer as they come. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct WorkerEvents {
    exchange: Exchange,
    cutter: EventCutter,
    /// The worker is known to be gone.
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    speech: Speech,
    /// When it is too late.
    deadline: Instant,
    /// How many bytes have come that nobody has counted yet.
    received: usize,
    /// How long its usage is waited for, once all of the answer is there.
    farewell_until: Option<Instant>,
}

/// What a worker is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leg<'a> {
    /// What is wanted.
    pub(super) request: &'a InferenceRequest,
    /// The same in the client's words, as far as it is wanted from the start.
    pub(super) original: &'a Original,
    /// What the client has, where the worker is to go on after it as text.
    pub(super) prefill: Option<&'a Prefill>,
    /// How long its prompt is.
    pub(super) prompt_bytes: u32,
    /// The queens that it has come through.
    pub(super) via: &'a str,
    /// Whether what it used is not asked for.
    pub(super) is_uncounted: bool,
    /// Where it is noted that a server is asked for no stream.
    pub(super) in_one_piece: Option<&'a AtomicBool>,
}

impl Leg<'_> {
    fn is_in_one_piece(&self) -> bool {
        self.in_one_piece.is_some_and(|it| it.load(Relaxed))
    }
}

impl WorkerClient {
    /// A client that proves itself to each worker with the secret of its hive.
    pub(super) fn new(keyring: Keyring, pool: Pool) -> Self {
        Self { pool, keyring }
    }

    /// The same client over other connections.
    pub(super) fn with_pool(self, pool: Pool) -> Self {
        Self { pool, ..self }
    }

    /// Whether a request that came through these queens was here before.
    pub(super) fn was_here(&self, via: &str) -> bool {
        via.split(',').any(|id| id.trim() == self.keyring.own_id())
    }

    /// Sends a request; gives its events once the worker has accepted it. A server that refuses one of the ways in
    /// which it is asked is asked again without that, once for each.
    pub(super) async fn send(
        &self,
        target: Arc<Target>,
        leg: &Leg<'_>,
        deadline: Instant,
    ) -> Result<WorkerEvents, Trouble> {
        let unpacked;
        let mut leg = *leg;
        let mut sent = self.send_once(&target, &leg, deadline).await;
        if is_packed(&target, &leg) && is_refused(&sent, may_mean_packing) {
            unpacked = leg.original.unpacked();
            leg.original = &unpacked;
            sent = self.send_once(&target, &leg, deadline).await;
        }
        if is_refused(&sent, |_, detail| names(detail, &[STREAM_OPTIONS])) {
            leg.is_uncounted = true;
            sent = self.send_once(&target, &leg, deadline).await;
        }
        if may_be_streamed(&target, &leg) && is_refused(&sent, may_mean_streaming) {
            if let Some(it) = leg.in_one_piece {
                it.store(true, Relaxed);
            }
            sent = self.send_once(&target, &leg, deadline).await;
        }
        sent
    }

    async fn send_once(
        &self,
        target: &Target,
        leg: &Leg<'_>,
        deadline: Instant,
    ) -> Result<WorkerEvents, Trouble> {
        let request = match self.outgoing(target, leg) {
            Ok(request) => request,
            Err(Unsendable::Secret(missing)) => return Err(Trouble::unsent(missing.to_string())),
            Err(reason) => return Err(Trouble::garbage(format!("it cannot be asked: {reason}"))),
        };
        if target.gone.is_cancelled() {
            return Err(Trouble::unsent(GONE));
        }
        // A server may load its model or compute the prompt before it says anything: for how long that is
        // awaited is decided by whoever sends.
        let is_ours = target.server.is_none();
        let stale = is_ours.then_some(STALE);
        let sent_at = Instant::now();
        let late = if is_ours { deadline.min(sent_at + BEGIN) } else { deadline };
        let sent = tokio::select! {
            biased;
            sent = timeout_at(late, self.pool.send(&target.address, stale, &request)) => sent,
            () = target.gone.cancelled() => return Err(Trouble::unanswered(GONE)),
        };
        let exchange = match sent {
            Ok(Ok(exchange)) => exchange,
            Ok(Err(broken)) => return Err(Trouble::broken(&broken)),
            Err(_) if late == deadline => return Err(Trouble::Deadline),
            Err(_) => {
                let silent = format!("it was silent for {} s", BEGIN.as_secs());
                return Err(Trouble::unanswered(silent));
            }
        };
        match exchange.head() {
            Some(head) if matches!(head.status(), 200..300) => {
                let speech = Speech::of(head, leg, target, sent_at)?;
                let gone = Box::pin(target.gone.clone().cancelled_owned());
                let cutter = speech.cutter();
                let (received, farewell_until) = (0, None);
                Ok(WorkerEvents {
                    exchange,
                    cutter,
                    gone,
                    speech,
                    deadline,
                    received,
                    farewell_until,
                })
            }
            _ => Err(refusal(exchange, target, leg).await),
        }
    }

    /// The request to a worker, with the proof that the queen sends it.
    fn outgoing(&self, target: &Target, leg: &Leg<'_>) -> Result<Outgoing, Unsendable> {
        let (path, authorization) = match &target.server {
            None => {
                let authorization = self.keyring.authorization(target)?;
                (Cow::Borrowed("/v1/inference"), Some(authorization))
            }
            Some(server) => {
                let path = server.url.path(leg.original.endpoint().path());
                (Cow::Owned(path), self.keyring.server_authorization(&target.hive_id))
            }
        };
        let mut head = RequestHead::post(&path, &target.address.authority)?
            .header("content-type", "application/json")?
            .header("x-request-id", leg.request.request_id.as_str())?;
        if let Some(authorization) = authorization {
            head = head.header("authorization", authorization.to_str().unwrap_or_default())?;
        }
        if let Some(server) = &target.server {
            let left = leg.request.deadline_ms.filter(|_| server.engine == Engine::Rbee);
            if let Some(left) = left {
                head = head.header(DEADLINE, &left.to_string())?;
            }
            head = match leg.via {
                "" => head.header(VIA, self.keyring.own_id())?,
                via => head.header(VIA, &format!("{via},{}", self.keyring.own_id()))?,
            };
        }
        let body = Bytes::from(body(leg, target.server.as_ref())?);
        Ok(Outgoing { head: head.finish(body.len()), body })
    }
}

/// A request cannot be written down.
#[derive(Debug, thiserror::Error)]
enum Unsendable {
    /// Its hive is being removed.
    #[error(transparent)]
    Secret(#[from] NoSecret),
    #[error(transparent)]
    Head(#[from] Unfit),
    #[error(transparent)]
    Body(#[from] serde_json::Error),
}

impl WorkerEvents {
    /// The worker has begun in time; from here on it may take until another one.
    pub(super) fn go_on_until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// The next that is told. Dropping the returned future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Told, Trouble> {
        loop {
            if let Some(told) = self.speech.take(&mut self.cutter)? {
                return Ok(told);
            }
            // Where bytes come without a pause, no timer gets its turn.
            let now = Instant::now();
            if self.speech.lacks_only_farewell() {
                let until = *self.farewell_until.get_or_insert(now + FAREWELL);
                if now < until {
                    // Who is late is asked no more: the next round ends the answer.
                    if let Ok(read) = Box::pin(timeout_at(until, self.read())).await {
                        read?;
                    }
                } else {
                    self.speech.is_over();
                }
                continue;
            }
            if now >= self.deadline {
                if self.speech.is_over() {
                    continue;
                }
                return Err(Trouble::Deadline);
            }
            self.read().await?;
        }
    }

    /// Takes in what comes next. Dropping the returned future loses nothing.
    async fn read(&mut self) -> Result<(), Trouble> {
        let (speech, cutter) = (&mut self.speech, &mut self.cutter);
        let (mut fed, received) = (Ok(()), &mut self.received);
        let mut body = |part: &[u8]| {
            *received += part.len();
            if fed.is_ok() {
                fed = speech.feed(cutter, part);
            }
        };
        let read = tokio::select! {
            biased;
            read = self.exchange.read(&mut body) => read,
            () = self.gone.as_mut() => return Err(Trouble::connection(GONE)),
        };
        fed?;
        let is_cut = match read {
            Ok(true) => false,
            Ok(false) => !self.speech.closed()?,
            Err(_) if self.speech.is_over() => false,
            Err(broken) => return Err(Trouble::interrupted(&broken)),
        };
        if is_cut {
            return Err(Trouble::connection("it ended in the middle of the answer"));
        }
        Ok(())
    }

    /// How many bytes have come since this was asked last.
    pub(super) fn take_received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    /// Whether nothing is missing of the answer but its farewell, which is then not waited for: `next` gives
    /// its end.
    pub(super) fn is_complete(&mut self) -> bool {
        self.speech.is_over()
    }

    /// Reads the end of a complete answer, so that the connection can be used again.
    pub(super) async fn finish(mut self: Box<Self>) {
        // It came with the last event, as a rule.
        if !self.exchange.is_ended() {
            let rest = async { while let Ok(true) = self.exchange.read(&mut |_| ()).await {} };
            let _ = timeout(LAST_BYTES, rest).await;
        }
        self.exchange.keep();
    }
}

/// Whether a request was refused with a status and in words that may mean something.
fn is_refused(
    sent: &Result<WorkerEvents, Trouble>,
    may_mean: impl Fn(StatusCode, &ErrorDetail) -> bool,
) -> bool {
    matches!(sent, Err(Trouble::Refused { status, detail }) if may_mean(*status, detail))
}

/// Whether a server is asked for vectors in base64.
fn is_packed(target: &Target, leg: &Leg<'_>) -> bool {
    target.server.as_ref().is_some_and(|server| leg.original.is_packed_by(server.engine))
}

/// Whether a refusal may be that of a version which has no vectors in base64.
fn may_mean_packing(status: StatusCode, detail: &ErrorDetail) -> bool {
    match status.as_u16() {
        422 => true,
        400 => names(detail, &["base64", "encoding_format"]),
        _ => false,
    }
}

/// Whether it is a text that a server of somebody else is asked for.
fn may_be_streamed(target: &Target, leg: &Leg<'_>) -> bool {
    let is_text = matches!(leg.original.endpoint(), Endpoint::Chat | Endpoint::Completion);
    target.server.is_some() && is_text
}

/// Whether a refusal may be that of a server which does not stream this answer: older llama-servers stream none
/// in which functions may be called.
fn may_mean_streaming(status: StatusCode, detail: &ErrorDetail) -> bool {
    let ends_word = |character: char| !character.is_alphanumeric() && character != '_';
    let is_it = |word: &str| ["stream", "streaming"].iter().any(|it| word.eq_ignore_ascii_case(it));
    let is_named = |said: &str| said.split(ends_word).any(is_it);
    matches!(status.as_u16(), 400 | 422 | 500)
        && (is_named(&detail.message) || detail.param.as_deref().is_some_and(is_named))
}

/// Whether a refusal names one of these words.
fn names(detail: &ErrorDetail, words: &[&str]) -> bool {
    let is_named = |said: &str| words.iter().any(|word| said.contains(word));
    is_named(&detail.message) || detail.param.as_deref().is_some_and(is_named)
}

/// The body of a request.
fn body(leg: &Leg<'_>, server: Option<&Server>) -> serde_json::Result<Vec<u8>> {
    match (server, leg.prefill) {
        (Some(server), prefill) => {
            let mut body = leg.original.body_for(server, leg.request, prefill);
            if leg.is_in_one_piece() {
                body.insert(STREAM.into(), false.into());
            }
            if leg.is_uncounted || leg.is_in_one_piece() {
                body.shift_remove(STREAM_OPTIONS);
            }
            serde_json::to_vec(&body)
        }
        (None, Some(prefill)) => serde_json::to_vec(&prefill.continued(leg.request)),
        (None, None) => serde_json::to_vec(leg.request),
    }
}

/// What an answer means whose status says that it is none.
async fn refusal(mut exchange: Exchange, target: &Target, leg: &Leg<'_>) -> Trouble {
    let is_server = target.server.is_some();
    let head = exchange.head();
    let status = head.and_then(|head| StatusCode::from_u16(head.status()).ok());
    let Some(status) = status else { return Trouble::garbage("its answer has no status") };
    let retry_after = head.and_then(|head| head.header("retry-after"));
    let retry_after = retry_after.and_then(|told| retry_after_s(told, unix_seconds()));
    let location = head.and_then(|head| head.header("location")).map(str::to_owned);
    let mut body = Vec::new();
    let read = async {
        while body.len() <= MAX_ERROR
            && let Ok(true) = exchange.read(&mut |part| body.extend_from_slice(part)).await
        {
        }
    };
    // What is there of it must do.
    let _ = timeout(ERROR_TEXT, read).await;
    exchange.keep();
    let detail = match serde_json::from_slice::<ApiErrorBody>(&body) {
        Ok(body) => Some(body.error),
        Err(_) if is_server => detail_of(&body),
        Err(_) => None,
    };
    if let Some(server) = &target.server {
        let (name, path) = (&target.hive_id, leg.original.endpoint().path());
        let (words, location) = (detail.as_ref(), location.as_deref());
        let unmet = Unmet { name, server, path, status, words, location };
        match unmet.meaning() {
            Some(Meaning::Lacking { told, detail, wordless }) => {
                return Trouble::Lacking { status: told, detail, recorded: wordless.into() };
            }
            Some(Meaning::LockedOut(reason)) => return Trouble::LockedOut(reason),
            None => {}
        }
    }
    let detail = match detail {
        Some(detail) => detail,
        None if is_server => match of_no_error(status, &body, &target.hive_id) {
            Ok(detail) => detail,
            Err(trouble) => return trouble,
        },
        None => return Trouble::garbage(format!("it answered HTTP {status} without a reason")),
    };
    match status.as_u16() {
        429 | 503 => Trouble::Busy { status, detail, retry_after_s: retry_after },
        // The model of a worker is known to the queen, so this is a mistake between the two.
        401 | 403 | 404 | 405 => {
            Trouble::garbage(format!("it refused the queen: {}", detail.message))
        }
        400..500 => Trouble::Refused { status, detail: at_fault(detail) },
        // So llama-server says that it has no images or that a text is too long for its vectors; others
        // that they have no memory left.
        500 if is_server => Trouble::Refused {
            status,
            detail: ErrorDetail { kind: ErrorKind::ServerError, ..detail },
        },
        // What was left of the request's time was all that it had.
        504 if detail.code.as_deref() == Some("deadline_exceeded") => Trouble::Deadline,
        _ if is_server => {
            let recorded = status_and_code(status, detail.code.as_deref());
            Trouble::garbage(Reason::of_stranger(detail.message, recorded))
        }
        _ => Trouble::garbage(detail.message),
    }
}

/// What a server means whose words are no error: the request may be at fault only where the status says so.
fn of_no_error(status: StatusCode, body: &[u8], name: &HiveAlias) -> Result<ErrorDetail, Trouble> {
    let answered = format!("answered HTTP {status}");
    let said = said_otherwise(status, body);
    match status.as_u16() {
        429 | 503 => Ok(wordless(format!("it {answered}{said}"))),
        400..500 => Ok(wordless(format!("the server {name} {answered}{said}"))),
        _ => {
            let words = format!("it {answered}{said}");
            Err(Trouble::garbage(Reason::of_stranger(words, format!("it {answered}"))))
        }
    }
}

fn at_fault(detail: ErrorDetail) -> ErrorDetail {
    ErrorDetail { kind: ErrorKind::InvalidRequestError, ..detail }
}
