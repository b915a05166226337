//! HTTP as downloads need it: redirects that lose no secret, deadlines, and what the hub adds.
//!
//! The hub answers with a redirect to where the bytes are, and says of the file in the headers of that
//! very redirect, so redirects are followed here and not by a library. A token goes to the origin that
//! it is meant for and to no other.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use access_tokens::Secret;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, IF_RANGE, LOCATION, RANGE,
    RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use super::error::DownloadError;

/// The most redirects from a request to its answer.
const MAX_REDIRECTS: usize = 10;
/// How long a server may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer to a question about files, in bytes: a repository of thousands of files.
const MAX_ANSWER: usize = 16 << 20;

/// The client of all downloads of a hive.
#[derive(Debug)]
pub(crate) struct Client {
    plain: HyperClient<HttpConnector, Empty<Bytes>>,
    /// Made at the first need: it reads the system's certificates.
    secure: OnceLock<HyperClient<HttpsConnector<HttpConnector>, Empty<Bytes>>>,
    stall: Duration,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) token: Option<&'a Secret>,
    /// `Range`, and the `ETag` that it is of.
    pub(super) range: Option<(String, Option<&'a str>)>,
    /// What is asked for, for people.
    pub(super) what: &'a str,
}

/// An answer that says yes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// What the first host said of the file, which may be in the headers of a redirect.
    pub(super) linked: Linked,
    pub(super) body: Incoming,
    pub(super) host: String,
}

/// What a hub says of a file that lies elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) size: Option<u64>,
    pub(super) etag: Option<String>,
}

impl Client {
    /// A client that gives a server up which is silent for `stall`.
    pub(crate) fn new(stall: Duration) -> Self {
        let plain = builder().build(connector());
        Self { plain, secure: OnceLock::new(), stall }
    }

    /// Asks, follows redirects, and gives the first answer that is none, if it says yes.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, DownloadError> {
        let mut url = ask.url.clone();
        let mut been = BTreeSet::new();
        let mut linked = Linked::default();
        loop {
            let at_home = url.origin() == ask.url.origin();
            let request = request(&ask, &url, at_home);
            let answer = self.send(request, &url).await?;
            let headers = answer.headers();
            if at_home {
                linked.take(headers);
            }
            // A hub says all of the file in the headers of the redirect to its bytes.
            let redirects = is_redirect(answer.status());
            let is_told = redirects && ask.method == Method::HEAD && linked.is_whole();
            if redirects && !is_told {
                let to = text(headers, &LOCATION).unwrap_or_default();
                let next = target(&url, to)?;
                if !been.insert(url.to_string()) || been.len() > MAX_REDIRECTS {
                    let to = next.host_str().unwrap_or_default().to_owned();
                    return Err(DownloadError::Redirects { host: host(ask.url), to });
                }
                url = next;
                continue;
            }
            if !answer.status().is_success() && !is_told {
                return Err(DownloadError::Status {
                    host: host(&url),
                    status: answer.status().as_u16(),
                    what: ask.what.to_owned(),
                    wait: text(headers, &RETRY_AFTER).and_then(retry_after),
                });
            }
            let (head, body) = answer.into_parts();
            let (status, headers) = (head.status, head.headers);
            return Ok(Answer { status, headers, linked, body, host: host(&url) });
        }
    }

    /// Asks for a document.
    pub(super) async fn document(&self, ask: Ask<'_>) -> Result<Bytes, DownloadError> {
        let answer = self.ask(ask).await?;
        let host = answer.host;
        let body = Limited::new(answer.body, MAX_ANSWER).collect();
        match tokio::time::timeout(self.stall, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(DownloadError::Answer { host, reason: error.to_string() }),
            Err(_) => Err(DownloadError::Stalled { host, after: self.stall }),
        }
    }

    /// The next bytes of a body; `None` at its end.
    pub(super) async fn more(&self, answer: &mut Answer) -> Result<Option<Bytes>, DownloadError> {
        loop {
            let frame = tokio::time::timeout(self.stall, answer.body.frame()).await;
            let frame = frame.map_err(|_| DownloadError::Stalled {
                host: answer.host.clone(),
                after: self.stall,
            })?;
            match frame {
                None => return Ok(None),
                // The caller knows how much came and how much should have.
                Some(Err(_)) => {
                    let host = answer.host.clone();
                    return Err(DownloadError::Cut { host, got: 0, wanted: 0 });
                }
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    async fn send(
        &self,
        request: Request<Empty<Bytes>>,
        url: &Url,
    ) -> Result<hyper::Response<Incoming>, DownloadError> {
        let sent = if url.scheme() == "https" {
            self.secure()?.request(request)
        } else {
            self.plain.request(request)
        };
        match tokio::time::timeout(self.stall, sent).await {
            Err(_) => Err(DownloadError::Stalled { host: host(url), after: self.stall }),
            Ok(Err(error)) if is_untrusted(&error) => {
                Err(DownloadError::Untrusted { host: host(url), source: Box::new(error) })
            }
            Ok(Err(error)) if !error.is_connect() => Err(DownloadError::Closed { host: host(url) }),
            Ok(Err(error)) => {
                Err(DownloadError::Connect { host: host(url), source: Box::new(error) })
            }
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    fn secure(
        &self,
    ) -> Result<&HyperClient<HttpsConnector<HttpConnector>, Empty<Bytes>>, DownloadError> {
        if let Some(client) = self.secure.get() {
            return Ok(client);
        }
        let https = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(DownloadError::Certificates)?
            .https_only()
            .enable_http1()
            .wrap_connector(connector());
        Ok(self.secure.get_or_init(|| builder().build(https)))
    }
}

impl Linked {
    fn is_whole(&self) -> bool {
        self.size.is_some() && self.etag.is_some()
    }

    fn take(&mut self, headers: &HeaderMap) {
        let get = |name| text(headers, &HeaderName::from_static(name));
        if let Some(size) = get("x-linked-size").and_then(|size| size.trim().parse().ok()) {
            self.size = Some(size);
        }
        if let Some(etag) = get("x-linked-etag") {
            self.etag = Some(unquoted(etag).to_owned());
        }
    }
}

/// A header as text.
pub(super) fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// An entity tag without what surrounds it.
pub(super) fn unquoted(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

/// Host and port, for people.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether TLS refused the server: what it shows is no certificate that this machine believes.
fn is_untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::InvalidData)
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT_PATIENCE));
    connector.set_nodelay(true);
    connector
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = HyperClient::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(20));
    builder
}

