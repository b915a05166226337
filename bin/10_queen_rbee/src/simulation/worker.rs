//! A simulated worker: the worker's contract over a simulated connection, and a formula for a model.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use turmoil::net::{TcpListener, UdpSocket};
use worker_contract::{
    DeviceId, HiveAlias, InferenceRequest, KvCacheUse, ModelAlias, ModelInUse, ModelKind, Prompt,
    Slots, Task, TokenId, WorkerHeartbeat, WorkerState,
};

/// Where workers listen, and where the queen takes reports.
pub(super) const PORT: u16 = 9300;
pub(super) const REPORTS: u16 = 8500;
const SLOTS: u32 = 2;
/// A request that begins so ends the worker after as many tokens as it says then.
pub(super) const POISON: &str = "poison ";
/// One that begins so has the worker hang, before it says that it has it.
pub(super) const HANG: &str = "hang ";
/// What a token takes.
pub(super) const TOKEN: Duration = Duration::from_millis(40);
const REPORT: Duration = Duration::from_secs(1);
/// How often a worker that does nothing looks whether it may go on.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// Who a worker is.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) name: String,
    /// The machine that it runs on.
    pub(super) host: String,
    pub(super) hive: HiveAlias,
    pub(super) model: ModelAlias,
    pub(super) device: DeviceId,
    pub(super) port: u16,
}

/// What can be done to a worker from outside, and what is seen of it.
#[derive(Debug)]
pub(super) struct Knobs {
    pub(super) who: Who,
    /// How many requests it runs at once.
    pub(super) slots: u32,
    /// What it takes before the first token.
    pub(super) prompt: Duration,
    pub(super) is_loading: AtomicBool,
    pub(super) drains: AtomicBool,
    /// Requests that are in it.
    pub(super) requests: AtomicU32,
    pub(super) hangs: AtomicBool,
    pub(super) stalls: AtomicBool,
    pub(super) is_slow: AtomicBool,
    pub(super) babbles: AtomicBool,
    pub(super) is_down: AtomicBool,
    /// A request has ended it.
    pub(super) is_poisoned: AtomicBool,
    pub(super) pid: AtomicU32,
    /// What it saw that must not be.
    pub(super) violations: Mutex<Vec<String>>,
}

impl Knobs {
    pub(super) fn new(who: Who) -> Self {
        Self {
            who,
            slots: SLOTS,
            prompt: Duration::ZERO,
            is_loading: AtomicBool::new(false),
            drains: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            hangs: AtomicBool::new(false),
            stalls: AtomicBool::new(false),
            is_slow: AtomicBool::new(false),
            babbles: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            is_poisoned: AtomicBool::new(false),
            pid: AtomicU32::new(0),
            violations: Mutex::default(),
        }
    }

    pub(super) fn address(&self) -> String {
        format!("http://{}:{}", turmoil::lookup(self.who.host.as_str()), self.who.port)
    }

