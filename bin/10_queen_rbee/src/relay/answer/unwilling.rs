//! Servers of others that will not take a request, though nothing is wrong with them: they lack what it
//! asks for, refuse this queen's token, or are full for longer than it may take. None of that is held
//! against them by their breakers; what they said is the answer where nobody else is left.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::Instant;
use worker_contract::{ErrorDetail, ErrorKind, WorkerId};

use super::{Answer, Failure, NoPlace, Reason, State};
use crate::registry::{Place, Rest};
use crate::relay::reason::is_name;

/// The servers that will not take one request in its time.
#[derive(Debug, Default)]
pub(super) struct Unwilling {
    by: Vec<WorkerId>,
    /// What the last one said, or one that was only busy for a moment.
    said: Option<Failure>,
    /// Those of whom it is recorded that they were full.
    full: Vec<WorkerId>,
    /// How often one was.
    bounces: u8,
}

impl Unwilling {
    /// Whom it is not worth asking again.
    pub(super) fn by(&self) -> &[WorkerId] {
        &self.by
    }

    /// How often one of them was full.
    pub(super) fn bounces(&self) -> u8 {
        self.bounces
    }

    /// What was said last, where that is why there is no place: that it lacks something costs no time.
    pub(super) fn word(&mut self, no_place: &NoPlace) -> Option<Failure> {
        let is_why = |said: &Failure| match no_place {
            NoPlace::Deadline { .. } | NoPlace::Resting(_) => {
                matches!(said, Failure::Busy { .. })
            }
            none if none.is_nobody_left() => true,
            NoPlace::HiveGone { .. } | NoPlace::SpawnFailed { .. } => {
                matches!(said, Failure::Refused { .. })
            }
            _ => false,
        };
        let said = self.said.take().filter(is_why)?;
        Some(match (said, no_place) {
            (Failure::Busy { status, detail, .. }, NoPlace::Resting(resting)) => {
                Failure::Busy { status, detail, retry_after_s: Some(resting.left_s) }
            }
            (said, _) => said,
        })
    }
}

impl Answer {
    /// A server lacks what is asked for, or does not let this queen have it: others are asked, first those
    /// that are there.
    pub(super) fn on_lack(
        &mut self,
        status: StatusCode,
        detail: ErrorDetail,
        recorded: &str,
        place: &Place,
    ) -> Result<(), Failure> {
        let worker_id = place.worker_id.clone();
        tracing::info!(%worker_id, reason = recorded, "a server lacks what is asked for");
        let refusal = Failure::Refused { status, detail };
        self.unwilling.by.push(worker_id.clone());
        let registry = self.relay.dispatcher.registry();
        let has_others = registry.has_other_workers(&self.model, &self.unwilling.by);
        let may_rbee = self.is_able_here() && (self.is_run_here() || self.may_be_started());
        let is_lost = !has_others && !may_rbee;
        if is_lost && !self.progress.has_begun() {
            return Err(refusal);
        }
        self.record.tries_again(self.progress.has_begun());
        self.log_lacking(&worker_id, recorded);
        if !has_others {
            return self.only_ours(refusal);
        }
        self.unwilling.said = Some(refusal);
        self.state = State::Seeking(None);
        Ok(())
    }

    /// Whether what hives have of the model may be able to do this, as far as that is known: no worker is started
    /// that would only say that it is not.
    pub(super) fn is_able_here(&self) -> bool {
        let registry = self.relay.dispatcher.registry();
        registry.unable_kind_here(&self.model, &self.request.task).is_none()
    }

    /// No server is left that would take it: a worker of rbee may be coming, or be started for it. Else what
    /// the last server said is the answer.
    fn only_ours(&mut self, word: Failure) -> Result<(), Failure> {
        if self.refusal.is_some() {
            return Err(word);
        }
        self.refusal = Some(word);
        self.state = State::Seeking(None);
        Ok(())
    }

    /// A server refuses this queen's token: nobody is sent there for a while.
    pub(super) fn on_lockout(&mut self, reason: String, place: &Place) {
        let worker_id = place.worker_id.clone();
        tracing::warn!(%worker_id, reason, "a server refuses this queen");
        let registry = self.relay.dispatcher.registry();
        registry.server_refuses(&place.target.hive_id, &reason, Instant::now().into_std());
        let reason = Reason::from(reason);
        self.log_again(&worker_id, &reason, false);
        self.record.tries_again(self.progress.has_begun());
        self.tries.avoid(place.as_failed());
        self.last_failure = Some((worker_id, reason));
        self.state = State::Seeking(None);
    }

    /// A worker cannot take more at present: it rests. A server that will not for as long as the request
    /// may take is not waited for.
    pub(super) fn on_busy(
        &mut self,
        status: StatusCode,
        detail: ErrorDetail,
        retry_after_s: Option<u32>,
        place: &Place,
    ) -> Result<(), Failure> {
        let (worker_id, now) = (place.worker_id.clone(), Instant::now());
        let reason = Reason::said(place, status, &detail);
        tracing::debug!(%worker_id, reason = reason.recorded(), "a worker is busy");
        let registry = self.relay.dispatcher.registry();
        let told = retry_after_s.map(|seconds| Duration::from_secs(seconds.into()));
        let code = detail.code.clone().filter(|code| is_name(code));
        let rest = Rest::new(status.as_u16(), code, told, now.into_std());
        let ends = rest.ends();
        registry.worker_rests(&worker_id, rest);
        self.state = State::Seeking(None);
        if place.target.server.is_none() {
            return Ok(());
        }
        let message =
            format!("{} takes no more at present: {}", place.target.hive_id, detail.message);
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::RateLimitError,
            _ => ErrorKind::ServiceUnavailableError,
        };
        let detail = ErrorDetail { message, kind, ..detail };
        let busy = Failure::Busy { status, detail, retry_after_s };
        self.unwilling.said = Some(busy.clone());
        // Where a hive has the model, a worker of rbee may run, or be started.
        if ends <= self.asking.deadline.into_std() || registry.is_in_catalog(&self.model) {
            self.bounced(&worker_id, &reason);
            return Ok(());
        }
        self.unwilling.by.push(worker_id.clone());
        if !registry.has_other_workers(&self.model, &self.unwilling.by) {
            return Err(busy);
        }
        self.bounced(&worker_id, &reason);
        self.tries.avoid(place.as_failed());
        Ok(())
    }

    /// A server that is full sent it back. That is recorded once of each, however often it does.
    fn bounced(&mut self, worker_id: &WorkerId, reason: &Reason) {
        self.unwilling.bounces = self.unwilling.bounces.saturating_add(1);
        if !self.unwilling.full.contains(worker_id) {
            self.unwilling.full.push(worker_id.clone());
            self.log_busy(worker_id, reason);
        }
    }
}
