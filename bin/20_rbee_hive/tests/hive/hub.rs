//! A server that speaks Hugging Face's API, with faults on demand.
//!
//! `GET /api/models/O/R/revision/REV?blobs=true` lists files with sizes and digests;
//! `/O/R/resolve/REV/FILE` answers with a redirect whose headers tell of the file, to `/cdn/FILE`, which
//! sends ranges. `/plain/FILE` is a file of a server without such an API.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Response, header};
use axum::routing::any;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// What the server does wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Ends each answer with bytes after so many, while there are any of these left.
    pub(crate) cut_after: Option<usize>,
    pub(crate) cuts: u32,
    /// Sends no more after so many bytes of an answer, and keeps the connection open.
    pub(crate) stall_after: Option<usize>,
    pub(crate) stalls: u32,
    /// Sends whole files, whatever part was asked for.
    pub(crate) no_ranges: bool,
    /// Sends other bytes than the digest says.
    pub(crate) wrong_bytes: bool,
    /// Says so in place of the right length.
    pub(crate) wrong_length: Option<u64>,
    /// Leaves this many bytes out at the end, without saying so beforehand.
    pub(crate) too_few: usize,
    /// Answers requests for bytes with this, while there are any of these left.
    pub(crate) status: Option<u16>,
    pub(crate) statuses: u32,
    pub(crate) retry_after: Option<u64>,
    /// Sends from here to there and back.
    pub(crate) redirect_loop: bool,
    /// Where the bytes are: another server.
    pub(crate) cdn: Option<String>,
    /// Only whoever has this token gets anything of the API.
    pub(crate) token: Option<String>,
    /// Sends so many bytes and then waits a little, so that a download takes its time.
    pub(crate) slow: Option<usize>,
    /// Tells neither digest nor entity tag.
    pub(crate) nameless: bool,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) address: String,
    shared: Arc<Shared>,
    _server: Arc<tokio::task::JoinSet<()>>,
}

#[derive(Default)]
struct Shared {
    files: Mutex<BTreeMap<String, Bytes>>,
    faults: Mutex<Faults>,
    asked: Mutex<Vec<Asked>>,
    sent: AtomicU64,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let routes = Router::new()
            .route("/api/models/{owner}/{repo}/revision/{revision}", any(info))
            .route("/{owner}/{repo}/resolve/{revision}/{*file}", any(resolve))
            .route("/cdn/{*file}", any(bytes))
            .route("/plain/{*file}", any(bytes))
            .route("/loop/{n}", any(around))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, shared, _server: Arc::new(server) }
    }

    pub(crate) fn put(&self, name: &str, bytes: impl Into<Bytes>) {
        self.shared.files.lock().unwrap().insert(name.to_owned(), bytes.into());
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults.lock().unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many bytes of files were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn url(&self, file: &str) -> String {
        format!("{}/plain/{file}", self.address)
    }
}

impl Shared {
    fn note(&self, headers: &HeaderMap) -> Faults {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let asked = Asked { range: text(header::RANGE), token: text(header::AUTHORIZATION) };
        self.asked.lock().unwrap().push(asked);
        self.faults.lock().unwrap().clone()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a text takes what is written");
        hex
    })
}

fn refusal(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Body::from("no")).unwrap()
}

async fn info(
    State(hub): State<Arc<Shared>>,
    Path((owner, repo, _)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let faults = hub.note(&headers);
    let token = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if faults.token.is_some_and(|wanted| token != Some(&format!("Bearer {wanted}"))) {
        return refusal(401);
    }
    if repo == "gone" {
        return refusal(404);
    }
    let files = hub.files.lock().unwrap();
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, bytes)| {
            if faults.nameless {
                return json!({ "rfilename": name });
            }
            json!({
                "rfilename": name,
                "size": bytes.len(),
                "lfs": { "sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 134 },
            })
        })
        .collect();
    let document =
        json!({ "id": format!("{owner}/{repo}"), "sha": "a".repeat(40), "siblings": siblings });
    Response::new(Body::from(document.to_string()))
}

