//! A simulated server of somebody else: OpenAI's API, as far as it is asked for, and the formula of the
//! workers.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request, Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::worker::{
    Body, Inside, Knobs, LOOK, TOKEN, busy, length, serve, token, where_it_goes_on,
};

/// A server's process, from its start until the simulation kills it.
pub(super) async fn run(knobs: Arc<Knobs>) -> std::io::Result<()> {
    serve(Arc::clone(&knobs), CancellationToken::new(), move |request| {
        answer(request, Arc::clone(&knobs))
    })
    .await
}

async fn answer(
    request: Request<Incoming>,
    knobs: Arc<Knobs>,
) -> Result<Response<Body>, hyper::Error> {
    if request.method() == Method::GET {
        while knobs.hangs.load(SeqCst) {
            sleep(LOOK).await;
        }
        let models = json!({"data": [{"id": knobs.who.model, "owned_by": "vllm"}]}).to_string();
        let models = stream::iter([Ok(Frame::data(Bytes::from(models)))]);
        return Ok(Response::new(StreamBody::new(models.boxed() as _)));
    }
    let body = request.into_body().collect().await?.to_bytes();
    if knobs.drains.load(SeqCst) {
        return Ok(busy());
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let (prompt, from) = where_it_goes_on(body["prompt"].as_str().unwrap(), &knobs);
    let inside = Inside::new(Arc::clone(&knobs));
    let chunks = stream::unfold(Some((from, inside)), move |going_on| {
        let (knobs, prompt) = (Arc::clone(&knobs), prompt.clone());
        async move {
            let (place, inside) = going_on?;
            sleep(if knobs.is_slow.load(SeqCst) { TOKEN * 10 } else { TOKEN }).await;
            while knobs.is_idle_by_force() {
                sleep(LOOK).await;
            }
            if knobs.babbles.load(SeqCst) {
                return Some(("data: buzz\n\n".to_owned(), Some((place, inside))));
            }
            if place >= length(&prompt) {
                return Some((end(place - from), None));
            }
            let text = token(&prompt, place).1;
            let chunk = json!({"choices": [{"index": 0, "text": text, "finish_reason": null}]});
            Some((format!("data: {chunk}\n\n"), Some((place + 1, inside))))
        }
    });
    let frames = chunks.map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
    let response = Response::builder().header(CONTENT_TYPE, "text/event-stream");
    Ok(response.body(StreamBody::new(frames.boxed() as _)).unwrap())
}

fn end(tokens: usize) -> String {
    let over = json!({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]});
    let usage = json!({"prompt_tokens": 3, "completion_tokens": tokens});
    let usage = json!({"choices": [], "usage": usage});
    format!("data: {over}\n\ndata: {usage}\n\ndata: [DONE]\n\n")
}

/// How often the queen looks at servers.
pub(super) const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
