//! How an answer ends that has no good end.

use axum::http::StatusCode;
use http1_client::Malformed;
use worker_contract::{ErrorDetail, WorkerId};

use super::reason::{Reason, status_and_code};
use crate::connection::Broken;
use crate::dispatch::NoPlace;
use crate::registry::Place;

/// Why a request has no answer, or only a part of one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// No worker took it.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
    /// The worker says that the request is at fault.
    #[error("{}", .detail.message)]
    Refused {
        /// The worker's status.
        status: StatusCode,
        /// The worker's words.
        detail: ErrorDetail,
    },
    /// The servers that could take it take nothing for as long as it may take.
    #[error("{}", .detail.message)]
    Busy {
        /// The server's status.
        status: StatusCode,
        /// The server's words.
        detail: ErrorDetail,
        /// When it is worth trying again, as the server says, in seconds.
        retry_after_s: Option<u32>,
    },
    /// The queen can have no connection to a worker.
    #[error("{0}")]
    OwnLimit(String),
    /// The worker failed.
    #[error("worker {worker_id} failed: {reason}")]
    WorkerFailed {
        /// The worker.
        worker_id: WorkerId,
        /// How.
        reason: Reason,
        /// Workers have failed it as often as it is tried.
        is_given_up: bool,
    },
    /// Workers ended one after the other while they computed it.
    #[error("workers ended while they computed this request{} ({}), so it is not tried on others", if *.is_known { " a while ago" } else { "" }, names(.workers))]
    Quarantined {
        /// Which ones.
        workers: Vec<WorkerId>,
        /// It was the same request before this one that ended them.
        is_known: bool,
    },
    /// Its time is over.
    #[error("the request's deadline has passed after {} tokens{}", .tokens, last_word(.word.as_ref()))]
    Deadline {
        /// How many tokens the client has got.
        tokens: usize,
        /// Who had it, and had given nothing of it for a while, and what that one did meanwhile.
        word: Option<(WorkerId, String)>,
    },
    /// Its time was over while it waited, after a worker had failed it, or for one that fails.
    #[error("the request's deadline has passed after {} tokens", .tokens)]
    Late {
        /// How many tokens the client has got.
        tokens: usize,
        /// Who failed, and how.
        why: Reason,
    },
}

impl Failure {
    /// What is stored of it where its words may be those of a server of somebody else, which may repeat the
    /// prompt.
    pub(crate) fn recorded(&self) -> Option<String> {
        match self {
            Self::Refused { status, detail } | Self::Busy { status, detail, .. } => {
                Some(status_and_code(*status, detail.code.as_deref()))
            }
            Self::WorkerFailed { worker_id, reason, .. } => {
                Some(format!("worker {worker_id} failed: {}", reason.recorded()))
            }
            Self::Late { why, .. } => Some(format!("{self}: {}", why.recorded())),
            Self::NoPlace(_)
            | Self::OwnLimit(_)
            | Self::Quarantined { .. }
            | Self::Deadline { .. } => None,
        }
    }
}

fn last_word(word: Option<&(WorkerId, String)>) -> String {
    word.map(|(worker, did)| format!(": {worker} {did}")).unwrap_or_default()
}

fn names(workers: &[WorkerId]) -> String {
    workers.iter().map(WorkerId::as_str).collect::<Vec<_>>().join(", ")
}

/// How an exchange with one worker failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The request is at fault; another worker would say the same.
    #[error("{}", .detail.message)]
    Refused {
        /// The worker's status.
        status: StatusCode,
        /// The worker's words.
        detail: ErrorDetail,
    },
    /// The worker cannot take it at present; another may, or this one a little later.
    #[error("{}", .detail.message)]
    Busy {
        /// The worker's status.
        status: StatusCode,
        /// Why.
        detail: ErrorDetail,
        /// When to ask it again, as it says, in seconds.
        retry_after_s: Option<u32>,
    },
    /// A server of somebody else lacks the endpoint or the model, or does not let this queen have it.
    #[error("{}", .detail.message)]
    Lacking {
        /// What the client is told, where nobody else has it.
        status: StatusCode,
        /// The same in words.
        detail: ErrorDetail,
        /// What of it is recorded.
        recorded: Box<str>,
    },
    /// A server of somebody else does not take this queen's token.
    #[error("{0}")]
    LockedOut(String),
    /// The queen can have no connection to it, which is not its fault.
    #[error("{0}")]
    OwnLimit(String),
    /// It gives more than there can be of an answer.
    #[error("{0}")]
    TooMuch(String),
    /// A server of somebody else has made some of the answers that it was asked for, and no more.
    #[error("{0}")]
    Fewer(String),
    /// It has the request in its queue, and another worker has given it a place.
    #[error("{reason}")]
    Queues {
        /// For how long it has been there.
        reason: String,
        /// The place.
        other: Box<Place>,
    },
    /// The worker failed.
    #[error("{reason}")]
    Failed {
        /// How.
        reason: Reason,
        /// Whether its connection broke, so that it may be gone altogether.
        is_connection: bool,
        /// Whether the request may have got there.
        is_reached: bool,
        /// Whether the worker had begun to answer it.
        has_answered: bool,
    },
    /// The request's time is over.
    #[error("the request's deadline has passed")]
    Deadline,
}

impl Trouble {
    /// A worker that answers, but not as a worker does.
    pub(super) fn garbage(reason: impl Into<Reason>) -> Self {
        let reason = reason.into();
        Self::Failed { reason, is_connection: false, is_reached: true, has_answered: true }
    }