fn request(ask: &Ask<'_>, url: &Url, at_home: bool) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = ask.method.clone();
    // A `Url` is stricter than a `Uri`; what still does not fit is refused by the server.
    *request.uri_mut() = url.as_str().parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers
        .insert(USER_AGENT, HeaderValue::from_static(concat!("rbee/", env!("CARGO_PKG_VERSION"))));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let token = ask.token.filter(|_| at_home).map(|token| format!("Bearer {}", token.expose()));
    if let Some(mut token) = token.and_then(|token| HeaderValue::try_from(token).ok()) {
        token.set_sensitive(true);
        headers.insert(AUTHORIZATION, token);
    }
    if let Some((range, etag)) = &ask.range {
        if let Ok(range) = HeaderValue::try_from(range) {
            headers.insert(RANGE, range);
        }
        if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
            headers.insert(IF_RANGE, etag);
        }
    }
    request
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn target(from: &Url, to: &str) -> Result<Url, DownloadError> {
    let refused = |reason| DownloadError::BadRedirect {
        host: host(from),
        to: to.split('?').next().unwrap_or(to).chars().take(100).collect(),
        reason,
    };
    let next = from.join(to).map_err(|_| refused("no URL"))?;
    match (from.scheme(), next.scheme()) {
        ("http", "http" | "https") | ("https", "https") => Ok(next),
        ("https", "http") => Err(refused("not encrypted, as the request was")),
        _ => Err(refused("neither http nor https")),
    }
}

/// Seconds; a date is rare and not worth a parser: the usual pause serves.
fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_go_to_web_servers_and_never_give_encryption_up() {
        for (from, to, expected) in [
            ("https://a/x", "https://b/y", Some("https://b/y")),
            ("https://a/x/y", "../z", Some("https://a/z")),
            ("http://a/x", "https://a/x", Some("https://a/x")),
            ("https://a/x", "http://a/x", None),
            ("http://a/x", "file:///etc/passwd", None),
            ("http://a/x", "http://[", None),
        ] {
            let next = target(&from.parse().unwrap(), to);
            assert_eq!(next.ok().as_ref().map(Url::as_str), expected, "{from} {to}");
        }
    }

    #[test]
    fn a_token_goes_to_its_own_origin_only() {
        let token = Secret::from("hf_secret".to_owned());
        let home: Url = "https://hub/x".parse().unwrap();
        let ask =
            Ask { method: Method::GET, url: &home, token: Some(&token), range: None, what: "x" };
        assert!(request(&ask, &home, true).headers().contains_key(AUTHORIZATION));
        assert!(!request(&ask, &home, false).headers().contains_key(AUTHORIZATION));
        let shown = format!("{:?}", request(&ask, &home, true));
        assert!(!shown.contains("hf_secret"), "{shown}");
    }

    #[test]
    fn a_certificate_that_is_not_believed_is_told_from_a_server_that_is_away() {
        use std::io::{Error, ErrorKind};
        for (kind, is_refused) in [
            (ErrorKind::InvalidData, true),
            (ErrorKind::ConnectionRefused, false),
            (ErrorKind::TimedOut, false),
        ] {
            let error = DownloadError::Connect {
                host: "hub".to_owned(),
                source: Box::new(Error::new(kind, "why")),
            };
            assert_eq!(is_untrusted(&error), is_refused, "{kind}");
        }
    }

    #[test]
    fn an_entity_tag_is_compared_without_its_marks() {
        for etag in ["\"abc\"", "W/\"abc\"", "abc"] {
            assert_eq!(unquoted(etag), "abc");
        }
    }
}
