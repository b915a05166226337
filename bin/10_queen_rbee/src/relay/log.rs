//! What the relay records of its decisions.

use axum::http::StatusCode;
use worker_contract::{ErrorDetail, WorkerId};

use super::Failure;
use super::answer::Answer;
use super::reason::{Reason, status_and_code};
use crate::decisions::{Because, Decided, Kind};
use crate::registry::Place;

impl Answer {
    /// A worker works again that got nothing for a while.
    pub(super) fn log_closed(&self, worker: &WorkerId) {
        let why = format!("{worker} answers again");
        self.log(Decided::told(Kind::CircuitClosed, "answers", why).worker(worker));
    }

    /// A worker gets nothing for a while.
    pub(super) fn log_opened(&self, worker: &WorkerId, reason: &Reason) {
        let reason = reason.recorded();
        let why = format!("{worker} fails again and again, the last time so: {reason}");
        self.log(Decided::told(Kind::CircuitOpened, "failures", why).worker(worker));
    }

    /// The request is tried again after a worker failed it, or somebody is sought who goes on.
    pub(super) fn log_again(&self, worker: &WorkerId, reason: &Reason, is_connection: bool) {
        let (reason, given) = (reason.recorded(), self.given_in_words());
        let (kind, what) = if self.has_begun() {
            (Kind::Failover, format!("another is sought that goes on after {given}"))
        } else {
            (Kind::Retry, "the request is tried again".to_owned())
        };
        let name = if is_connection { "connection" } else { "worker_error" };
        let why = format!("{worker} failed: {reason}; {what}");
        self.log(Decided::told(kind, name, why).worker(worker));
    }

    /// Nobody can go on with what there is of an answer, of which its client has nothing yet.
    pub(super) fn log_anew(&self) {
        let tokens = self.given();
        let why = format!("nobody can go on after its {tokens} tokens: it is begun anew");
        self.log(Decided::told(Kind::Retry, "begun_anew", why));
    }

    /// Another worker, or the same again, is sought because a server takes no more at present.
    pub(super) fn log_busy(&self, server: &WorkerId, reason: &Reason) {
        let reason = reason.recorded();
        let why = format!("{server} takes no more at present: {reason}; a place is sought again");
        self.log(Decided::told(Kind::Retry, "busy", why).worker(server));
    }

    /// A worker answers whose place was not recorded before.
    pub(super) fn log_placed(&self, place: &Place) {
        let why = Because::Why(place.why.clone());
        self.log(Decided::new(Kind::Dispatch, why).worker(&place.worker_id));
    }

    /// Another worker has room for what waits in this one.
    pub(super) fn log_leaves_queue(&self, worker: &WorkerId, reason: &str) {
        let kind = if self.has_begun() { Kind::Failover } else { Kind::Retry };
        let why = format!("{worker} has it in its queue: {reason}; another worker has room");
        self.log(Decided::told(kind, "queued", why).worker(worker));
    }

    /// A server has not what the request asks for.
    pub(super) fn log_lacking(&self, server: &WorkerId, reason: &str) {
        let why = format!("{server} cannot take it: {reason}; another worker is sought");
        self.log(Decided::told(Kind::Retry, "lacking", why).worker(server));
    }

    /// A server refused the request, and a worker of rbee is asked instead.
    pub(super) fn log_elsewhere(&self, server: &WorkerId, reason: &Reason) {
        let reason = reason.recorded();
        let why = format!("{server} refuses it: {reason}; a worker of rbee is asked");
        self.log(Decided::told(Kind::Retry, "refused", why).worker(server));
    }

    /// A worker's context is too short, and one with a longer one is asked.
    pub(super) fn log_longer(&self, worker: &WorkerId, reason: &Reason) {
        let reason = reason.recorded();
        let kind = if self.has_begun() { Kind::Failover } else { Kind::Retry };
        let why = format!("{worker} has too short a context: {reason}; a longer one is sought");
        self.log(Decided::told(kind, "context", why).worker(worker));
    }

    /// The answer is cut off, since the queen ends.
    pub(super) fn log_cut(&self) {
        let why = "the queen is being stopped, and the time is over that its answer had until then";
        self.log(Decided::told(Kind::GiveUp, "stopping", why));
    }

    /// A worker says that the request is at fault, and nobody else is asked.
    pub(super) fn log_refused(&self, worker: &WorkerId, status: StatusCode, detail: &ErrorDetail) {
        let said = status_and_code(status, detail.code.as_deref());
        let why = format!("{worker} refuses it: {said}");
        self.log(Decided::told(Kind::GiveUp, "refused", why).worker(worker));
    }

    /// The request is given up. What no place means is in the dispatcher's records already, and who refused it
    /// is recorded where that is known.
    pub(super) fn log_failure(&self, failure: &Failure) {
        let decided = match failure {
            Failure::NoPlace(_) | Failure::Late { .. } | Failure::Refused { .. } => return,
            Failure::Busy { status, detail, .. } => {
                let said = status_and_code(*status, detail.code.as_deref());
                let why = format!("the servers that could take it take no more: {said}");
                Decided::told(Kind::GiveUp, "busy", why)
            }
            Failure::OwnLimit(reason) => Decided::told(Kind::GiveUp, "own_limit", reason.clone()),
            Failure::WorkerFailed { worker_id, reason, .. } => {
                let why = format!("worker {worker_id} failed: {}", reason.recorded());
                Decided::told(Kind::GiveUp, "worker_failed", why).worker(worker_id)
            }
            Failure::Deadline { word, .. } => {
                let decided = Decided::told(Kind::GiveUp, "deadline", failure.to_string());
                match word {
                    Some((worker, _)) => decided.worker(worker),
                    None => decided,
                }
            }
            Failure::Quarantined { is_known: true, .. } => {
                Decided::told(Kind::Reject, "quarantined", failure.to_string())
            }
            Failure::Quarantined { .. } => {
                Decided::told(Kind::Quarantine, "ends_workers", failure.to_string())
            }
        };
        self.log(decided);
    }
}
