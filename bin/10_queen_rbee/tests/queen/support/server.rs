//! A double of somebody else's server: OpenAI's API over a real connection, and a script.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, LOCATION, RETRY_AFTER,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;

/// How often a piece comes of an answer that drips.
const DRIP: Duration = Duration::from_millis(50);

/// What a server does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Plays {
    /// Gives these pieces of text, and an end.
    Says(&'static [&'static str]),
    /// Gives these chunks as they are, and `[DONE]`.
    Chunks(Vec<Value>),
    /// Gives these pieces of text, then its connection breaks.
    Dies(&'static [&'static str]),
    /// Gives these pieces of text, then nothing.
    Hangs(&'static [&'static str]),
    /// Gives these pieces of text, then an error.
    Fails(&'static [&'static str]),
    /// Gives all of it, the end included, but no `[DONE]` and no usage.
    Forgets(&'static [&'static str]),
    /// Gives all of it, the end included, then nothing.
    Lingers(&'static [&'static str]),
    /// Gives these pieces of text, and the end when it is told to.
    Waits(&'static [&'static str], Arc<Notify>),
    /// Gives these chunks as they are, and this one and the end when it is told to.
    Holds(Vec<Value>, Arc<Notify>, Value),
    /// Answers with this status, this type, if any, and this body.
    Answers(u16, &'static str, String),
    /// Answers with a body that is said to be compressed in this way.
    Compresses(&'static str),
    /// Sends whoever asks somewhere else.
    Redirects(u16, &'static str),
    /// Answers with this status that it is full, for so many seconds.
    Full(u16, u32),
    /// Gives this piece of text again and again, and the end when it is told to.
    Drips(&'static str, Arc<Notify>),
    /// Says nothing until it is told to, then the usual.
    Thinks(Arc<Notify>),
    /// Says nothing until it is told to, then all of this JSON.
    ThinksOf(Arc<Notify>, String),
    /// Says nothing until it is told to, then that an answer comes, of which nothing does.
    HangsLate(Arc<Notify>),
    /// Says neither yes nor no.
    Silent,
}

/// A running double.
pub(crate) struct ServerDouble {
    pub(crate) url: String,
    pub(crate) port: u16,
    stage: Arc<Stage>,
    _server: DropGuard,
}

struct Stage {
    owner: &'static str,
    token: Option<&'static str>,
    models: Mutex<Vec<&'static str>>,
    /// What it answers instead of its list of models.
    listing: Mutex<Option<(u16, &'static str)>>,
    /// What it says of itself, as llama-server does.
    props: Mutex<Option<Value>>,
    /// It has several models, as llama-server with `--models-dir`, and loads each when it is asked for.
    is_router: AtomicBool,
    /// It shows its list to those without a token, too.
    is_list_open: AtomicBool,
    /// Its list never comes.
    never_lists: AtomicBool,
    /// How often it was looked at in vain, and by how many just now.
    looks: AtomicUsize,
    looking: AtomicUsize,
    plays: Mutex<VecDeque<Plays>>,
    requests: Mutex<Vec<(String, Value)>>,
}

impl ServerDouble {
    /// A server with some models, whose `owned_by` tells what it is; it does what is written, one a
    /// request, and then the usual.
    pub(crate) fn start(
        owner: &'static str,
        models: &[&'static str],
        plays: impl IntoIterator<Item = Plays>,
    ) -> Self {
        Self::start_at(0, owner, models, plays, None).unwrap()
    }

    /// The same behind a path such as `/llm`, and nowhere else.
    pub(crate) fn start_behind(
        path: &str,
        owner: &'static str,
        models: &[&'static str],
        plays: impl IntoIterator<Item = Plays>,
    ) -> Self {
        let stage = Stage::new(owner, models, plays, None);
        let mut server = Self::serve_routes(0, Router::new().nest(path, routes(&stage)), stage);
        if let Some(server) = &mut server {
            server.url.push_str(path);
        }
        server.unwrap()
    }

    /// The same at a port, with a token that it demands.
    pub(crate) fn start_at(
        port: u16,
        owner: &'static str,
        models: &[&'static str],
        plays: impl IntoIterator<Item = Plays>,
        token: Option<&'static str>,
    ) -> Option<Self> {
        let stage = Stage::new(owner, models, plays, token);
        Self::serve_routes(port, routes(&stage), stage)
    }

    fn serve_routes(port: u16, routes: Router, stage: Arc<Stage>) -> Option<Self> {
        let (address, server) = super::serve(routes, port)?;
        let url = format!("http://{address}");
        Some(Self { url, port: address.port(), stage, _server: server })
    }

    /// Never answers who looks at its list of models from now on.
    pub(crate) fn never_list(&self) {
        self.stage.never_lists.store(true, SeqCst);
    }

    /// How often it was looked at in vain, and how many of those who did still wait.
    pub(crate) fn looks_in_vain(&self) -> (usize, usize) {
        (self.stage.looks.load(SeqCst), self.stage.looking.load(SeqCst))
    }

    /// Has other models from now on.
    pub(crate) fn serve(&self, models: &[&'static str]) {
        *self.stage.models.lock().unwrap() = models.to_vec();
    }

    /// Answers with something else than its list of models from now on; the text of a redirection is where to.
    pub(crate) fn list_as(&self, instead: Option<(u16, &'static str)>) {
        *self.stage.listing.lock().unwrap() = instead;
    }

    /// Shows its list of models without a token, too, as llama-server does.
    pub(crate) fn open_list(&self) {
        self.stage.is_list_open.store(true, SeqCst);
    }

    /// Says so much of itself from now on, as llama-server does at `GET /props`.
    pub(crate) fn say_of_itself(&self, props: Value) {
        *self.stage.props.lock().unwrap() = Some(props);
    }

    /// Loads each of its models when it is asked for, as llama-server does that has a folder of them.
    pub(crate) fn load_late(&self) {
        self.stage.is_router.store(true, SeqCst);
    }

    /// The bodies that it has got.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.stage.requests.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }

    /// Where they were sent to.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.stage.requests.lock().unwrap().iter().map(|(path, _)| path.clone()).collect()
    }
}

fn routes(stage: &Arc<Stage>) -> Router {
    Router::new()
        .route("/v1/models", get(list))
        .route("/props", get(props))
        .route("/api/version", get(version))
        .route("/v1/{*path}", post(answer))
        .with_state(Arc::clone(stage))
}

/// Counts somebody who looks in vain for as long as they wait.
struct Looking(Arc<Stage>);

impl Looking {
    fn new(stage: Arc<Stage>) -> Self {
        stage.looks.fetch_add(1, SeqCst);
        stage.looking.fetch_add(1, SeqCst);
        Self(stage)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.looking.fetch_sub(1, SeqCst);
    }
}

impl Stage {
    fn new(
        owner: &'static str,
        models: &[&'static str],
        plays: impl IntoIterator<Item = Plays>,
        token: Option<&'static str>,
    ) -> Arc<Self> {
        Arc::new(Self {
            owner,
            token,
            models: Mutex::new(models.to_vec()),
            listing: Mutex::default(),
            props: Mutex::default(),
            is_router: AtomicBool::new(false),
            is_list_open: AtomicBool::new(false),
            never_lists: AtomicBool::new(false),
            looks: AtomicUsize::new(0),
            looking: AtomicUsize::new(0),
            plays: Mutex::new(plays.into_iter().collect()),
            requests: Mutex::default(),
        })
    }

    /// llama-server gives no more answers to a request than it has slots.
    fn too_many_answers(&self, body: &Value) -> Option<Response> {
        let props = self.props.lock().unwrap();
        let slots = props.as_ref().filter(|_| self.owner == "llamacpp")?["total_slots"].as_u64()?;
        let message = format!("Field 'n': Value must be between 1 <= value <= {slots}");
        let body_of = || json!({"error": {"message": message, "type": "invalid_request_error"}});
        (body["n"].as_u64()? > slots)
            .then(|| (StatusCode::BAD_REQUEST, Json(body_of())).into_response())
    }

    fn is_loaded(&self, model: &str) -> bool {
        self.requests.lock().unwrap().iter().any(|(_, body)| body["model"] == model)
    }

    fn is_ollama(&self) -> bool {
        self.owner == "library"
    }

    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let expected = format!("Bearer {}", self.token?);
        let is_right = headers.get(AUTHORIZATION).is_some_and(|value| *value == *expected);
        let body = json!({"error": {"message": "no", "type": "authentication_error"}});
        (!is_right).then(|| (StatusCode::UNAUTHORIZED, Json(body)).into_response())
    }
}

async fn list(State(stage): State<Arc<Stage>>, headers: HeaderMap) -> Response {
    if stage.never_lists.load(SeqCst) {
        let _looking = Looking::new(Arc::clone(&stage));
        return std::future::pending().await;
    }
    let is_open = stage.is_list_open.load(SeqCst);
    if let Some(refusal) = stage.refusal(&headers).filter(|_| !is_open) {
        return refusal;
    }
    if let Some((status, text)) = *stage.listing.lock().unwrap() {
        let status = StatusCode::from_u16(status).unwrap();
        return if status.is_redirection() {
            (status, [(LOCATION, text)]).into_response()
        } else {
            (status, text).into_response()
        };
    }
    let models = stage.models.lock().unwrap().clone();
    let entry = |id: &str| {
        // Ollama names the one whose model it is.
        let theirs = id.split_once('/').filter(|_| stage.is_ollama()).map(|(owner, _)| owner);
        let owner = theirs.unwrap_or(stage.owner);
        let mut entry = json!({"id": id, "object": "model", "created": 1, "owned_by": owner});
        if stage.is_router.load(SeqCst) {
            entry["status"] =
                json!({"value": if stage.is_loaded(id) { "loaded" } else { "unloaded" }});
        }
        entry
    };
    let data: Vec<Value> = models.into_iter().map(entry).collect();
    // The next look is by another connection.
    ([(CONNECTION, "close")], Json(json!({"object": "list", "data": data}))).into_response()
}

async fn version(State(stage): State<Arc<Stage>>, headers: HeaderMap) -> Response {
    stage.refusal(&headers).unwrap_or_else(|| {
        if stage.is_ollama() {
            Json(json!({"version": "0.33.0"})).into_response()
        } else {
            StatusCode::NOT_FOUND.into_response()
        }
    })
}

/// llama-server with several models tells of one that is loaded, and of itself nothing of use.
async fn props(
    State(stage): State<Arc<Stage>>,
    Query(asked): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let mut props = stage.props.lock().unwrap().clone();
    if stage.is_router.load(SeqCst) {
        props = match asked.get("model") {
            None => Some(json!({"role": "router", "max_instances": 4})),
            Some(model) if !stage.is_loaded(model) => {
                assert_eq!(asked.get("autoload").map(String::as_str), Some("false"));
                None
            }
            Some(_) => props,
        };
    }
    stage.refusal(&headers).unwrap_or_else(|| match props {
        Some(props) => Json(props).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn answer(
    State(stage): State<Arc<Stage>>,
    Path(path): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if let Some(refusal) = stage.refusal(&headers) {
        return refusal;
    }
    let is_chat = path == "chat/completions";
    let refusal = stage.too_many_answers(&body);
    stage.requests.lock().unwrap().push((path, body));
    if let Some(refusal) = refusal {
        return refusal;
    }
    let plays = stage.plays.lock().unwrap().pop_front();
    let plays = match plays {
        Some(Plays::Thinks(told_to)) => {
            told_to.notified().await;
            None
        }
        Some(Plays::ThinksOf(told_to, json)) => {
            told_to.notified().await;
            Some(Plays::Answers(200, "application/json", json))
        }
        Some(Plays::HangsLate(told_to)) => {
            told_to.notified().await;
            Some(Plays::Hangs(&[]))
        }
        plays => plays,
    };
    let text = |text: &str| {
        let choice = if is_chat {
            json!({"index": 0, "delta": {"content": text}, "finish_reason": null})
        } else {
            json!({"index": 0, "text": text, "finish_reason": null})
        };
        json!({"id": "x", "object": "chunk", "created": 1, "model": "theirs", "choices": [choice]})
    };
    let texts = |texts: &[&str]| -> Vec<Value> {
        // The first chunk of a chat says who speaks.
        let first = is_chat.then(
            || json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
        );
        first.into_iter().chain(texts.iter().map(|piece| text(piece))).collect()
    };
    let over = json!({"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": "stop"}]});
    match plays.unwrap_or(Plays::Says(&["Hello", " world"])) {
        Plays::Says(said) => {
            let usage = json!({"prompt_tokens": 5, "completion_tokens": said.len()});
            let usage = json!({"choices": [], "usage": usage});
            let chunks = texts(said).into_iter().chain([over, usage]).collect();
            streamed(chunks, End::Done)
        }
        Plays::Chunks(chunks) => streamed(chunks, End::Done),
        Plays::Forgets(said) => {
            streamed(texts(said).into_iter().chain([over]).collect(), End::Close)
        }
        Plays::Lingers(said) => {
            streamed(texts(said).into_iter().chain([over]).collect(), End::Never)
        }
        Plays::Waits(said, told_to) => streamed(texts(said), End::Told(told_to, over)),
        Plays::Holds(chunks, told_to, last) => streamed(chunks, End::Told(told_to, last)),
        Plays::Drips(piece, told_to) => dripping(&text(piece), told_to, &over),
        Plays::Dies(said) => streamed(texts(said), End::Break),
        Plays::Hangs(said) => streamed(texts(said), End::Never),
        Plays::Fails(said) => {
            let error = json!({"error": {"message": "out of memory", "type": "server_error"}});
            streamed(texts(said).into_iter().chain([error]).collect(), End::Close)
        }
        Plays::Answers(status, kind, body) => {
            let status = StatusCode::from_u16(status).unwrap();
            let mut answer = (status, [(CONTENT_TYPE, kind)], body).into_response();
            if kind.is_empty() {
                answer.headers_mut().remove(CONTENT_TYPE);
            }
            answer
        }
        Plays::Compresses(how) => {
            let headers = [(CONTENT_TYPE, "text/event-stream"), (CONTENT_ENCODING, how)];
            (headers, [0x1f_u8, 0x8b, 8].to_vec()).into_response()
        }
        Plays::Redirects(status, to) => {
            (StatusCode::from_u16(status).unwrap(), [(LOCATION, to)]).into_response()
        }
        Plays::Full(status, seconds) => {
            let error = json!({"error": {"message": "the quota is used up"}});
            let status = StatusCode::from_u16(status).unwrap();
            (status, [(RETRY_AFTER, seconds.to_string())], Json(error)).into_response()
        }
        Plays::Silent | Plays::Thinks(_) | Plays::ThinksOf(..) | Plays::HangsLate(_) => {
            std::future::pending().await
        }
    }
}

enum End {
    Done,
    Told(Arc<Notify>, Value),
    Close,
    Break,
    Never,
}

/// Gives a chunk again and again, and the last one when it is told to.
fn dripping(chunk: &Value, told_to: Arc<Notify>, last: &Value) -> Response {
    let drips = stream::repeat(format!("data: {chunk}\n\n")).then(|chunk| async {
        tokio::time::sleep(DRIP).await;
        chunk
    });
    let drips = drips.take_until(async move { told_to.notified().await });
    let last = format!("data: {last}\n\ndata: [DONE]\n\n");
    let all = drips.chain(stream::iter([last])).map(|data| Ok::<_, io::Error>(Bytes::from(data)));
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(all)).into_response()
}

fn streamed(chunks: Vec<Value>, end: End) -> Response {
    let chunks = chunks.into_iter().map(|chunk| Ok(Bytes::from(format!("data: {chunk}\n\n"))));
    let end = stream::once(async move {
        match end {
            End::Done => Ok(Bytes::from_static(b"data: [DONE]\n\n")),
            End::Told(told_to, last) => {
                told_to.notified().await;
                Ok(Bytes::from(format!("data: {last}\n\ndata: [DONE]\n\n")))
            }
            End::Close => Ok(Bytes::from_static(b": bye\n\n")),
            End::Break => {
                // What was said before must be on its way.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(io::Error::other("killed"))
            }
            End::Never => std::future::pending().await,
        }
    });
    let body = Body::from_stream(stream::iter(chunks).chain(end));
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}
