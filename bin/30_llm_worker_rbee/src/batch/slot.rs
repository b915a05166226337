//! The state of one running request.

use std::time::Instant;

use worker_contract::{
    Delta, ErrorDetail, ErrorKind, FinishReason, InferenceEvent, Timings, TokenId, Usage,
};

use super::request::{Choice, Prepared};
use crate::sampling::Candidates;
use crate::text::{StopMatch, StopTexts, Utf8Stream};

/// What a slot needs to know of the model to turn tokens into text.
pub trait TextModel {
    /// Appends a token's bytes; control tokens have none.
    fn append_piece(&self, token: TokenId, bytes: &mut Vec<u8>);
    /// Whether a token ends the text.
    fn is_end(&self, token: TokenId) -> bool;
}

impl TextModel for crate::engine::llama::Model {
    fn append_piece(&self, token: TokenId, bytes: &mut Vec<u8>) {
        Self::append_piece(self, token, bytes);
    }
    fn is_end(&self, token: TokenId) -> bool {
        Self::is_end(self, token)
    }
}

/// Events that a step can send at most for one sequence: `started`, a last `delta`, and `done`.
const EVENTS_A_STEP: usize = 3;

/// A request with its tokens, its text and its clock.
#[derive(Debug)]
pub(super) struct Slot {
    request: Prepared,
    /// Prompt and answer.
    tokens: Vec<TokenId>,
    /// How many of `tokens` are in the KV cache.
    held: usize,
    /// The longest that `tokens` may become.
    context_length: usize,
    pub(super) serial: u64,
    choice: Choice,
    utf8: Utf8Stream,
    stops: StopTexts,
    /// Tokens of the answer whose text was not shown yet.
    unshown: Vec<TokenId>,
    /// Text of the next delta.
    text: String,
    started: Option<Instant>,
    first_token: Option<Instant>,
    prefilled: Option<Instant>,
}

/// Whether a sequence goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Goes,
    Ended,
}

impl Slot {
    /// The state of a request that has computed nothing.
    ///
    /// Tokens that the client already has pass through detokenizer, stop texts and penalties as if
    /// they had just been made, and are not shown again.
    pub(super) fn new(
        request: Prepared,
        choice: Choice,
        model: &impl TextModel,
        context_length: u32,
    ) -> Self {
        let mut slot = Self {
            tokens: request.prompt.clone(),
            held: 0,
            context_length: context_length as usize,
            serial: 0,
            choice,
            utf8: Utf8Stream::default(),
            stops: StopTexts::new(request.ends.stop.clone()),
            unshown: Vec::new(),
            text: String::new(),
            started: None,
            first_token: None,
            prefilled: None,
            request,
        };
        for token in std::mem::take(&mut slot.choice.resume) {
            slot.take(token, model);
        }
        slot.text.clear();
        slot.unshown.clear();
        slot
    }

    /// Whether nobody reads the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.request.answer.is_closed()
    }

    /// Whether the reader is so far behind that a step's events might not fit.
    pub(super) fn is_stalled(&self) -> bool {
        self.request.answer.capacity() < EVENTS_A_STEP
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.request.deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens that are not in the KV cache yet.
    pub(super) fn pending(&self) -> &[TokenId] {
        &self.tokens[self.held..]
    }

    /// The most tokens that the answer may still get.
    pub(super) fn may_add(&self) -> usize {
        let left = self
            .request
            .ends
            .max_tokens
            .map_or(usize::MAX, |most| (most as usize).saturating_sub(self.answer_len()));
        left.min(self.context_length.saturating_sub(self.tokens.len()))
    }

    /// Begins, or goes on after it gave its room up.
    pub(super) fn start(&mut self, serial: u64, now: Instant) {
        self.serial = serial;
        if self.started.is_none() {
            self.started = Some(now);
            self.send(InferenceEvent::Started {
                request_id: self.request.request_id.clone(),
                prompt_tokens: count(self.request.prompt.len()),
                cached_tokens: 0,
                seed: self.request.seed,
            });
        }
    }

    /// Gives its room in the KV cache up; its tokens are computed again later.
    pub(super) fn give_way(&mut self) {
        self.held = 0;
    }

    /// Counts tokens as computed.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.held += tokens;
    }

    /// Chooses the next token and sends what can be shown.
    pub(super) fn decode(
        &mut self,
        logits: &[f32],
        model: &impl TextModel,
        room: &mut Candidates,
        now: Instant,
    ) -> Progress {
        self.prefilled.get_or_insert(now);
        let position = self.answer_len() as u64;
        let token = self.choice.sampler.choose(logits, position, room).token;
        self.first_token.get_or_insert(now);
        if model.is_end(token) && !self.request.ends.ignore_eos {
            self.tokens.push(token);
            return self.finish(FinishReason::Stop, now);
        }
        if self.take(token, model) == StopMatch::Found {
            self.show();
            return self.finish_without_rest(FinishReason::Stop, now);
        }
        if self.may_add() == 0 {
            return self.finish(FinishReason::Length, now);
        }
        if !self.text.is_empty() {
            self.show();
        }
        Progress::Goes
    }

    /// Ends the answer: all text held back is shown, half a character is not.
    pub(super) fn finish(&mut self, reason: FinishReason, now: Instant) -> Progress {
        self.stops.finish(&mut self.text);
        if !self.text.is_empty() || !self.unshown.is_empty() {
            self.show();
        }
        self.finish_without_rest(reason, now)
    }

    /// Ends the answer by an error.
    pub(super) fn fail(&self, code: &str, message: String) {
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

    /// Takes a token into the answer.
    fn take(&mut self, token: TokenId, model: &impl TextModel) -> StopMatch {
        self.tokens.push(token);
        self.unshown.push(token);
        self.choice.sampler.see_answer(token);
        model.append_piece(token, self.utf8.buffer());
        let mut piece = String::new();
        self.utf8.drain_into(&mut piece);
        self.stops.push(&piece, &mut self.text)
    }

    fn show(&mut self) {
        let text = std::mem::take(&mut self.text);
        let tokens = std::mem::take(&mut self.unshown);
        self.send(InferenceEvent::Delta(Delta { text, tokens, ..Delta::default() }));
    }

    fn finish_without_rest(&mut self, finish_reason: FinishReason, now: Instant) -> Progress {
        let arrived = self.request.arrived;
        let started = self.started.unwrap_or(now);
        let prefilled = self.prefilled.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        let ms =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        self.send(InferenceEvent::Done {
            finish_reason,
            usage: Usage {
                prompt_tokens: count(self.request.prompt.len()),
                completion_tokens: count(self.answer_len()),
                cached_tokens: 0,
            },
            timings: Timings {
                queue_ms: ms(arrived, started),
                prefill_ms: ms(started, prefilled),
                ttft_ms: ms(arrived, first),
                decode_ms: ms(first, now),
                ..Timings::default()
            },
        });
        Progress::Ended
    }

    fn answer_len(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// Sends an event. There is room, because a stalled sequence is not computed; a reader that is
    /// gone is noticed before the next step.
    fn send(&self, event: InferenceEvent) {
        if let Err(tokio::sync::mpsc::error::TrySendError::Full(_)) =
            self.request.answer.try_send(event)
        {
            tracing::error!(request_id = %self.request.request_id, "an event found no room");
        }
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
