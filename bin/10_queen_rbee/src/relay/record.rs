//! What is counted of a request, and logged when it is over: who, what, how; never the text.

use std::sync::Arc;

use tokio::time::Instant;
use worker_contract::{Usage, WorkerId};

use crate::metrics::{ModelMetrics, Open};

/// What has become of a request so far.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) began: Instant,
    /// Whoever answered last.
    pub(super) worker_id: Option<WorkerId>,
    pub(super) usage: Option<Usage>,
    /// How often it was sent to a worker again, whether the client had some of the answer or nothing.
    pub(super) failovers: u32,
    /// Another worker is sought; true if the client has some of the answer.
    again: Option<bool>,
    pub(super) outcome: &'static str,
    /// The figures of its model, once it has had a place.
    pub(super) figures: Option<Arc<ModelMetrics>>,
    /// When its first part came.
    first_at: Option<Instant>,
    _open: Open,
}

impl Record {
    /// A request that has just come.
    pub(super) fn begin(open: Open) -> Self {
        Self {
            began: Instant::now(),
            worker_id: None,
            usage: None,
            failovers: 0,
            again: None,
            outcome: "cancelled",
            figures: None,
            first_at: None,
            _open: open,
        }
    }

    /// A part came: the first one counts.
    pub(super) fn began_to_answer(&mut self, at: Instant) {
        if self.first_at.is_some() {
            return;
        }
        self.first_at = Some(at);
        if let Some(figures) = &self.figures {
            figures.first_part(at.saturating_duration_since(self.began));
        }
    }

    /// Another worker is sought; `has_begun` says that the client has some of the answer. That counts when one
    /// is asked.
    pub(super) fn tries_again(&mut self, has_begun: bool) {
        self.again = Some(has_begun);
    }

    /// A worker is asked.
    pub(super) fn asks_again(&mut self) {
        let Some(has_begun) = self.again.take() else { return };
        self.failovers += 1;
        if let Some(figures) = &self.figures {
            figures.tried_again(has_begun);
        }
    }

    /// The answer, of so many texts, is complete.
    pub(super) fn answered(&self, usage: Usage, choices: u32) {
        if let Some((figures, first)) = self.figures.as_ref().zip(self.first_at) {
            figures.answered(usage, choices, first.elapsed());
        }
    }
}
