//! A request that is ready for the engine, and the way its answer goes back.

use std::time::Instant;

use tokio::sync::mpsc;
use worker_contract::{InferenceEvent, RequestId, Sampling, TokenId};

/// How many events an answer can be ahead of its reader before its sequence rests.
const ANSWER_CAPACITY: usize = 64;

/// A checked and tokenized request.
#[derive(Debug)]
pub struct Prepared {
    /// The id that it has in every log line, event and error.
    pub request_id: RequestId,
    /// The prompt.
    pub prompt: Vec<TokenId>,
    /// Tokens of the answer that the client already has.
    pub resume: Vec<TokenId>,
    /// How tokens are chosen, and when to end.
    pub sampling: Sampling,
    /// The seed in use.
    pub seed: u64,
    /// When it came.
    pub arrived: Instant,
    /// When it must be answered.
    pub deadline: Option<Instant>,
    /// Where the answer goes.
    pub answer: Answer,
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
