//! JSON bodies: bounded in size, time, and what all of them together take of memory while they are read, and
//! refused with the field that is at fault.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use worker_contract::cut_visibly;

use crate::{ApiError, apart};

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the bodies of all requests may take together while they are read and understood.
static ROOM: Room = Room::of(256 * 1024 * 1024);

/// Up to this length, in bytes, a body needs none of that room.
const SMALL: u64 = 64 * 1024;

/// How long a body waits for its room; the rest of its time is for it to arrive.
const ROOM_PATIENCE: Duration = Duration::from_secs(30);
/// When it is worth trying again after that, in seconds.
const ROOM_RETRY_S: u64 = 10;

/// From which length a body, in bytes, is read apart from the threads that carry streams, which would
/// stand still meanwhile: images make bodies of megabytes.
const LONG: usize = 256 * 1024;

/// How much of a refused body is taken in and thrown away, in bytes, and for how long. A client
/// that still sends when the connection closes would see a broken connection and not the answer.
const DISCARD_BYTES: u64 = 256 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// The longest content encoding that an error repeats, in bytes.
const MAX_ECHO: usize = 100;

/// The longest message about a body: serde quotes values, which can be long.
const MAX_MESSAGE: usize = 500;

/// The largest body, in bytes; the edge puts it into each request's extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimit(pub(crate) u64);

impl BodyLimit {
    const WITHOUT_EDGE: Self = Self(10 * 1024 * 1024);

    fn of(request: &Request) -> Self {
        request.extensions().get().copied().unwrap_or(Self::WITHOUT_EDGE)
    }
}

/// A body that was JSON of the right shape.
///
/// The content type is not looked at: `curl -d` sends another one. What is wrong is a 400 that
/// names the field, or the line and column; too much is a 413, too slow a 408, compressed a 415. Where too many
/// long ones are read already, it is a 503.
#[derive(Debug, Clone)]
pub struct ApiJson<T>(pub T);

/// The same of at most `MOST` bytes, also where the edge allows more. It waits for no room among other
/// bodies: for what only rbee's own processes may send, who count on being heard.
#[derive(Debug, Clone)]
pub struct SmallJson<T, const MOST: u64>(pub T);

impl<T: DeserializeOwned + Send + 'static, S: Send + Sync> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let limit = BodyLimit::of(&request);
        take(request, limit, Some(&ROOM)).await.map(Self)
    }
}

impl<T: DeserializeOwned + Send + 'static, S: Send + Sync, const MOST: u64> FromRequest<S>
    for SmallJson<T, MOST>
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let limit = BodyLimit(BodyLimit::of(&request).0.min(MOST));
        take(request, limit, None).await.map(Self)
    }
}

async fn take<T: DeserializeOwned + Send + 'static>(
    request: Request,
    limit: BodyLimit,
    room: Option<&'static Room>,
) -> Result<T, ApiError> {
    let whole = timeout(PATIENCE, read(request, limit, room)).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} s", PATIENCE.as_secs());
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
    })?;
    if whole.bytes.len() < LONG {
        return whole.parse();
    }
    apart(move || whole.parse()).await?
}

/// Room for bodies, in bytes.
struct Room {
    free: Semaphore,
    most: u32,
}

impl Room {
    const fn of(most: u32) -> Self {
        Self { free: Semaphore::const_new(most as usize), most }
    }

    /// Room for so many bytes, or all there is, in the order in which it was asked for.
    async fn take(&self, bytes: u64) -> Result<SemaphorePermit<'_>, ApiError> {
        let bytes = u32::try_from(bytes).map_or(self.most, |bytes| bytes.min(self.most));
        match timeout(ROOM_PATIENCE, self.free.acquire_many(bytes)).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => Err(self.is_full()),
        }
    }

    fn is_full(&self) -> ApiError {
        let (most, waited) = (self.most >> 20, ROOM_PATIENCE.as_secs());
        let message = format!(
            "long bodies of other requests take all the room that there is for them ({most} MiB), and none came free \
             for this one within {waited} s"
        );
        ApiError::unavailable("too_many_long_bodies", message, ROOM_RETRY_S)
            .hint("send the request again")
    }
}

/// A body that has arrived, and the room that it takes.
struct Whole {
    bytes: Bytes,
    _room: Option<SemaphorePermit<'static>>,
}

impl Whole {
    fn parse<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        parse(&self.bytes)
    }
}

