//! How far one request is, and what follows from a failure. Pure.

use worker_contract::{InferenceEvent, TokenId, WorkerId};

use super::Part;

/// How often a request is tried again after its worker failed.
const MAX_RETRIES: usize = 2;

/// How far one request is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The tokens that were passed on.
    given: Vec<TokenId>,
    /// Tokens whose text is not there yet.
    pending: Vec<TokenId>,
    has_begun: bool,
    is_started: bool,
    failed: Vec<WorkerId>,
}

/// What one event leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing that the client sees.
    Nothing,
    /// A part for the client; before the first one comes `Started`.
    Give(Part),
    /// The worker ended the answer by an error.
    Fail(worker_contract::ErrorDetail),
    /// The event cannot come here.
    OutOfOrder,
}

impl Progress {
    /// What an event of the worker leads to.
    pub(super) fn on_event(&mut self, event: InferenceEvent) -> Step {
        match event {
            InferenceEvent::Started { .. } if self.is_started => Step::OutOfOrder,
            InferenceEvent::Started { .. } => {
                self.is_started = true;
                Step::Nothing
            }
            InferenceEvent::Error { error } => Step::Fail(error),
            _ if !self.is_started => Step::OutOfOrder,
            InferenceEvent::Delta(delta) => self.on_delta(delta.text, delta.tokens),
            InferenceEvent::Done { finish_reason, usage, timings } => {
                Step::Give(Part::Done { finish_reason, usage, timings })
            }
            InferenceEvent::ChoiceDone { .. }
            | InferenceEvent::Embedding { .. }
            | InferenceEvent::Score { .. } => Step::OutOfOrder,
        }
    }

    /// Notes that the client gets its first part. True the first time.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.has_begun, true)
    }

    /// A worker failed. Whether the request may be tried again: the client has got nothing, and it
    /// was not tried too often.
    pub(super) fn on_failure(&mut self, worker: WorkerId) -> bool {
        let may_retry = !self.has_begun && self.failed.len() < MAX_RETRIES;
        self.failed.push(worker);
        self.reset();
        may_retry
    }

    /// Another worker begins the answer afresh.
    pub(super) fn reset(&mut self) {
        self.is_started = false;
        self.pending.clear();
    }

    /// The workers that failed this request.
    pub(super) fn failed(&self) -> &[WorkerId] {
        &self.failed
    }

    /// The tokens that were passed on.
    pub(super) fn given(&self) -> &[TokenId] {
        &self.given
    }

    fn on_delta(&mut self, text: String, mut tokens: Vec<TokenId>) -> Step {
        if text.is_empty() {
            self.pending.append(&mut tokens);
            return Step::Nothing;
        }
        if !self.pending.is_empty() {
            self.pending.append(&mut tokens);
            tokens = std::mem::take(&mut self.pending);
        }
        self.given.extend_from_slice(&tokens);
        Step::Give(Part::Text { text, tokens })
    }
}

#[cfg(test)]
mod tests {
    use worker_contract::{ErrorDetail, ErrorKind, FinishReason, RequestId, Timings, Usage};

    use super::*;

    #[test]
    fn tokens_without_text_come_with_the_next_text() {
        let mut progress = started();
        assert_eq!(progress.on_event(delta("", &[1])), Step::Nothing);
        assert_eq!(progress.on_event(delta("", &[2])), Step::Nothing);
        let text = Part::Text { text: "🐝".into(), tokens: vec![1, 2, 3] };
        assert_eq!(progress.on_event(delta("🐝", &[3])), Step::Give(text));
        assert_eq!(progress.given(), [1, 2, 3]);
    }

    #[test]
    fn events_out_of_order_are_refused() {
        let mut fresh = Progress::default();
        assert_eq!(fresh.on_event(delta("a", &[1])), Step::OutOfOrder);
        assert_eq!(fresh.on_event(done()), Step::OutOfOrder);
        assert_eq!(started().on_event(begin()), Step::OutOfOrder);
    }

    #[test]
    fn an_error_is_an_error_at_any_time() {
        let error = ErrorDetail {
            message: "engine".into(),
            kind: ErrorKind::ServerError,
            param: None,
            code: None,
            hint: None,
        };
        for mut progress in [Progress::default(), started()] {
            let event = InferenceEvent::Error { error: error.clone() };
            assert_eq!(progress.on_event(event), Step::Fail(error.clone()));
        }
    }

    #[test]
    fn a_request_is_tried_twice_again_and_only_while_the_client_has_nothing() {
        let worker = |name: &str| name.parse::<WorkerId>().unwrap();
        let mut progress = started();
        assert!(progress.on_failure(worker("a")));
        assert_eq!(progress.on_event(begin()), Step::Nothing, "the next worker begins afresh");
        assert!(progress.on_failure(worker("b")));
        assert!(!progress.on_failure(worker("c")));
        assert_eq!(progress.failed().len(), 3);

        let mut progress = started();
        assert!(progress.begin() && !progress.begin());
        assert!(!progress.on_failure(worker("a")));
    }

    fn started() -> Progress {
        let mut progress = Progress::default();
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        progress
    }

    fn begin() -> InferenceEvent {
        let request_id: RequestId = "r".parse().unwrap();
        InferenceEvent::Started { request_id, prompt_tokens: 1, cached_tokens: 0, seed: 1 }
    }

    fn delta(text: &str, tokens: &[TokenId]) -> InferenceEvent {
        InferenceEvent::Delta(worker_contract::Delta {
            text: text.into(),
            tokens: tokens.to_vec(),
            ..Default::default()
        })
    }

    fn done() -> InferenceEvent {
        let (usage, timings) = (Usage::default(), Timings::default());
        InferenceEvent::Done { finish_reason: FinishReason::Stop, usage, timings }
    }
}
