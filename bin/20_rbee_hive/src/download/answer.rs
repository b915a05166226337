//! One answer with bytes of a file: whether it is what was asked for, and its bytes in their order.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;

use super::client::{Answer, Ask, Client, text};
use super::error::DownloadError;
use super::fetch::Remote;
use super::probe::Facts;

/// Where the bytes of an answer go.
#[derive(Debug)]
pub(super) struct Inlet<'a> {
    pub(super) writer: mpsc::Sender<Bytes>,
    /// How many bytes went in.
    pub(super) got: AtomicU64,
    /// How many bytes of all files ever came.
    pub(super) received: &'a AtomicU64,
}

impl Inlet<'_> {
    /// Whether more is wanted: a writer that is gone knows why.
    async fn take(&self, bytes: Bytes) -> bool {
        for count in [&self.got, self.received] {
            count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        self.writer.send(bytes).await.is_ok()
    }
}

/// Why an answer did not bring what was asked for.
#[derive(Debug)]
pub(super) enum Hitch {
    /// It failed.
    Failed(DownloadError),
    /// The server sends whole files only.
    NoRanges,
    /// The file is another one by now.
    Changed,
}

/// `Content-Range: bytes 0-99/1000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) start: u64,
    pub(super) total: Option<u64>,
}

impl From<DownloadError> for Hitch {
    fn from(error: DownloadError) -> Self {
        Self::Failed(error)
    }
}

impl ContentRange {
    pub(super) fn parse(value: &str) -> Option<Self> {
        let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
        let start = range.split_once('-')?.0.trim().parse().ok()?;
        Some(Self { start, total: total.trim().parse().ok() })
    }
}

/// The length that an answer announces.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_LENGTH)?.trim().parse().ok()
}

/// Asks for a part of the file, or for all of it, and hands the bytes on until no more are wanted.
pub(super) async fn answer(
    client: &Client,
    remote: &Remote,
    facts: &Facts,
    claim: Option<&Range<u64>>,
    inlet: &Inlet<'_>,
) -> Result<(), Hitch> {
    // A digest tells more than a mark, which differs between the servers of one network.
    let mark = facts.etag.as_deref().filter(|_| facts.sha256.is_none());
    let range = claim.map(|claim| (format!("bytes={}-{}", claim.start, claim.end - 1), mark));
    let ask = Ask {
        method: Method::GET,
        url: &remote.url,
        token: remote.token.as_ref(),
        range,
        what: &remote.what,
    };
    let mut answer = match client.ask(ask).await {
        Err(DownloadError::Status { status: 412 | 416, .. }) if claim.is_some() => {
            return Err(Hitch::Changed);
        }
        asked => asked?,
    };
    let whole = facts.size.map(|size| 0..size);
    let wanted = match claim {
        Some(claim) => {
            check(remote, facts, &answer, claim)?;
            Some(claim.clone())
        }
        None => whole,
    };
    let length = wanted.map(|range| range.end - range.start);
    if let (Some(announced), Some(expected)) = (content_length(&answer.headers), length)
        && announced != expected
    {
        return Err(wrong_size(remote, &answer, announced, expected).into());
    }
    let mut got = 0_u64;
    loop {
        let more = client.more(&mut answer).await.map_err(|error| match error {
            DownloadError::Cut { host, .. } => {
                DownloadError::Cut { host, got, wanted: length.unwrap_or(got) }
            }
            other => other,
        })?;
        let Some(bytes) = more else { break };
        got += bytes.len() as u64;
        if let Some(expected) = length.filter(|length| got > *length) {
            return Err(wrong_size(remote, &answer, got, expected).into());
        }
        if !inlet.take(bytes).await {
            return Ok(());
        }
    }
    match length {
        Some(wanted) if got < wanted => {
            Err(DownloadError::Cut { host: answer.host, got, wanted }.into())
        }
        _ => Ok(()),
    }
}

/// Whether the answer is the part that was asked for, of the file that was asked for.
fn check(remote: &Remote, facts: &Facts, answer: &Answer, claim: &Range<u64>) -> Result<(), Hitch> {
    let is_all = claim.start == 0 && Some(claim.end) == facts.size;
    if answer.status != StatusCode::PARTIAL_CONTENT {
        if is_all {
            return Ok(());
        }
        let length = content_length(&answer.headers);
        let same = length.is_none() || length == facts.size;
        let marked = facts.etag.is_some() && facts.sha256.is_none();
        let mark = text(&answer.headers, &hyper::header::ETAG);
        return Err(if same && (!marked || mark == facts.etag.as_deref()) {
            Hitch::NoRanges
        } else {
            Hitch::Changed
        });
    }
    let Some(range) = text(&answer.headers, &CONTENT_RANGE).and_then(ContentRange::parse) else {
        return Err(Hitch::NoRanges);
    };
    if range.start != claim.start {
        return Err(Hitch::NoRanges);
    }
    match (range.total, facts.size) {
        (Some(announced), Some(expected)) if announced != expected => {
            Err(wrong_size(remote, answer, announced, expected).into())
        }
        _ => Ok(()),
    }
}

fn wrong_size(remote: &Remote, answer: &Answer, announced: u64, expected: u64) -> DownloadError {
    let (host, what) = (answer.host.clone(), remote.what.clone());
    DownloadError::WrongSize { host, what, announced, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_as_servers_write_it() {
        for (value, expected) in [
            ("bytes 0-99/1000", Some((0, Some(1000)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes */1000", None),
            ("items 0-1/2", None),
            ("", None),
        ] {
            let parsed = ContentRange::parse(value).map(|range| (range.start, range.total));
            assert_eq!(parsed, expected, "{value}");
        }
    }
}