/// Reads the whole body. Refusals are in boxes: every request would be moved with the room that they need.
async fn read(
    request: Request,
    limit: BodyLimit,
    room: Option<&'static Room>,
) -> Result<Whole, ApiError> {
    if request.body().size_hint().lower() > limit.0 {
        return Err(Box::pin(refuse_too_large(request, limit)).await);
    }
    if let Some(refused) = refusal_of_encoding(request.headers()) {
        return Err(Box::pin(refuse(request, refused)).await);
    }
    // A small body comes in one piece, which is kept as it is.
    let (mut first, mut whole, mut taken) = (Bytes::new(), BytesMut::new(), None);
    let (head, mut body) = request.into_parts();
    let told = body.size_hint().exact();
    while let Some(frame) = body.frame().await {
        let incomplete =
            |_| ApiError::bad_request("incomplete_body", "the body did not arrive whole");
        let Ok(data) = frame.map_err(incomplete)?.into_data() else { continue };
        let length = (first.len() + whole.len() + data.len()) as u64;
        if length > limit.0 {
            let request = Request::from_parts(head, body);
            return Err(Box::pin(refuse_too_large(request, limit)).await);
        }
        if length > SMALL
            && taken.is_none()
            && let Some(room) = room
        {
            // Only now: who announces much and sends nothing takes room from nobody.
            match room.take(told.unwrap_or(limit.0)).await {
                Ok(room) => taken = Some(room),
                Err(full) => {
                    let request = Request::from_parts(head, body);
                    return Err(Box::pin(refuse(request, full)).await);
                }
            }
            // It does not grow in steps, with what it was copied from beside it.
            whole.reserve(told.and_then(|told| usize::try_from(told).ok()).unwrap_or(0));
        }
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        whole.extend_from_slice(&std::mem::take(&mut first));
        whole.extend_from_slice(&data);
    }
    let bytes = if whole.is_empty() { first } else { whole.freeze() };
    Ok(Whole { bytes, _room: taken })
}

/// Why a body that is compressed, or encoded otherwise, is refused.
fn refusal_of_encoding(headers: &HeaderMap) -> Option<ApiError> {
    let plain = |encoding: &[u8]| encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity");
    let encoding =
        headers.get_all(CONTENT_ENCODING).iter().find(|value| !plain(value.as_bytes()))?;
    let encoding = cut_visibly(String::from_utf8_lossy(encoding.as_bytes()).into_owned(), MAX_ECHO);
    let message = format!("bodies with `content-encoding: {encoding}` are not understood");
    let refused =
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message);
    Some(refused.hint("send the body uncompressed, without the header content-encoding"))
}

/// The refusal of a body that is too large, after what the client still sends was thrown away.
pub(crate) async fn refuse_too_large(request: Request, limit: BodyLimit) -> ApiError {
    refuse(request, ApiError::payload_too_large(limit.0)).await
}

/// A refusal, after what the client still sends was thrown away.
async fn refuse(request: Request, refusal: ApiError) -> ApiError {
    // Who waits for a "100 Continue" sends nothing, and reading would ask for it.
    if !request.headers().contains_key(EXPECT) {
        let _ = timeout(DISCARD_TIME, discard(request.into_body())).await;
    }
    refusal
}

async fn discard(mut body: Body) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, |data| data.len() as u64);
        if seen > DISCARD_BYTES {
            return;
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // To follow the path to each value takes as long again, so it is followed only to what is wrong. And
    // as one text it is looked at once, not value by value.
    let parsed = std::str::from_utf8(bytes).ok().map(serde_json::from_str);
    match parsed {
        Some(Ok(parsed)) => Ok(parsed),
        _ => parse_with_path(bytes),
    }
}

fn parse_with_path<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if !cause.is_data() {
            return not_json(&cause);
        }
        let is_root = path == ".";
        let message = if is_root { cause.to_string() } else { format!("{path}: {cause}") };
        let refused = ApiError::bad_request("invalid_type", cut_visibly(message, MAX_MESSAGE));
        if is_root { refused } else { refused.param(cut_visibly(path, MAX_MESSAGE)) }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(parsed)
}