    fn violated(&self, what: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub(super) fn is_idle_by_force(&self) -> bool {
        self.hangs.load(SeqCst) || self.stalls.load(SeqCst) || self.is_poisoned.load(SeqCst)
    }
}

/// The token at a place of the answer to a prompt, and its text. Some tokens stand for nothing.
pub(super) fn token(prompt: &str, place: usize) -> (TokenId, String) {
    let seed: usize = prompt.bytes().map(usize::from).sum();
    let id = (seed * 31 + place * 7919) % 50_000;
    let text = if id.is_multiple_of(5) { String::new() } else { format!("{id} ") };
    (TokenId::try_from(id).unwrap(), text)
}

/// How many tokens the answer to a prompt has.
pub(super) fn length(prompt: &str) -> usize {
    10 + prompt.bytes().map(usize::from).sum::<usize>() % 90
}

/// Whether a request ends its worker at this step of its answer: the first one is no token.
fn ends_it(prompt: &str, step: usize) -> bool {
    let tokens = prompt.strip_prefix(POISON).and_then(|rest| rest.strip_suffix(':'));
    tokens.and_then(|tokens| tokens.parse().ok()).is_some_and(|tokens: usize| step > tokens)
}

/// What a prompt asks for, and at which token, if it goes on after a text: after a colon stands what there is
/// of the answer.
pub(super) fn where_it_goes_on(prompt: &str, knobs: &Knobs) -> (String, usize) {
    let Some(colon) = prompt.find(':') else { return (prompt.to_owned(), 0) };
    let (asked, given) = prompt.split_at(colon + 1);
    let (mut text, mut place) = (String::new(), 0);
    while text.len() < given.len() && place < length(asked) {
        text.push_str(&token(asked, place).1);
        place += 1;
    }
    if text != given {
        knobs.violated(format!("{asked}: the text to go on after is wrong: {given:?}"));
    }
    (asked.to_owned(), place)
}

/// A worker's process, from its start until it is killed.
pub(super) async fn run(knobs: Arc<Knobs>, killed: CancellationToken) -> std::io::Result<()> {
    let reporting = TaskTracker::new();
    reporting.spawn(killed.clone().run_until_cancelled_owned(report(Arc::clone(&knobs))));
    let slots = Arc::new(Semaphore::new(knobs.slots as usize));
    let inferring = Arc::clone(&knobs);
    serve(knobs, killed, move |request| infer(request, Arc::clone(&inferring), Arc::clone(&slots)))
        .await?;
    reporting.close();
    reporting.wait().await;
    Ok(())
}

/// Answers requests until it is killed.
pub(super) async fn serve<F>(
    knobs: Arc<Knobs>,
    killed: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> std::io::Result<()>
where
    F: Future<Output = Result<Response<Body>, hyper::Error>> + Send + 'static,
{
    let listener = TcpListener::bind(("0.0.0.0", knobs.who.port)).await?;
    let tasks = TaskTracker::new();
    while !killed.is_cancelled() {
        let accepted = tokio::select! {
            biased;
            () = killed.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        // A connection that is cut while it is made is an error here, and the next one is another.
        let Ok((stream, _)) = accepted else {
            sleep(LOOK).await;
            continue;
        };
        let answer = service_fn(answer.clone());
        let connection = async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            // A connection that is cut is what this is about.
            let _ = connection.await;
        };
        tasks.spawn(killed.clone().run_until_cancelled_owned(connection));
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Reports every second, sometimes twice. The network loses and overtakes.
async fn report(knobs: Arc<Knobs>) {
    let Ok(socket) = UdpSocket::bind(("0.0.0.0", 0)).await else { return };
    let mut number = 0_u64;
    loop {
        if !knobs.hangs.load(SeqCst) {
            let beat = json!({ "worker": heartbeat(&knobs) }).to_string();
            for _ in 0..=u8::from(number.is_multiple_of(3)) {
                let _ = socket.send_to(beat.as_bytes(), ("queen", REPORTS)).await;
            }
        }
        number += 1;
        sleep(REPORT).await;
    }
}

fn heartbeat(knobs: &Knobs) -> WorkerHeartbeat {
    let who = &knobs.who;
    let requests = knobs.requests.load(SeqCst);
    WorkerHeartbeat {
        worker_id: who.name.parse().unwrap(),
        hive_id: who.hive.clone(),
        address: knobs.address(),
        model: ModelInUse {
            name: who.model.clone(),
            digest: None,
            context_length: 4096,
            kind: ModelKind::Generative,
        },
        device: who.device,
        state: match () {
            () if knobs.is_loading.load(SeqCst) => WorkerState::Loading { progress: 0.5 },
            () if knobs.drains.load(SeqCst) => WorkerState::Draining,
            () => WorkerState::Ready,
        },
        slots: Slots { total: knobs.slots, busy: requests.min(knobs.slots) },
        queued: requests.saturating_sub(knobs.slots),
        kv_cache: KvCacheUse { used_tokens: 0, capacity_tokens: 8192 },
        tokens_per_second: 0.0,
        engine_build: "simulated".into(),
        pid: knobs.pid.load(SeqCst),
    }
}

/// A request that is in a worker.
pub(super) struct Inside(Arc<Knobs>);

impl Inside {
    pub(super) fn new(knobs: Arc<Knobs>) -> Self {
        knobs.requests.fetch_add(1, SeqCst);
        Self(knobs)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, SeqCst);
    }
}

pub(super) type Body = StreamBody<
    std::pin::Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>,
>;

async fn infer(
    request: Request<Incoming>,
    knobs: Arc<Knobs>,
    slots: Arc<Semaphore>,
) -> Result<Response<Body>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    if knobs.is_loading.load(SeqCst) || knobs.drains.load(SeqCst) {
        return Ok(busy());
    }
    let request: InferenceRequest = serde_json::from_slice(&body).unwrap();
    let Task::Completion { prompt: Prompt::Text(prompt) } = request.task else {
        panic!("another task was not asked for");
    };
    let (prompt, begun) = where_it_goes_on(&prompt, &knobs);
    if prompt.starts_with(HANG) {
        knobs.hangs.store(true, SeqCst);
        while knobs.is_idle_by_force() {
            sleep(LOOK).await;
        }
    }
    for (place, given) in (begun..).zip(&request.resume) {
        if *given != token(&prompt, place).0 {
            knobs.violated(format!("{prompt}: token {place} of the resumed ones is wrong"));
        }
    }
    let from = begun + request.resume.len();
    let inside = Inside::new(Arc::clone(&knobs));
    let events = stream::unfold((0, from, inside), move |(step, place, inside)| {
        let (knobs, slots, prompt) = (Arc::clone(&knobs), Arc::clone(&slots), prompt.clone());
        async move {
            // One slot for each piece of work keeps the simulation small; the queue is the semaphore's.
            let permit = slots.acquire().await.ok()?;
            if step == 1 {
                sleep(knobs.prompt).await;
            }
            if step > 0 && place < length(&prompt) {
                sleep(if knobs.is_slow.load(SeqCst) { TOKEN * 10 } else { TOKEN }).await;
            }
            if ends_it(&prompt, step) {
                knobs.is_poisoned.store(true, SeqCst);
            }
            while knobs.is_idle_by_force() {
                sleep(LOOK).await;
            }
            drop(permit);
            if knobs.babbles.load(SeqCst) {
                return Some((json!("buzz"), (step + 1, place, inside)));
            }
            let event = event(step, place, from, &prompt)?;
            Some((event, (step + 1, place + usize::from(step > 0), inside)))
        }
    });
    let frames =
        events.map(|event: Value| Ok(Frame::data(Bytes::from(format!("data: {event}\n\n")))));
    let response = Response::builder().header(CONTENT_TYPE, "text/event-stream");
    Ok(response.body(StreamBody::new(frames.boxed() as _)).unwrap())
}

/// The answer of one that takes no requests.
pub(super) fn busy() -> Response<Body> {
    let error = json!({"error": {
        "message": "it takes no requests", "type": "service_unavailable_error", "param": null, "code": "not_ready",
    }});
    let body = stream::iter([Ok(Frame::data(Bytes::from(error.to_string())))]);
    let response = Response::builder().status(503).header("retry-after", "1");
    response.body(StreamBody::new(body.boxed() as _)).unwrap()
}

fn event(step: usize, place: usize, from: usize, prompt: &str) -> Option<Value> {
    if step == 0 {
        return Some(
            json!({"type": "started", "request_id": "r", "prompt_tokens": 3, "cached_tokens": 0, "seed": 5}),
        );
    }
    let length = length(prompt);
    if place < length {
        let (id, text) = token(prompt, place);
        return Some(json!({"type": "delta", "text": text, "tokens": [id]}));
    }
    (place == length.max(from)).then(|| {
        json!({
            "type": "done", "finish_reason": "stop",
            "usage": {"prompt_tokens": 3, "completion_tokens": length, "cached_tokens": 0},
            "timings": {"queue_ms": 0.0, "prefill_ms": 1.0, "ttft_ms": 1.0, "decode_ms": 40.0},
        })
    })
}
