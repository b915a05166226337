//! What can go wrong between a client and the daemon that serves its jobs.

use rbee_operations::JobEvent;
use reqwest::StatusCode;
use worker_contract::{ErrorDetail, JobId};

/// A call failed. That a job failed is no such error: see [`JobEnd`](crate::JobEnd).
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL is none.
    #[error("{url:?} is not a URL of a daemon; one looks like http://127.0.0.1:8500")]
    InvalidUrl {
        /// What was given.
        url: String,
        /// Why it was refused.
        source: reqwest::Error,
    },
    /// No connection, or it ended or fell silent before the answer was complete.
    #[error("no answer from {url}; {advice}")]
    Unreachable {
        /// The daemon's base URL.
        url: String,
        /// What to do.
        advice: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The daemon refused.
    #[error("{}", .detail.message)]
    Api {
        /// The HTTP status.
        status: StatusCode,
        /// What the daemon said, or what could be made of it.
        detail: ErrorDetail,
    },
    /// What the stream was read by does not count any more, as its last event says.
    #[error("{}", .0.message)]
    Revoked(Box<JobEvent>),
    /// The stream of a job broke again and again, and no event came in between.
    #[error("the stream of job {job_id} broke, and {retries} retries did not bring it back")]
    StreamLost {
        /// The job, which may still run.
        job_id: JobId,
        /// How often it was tried again.
        retries: usize,
        /// Why the last one failed.
        source: Box<ClientError>,
    },
    /// The answer is not what a daemon of rbee gives.
    #[error("{url} answered what no daemon of rbee does: {reason}")]
    Protocol {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl ClientError {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unreachable { advice, .. } => Some(advice),
            Self::Api { detail, .. } => detail.hint.as_deref(),
            Self::Revoked(event) => event.hint.as_deref(),
            Self::StreamLost { source, .. } => source.hint(),
            Self::InvalidUrl { .. } | Self::Protocol { .. } => None,
        }
    }

    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Api { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::InvalidUrl { .. }
            | Self::Revoked(_)
            | Self::StreamLost { .. }
            | Self::Protocol { .. } => false,
        }
    }
}