fn not_json(error: &serde_json::Error) -> ApiError {
    let message = format!("the body is not valid JSON: {error}");
    ApiError::bad_request("invalid_json", cut_visibly(message, MAX_MESSAGE))
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Body {
        sampling: Sampling,
    }

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Sampling {
        max_tokens: u32,
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, code, param) in [
            ("{", "invalid_json", None),
            ("", "invalid_json", None),
            (r#"{"sampling":{"max_tokens":1}} x"#, "invalid_json", None),
            (r#"{"sampling":{"max_tokens":-1}}"#, "invalid_type", Some("sampling.max_tokens")),
            (r#"{"sampling":{"max_tokens":"1"}}"#, "invalid_type", Some("sampling.max_tokens")),
            (r#"{"samplign":1}"#, "invalid_type", Some("samplign")),
            ("{}", "invalid_type", None),
            ("[]", "invalid_type", None),
        ] {
            let error = parse::<Body>(body.as_bytes()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(error.detail.code.as_deref(), Some(code), "{body}: {error}");
            assert_eq!(error.detail.param.as_deref(), param, "{body}: {error}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let deep = "[".repeat(100_000);
        let error = parse::<serde_json::Value>(deep.as_bytes()).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_long_wrong_value_is_not_sent_back_whole() {
        let long = format!(r#"{{"sampling":{{"max_tokens":"{}"}}}}"#, "ä".repeat(10_000));
        let error = parse::<Body>(long.as_bytes()).unwrap_err();
        assert!(error.detail.message.len() < 2 * MAX_MESSAGE, "{}", error.detail.message.len());
    }

    #[tokio::test]
    async fn a_long_body_is_understood_or_refused_as_a_short_one_is() {
        let long = "x".repeat(LONG);
        for (text, param) in [
            (format!(r#"{{"sampling":{{"max_tokens":1}}}}{}"#, " ".repeat(LONG)), None),
            (format!(r#"{{"sampling":{{"max_tokens":"{long}"}}}}"#), Some("sampling.max_tokens")),
        ] {
            let read = ApiJson::<Body>::from_request(Request::new(text.into()), &()).await;
            assert_eq!(
                read.as_ref().err().map(|error| error.detail.param.as_deref()),
                param.map(Some)
            );
        }
    }

    #[tokio::test]
    async fn a_small_body_has_a_limit_of_its_own_whether_its_length_is_told_or_not() {
        for (length, is_taken) in [(30, true), (31, false), (64, false)] {
            let text = format!("{:length$}", r#"{"sampling":{"max_tokens":1}}"#);
            let pieces: Vec<_> =
                text.bytes().map(|byte| Ok::<_, std::io::Error>(Bytes::from(vec![byte]))).collect();
            let untold = axum::body::Body::from_stream(futures::stream::iter(pieces));
            for body in [text.into(), untold] {
                let read = SmallJson::<Body, 30>::from_request(Request::new(body), &()).await;
                let status = read.as_ref().err().map(|error| error.status);
                let refused = (!is_taken).then_some(StatusCode::PAYLOAD_TOO_LARGE);
                assert_eq!(status, refused, "{length}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn long_bodies_share_room_and_small_ones_need_none_of_it() {
        // Two of these bodies, and not a third.
        let room: &'static Room = Box::leak(Box::new(Room::of(250_000)));
        let read = |request, limit| read(request, limit, Some(room));
        let limit = BodyLimit(100_000);
        let piece = |length| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; length]));
        let stuck = |length| {
            use futures::StreamExt as _;
            let pieces = futures::stream::iter([piece(length)]).chain(futures::stream::pending());
            Request::new(axum::body::Body::from_stream(pieces))
        };
        let long = || Request::new(axum::body::Body::from(vec![b' '; 100_000]));
        let begun = |request| {
            let mut reading = Box::pin(read(request, limit));
            assert!(reading.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            reading
        };
        // However many of them have begun, they are small so far.
        let _small: Vec<_> = (0..10).map(|_| begun(stuck(65_536))).collect();
        let first = begun(stuck(65_537));
        let held = read(long(), limit).await.unwrap();
        let refused = read(long(), limit).await.err().unwrap();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused}");
        assert_eq!(refused.detail.code.as_deref(), Some("too_many_long_bodies"));
        assert!(refused.retry_after_s.is_some());
        let small = Request::new(axum::body::Body::from(vec![b' '; 65_536]));
        assert!(read(small, limit).await.is_ok());

        let waits = begun(long());
        drop(first);
        assert!(waits.await.is_ok(), "the first one's client has gone");
        drop(held);
        assert_eq!(room.free.available_permits(), 250_000);
        let huge = BodyLimit(1_000_000);
        let larger = Request::new(axum::body::Body::from(vec![b' '; 1_000_000]));
        assert!(read(larger, huge).await.is_ok(), "it has all the room there is");
    }

    #[tokio::test]
    async fn a_body_that_is_encoded_is_refused_with_the_header_that_says_so() {
        let body = r#"{"sampling":{"max_tokens":1}}"#;
        for (encodings, is_taken) in [
            (&[][..], true),
            (&["identity"], true),
            (&["Identity", ""], true),
            (&["gzip"], false),
            (&["identity", "br"], false),
            (&["deflate, gzip"], false),
        ] {
            let mut request = Request::new(axum::body::Body::from(body));
            for encoding in encodings {
                request.headers_mut().append(CONTENT_ENCODING, encoding.parse().unwrap());
            }
            let read = ApiJson::<Body>::from_request(request, &()).await;
            assert_eq!(read.is_ok(), is_taken, "{encodings:?}");
            if let Err(error) = read {
                assert_eq!(error.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
                let last = encodings.last().unwrap();
                let named = format!("`content-encoding: {last}`");
                assert!(error.detail.message.contains(&named), "{error}");
                assert!(error.detail.hint.unwrap().contains("uncompressed"));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let stuck = axum::body::Body::from_stream(futures::stream::pending::<
            Result<Bytes, std::io::Error>,
        >());
        let refused = ApiJson::<serde_json::Value>::from_request(Request::new(stuck), &()).await;
        assert_eq!(refused.unwrap_err().status, StatusCode::REQUEST_TIMEOUT);
    }
}
