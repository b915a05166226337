//! An inference request from its place in the queue to its last token.
//!
//! The relay sends the request to the worker that the dispatcher names and passes its events on, one
//! by one and only as fast as the reader takes them. It keeps the ids of all tokens that were passed
//! on: where a worker fails, another one goes on after them, and the reader notices nothing. Dropping
//! an [`Answer`] closes the connection to the worker, which ends the request there.

mod answer;
mod choice;
mod contexts;
mod failure;
mod log;
mod patience;
mod prefill;
mod progress;
mod pulse;
mod quarantine;
mod reason;
mod record;
mod retry;
mod size;
mod speech;
mod sse;
mod suspicion;
mod worker;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use worker_contract::{
    Delta, FinishReason, InferenceRequest, ModelAlias, Timings, Usage, WorkerId,
};

pub use self::answer::Answer;
pub(crate) use self::contexts::longer_context;
pub use self::failure::Failure;
pub use self::prefill::Prefill;
pub(crate) use self::prefill::continues_last;
use self::pulse::Pulses;
use self::quarantine::Quarantine;
pub use self::reason::Reason;
pub(crate) use self::reason::is_name;
use self::retry::Budget;
pub(crate) use self::size::{MAX_ALL, MAX_TEXT, Weight};
use self::worker::WorkerClient;
use crate::admission::Priority;
use crate::attached::Original;
use crate::connection::Pool;
use crate::dialect::openai::Aside;
use crate::dispatch::{Dispatcher, NoPlace, Wanted};
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::registry::{Place, SessionKey};
use crate::scheduler::Why;

/// Carries inference requests to workers. A clone shares connections.
#[derive(Debug, Clone)]
pub struct Relay {
    dispatcher: Dispatcher,
    workers: WorkerClient,
    shared: Arc<Shared>,
    /// Fires when answers have no more time, since the queen ends.
    cut: CancellationToken,
}

/// What all answers share.
#[derive(Debug)]
struct Shared {
    /// How long a worker that computes an answer may be silent.
    stall: Duration,
    budget: Mutex<Budget>,
    metrics: Metrics,
    quarantine: Quarantine,
    pulses: Pulses,
    /// The next request's number.
    requests: AtomicU64,
}

/// Who asks, and how.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Who asks, as logs name them.
    pub caller: String,
    /// When it is too late.
    pub deadline: Instant,
    /// How urgent it is.
    pub priority: Priority,
    /// The session that it belongs to.
    pub session: Option<SessionKey>,
    /// The queens that it has come through, as each of them calls itself; empty if none.
    pub via: String,
    /// The client gets nothing before the end, so that all can be begun again: then `Started` comes once
    /// more, and what came before is void.
    pub is_whole: bool,
}

/// A part of an answer, in the order `Started`, any number of others, `Done`.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// The first token, vector or score is there. The answer comes from this worker, unless it fails.
    Started {
        /// The worker.
        worker_id: WorkerId,
        /// Why this one.
        why: Why,
    },
    /// Another worker gives what comes from here on.
    GoesOn {
        /// The worker.
        worker_id: WorkerId,
        /// Why this one.
        why: Why,
    },
    /// Text, reasoning or calls with the tokens that it stands for, those of earlier parts that said nothing
    /// included. Without any of them it has the log probabilities of last tokens that stand for nothing, or comes
    /// with what a server says beside it.
    Delta(Delta),
    /// What a server of somebody else says beside the next part.
    Aside(Aside),
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
    /// A relay that reaches workers by the connections of `pool`, proves itself to them with the secrets of
    /// `keyring`, and gives a worker up that
    /// says nothing of an answer for as long as `stall`.
    #[must_use]
    pub fn new(dispatcher: Dispatcher, keyring: Keyring, pool: Pool, stall: Duration) -> Self {
        let shared = Shared {
            stall,
            budget: Mutex::new(Budget::full(Instant::now().into_std())),
            metrics: Metrics::default(),
            quarantine: Quarantine::default(),
            pulses: Pulses::default(),
            requests: AtomicU64::new(0),
        };
        let (workers, shared) = (WorkerClient::new(keyring, pool), Arc::new(shared));
        Self { dispatcher, workers, shared, cut: CancellationToken::new() }
    }

    /// The same relay, which reaches workers by connections of its own.
    #[must_use]
    pub fn with_pool(self, pool: Pool) -> Self {
        Self { workers: self.workers.with_pool(pool), ..self }
    }

    /// The same relay, whose answers end when `cut` fires, and say that the queen is being stopped.
    #[must_use]
    pub fn cut_by(self, cut: CancellationToken) -> Self {
        Self { cut, ..self }
    }

    /// Begins an answer of `model` to a request, which is `original` in the client's words. Nothing happens
    /// until it is asked for its first part.
    #[must_use]
    pub fn answer(
        &self,
        model: &ModelAlias,
        request: InferenceRequest,
        original: Original,
        asking: Asking,
    ) -> Box<Answer> {
        self.shared.budget(Budget::earn);
        let model = self.dispatcher.registry().meant(model);
        Box::new(Answer::new(self.clone(), model, request, original, asking))
    }

    /// The place of a request; `None` once answers have no more time, also where the end of one makes room for it.
    async fn place(&self, wanted: Wanted) -> Option<Result<Place, NoPlace>> {
        let mut placing = pin!(self.dispatcher.place(wanted));
        // Whoever is sought for is woken by the cut already, so that it need not be waited for here.
        poll_fn(|context| {
            if self.cut.is_cancelled() {
                return Poll::Ready(None);
            }
            placing.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Whether what came through these queens was here before.
    #[must_use]
    pub fn was_here(&self, via: &str) -> bool {
        self.workers.was_here(via)
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Where requests get their places.
    #[must_use]
    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// How many requests wait for a worker.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.dispatcher.waiting()
    }
}

impl Shared {
    fn budget<T>(&self, with: impl FnOnce(&mut Budget) -> T) -> T {
        with(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
