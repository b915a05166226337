//! What can go wrong on the way from a server to the models folder.

use std::io;
use std::time::Duration;

use bytesize::ByteSize;
use worker_contract::Sha256Digest;

/// A download failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    /// The server cannot be reached.
    #[error("{host} cannot be reached")]
    Connect {
        host: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is not who it should be, as far as TLS can tell.
    #[error("{host} is not trusted")]
    Untrusted {
        host: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system's certificates cannot be read.
    #[error("the certificates of this system cannot be read, so no https server can be trusted")]
    Certificates(#[source] io::Error),
    /// The server says nothing.
    #[error("{host} sent nothing for {} s", after.as_secs())]
    Stalled { host: String, after: Duration },
    /// The server ended the connection before it answered.
    #[error("{host} ended the connection without an answer")]
    Closed { host: String },
    /// The connection ended before all was there.
    #[error("the connection to {host} ended after {} of {}", size(*got), size(*wanted))]
    Cut { host: String, got: u64, wanted: u64 },
    /// The server refuses.
    #[error("{host} answers {status} for {what}{}", asked_to(*wait))]
    Status { host: String, status: u16, what: String, wait: Option<Duration> },
    /// The server sends from one place to the next without end.
    #[error("{host} redirects again and again: {to}")]
    Redirects { host: String, to: String },
    /// The server sends to a place that cannot be gone to.
    #[error("{host} redirects to {to:?}, which is {reason}")]
    BadRedirect { host: String, to: String, reason: &'static str },
    /// What the server announces is not the file.
    #[error("{host} announces {} for {what}, it should be {}", size(*announced), size(*expected))]
    WrongSize { host: String, what: String, announced: u64, expected: u64 },
    /// The bytes that came are not the file.
    #[error(
        "what came from {host} is not {what}: its SHA-256 is {actual}, it should be {expected}"
    )]
    WrongDigest { host: String, what: String, expected: Sha256Digest, actual: Sha256Digest },
    /// The file on the server became another one, again and again.
    #[error("{what} on {host} changed while it was downloaded")]
    KeepsChanging { host: String, what: String },
    /// The answer to a question about files cannot be read.
    #[error("{host} gave an answer that cannot be read: {reason}")]
    Answer { host: String, reason: String },
    /// The disk cannot hold the file.
    #[error("{} are to be downloaded, {} are free where models are kept", size(*needed), size(*free))]
    NoSpace { needed: u64, free: u64 },
    /// The disk became full.
    #[error("the disk became full during the download; what arrived is kept")]
    DiskFull,
    /// Reading or writing failed.
    #[error("{doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    /// Somebody stopped it.
    #[error("cancelled")]
    Cancelled,
}

impl DownloadError {
    /// A failed write to the models folder.
    pub(super) fn of_write(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io { doing: "the models folder cannot be written to", source },
        }
    }

    /// A failed read of what was downloaded.
    pub(super) fn of_read(source: io::Error) -> Self {
        Self::Io { doing: "what was downloaded cannot be read", source }
    }

    /// Whether the same request may go well a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Stalled { .. }
            | Self::Closed { .. }
            | Self::Cut { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            _ => false,
        }
    }

    /// Whether what is on the server cannot be what is wanted, so that what arrived is worth nothing.
    pub(super) fn means_another_file(&self) -> bool {
        matches!(self, Self::WrongDigest { .. } | Self::WrongSize { .. })
    }

    /// Whether the server could not be asked at all, as on a machine without a network.
    pub(crate) fn is_offline(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// Whether an error with this code may be none a while later.
    pub(crate) fn may_pass(code: &str) -> bool {
        const PASSING: [&str; 5] = [
            "server_unreachable",
            "download_stalled",
            "download_cut",
            "download_rate_limited",
            "server_failed",
        ];
        PASSING.contains(&code)
    }

    /// A stable machine name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "server_unreachable",
            Self::Untrusted { .. } => "server_untrusted",
            Self::Certificates(_) => "no_certificates",
            Self::Stalled { .. } => "download_stalled",
            Self::Closed { .. } | Self::Cut { .. } => "download_cut",
            Self::Status { status, .. } => match status {
                401 | 403 => "download_unauthorized",
                404 | 410 => "download_not_found",
                429 => "download_rate_limited",
                500.. => "server_failed",
                _ => "download_refused",
            },
            Self::Redirects { .. } | Self::BadRedirect { .. } => "bad_redirect",
            Self::WrongSize { .. } => "wrong_size",
            Self::WrongDigest { .. } => "wrong_digest",
            Self::KeepsChanging { .. } => "file_changed",
            Self::Answer { .. } => "bad_answer",
            Self::NoSpace { .. } | Self::DiskFull => "disk_full",
            Self::Io { .. } => "internal",
            Self::Cancelled => "cancelled",
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        const AGAIN: &str = "the same command goes on where this one ended";
        match self {
            Self::Connect { .. } => Some(
                "check the network, or name a mirror to the hive, which reads [hive] hf_endpoint and \
                 HF_ENDPOINT when it starts (on this machine: rbee-keeper down, then HF_ENDPOINT=URL \
                 rbee-keeper up); the same command goes on where this one ended",
            ),
            Self::Untrusted { .. } => Some(
                "if it is your own, have this machine trust its certificate: SSL_CERT_FILE, or the \
                 system's store",
            ),
            Self::Certificates(_) => Some("install the system's certificates: ca-certificates"),
            Self::Stalled { .. } | Self::Closed { .. } | Self::Cut { .. } | Self::DiskFull => {
                Some(AGAIN)
            }
            Self::Status { status, .. } => match status {
                401 | 403 => Some(
                    "check owner and name; a private or gated model needs a token of an account that \
                     may read it, on the hive's machine: rbee-keeper token huggingface",
                ),
                404 | 410 => {
                    Some("check owner, name, revision and file; a private one needs a token")
                }
                429 => Some("wait, or use a token: rbee-keeper token huggingface"),
                _ => Some(AGAIN),
            },
            Self::WrongSize { .. } | Self::WrongDigest { .. } => {
                Some("what arrived is thrown away; if it happens again, do not trust this server")
            }
            Self::NoSpace { .. } => {
                Some("free some space: rbee-keeper model gc, rbee-keeper model delete MODEL")
            }
            Self::Redirects { .. }
            | Self::BadRedirect { .. }
            | Self::KeepsChanging { .. }
            | Self::Answer { .. }
            | Self::Io { .. }
            | Self::Cancelled => None,
        }
    }
}

fn asked_to(wait: Option<Duration>) -> String {
    wait.map_or(String::new(), |wait| format!(", and asks to wait {} s", wait.as_secs()))
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_known_by_its_code() {
        let host = || "h".to_owned();
        let status =
            |status| DownloadError::Status { host: host(), status, what: host(), wait: None };
        for (error, passes) in [
            (DownloadError::Connect { host: host(), source: "no route".into() }, true),
            (DownloadError::Stalled { host: host(), after: Duration::ZERO }, true),
            (DownloadError::Closed { host: host() }, true),
            (DownloadError::Cut { host: host(), got: 1, wanted: 2 }, true),
            (status(429), true),
            (status(503), true),
            (status(401), false),
            (status(404), false),
            (DownloadError::DiskFull, false),
            (DownloadError::Cancelled, false),
        ] {
            assert_eq!(DownloadError::may_pass(error.code()), passes, "{error}");
        }
    }
}
