//! What the answers of one request have in common: the way to its reader, its clock, its count.

use std::sync::Mutex;
use std::time::Instant;

use tokio::sync::mpsc::error::TrySendError;
use worker_contract::{
    ErrorDetail, ErrorKind, FinishReason, InferenceEvent, RequestId, Timings, Usage,
};

use super::request::{Answer, Ends};

/// Events that a step can send at most for one answer: `started`, a last `delta`, its end, and the
/// request's.
const EVENTS_A_STEP: usize = 4;

/// A request whose answers are being made.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) request_id: RequestId,
    pub(super) ends: Ends,
    pub(super) prompt_tokens: usize,
    pub(super) seed: u64,
    pub(super) deadline: Option<Instant>,
    arrived: Instant,
    answer: Answer,
    /// How many answers there are.
    count: usize,
    state: Mutex<State>,
}

/// What changes while answers are made, perhaps by several threads at once.
#[derive(Debug, Default)]
struct State {
    started: Option<Instant>,
    prefilled: Option<Instant>,
    first_token: Option<Instant>,
    cached_tokens: usize,
    ended: usize,
    /// Why the first of the answers ended.
    reason: Option<FinishReason>,
    completion_tokens: usize,
    drafted_tokens: usize,
    accepted_tokens: usize,
    is_failed: bool,
}

/// One answer, at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// Its number among the request's answers.
    pub(super) index: u32,
    /// Whether it is the first one that was asked for.
    pub(super) is_first: bool,
    pub(super) reason: FinishReason,
    pub(super) tokens: usize,
    pub(super) drafted: usize,
    pub(super) accepted: usize,
}

impl Reply {
    pub(super) fn new(
        request_id: RequestId,
        ends: Ends,
        prompt_tokens: usize,
        seed: u64,
        (arrived, deadline): (Instant, Option<Instant>),
        answer: Answer,
        count: usize,
    ) -> Self {
        let state = Mutex::default();
        Self { request_id, ends, prompt_tokens, seed, deadline, arrived, answer, count, state }
    }

    /// Whether nobody reads the answers any more, or an error has ended them.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed() || self.state().is_failed
    }

    /// Whether the reader is so far behind that a step's events might not fit.
    pub(super) fn is_behind(&self) -> bool {
        self.answer.capacity() < EVENTS_A_STEP * self.count
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The first of the answers begins, with `cached_tokens` of the prompt computed already.
    pub(super) fn start(&self, cached_tokens: usize, now: Instant) {
        {
            let mut state = self.state();
            if state.started.is_some() {
                return;
            }
            state.started = Some(now);
            state.cached_tokens = cached_tokens;
        }
        self.send(InferenceEvent::Started {
            request_id: self.request_id.clone(),
            prompt_tokens: count(self.prompt_tokens),
            cached_tokens: count(cached_tokens),
            seed: self.seed,
        });
    }

    /// A token was sampled. The time from the request's arrival, if it is the first one of all.
    pub(super) fn sampled(&self, now: Instant) -> Option<std::time::Duration> {
        let mut state = self.state();
        state.prefilled.get_or_insert(now);
        if state.first_token.is_some() {
            return None;
        }
        state.first_token = Some(now);
        Some(now.saturating_duration_since(self.arrived))
    }

    /// One answer is complete, and with the last one everything is.
    pub(super) fn end(&self, ended: Ended, now: Instant) {
        let Ended { index, reason: finish_reason, .. } = ended;
        if self.count > 1 {
            self.send(InferenceEvent::ChoiceDone { index, finish_reason });
        }
        let done = {
            let mut state = self.state();
            state.ended += 1;
            state.completion_tokens += ended.tokens;
            state.drafted_tokens += ended.drafted;
            state.accepted_tokens += ended.accepted;
            if ended.is_first {
                state.reason = Some(finish_reason);
            }
            (state.ended == self.count).then(|| InferenceEvent::Done {
                finish_reason: state.reason.unwrap_or(finish_reason),
                usage: Usage {
                    prompt_tokens: count(self.prompt_tokens),
                    completion_tokens: count(state.completion_tokens),
                    cached_tokens: count(state.cached_tokens),
                },
                timings: self.timings(&state, now),
            })
        };
        if let Some(done) = done {
            self.send(done);
        }
    }

    /// All answers end by an error.
    pub(super) fn fail(&self, code: &str, message: String) {
        if std::mem::replace(&mut self.state().is_failed, true) {
            return;
        }
        self.send(InferenceEvent::Error {
            error: ErrorDetail {
                message,
                kind: ErrorKind::ServerError,
                param: None,
                code: Some(code.to_owned()),
                hint: None,
            },
        });
    }

    /// Sends an event. There is room, because an answer whose reader is behind is not computed; a
    /// reader that is gone is noticed before the next step.
    pub(super) fn send(&self, event: InferenceEvent) {
        if let Err(TrySendError::Full(_)) = self.answer.try_send(event) {
            tracing::error!(request_id = %self.request_id, "an event found no room");
        }
    }

    fn timings(&self, state: &State, now: Instant) -> Timings {
        let started = state.started.unwrap_or(now);
        let prefilled = state.prefilled.unwrap_or(now);
        let first = state.first_token.unwrap_or(now);
        let ms =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        Timings {
            queue_ms: ms(self.arrived, started),
            prefill_ms: ms(started, prefilled),
            ttft_ms: ms(self.arrived, first),
            decode_ms: ms(first, now),
            drafted_tokens: count(state.drafted_tokens),
            accepted_tokens: count(state.accepted_tokens),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
