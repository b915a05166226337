//! What the answers of one request have in common: the way to its reader, its clock, its count.

use std::sync::Mutex;
use std::time::Instant;

use tokio::sync::mpsc::error::TrySendError;
use worker_contract::{
    ErrorDetail, ErrorKind, FinishReason, InferenceEvent, RequestId, Timings, TokenId, Usage,
};

use super::request::{Answer, Choice, Ends, Prepared};
use crate::metrics::Metrics;

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
    pub(super) metrics: Metrics,
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
    /// The code of the error that has ended all answers.
    failed: Option<&'static str>,
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
    /// The common part of a request's answers, and what is each one's own: the prompt's tokens and
    /// the answers to be made.
    pub(super) fn of(request: Prepared, metrics: Metrics) -> (Self, Vec<TokenId>, Vec<Choice>) {
        let reply = Self {
            request_id: request.request_id,
            ends: request.ends,
            prompt_tokens: request.prompt.len(),
            seed: request.seed,
            deadline: request.deadline,
            arrived: request.arrived,
            answer: request.answer,
            count: request.choices.len(),
            metrics,
            state: Mutex::default(),
        };
        (reply, request.prompt, request.choices)
    }

    /// Whether nobody reads the answers any more, or an error has ended them.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed() || self.state().failed.is_some()
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
        self.metrics.prompt(self.prompt_tokens, cached_tokens);
        self.send(InferenceEvent::Started {
            request_id: self.request_id.clone(),
            prompt_tokens: count(self.prompt_tokens),
            cached_tokens: count(cached_tokens),
            seed: self.seed,
        });
    }

    /// A token was sampled.
    pub(super) fn sampled(&self, now: Instant) {
        let mut state = self.state();
        state.prefilled.get_or_insert(now);
        if state.first_token.is_none() {
            state.first_token = Some(now);
            self.metrics.first_token(now.saturating_duration_since(self.arrived));
        }
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
    pub(super) fn fail(&self, code: &'static str, message: String) {
        if self.state().failed.replace(code).is_some() {
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

impl Drop for Reply {
    fn drop(&mut self) {
        let state = self.state();
        let reason = state.reason.filter(|_| state.ended == self.count);
        let end = state.failed.or(reason.map(FinishReason::as_str)).unwrap_or("cancelled");
        self.metrics.request_ended(end);
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
