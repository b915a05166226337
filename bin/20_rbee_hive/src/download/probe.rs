//! What a server says of a file before it is fetched, held against what is known of it.

use hyper::Method;
use hyper::header::{ACCEPT_RANGES, CONTENT_RANGE, ETAG};
use worker_contract::Sha256Digest;

use super::answer::{ContentRange, content_length};
use super::client::{Answer, Ask, Client, text};
use super::error::DownloadError;
use super::fetch::Remote;

/// What is known of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) size: Option<u64>,
    pub(super) sha256: Option<Sha256Digest>,
    /// A mark that a request for a range can be tied to.
    pub(super) etag: Option<String>,
    /// Whether parts can be asked for, as far as is known.
    pub(super) ranges: bool,
}

/// Asks the server.
pub(super) async fn probe(client: &Client, remote: &Remote) -> Result<Facts, DownloadError> {
    let head = Ask {
        method: Method::HEAD,
        url: &remote.url,
        token: remote.token.as_ref(),
        range: None,
        what: &remote.what,
    };
    match client.ask(head.clone()).await {
        // The lengths and marks of a redirect are its own.
        Ok(answer) if !answer.status.is_success() => facts(remote, &answer, None),
        Ok(answer) => facts(remote, &answer, content_length(&answer.headers)),
        // Signed addresses are often for one method only.
        Err(DownloadError::Status { status: 400 | 403 | 405 | 501, .. }) => {
            let range = Some(("bytes=0-0".to_owned(), None));
            match client.ask(Ask { method: Method::GET, range, ..head }).await {
                Ok(answer) => {
                    let whole = content_length(&answer.headers).filter(|_| answer.status == 200);
                    let range = text(&answer.headers, &CONTENT_RANGE).and_then(ContentRange::parse);
                    facts(remote, &answer, whole.or(range.and_then(|range| range.total)))
                }
                // An empty file has no first byte.
                Err(DownloadError::Status { status: 416, .. }) => {
                    let (size, sha256) = (remote.size, remote.sha256.clone());
                    Ok(Facts { size, sha256, ..Facts::default() })
                }
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

fn facts(remote: &Remote, answer: &Answer, announced: Option<u64>) -> Result<Facts, DownloadError> {
    let (host, what) = (&answer.host, &remote.what);
    let mut size = remote.size;
    for announced in [answer.linked.size, announced].into_iter().flatten() {
        let expected = *size.get_or_insert(announced);
        if announced != expected {
            let (host, what) = (host.clone(), what.clone());
            return Err(DownloadError::WrongSize { host, what, announced, expected });
        }
    }
    let linked: Option<Sha256Digest> = answer.linked.etag.as_ref().and_then(|e| e.parse().ok());
    if let (Some(expected), Some(actual)) = (&remote.sha256, &linked)
        && expected != actual
    {
        return Err(DownloadError::WrongDigest {
            host: host.clone(),
            what: what.clone(),
            expected: expected.clone(),
            actual: actual.clone(),
        });
    }
    let etag = text(&answer.headers, &ETAG).filter(|etag| !etag.starts_with("W/"));
    let etag = etag.filter(|_| answer.status.is_success());
    Ok(Facts {
        size,
        sha256: remote.sha256.clone().or(linked),
        etag: etag.map(str::to_owned),
        ranges: text(&answer.headers, &ACCEPT_RANGES) != Some("none"),
    })
}
