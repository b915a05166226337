//! A server that speaks Hugging Face's API, with faults on demand.
//!
//! `GET /api/models/O/R/revision/REV?blobs=true` lists files with sizes and digests;
//! `/O/R/resolve/REV/FILE` answers with a redirect whose headers tell of the file, to `/cdn/FILE`, which
//! sends ranges. `/plain/FILE` is a file of a server without such an API. Each revision has files of its own,
//! and a commit by which they are asked for, too.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::response::Builder;
use axum::http::{HeaderMap, Method, Response, header};
use axum::routing::any;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

/// What the server does wrong.
#[derive(Debug, Clone, Default)]
pub struct HubFaults {
    /// Ends each answer with bytes after so many, while there are any of these left.
    pub cut_after: Option<usize>,
    /// How many answers are cut.
    pub cuts: u32,
    /// Sends no more after so many bytes of an answer, and keeps the connection open.
    pub stall_after: Option<usize>,
    /// How many answers stall.
    pub stalls: u32,
    /// Sends whole files, whatever part was asked for.
    pub no_ranges: bool,
    /// Sends other bytes than the digest says.
    pub wrong_bytes: bool,
    /// Says so in place of the right length.
    pub wrong_length: Option<u64>,
    /// Leaves this many bytes out at the end, without saying so beforehand.
    pub too_few: usize,
    /// Answers requests for bytes with this, while there are any of these left.
    pub status: Option<u16>,
    /// How many requests are refused.
    pub statuses: u32,
    /// And says to come back after so many seconds.
    pub retry_after: Option<u64>,
    /// Sends from here to there and back.
    pub redirect_loop: bool,
    /// Where the bytes are: another server.
    pub cdn: Option<String>,
    /// Only whoever has this token gets anything of the API.
    pub token: Option<String>,
    /// Sends so many bytes and then waits a little, so that a download takes its time.
    pub slow: Option<usize>,
    /// Tells neither digest nor entity tag.
    pub nameless: bool,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct HubRequest {
    /// Its `Range`.
    pub range: Option<String>,
    /// Its `Authorization`.
    pub token: Option<String>,
}

/// The server. A clone is the same one; it ends with the last.
#[derive(Debug, Clone)]
pub struct ModelHub {
    /// Its base URL.
    pub address: String,
    shared: Arc<Shared>,
    server: Arc<tokio::sync::Mutex<tokio::task::JoinSet<()>>>,
}

/// The revision that is meant where none is named.
const MAIN: &str = "main";

#[derive(Debug, Default)]
struct Shared {
    /// Those of other revisions than the main one under `@REVISION/NAME`.
    files: Mutex<BTreeMap<String, Bytes>>,
    faults: Mutex<HubFaults>,
    asked: Mutex<Vec<HubRequest>>,
    sent: AtomicU64,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

/// An answer with bytes that is under way.
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn begin(hub: Arc<Shared>) -> Self {
        let now = hub.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        hub.most_at_once.fetch_max(now, Ordering::Relaxed);
        Self(hub)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ModelHub {
    /// Starts it on a free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let hub = Self { address, shared: Arc::default(), server: Arc::default() };
        hub.serve(listener).await;
        Ok(hub)
    }

    /// Ends it: nothing listens there any longer, and what was under way is cut.
    pub async fn stop(&self) {
        self.server.lock().await.shutdown().await;
    }

    /// Starts it anew where it was, with what it had.
    pub async fn start_again(&self) -> Result<()> {
        let address = self.address.trim_start_matches("http://");
        self.serve(TcpListener::bind(address).await?).await;
        Ok(())
    }

    async fn serve(&self, listener: TcpListener) {
        let routes = Router::new()
            .route("/api/models/{owner}/{repo}/revision/{revision}", any(info))
            .route("/{owner}/{repo}/resolve/{revision}/{*file}", any(resolve))
            .route("/cdn/{*file}", any(bytes))
            .route("/plain/{*file}", any(bytes))
            .route("/loop/{n}", any(around))
            .with_state(Arc::clone(&self.shared));
        self.server.lock().await.spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
    }

    /// Has a file, under each repository's name.
    pub fn put(&self, name: &str, bytes: impl Into<Bytes>) {
        locked(&self.shared.files).insert(name.to_owned(), bytes.into());
    }

    /// Has a file no longer.
    pub fn remove(&self, name: &str) {
        locked(&self.shared.files).remove(name);
    }

    /// Has a file in another revision than the main one.
    pub fn put_at(&self, revision: &str, name: &str, bytes: impl Into<Bytes>) {
        self.put(&format!("@{revision}/{name}"), bytes);
    }

    /// What it does wrong; may be changed at any time.
    pub fn faults(&self) -> MutexGuard<'_, HubFaults> {
        locked(&self.shared.faults)
    }

    /// How many answers with bytes were under way at once, at most.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.shared.most_at_once.load(Ordering::Relaxed)
    }

    /// The digest of a file that it has.
    #[must_use]
    pub fn sha256(&self, name: &str) -> Option<String> {
        locked(&self.shared.files).get(name).map(|bytes| sha256_hex(bytes))
    }

