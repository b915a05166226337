//! The state of one request for vectors or scores.

use std::time::Instant;

use worker_contract::{
    ErrorDetail, ErrorKind, FinishReason, InferenceEvent, RequestId, Timings, TokenId, Usage,
};

use super::plan::Pending;
use super::vector::{cosine, unit};
use crate::batch::Answer;
use crate::engine::EngineError;

/// Events that a batch can bring beside one for each text: `started` and the end.
const OTHER_EVENTS: usize = 2;

/// A checked and tokenized request.
#[derive(Debug)]
pub struct EmbeddingRequest {
    /// The id that it has in every log line, event and error.
    pub request_id: RequestId,
    /// The texts, at least one.
    pub texts: Vec<Vec<TokenId>>,
    /// What is made of them.
    pub wanted: Wanted,
    /// When it came.
    pub arrived: Instant,
    /// When it must be answered.
    pub deadline: Option<Instant>,
    /// Where the answer goes.
    pub answer: Answer,
}

/// What is made of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The vector of each.
    Vectors,
    /// The score that the model gives to each.
    Scores,
    /// The cosine of each with the first.
    CosinesWithFirst,
}

/// A request that the loop works on.
#[derive(Debug)]
pub(super) struct Running {
    request: EmbeddingRequest,
    /// The first text that is not computed.
    next: usize,
    /// The vector of the first text, where the others are compared with it.
    first: Option<Vec<f32>>,
    /// On the planner's clock.
    pub(super) served: u64,
    started: Option<Instant>,
    first_result: Option<Instant>,
}

impl Running {
    pub(super) fn new(request: EmbeddingRequest, served: u64) -> Self {
        Self { request, next: 0, first: None, served, started: None, first_result: None }
    }

    /// Whether nobody reads the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.request.answer.is_closed()
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.request.deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.next == self.request.texts.len()
    }

    /// What is left, as the planner sees it: no more texts than the reader has room for.
    pub(super) fn pending(&self, at_most: usize) -> Pending {
        let room = self.request.answer.capacity().saturating_sub(OTHER_EVENTS);
        let texts = self.request.texts[self.next..].iter().map(Vec::len);
        Pending { served: self.served, texts: texts.take(room.min(at_most)).collect() }
    }

    /// The next texts.
    pub(super) fn next_texts(&self, count: usize) -> impl Iterator<Item = &[TokenId]> {
        self.request.texts[self.next..].iter().take(count).map(Vec::as_slice)
    }

    /// Tells the reader that it begins, once.
    pub(super) fn start(&mut self, now: Instant) {
        if self.started.is_none() {
            self.started = Some(now);
            self.send(InferenceEvent::Started {
                request_id: self.request.request_id.clone(),
                prompt_tokens: self.prompt_tokens(),
                cached_tokens: 0,
                seed: 0,
            });
        }
    }

    /// Takes the row that the engine computed for the next text.
    pub(super) fn take(&mut self, row: &[f32], now: Instant) -> Result<(), EngineError> {
        let index = u32::try_from(self.next).unwrap_or(u32::MAX);
        match self.request.wanted {
            Wanted::Vectors => {
                let vector = unit(row).ok_or_else(no_number)?;
                self.send(InferenceEvent::Embedding { index, vector });
            }
            Wanted::Scores => {
                // A model with several classes has that of relevance first, as for llama-server.
                let score = row.first().copied().filter(|s| s.is_finite()).ok_or_else(no_number)?;
                self.send(InferenceEvent::Score { index, score });
            }
            Wanted::CosinesWithFirst => {
                let vector = unit(row).ok_or_else(no_number)?;
                match &self.first {
                    None => self.first = Some(vector),
                    Some(first) => {
                        let score = cosine(first, &vector);
                        self.send(InferenceEvent::Score { index: index - 1, score });
                    }
                }
            }
        }
        self.next += 1;
        self.first_result.get_or_insert(now);
        Ok(())
    }

    /// Ends the answer.
    pub(super) fn finish(&self, now: Instant) {
        let milliseconds =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        let started = self.started.unwrap_or(now);
        self.send(InferenceEvent::Done {
            finish_reason: FinishReason::Stop,
            usage: Usage {
                prompt_tokens: self.prompt_tokens(),
                completion_tokens: 0,
                cached_tokens: 0,
            },
            timings: Timings {
                queue_ms: milliseconds(self.request.arrived, started),
                prefill_ms: milliseconds(started, now),
                ttft_ms: milliseconds(self.request.arrived, self.first_result.unwrap_or(now)),
                ..Timings::default()
            },
        });
    }

    /// Ends the answer by an error.
    pub(super) fn fail(&self, code: &str, message: &str) {
        let error = ErrorDetail {
            message: message.to_owned(),
            kind: ErrorKind::ServerError,
            param: None,
            code: Some(code.to_owned()),
            hint: None,
        };
        self.send(InferenceEvent::Error { error });
    }

    fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.request.texts.iter().map(Vec::len).sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// There is room: no batch has more texts of a request than its reader has room for. Where the
    /// reader is gone, that is seen before the next batch.
    fn send(&self, event: InferenceEvent) {
        let _ = self.request.answer.try_send(event);
    }
}

fn no_number() -> EngineError {
    EngineError::Failed("the model's result for a text is not a number".to_owned())
}
