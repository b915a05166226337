//! One look at a server: `GET /v1/models`.

use std::time::Duration;

use access_tokens::Secret;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use reqwest::{Client, redirect};

use super::health::Probe;
use super::listing::read_listing;
use super::{ServerUrl, VIA};
use crate::keyring::bearer;
use crate::remote_hive::with_causes;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the whole look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest list of models, in bytes.
const MAX_LIST: usize = 4 << 20;

/// A client that goes nowhere but to the server itself, and says which queen looks.
pub(super) fn client(own_id: &str) -> anyhow::Result<Client> {
    let headers = HeaderMap::from_iter([(HeaderName::from_static(VIA), own_id.parse()?)]);
    let builder = Client::builder().no_proxy().redirect(redirect::Policy::none());
    let builder = builder.default_headers(headers).connect_timeout(CONNECT).timeout(PATIENCE);
    Ok(builder.build()?)
}

/// Looks at a server.
pub(super) async fn probe(client: &Client, url: &ServerUrl, token: Option<&Secret>) -> Probe {
    let at = format!("http://{}{}", url.address().authority, url.path("/v1/models"));
    let mut request = client.get(&at);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, bearer(token));
    }
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return failed(&error),
    };
    let status = response.status();
    match status {
        StatusCode::OK => {}
        StatusCode::LOOP_DETECTED => return Probe::Wrong("it is this queen herself".to_owned()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if token.is_some() => {
            return Probe::Wrong(format!("it refuses the token (HTTP {status})"));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Probe::Wrong(format!("it demands a token (HTTP {status})"));
        }
        _ => return Probe::Wrong(format!("it answered GET {at} with HTTP {status}")),
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_LIST => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => {
                return Probe::Wrong(format!("its list of models has more than {MAX_LIST} bytes"));
            }
            Ok(None) => break,
            Err(error) => return failed(&error),
        }
    }
    match read_listing(&body) {
        Some(listing) => Probe::Listing(listing),
        None => Probe::Wrong(format!("what it answered at {at} is no list of models")),
    }
}

fn failed(error: &reqwest::Error) -> Probe {
    if error.is_timeout() && !error.is_connect() {
        return Probe::Slow;
    }
    Probe::Unreachable(format!("it cannot be reached: {}", with_causes(error)))
}