async fn resolve(
    State(hub): State<Arc<Shared>>,
    Path((_, _, _, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let faults = hub.note(&headers);
    let files = hub.files.lock().unwrap();
    let Some(bytes) = files.get(&file) else { return refusal(404) };
    let to = match (&faults.cdn, faults.redirect_loop) {
        (_, true) => "/loop/1".to_owned(),
        (Some(cdn), _) => format!("{cdn}/cdn/{file}?signature=x"),
        (None, _) => format!("/cdn/{file}?signature=x"),
    };
    let mut answer = Response::builder().status(302).header(header::LOCATION, to);
    if !faults.nameless {
        answer = answer
            .header("x-linked-size", bytes.len())
            .header("x-linked-etag", format!("\"{}\"", sha256(bytes)))
            .header("x-repo-commit", "a".repeat(40));
    }
    answer.body(Body::empty()).unwrap()
}

async fn around(Path(n): Path<u32>) -> Response<Body> {
    let to = format!("/loop/{}", n % 3 + 1);
    Response::builder().status(307).header(header::LOCATION, to).body(Body::empty()).unwrap()
}

async fn bytes(
    State(hub): State<Arc<Shared>>,
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let mut faults = hub.note(&headers);
    if let Some(status) = faults.status
        && faults.statuses > 0
    {
        hub.faults.lock().unwrap().statuses -= 1;
        let mut answer = refusal(status);
        if let Some(seconds) = faults.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        return answer;
    }
    let Some(whole) = hub.files.lock().unwrap().get(&file).cloned() else { return refusal(404) };
    let etag = format!("\"{}\"", &sha256(&whole)[..16]);
    let if_range = headers.get(header::IF_RANGE).and_then(|v| v.to_str().ok());
    let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok()).and_then(parse);
    let range = range.filter(|_| !faults.no_ranges && if_range.is_none_or(|tag| tag == etag));
    let (status, start, end) = match range {
        Some((start, _)) if start >= whole.len() => return refusal(416),
        Some((start, end)) => (206, start, (end + 1).min(whole.len())),
        None => (200, 0, whole.len()),
    };
    let mut answer = Response::builder().status(status);
    if !faults.nameless {
        answer = answer.header(header::ETAG, etag);
    }
    if !faults.no_ranges {
        answer = answer.header(header::ACCEPT_RANGES, "bytes");
    }
    if status == 206 {
        let range = format!("bytes {start}-{}/{}", end - 1, whole.len());
        answer = answer.header(header::CONTENT_RANGE, range);
    }
    let mut body = whole.slice(start..end);
    answer =
        answer.header(header::CONTENT_LENGTH, faults.wrong_length.unwrap_or(body.len() as u64));
    if method == Method::HEAD {
        return answer.body(Body::empty()).unwrap();
    }
    if faults.wrong_bytes {
        let mut other = body.to_vec();
        other[0] ^= 1;
        body = other.into();
    }
    body.truncate(body.len() - faults.too_few.min(body.len()));
    let cut = faults.cut_after.filter(|_| {
        let mut now = hub.faults.lock().unwrap();
        now.cuts = now.cuts.saturating_sub(u32::from(faults.cuts > 0));
        faults.cuts > 0
    });
    let stall = faults.stall_after.filter(|_| {
        let mut now = hub.faults.lock().unwrap();
        now.stalls = now.stalls.saturating_sub(u32::from(faults.stalls > 0));
        faults.stalls > 0
    });
    if let Some(after) = cut.or(stall) {
        body.truncate(after);
    }
    let step = faults.slow.take().unwrap_or(256 << 10);
    let is_slow = hub.faults.lock().unwrap().slow.is_some();
    let stream = futures::stream::unfold((hub, body), move |(hub, mut body)| async move {
        if body.is_empty() {
            if stall.is_some() {
                std::future::pending::<()>().await;
            }
            return None;
        }
        if is_slow {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let next = body.split_to(step.min(body.len()));
        hub.sent.fetch_add(next.len() as u64, Ordering::Relaxed);
        Some((Ok::<_, Infallible>(next), (hub, body)))
    });
    answer.body(Body::from_stream(stream)).unwrap()
}

/// `bytes=5-9`
fn parse(range: &str) -> Option<(usize, usize)> {
    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((start.parse().ok()?, end.parse().unwrap_or(usize::MAX - 1)))
}
