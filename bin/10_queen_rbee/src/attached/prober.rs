//! One look at a server: `GET /v1/models`.

use std::time::Duration;

use access_tokens::Secret;
use axum::http::StatusCode;
use bytes::Bytes;
use http1_client::{RequestHead, Unfit};
use tokio::time::timeout;

use super::health::Probe;
use super::listing::read_listing;
use super::{ServerUrl, VIA, detail_of};
use crate::connection::{Broken, Outgoing, Pool};
use crate::keyring::bearer;
use crate::remote_hive::with_causes;

/// How long the whole look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest error, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// The longest list of models, in bytes.
const MAX_LIST: usize = 4 << 20;

/// So llama-server says that it loads its model, with a 503. That of somebody else may be for ever.
const LOADING: &str = "Loading model";

/// Looks at a server; `own_id` tells it which queen looks.
pub(super) async fn probe(
    pool: &Pool,
    own_id: &str,
    url: &ServerUrl,
    token: Option<&Secret>,
) -> Probe {
    let request = match request(own_id, url, token) {
        Ok(request) => request,
        Err(unfit) => return Probe::Wrong(format!("it cannot be asked: {unfit}")),
    };
    match timeout(PATIENCE, look(pool, &request, url, token.is_some())).await {
        Ok(Ok(probe)) => probe,
        Ok(Err(Broken::HandshakeTimeout)) | Err(_) => Probe::Slow,
        Ok(Err(broken @ Broken::Malformed(_))) => {
            Probe::Wrong(format!("what it speaks is no HTTP: {}", with_causes(&broken)))
        }
        Ok(Err(Broken::Connect(error))) => {
            Probe::Unreachable(format!("it cannot be reached: {}", with_causes(&error)))
        }
        Ok(Err(broken)) => Probe::Unreachable(with_causes(&broken)),
    }
}

fn request(own_id: &str, url: &ServerUrl, token: Option<&Secret>) -> Result<Outgoing, Unfit> {
    let path = url.path("/v1/models");
    let mut head = RequestHead::get(&path, &url.address().authority)?.header(VIA, own_id)?;
    if let Some(token) = token {
        head = head.header("authorization", bearer(token).to_str().unwrap_or_default())?;
    }
    Ok(Outgoing { head: head.finish(0), body: Bytes::new() })
}

async fn look(
    pool: &Pool,
    request: &Outgoing,
    url: &ServerUrl,
    has_token: bool,
) -> Result<Probe, Broken> {
    let mut exchange = pool.send(url.address(), None, request).await?;
    let at = url.path("/v1/models");
    let at = format!("{}{at}", url.address().url());
    let status = exchange.head().and_then(|head| StatusCode::from_u16(head.status()).ok());
    match status {
        Some(StatusCode::OK) => {}
        Some(StatusCode::LOOP_DETECTED) => {
            return Ok(Probe::Wrong("it is this queen herself".to_owned()));
        }
        Some(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
            let wants = if has_token { "refuses the token" } else { "demands a token" };
            return Ok(Probe::Wrong(format!("it {wants} (HTTP {status})")));
        }
        Some(status) => {
            let mut said = Vec::new();
            while said.len() < MAX_ERROR
                && exchange.read(&mut |part| said.extend_from_slice(part)).await?
            {}
            let message = detail_of(&said).map(|detail| detail.message).unwrap_or_default();
            if status == StatusCode::SERVICE_UNAVAILABLE && message == LOADING {
                return Ok(Probe::Loading);
            }
            let words = if message.is_empty() { message } else { format!(": {message}") };
            return Ok(Probe::Wrong(format!("it answered GET {at} with HTTP {status}{words}")));
        }
        None => return Ok(Probe::Wrong(format!("it answered GET {at} with no status of HTTP"))),
    }
    let mut list = Vec::new();
    while exchange.read(&mut |part| list.extend_from_slice(part)).await? {
        if list.len() > MAX_LIST {
            return Ok(Probe::Wrong(format!("its list of models has more than {MAX_LIST} bytes")));
        }
    }
    exchange.keep();
    Ok(match read_listing(&list) {
        Some(listing) => Probe::Listing(listing),
        None => Probe::Wrong(format!("what it answered at {at} is no list of models")),
    })
}