    /// All requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<HubRequest> {
        locked(&self.shared.asked).clone()
    }

    /// How many bytes of files were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Where a file is without the API.
    #[must_use]
    pub fn url(&self, file: &str) -> String {
        format!("{}/plain/{file}", self.address)
    }
}

impl Shared {
    /// What the names of a revision's files begin with, and its commit. A revision may be asked for by both.
    fn revision(&self, asked: &str) -> Option<(String, String)> {
        let files = locked(&self.files);
        let others = files.keys().filter_map(|name| name.strip_prefix('@')?.split_once('/'));
        let known = others.map(|(revision, _)| (format!("@{revision}/"), revision));
        let mut known = [(String::new(), MAIN)].into_iter().chain(known);
        let commit = |revision: &str| sha256_hex(revision.as_bytes())[..40].to_owned();
        let (files, revision) = known.find(|(_, of)| *of == asked || commit(of) == asked)?;
        Some((files, commit(revision)))
    }

    fn note(&self, headers: &HeaderMap) -> HubFaults {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let asked = HubRequest { range: text(header::RANGE), token: text(header::AUTHORIZATION) };
        locked(&self.asked).push(asked);
        locked(&self.faults).clone()
    }
}

/// The SHA-256 of some bytes, in hexadecimal digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a text takes what is written");
        hex
    })
}

fn respond(answer: Builder, body: Body) -> Response<Body> {
    answer.body(body).expect("status and headers are legal")
}

fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refusal(status: u16) -> Response<Body> {
    respond(Response::builder().status(status), Body::from("no"))
}

async fn info(
    State(hub): State<Arc<Shared>>,
    Path((owner, repo, revision)): Path<(String, String, String)>,
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
    let Some((folder, commit)) = hub.revision(&revision) else { return refusal(404) };
    let files = locked(&hub.files);
    let of_revision = files.iter().filter_map(|(name, bytes)| {
        let name = name.strip_prefix(&folder)?;
        (!name.starts_with('@')).then_some((name, bytes))
    });
    let siblings: Vec<_> = of_revision
        .map(|(name, bytes)| {
            if faults.nameless {
                return json!({ "rfilename": name });
            }
            json!({
                "rfilename": name,
                "size": bytes.len(),
                "lfs": { "sha256": sha256_hex(bytes), "size": bytes.len(), "pointerSize": 134 },
            })
        })
        .collect();
    let document = json!({ "id": format!("{owner}/{repo}"), "sha": commit, "siblings": siblings });
    Response::new(Body::from(document.to_string()))
}

async fn resolve(
    State(hub): State<Arc<Shared>>,
    Path((_, _, revision, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    let faults = hub.note(&headers);
    let Some((folder, commit)) = hub.revision(&revision) else { return refusal(404) };
    let file = format!("{folder}{file}");
    let files = locked(&hub.files);
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
            .header("x-linked-etag", format!("\"{}\"", sha256_hex(bytes)))
            .header("x-repo-commit", commit);
    }
    respond(answer, Body::empty())
}

async fn around(Path(n): Path<u32>) -> Response<Body> {
    let to = format!("/loop/{}", n % 3 + 1);
    respond(Response::builder().status(307).header(header::LOCATION, to), Body::empty())
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
        locked(&hub.faults).statuses -= 1;
        let mut answer = refusal(status);
        if let Some(seconds) = faults.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        return answer;
    }
    let Some(whole) = locked(&hub.files).get(&file).cloned() else { return refusal(404) };
    let etag = format!("\"{}\"", &sha256_hex(&whole)[..16]);
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
        return respond(answer, Body::empty());
    }
    if faults.wrong_bytes {
        let mut other = body.to_vec();
        other[0] ^= 1;
        body = other.into();
    }
    body.truncate(body.len() - faults.too_few.min(body.len()));
    let cut = faults.cut_after.filter(|_| {
        let mut now = locked(&hub.faults);
        now.cuts = now.cuts.saturating_sub(u32::from(faults.cuts > 0));
        faults.cuts > 0
    });
    let stall = faults.stall_after.filter(|_| {
        let mut now = locked(&hub.faults);
        now.stalls = now.stalls.saturating_sub(u32::from(faults.stalls > 0));
        faults.stalls > 0
    });
    if let Some(after) = cut.or(stall) {
        body.truncate(after);
    }
    let step = faults.slow.take().unwrap_or(256 << 10);
    let is_slow = locked(&hub.faults).slow.is_some();
    let stream =
        futures::stream::unfold((UnderWay::begin(hub), body), move |(hub, mut body)| async move {
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
            hub.0.sent.fetch_add(next.len() as u64, Ordering::Relaxed);
            Some((Ok::<_, Infallible>(next), (hub, body)))
        });
    respond(answer, Body::from_stream(stream))
}

/// `bytes=5-9`
fn parse(range: &str) -> Option<(usize, usize)> {
    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((start.parse().ok()?, end.parse().unwrap_or(usize::MAX - 1)))
}
