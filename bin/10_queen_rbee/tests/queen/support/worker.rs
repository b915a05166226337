//! A double of a worker: the real contract over a real connection, and a script instead of a model.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;
use worker_contract::{
    HiveAlias, InferenceRequest, KvCacheUse, ModelInUse, ModelKind, Slots, SupervisedState,
    SupervisedWorker, WorkerHeartbeat, WorkerState,
};

/// What a worker does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// Gives these pieces of text, then `done`.
    Says(&'static [&'static str]),
    /// Gives these events, with `started` before them; `done` must be one of them.
    Plays(Vec<Value>),
    /// Gives these pieces of text, then its connection breaks.
    Dies(&'static [&'static str]),
    /// Gives these pieces of text, and `done` when it is told to.
    Waits(&'static [&'static str], Arc<Notify>),
    /// Computes for so long before it gives these pieces of text, then `done`.
    Ponders(Duration, &'static [&'static str]),
    /// Gives these pieces of text, then nothing.
    Hangs(&'static [&'static str]),
    /// Gives these pieces of text, then an error event with this code.
    Fails(&'static [&'static str], &'static str),
    /// Gives pieces of so much text without an end, as fast as they are read.
    Pours(usize),
    /// Sends bytes that are no events.
    Babbles,
    /// Has it in its queue for ever.
    Queues,
    /// Says neither yes nor no.
    Silent,
    /// Answers with this status and error code.
    Refuses(u16, &'static str),
}

/// A running double.
pub(crate) struct WorkerDouble {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) port: u16,
    stage: Arc<Stage>,
    _server: DropGuard,
}

struct Stage {
    scripts: Mutex<VecDeque<Script>>,
    requests: Mutex<Vec<InferenceRequest>>,
    /// The header `authorization` of each of them.
    shown: Mutex<Vec<String>>,
    /// Answers that are being given.
    open: AtomicUsize,
    /// Pieces that were taken by the connection.
    poured: AtomicUsize,
}

/// What it says when nothing else is written down.
const USUAL: Script = Script::Says(&["Hello", " world"]);

/// A `done` event after so many tokens.
pub(crate) fn done(tokens: usize, reason: &str) -> Value {
    json!({
        "type": "done", "finish_reason": reason,
        "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "cached_tokens": 3},
        "timings": {"queue_ms": 0.0, "prefill_ms": 1.0, "ttft_ms": 1.0, "decode_ms": 1.0},
    })
}

impl WorkerDouble {
    /// A worker that does what is written, one script a request, and then the usual.
    pub(crate) fn start(name: &str, scripts: impl IntoIterator<Item = Script>) -> Self {
        Self::start_at(0, name, scripts).unwrap()
    }

    /// The same on a given port, if that is free.
    pub(crate) fn start_at(
        port: u16,
        name: &str,
        scripts: impl IntoIterator<Item = Script>,
    ) -> Option<Self> {
        let stage = Arc::new(Stage {
            scripts: Mutex::new(scripts.into_iter().collect()),
            requests: Mutex::default(),
            shown: Mutex::default(),
            open: AtomicUsize::new(0),
            poured: AtomicUsize::new(0),
        });
        let routes =
            axum::Router::new().route("/v1/inference", post(infer)).with_state(Arc::clone(&stage));
        let (address, server) = super::serve(routes, port)?;
        let (name, url) = (name.to_owned(), format!("http://{address}"));
        Some(Self { name, url, port: address.port(), stage, _server: server })
    }

    /// Its report, as a ready worker of the model `m` with four slots.
    pub(crate) fn beat(&self) -> WorkerHeartbeat {
        WorkerHeartbeat {
            worker_id: self.name.parse().unwrap(),
            hive_id: HiveAlias::localhost(),
            address: self.url.clone(),
            model: ModelInUse {
                name: "m".parse().unwrap(),
                digest: None,
                context_length: 2048,
                kind: ModelKind::Generative,
            },
            device: "CPU-0".parse().unwrap(),
            state: WorkerState::Ready,
            slots: Slots { total: 4, busy: 0 },
            queued: 0,
            kv_cache: KvCacheUse::default(),
            tokens_per_second: 0.0,
            engine_build: "double".into(),
            pid: 1,
        }
    }

    /// Its entry in its hive's list.
    pub(crate) fn listed(&self, state: SupervisedState) -> SupervisedWorker {
        SupervisedWorker {
            worker_id: self.name.parse().unwrap(),
            hive_id: HiveAlias::localhost(),
            model: "m".parse().unwrap(),
            device: "CPU-0".parse().unwrap(),
            address: self.url.clone(),
            port: 1,
            pid: 1,
            started_at: 0,
            state,
            restarts: None,
            memory_bytes: None,
        }
    }

    /// The requests that it has got.
    pub(crate) fn requests(&self) -> Vec<InferenceRequest> {
        self.stage.requests.lock().unwrap().clone()
    }

    /// What the latest of them had as `authorization`.
    pub(crate) fn shown(&self) -> Option<String> {
        self.stage.shown.lock().unwrap().last().cloned()
    }

    /// How many answers are being given.
    pub(crate) fn open(&self) -> usize {
        self.stage.open.load(Ordering::SeqCst)
    }

