//! A request that is ready for the engine, and the way its answer goes back.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use worker_contract::{InferenceEvent, RequestId, TokenId};

use crate::media::Placed;
use crate::sampling::TokenSampler;
use crate::text::OutputReader;

/// How many events an answer can be ahead of its reader before its sequence rests.
const ANSWER_CAPACITY: usize = 64;

/// A checked and tokenized request.
#[derive(Debug)]
pub struct Prepared {
    /// The id that it has in every log line, event and error.
    pub request_id: RequestId,
    /// The prompt.
    pub prompt: Vec<TokenId>,
    /// The images in it, in their order.
    pub media: Arc<[Placed]>,
    /// The answers that are made of it, at least one.
    pub choices: Vec<Choice>,
    /// When an answer ends.
    pub ends: Ends,
    /// The seed in use.
    pub seed: u64,
    /// When it came.
    pub arrived: Instant,
    /// When it must be answered.
    pub deadline: Option<Instant>,
    /// Where the answer goes.
    pub answer: Answer,
}

/// One answer that is made of a prompt.
#[derive(Debug)]
pub struct Choice {
    /// Its number among the request's answers.
    pub index: u32,
    /// Tokens of it that the client already has.
    pub resume: Vec<TokenId>,
    /// How its tokens are chosen.
    pub sampler: TokenSampler,
    /// What its text is.
    pub output: OutputReader,
}

/// When an answer ends.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    /// The most tokens.
    pub max_tokens: Option<u32>,
    /// The texts that it ends before.
    pub stop: Vec<String>,
    /// Whether it goes on after the model's end-of-text token.
    pub ignore_eos: bool,
}

/// The sending end of an answer. The reader ends the request by dropping its own end.
pub type Answer = mpsc::Sender<InferenceEvent>;

/// The reading end of an answer.
pub type EventReceiver = mpsc::Receiver<InferenceEvent>;

/// A fresh pair.
#[must_use]
pub fn answer_channel() -> (Answer, EventReceiver) {
    mpsc::channel(ANSWER_CAPACITY)
}

/// Whether somebody still waits for an answer, who has time until the deadline.
#[must_use]
pub fn is_wanted(answer: &Answer, deadline: Option<Instant>) -> bool {
    !answer.is_closed() && deadline.is_none_or(|deadline| Instant::now() < deadline)
}
