//! What is counted of a request, and logged when it is over: who, what, how; never the text.

use tokio::time::Instant;
use worker_contract::{Usage, WorkerId};

use crate::dispatch::WaitsTold;
use crate::metrics::{Answering, Open};

/// How a request ends that nobody wants the answer to any longer: what it has come to until anything else is known.
pub(super) const CANCELLED: &str = "cancelled";

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No worker was sought for it yet.
    New,
    /// One is sought.
    Seeking,
    /// One was asked.
    Asking,
}

/// What has become of a request so far.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) began: Instant,
    pub(super) stage: Stage,
    /// Whoever answered last.
    pub(super) worker_id: Option<WorkerId>,
    pub(super) usage: Option<Usage>,
    /// How often it was sent to a worker again, whether the client had some of the answer or nothing.
    pub(super) failovers: u32,
    /// Another worker is sought; true if the client has some of the answer.
    again: Option<bool>,
    pub(super) outcome: &'static str,
    /// It is not counted: what is asked for in its place is.
    pub(super) is_replaced: bool,
    /// How often it was recorded that it waits.
    pub(super) waits_told: WaitsTold,
    /// The figures of its model, once it has had a place.
    pub(super) figures: Option<Answering>,
    /// When its first part came.
    first_at: Option<Instant>,
    _open: Open,
}

impl Record {
    /// A request that has just come.
    pub(super) fn begin(open: Open) -> Self {
        Self {
            began: Instant::now(),
            stage: Stage::New,
            worker_id: None,
            usage: None,
            failovers: 0,
            again: None,
            outcome: CANCELLED,
            is_replaced: false,
            waits_told: WaitsTold::default(),
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

    /// Another worker is sought; `has_begun` says that the client has some of the answer. A request that is sent
    /// again counts when one is asked; an answer that is gone on with, when one does that.
    pub(super) fn tries_again(&mut self, has_begun: bool) {
        self.again = Some(has_begun);
    }

    /// A worker is sought.
    pub(super) fn seeks(&mut self) {
        self.stage = Stage::Seeking;
    }

    /// A worker is asked.
    pub(super) fn asks(&mut self, worker_id: WorkerId) {
        self.stage = Stage::Asking;
        self.worker_id = Some(worker_id);
        self.count(false);
    }

    /// A worker gives the first of its part of the answer, or ends it.
    pub(super) fn goes_on(&mut self) {
        self.count(true);
    }

    /// Counts what is sought, where it is that.
    fn count(&mut self, has_begun: bool) {
        if self.again.take_if(|again| *again == has_begun).is_none() {
            return;
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::Metrics;

    /// What happens to a request.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// Another worker is sought; true where its client has some of the answer.
        Sought(bool),
        Asked,
        Gives,
    }

    #[test]
    fn each_time_that_another_worker_goes_on_counts_once_and_what_is_begun_anew_is_sent_again() {
        use Step::{Asked, Gives, Sought};
        let rows: [(&str, &[Step], (u64, u64)); 6] = [
            ("it goes on", &[Asked, Gives, Sought(true), Asked, Gives, Gives], (1, 0)),
            ("and again", &[Sought(true), Asked, Gives, Sought(true), Asked, Gives], (2, 0)),
            (
                "at the second that is asked",
                &[Asked, Gives, Sought(true), Asked, Sought(true), Asked, Gives],
                (1, 0),
            ),
            ("nobody can", &[Asked, Gives, Sought(true), Sought(false), Asked, Gives], (0, 1)),
            (
                "nobody can any longer",
                &[Gives, Sought(true), Asked, Gives, Sought(true), Sought(false), Asked, Gives],
                (1, 1),
            ),
            ("none gave any", &[Asked, Sought(false), Asked, Sought(false), Asked, Gives], (0, 2)),
        ];
        for (because, steps, expected) in rows {
            let metrics = Metrics::default();
            let figures = metrics.model(&"m".parse().unwrap());
            let mut record = Record::begin(metrics.open_request());
            record.figures = Some(Answering::begin(Arc::clone(&figures)));
            for step in steps {
                match step {
                    Sought(has_begun) => record.tries_again(*has_begun),
                    Asked => record.asks("w-1".parse().unwrap()),
                    Gives => record.goes_on(),
                }
            }
            assert_eq!(figures.tries(), expected, "{because}");
            assert_eq!(u64::from(record.failovers), expected.0 + expected.1, "{because}");
        }
    }
}