    /// How many pieces its connections have taken.
    pub(crate) fn poured(&self) -> usize {
        self.stage.poured.load(Ordering::SeqCst)
    }
}

/// Counts an answer for as long as somebody reads it.
struct Open(Arc<Stage>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn infer(
    State(stage): State<Arc<Stage>>,
    headers: HeaderMap,
    Json(request): Json<InferenceRequest>,
) -> Response {
    let shown = headers.get(AUTHORIZATION).map(|shown| shown.to_str().unwrap().to_owned());
    stage.shown.lock().unwrap().extend(shown);
    stage.requests.lock().unwrap().push(request);
    stage.open.fetch_add(1, Ordering::SeqCst);
    let open = Open(Arc::clone(&stage));
    let script = stage.scripts.lock().unwrap().pop_front().unwrap_or(USUAL);
    match script {
        Script::Says(texts) => answer(open, told(texts), End::Event(done(texts.len(), "stop"))),
        Script::Plays(events) => {
            let mut events: VecDeque<Value> = events.into();
            let last = events.pop_back().unwrap();
            answer(open, [started()].into_iter().chain(events).collect(), End::Event(last))
        }
        Script::Dies(texts) => answer(open, told(texts), End::Break),
        Script::Waits(texts, told_to) => {
            let last = done(texts.len(), "stop");
            answer(open, told(texts), End::Told(told_to, last))
        }
        Script::Ponders(time, texts) => ponder(open, time, texts),
        Script::Hangs(texts) => answer(open, long_prompt(told(texts)), End::Never),
        Script::Fails(texts, code) => {
            let error =
                json!({"message": "the engine stopped", "type": "server_error", "code": code});
            answer(open, told(texts), End::Event(json!({"type": "error", "error": error})))
        }
        Script::Pours(length) => pour(open, length),
        Script::Babbles => answer(open, vec![started(), json!("my secret prompt")], End::Never),
        Script::Queues => answer(open, Vec::new(), End::Never),
        Script::Silent => {
            let _open = open;
            std::future::pending().await
        }
        Script::Refuses(status, code) => refuse(status, code),
    }
}

enum End {
    Event(Value),
    Told(Arc<Notify>, Value),
    Break,
    Never,
}

fn answer(open: Open, events: Vec<Value>, end: End) -> Response {
    let events = stream::iter(events).map(|event| Ok(bytes_of(&event)));
    let end = stream::once(async move {
        let _open = open;
        match end {
            End::Event(event) => Ok(bytes_of(&event)),
            End::Told(told_to, event) => {
                told_to.notified().await;
                Ok(bytes_of(&event))
            }
            End::Break => {
                // What was said before must be on its way.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(io::Error::other("killed"))
            }
            End::Never => std::future::pending().await,
        }
    });
    let body = Body::from_stream(events.chain(end));
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn ponder(open: Open, time: Duration, texts: &'static [&'static str]) -> Response {
    let mut events = told(texts).into_iter().chain([done(texts.len(), "stop")]);
    let first = events.next().map(|event| Ok::<_, io::Error>(bytes_of(&event)));
    let rest = stream::once(async move {
        let _open = open;
        tokio::time::sleep(time).await;
        Ok(events.flat_map(|event| bytes_of(&event)).collect::<Bytes>())
    });
    let body = Body::from_stream(stream::iter(first).chain(rest));
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn pour(open: Open, length: usize) -> Response {
    let pieces = stream::unfold((open, 0), move |(open, number)| async move {
        let event = match number {
            0 => started(),
            n => json!({"type": "delta", "text": "x".repeat(length), "tokens": [n]}),
        };
        open.0.poured.fetch_add(1, Ordering::SeqCst);
        Some((Ok::<_, io::Error>(bytes_of(&event)), (open, number + 1)))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
}

fn refuse(status: u16, code: &'static str) -> Response {
    let message = "the prompt has 9000 tokens, and the context has 2048";
    let error = json!({"message": message, "type": "invalid_request_error", "param": "messages", "code": code});
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(RETRY_AFTER, "1")], Json(json!({ "error": error }))).into_response()
}

fn started() -> Value {
    json!({"type": "started", "request_id": "r", "prompt_tokens": 7, "cached_tokens": 3, "seed": 1})
}

/// The same after a prompt that may well take minutes; its first token is as good as any other's.
fn long_prompt(mut events: Vec<Value>) -> Vec<Value> {
    if events.len() > 1 {
        events[0]["prompt_tokens"] = json!(5000);
    }
    events
}

fn told(texts: &[&str]) -> Vec<Value> {
    let delta =
        |(n, text): (usize, &&str)| json!({"type": "delta", "text": text, "tokens": [n + 1]});
    // A delta without text, such as a half character makes, comes in between.
    let silent = json!({"type": "delta", "text": "", "tokens": [0]});
    let deltas = texts.iter().enumerate().map(delta);
    if texts.is_empty() {
        return vec![started()];
    }
    [started(), silent].into_iter().chain(deltas).collect()
}

fn bytes_of(event: &Value) -> Bytes {
    Bytes::from(format!("data: {event}\n\n"))
}