    /// A worker whose connection broke, after the request may have got there.
    pub(super) fn connection(reason: impl Into<Reason>) -> Self {
        let reason = reason.into();
        Self::Failed { reason, is_connection: true, is_reached: true, has_answered: true }
    }

    /// A worker that is silent for too long before it answers.
    pub(super) fn unanswered(reason: impl Into<Reason>) -> Self {
        let reason = reason.into();
        Self::Failed { reason, is_connection: true, is_reached: true, has_answered: false }
    }

    /// A worker that was sent nothing, because it is known to be none any longer.
    pub(super) fn unsent(reason: impl Into<Reason>) -> Self {
        let reason = reason.into();
        Self::Failed { reason, is_connection: true, is_reached: false, has_answered: false }
    }

    /// A worker to which a connection broke before it answered, or could not be made.
    pub(super) fn broken(broken: &Broken) -> Self {
        if broken.is_own_limit() {
            return Self::OwnLimit(broken.to_string());
        }
        if let Some(reason) = no_http(broken) {
            return Self::garbage(reason);
        }
        let is_reached = broken.may_have_sent();
        let reason = broken.to_string().into();
        Self::Failed { reason, is_connection: true, is_reached, has_answered: false }
    }

    /// A worker whose connection broke, or that spoke no HTTP, in the middle of its answer.
    pub(super) fn interrupted(broken: &Broken) -> Self {
        if let Some(reason) = no_http(broken) {
            return Self::garbage(reason);
        }
        let is_cut = matches!(broken, Broken::Ended(_) | Broken::Malformed(Malformed::Incomplete));
        if is_cut {
            return Self::connection("it ended in the middle of the answer");
        }
        Self::connection(broken.to_string())
    }
}

/// What is wrong with an answer that is no HTTP; `None` where it only ended.
fn no_http(broken: &Broken) -> Option<String> {
    let Broken::Malformed(malformed) = broken else { return None };
    let is_end = matches!(malformed, Malformed::NoAnswer | Malformed::Incomplete);
    (!is_end).then(|| format!("it speaks no HTTP: {malformed}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use worker_contract::ErrorKind;

    use super::*;

    #[test]
    fn of_a_strangers_words_nothing_is_stored() {
        let secret = || "cannot do: my secret plan".to_owned();
        let reason = || Reason::of_stranger(secret(), "HTTP 500");
        let (status, worker_id) = (StatusCode::BAD_REQUEST, "nas-m".parse().unwrap());
        let detail = || ErrorDetail {
            message: secret(),
            kind: ErrorKind::InvalidRequestError,
            param: None,
            code: Some("oops".into()),
            hint: None,
        };
        for (failure, expected) in [
            (Failure::Refused { status, detail: detail() }, "HTTP 400 (oops)"),
            (Failure::Busy { status, detail: detail(), retry_after_s: None }, "HTTP 400 (oops)"),
            (
                Failure::WorkerFailed { worker_id, reason: reason(), is_given_up: false },
                "worker nas-m failed: HTTP 500",
            ),
            (
                Failure::Late { tokens: 2, why: reason().after("nas-m failed it: ") },
                "the request's deadline has passed after 2 tokens: nas-m failed it: HTTP 500",
            ),
        ] {
            assert_eq!(failure.recorded().as_deref(), Some(expected), "{failure:?}");
        }
        let late = Failure::Deadline { tokens: 2, word: None };
        assert_eq!(late.recorded(), None, "words of rbee");
    }

    #[test]
    fn who_runs_out_of_time_hears_what_its_worker_did_where_that_is_known() {
        let word = |did: &str| Some(("w-1".parse().unwrap(), did.to_owned()));
        for (word, expected) in [
            (None, "the request's deadline has passed after 3 tokens"),
            (
                word("had it in its queue"),
                "the request's deadline has passed after 3 tokens: w-1 had it in its queue",
            ),
        ] {
            assert_eq!(Failure::Deadline { tokens: 3, word }.to_string(), expected);
        }
    }

    #[test]
    fn no_worker_is_blamed_for_the_queens_own_limit() {
        let own = || Broken::OwnLimit(io::Error::other("too many"));
        for (broken, is_own) in [
            (own(), true),
            (Broken::Lost(Box::new(own())), true),
            (Broken::Connect(io::Error::other("refused")), false),
            (Broken::ConnectTimeout, false),
        ] {
            let trouble = Trouble::broken(&broken);
            assert_eq!(matches!(trouble, Trouble::OwnLimit(_)), is_own, "{broken}");
        }
    }

    #[test]
    fn who_speaks_no_http_has_not_broken_off() {
        let malformed = Broken::Malformed;
        for (broken, breaks_off) in [
            (malformed(Malformed::Head), false),
            (malformed(Malformed::LongHead), false),
            (malformed(Malformed::Length), false),
            (malformed(Malformed::Chunk), false),
            (malformed(Malformed::NoAnswer), true),
            (malformed(Malformed::Incomplete), true),
            (Broken::Ended(io::Error::other("reset")), true),
        ] {
            for trouble in [Trouble::broken(&broken), Trouble::interrupted(&broken)] {
                let Trouble::Failed { reason, is_connection, .. } = trouble else {
                    panic!("{trouble:?}")
                };
                assert_eq!(is_connection, breaks_off, "{broken}");
                let is_named = reason.to_string().contains("no HTTP");
                assert_eq!(is_named, !breaks_off, "{reason}");
            }
        }
    }
}
