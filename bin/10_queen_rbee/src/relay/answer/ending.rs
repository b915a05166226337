//! The end of an answer, however it came: it is counted, logged, and recorded where nothing else tells of it.

use super::{Answer, millis};
use crate::decisions::{Decided, Kind};
use crate::relay::record::{CANCELLED, Record, Stage};

impl Answer {
    /// Counts how it has ended.
    fn count(&self) {
        let Record { began, outcome, waits_told, .. } = &self.record;
        if let Some(figures) = &self.record.figures {
            figures.ended(outcome);
            return;
        }
        let is_known = self.relay.dispatcher.registry().knows_model(&self.model);
        let figures = self.relay.metrics().of_unplaced(&self.model, is_known);
        figures.ended(outcome);
        if waits_told.is_any() {
            figures.waited(began.elapsed());
        }
    }

    /// Records that nobody wants the answer any longer, where that is its end and something is recorded of it.
    fn log_cancelled(&self) {
        let given = self.given_in_words();
        let (at, worker) = match &self.record.stage {
            Stage::New => return,
            Stage::Seeking if self.has_begun() => {
                (format!("after {given}, while it waited for a worker that goes on"), None)
            }
            Stage::Seeking => ("while it waited".to_owned(), None),
            Stage::Asking => (format!("after {given}"), self.record.worker_id.as_ref()),
        };
        let why =
            format!("it was cancelled, or its client went away or read nothing for a minute, {at}");
        let decided = Decided::told(Kind::GiveUp, "cancelled", why);
        self.log(match worker {
            Some(worker) => decided.worker(worker),
            None => decided,
        });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Record { began, worker_id, usage, failovers, outcome, .. } = &self.record;
        if !self.record.is_replaced {
            self.count();
        }
        if *outcome == CANCELLED {
            self.log_cancelled();
        }
        tracing::info!(
            request_id = %self.request.request_id,
            caller = self.asking.caller,
            model = %self.model,
            worker_id = worker_id.as_ref().map(tracing::field::display),
            prompt_tokens = usage.map(|usage| usage.prompt_tokens),
            tokens = usage.map_or(self.progress.tokens(), |u| u.completion_tokens as usize),
            ms = millis(began.elapsed()),
            tried_again = failovers,
            outcome,
            "inference ended"
        );
    }
}
