//! A stand-in worker: it speaks the worker's contract and writes the time into each token, so that
//! the way of a token through the queen can be measured without a model's noise.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse as _;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use futures::stream;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

/// Tokens of each answer.
pub(crate) const TOKENS: u64 = 100;

/// The time between two tokens.
const PACE: Duration = Duration::from_millis(5);

/// Microseconds since the first call, on one clock for the whole process.
pub(crate) fn micros() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// A running stand-in; ends when dropped.
pub(crate) struct StandIn {
    pub(crate) url: String,
    _server: AbortOnDropHandle<()>,
}

impl StandIn {
    pub(crate) async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let routes = Router::new().route("/v1/inference", post(answer));
        let listener = listener.tap_io(|socket| {
            // Without it each token waits for an acknowledgement.
            let _ = socket.set_nodelay(true);
        });
        #[expect(clippy::disallowed_methods, reason = "the handle aborts the task when dropped")]
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { url, _server: AbortOnDropHandle::new(server) })
    }
}

async fn answer() -> impl axum::response::IntoResponse {
    let events = stream::unfold(0, |n| async move {
        if n > 0 && n <= TOKENS {
            tokio::time::sleep(PACE).await;
        }
        let event = match n {
            0 => {
                json!({"type": "started", "request_id": "bench", "prompt_tokens": 1, "cached_tokens": 0, "seed": 1})
            }
            n if n <= TOKENS => {
                json!({"type": "delta", "text": format!("{} ", micros()), "tokens": [n]})
            }
            n if n == TOKENS + 1 => json!({
                "type": "done", "finish_reason": "length",
                "usage": {"prompt_tokens": 1, "completion_tokens": TOKENS, "cached_tokens": 0},
                "timings": {"queue_ms": 0.0, "prefill_ms": 0.0, "ttft_ms": 0.0, "decode_ms": 0.0},
            }),
            _ => return None,
        };
        Some((Ok::<_, Infallible>(Bytes::from(format!("data: {event}\n\n"))), n + 1))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}
