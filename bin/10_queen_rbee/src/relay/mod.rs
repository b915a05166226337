//! An inference request from its place in the queue to its last token.
//!
//! The relay sends the request to the worker that the dispatcher names and passes its events on, one
//! by one and only as fast as the reader takes them. It keeps the ids of all tokens that were passed
//! on. Dropping an [`Answer`] closes the connection to the worker, which ends the request there.

mod answer;
mod choice;
mod connection;
mod failure;
mod progress;
mod sse;
mod worker;

use tokio::time::Instant;
use worker_contract::{
    Delta, FinishReason, InferenceRequest, ModelAlias, Timings, Usage, WorkerId,
};

pub use self::answer::Answer;
pub use self::failure::Failure;
use self::worker::WorkerClient;
use crate::dispatch::Dispatcher;
use crate::keyring::Keyring;

/// Carries inference requests to workers. A clone shares connections.
#[derive(Debug, Clone)]
pub struct Relay {
    dispatcher: Dispatcher,
    workers: WorkerClient,
}

/// A part of an answer, in the order `Started`, any number of others, `Done`.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// The first token, vector or score is there: from now on the answer comes from this worker.
    Started {
        /// The worker.
        worker_id: WorkerId,
    },
    /// Text, reasoning or calls, never nothing, with the tokens that it stands for, those of earlier
    /// parts that said nothing included.
    Delta(Delta),
    /// One of several answers is complete; where there is only one, `Done` tells it.
    ChoiceDone {
        /// Which one.
        index: u32,
        /// Why it ended.
        finish_reason: FinishReason,
    },
    /// The vector of one text; each comes once.
    Embedding {
        /// Which text.
        index: u32,
        /// The vector.
        vector: Vec<f32>,
    },
    /// How well one document answers the query; each comes once.
    Score {
        /// Which document.
        index: u32,
        /// How well.
        score: f32,
    },
    /// Everything is answered.
    Done {
        /// Why the answer ended, or the first of several.
        finish_reason: FinishReason,
        /// How many tokens it took.
        usage: Usage,
        /// How long it took.
        timings: Timings,
    },
}

impl Relay {
    /// A relay that proves itself to workers with the secrets of `keyring`.
    #[must_use]
    pub fn new(dispatcher: Dispatcher, keyring: Keyring) -> Self {
        Self { dispatcher, workers: WorkerClient::new(keyring) }
    }

    /// Begins an answer of `model`. Nothing happens until it is asked for its first part.
    #[must_use]
    pub fn answer(
        &self,
        model: ModelAlias,
        request: InferenceRequest,
        deadline: Instant,
        caller: &str,
    ) -> Answer {
        let (dispatcher, workers) = (self.dispatcher.clone(), self.workers.clone());
        Answer::new(dispatcher, workers, model, request, deadline, caller)
    }

    /// How many requests wait for a worker.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.dispatcher.waiting()
    }
}
