//! An answer that a short context has cut, though another worker has a longer one: it is whole as it is, and goes on
//! where that worker has a place for it in a moment.

use std::time::Duration;

use tokio::time::Instant;
use worker_contract::{FinishReason, InferenceEvent, Task};

use super::{Answer, Failure, NoPlace, Place, Reading, Wanted};

/// How many tokens of a context may be left where it is full: the last ones may stand for no text.
const NEARLY_FULL: u32 = 8;

/// How long the end of an answer is held back until a worker with a longer context has begun with it.
const PLACE_WITHIN: Duration = Duration::from_secs(5);

impl Answer {
    /// Whether an answer ends since its worker's context is full, though another worker could go on with it in a
    /// longer one. Of one that has said nothing yet, there is nothing to go on with.
    pub(super) fn is_cut_short(&self, event: &InferenceEvent, place: &Place) -> bool {
        let InferenceEvent::Done { finish_reason: FinishReason::Length, usage, .. } = event else {
            return false;
        };
        let context = place.context_tokens;
        let given = u32::try_from(self.progress.tokens()).unwrap_or(u32::MAX);
        let tokens = usage.completion_tokens.max(given);
        let has = usage.prompt_tokens.saturating_add(tokens).saturating_add(NEARLY_FULL);
        let is_all = self.request.sampling.max_tokens.is_some_and(|most| tokens >= most);
        let too_short = context.max(self.contexts.too_short());
        given > 0
            && context > 0
            && has >= context
            && !is_all
            && self.can_be_cut_anywhere()
            && self.relay.dispatcher.has_longer(&Wanted { too_short, ..self.wanted() })
    }

    /// Whether a worker held nothing of the answer back where it ended it: at its end it gives what it held for a
    /// stop text, a call or a mark of reasoning, and who goes on would give that again.
    fn can_be_cut_anywhere(&self) -> bool {
        let has_tools = matches!(&self.request.task, Task::Chat(chat) if !chat.tools.is_empty());
        self.request.sampling.stop.is_empty() && !has_tools && self.progress.is_one_text()
    }

    /// An answer that a worker's context has cut short goes on at one that has a longer context. Where none takes it
    /// in a moment, that is its end all the same.
    pub(super) fn go_on_longer(&mut self, place: Place) {
        self.contexts.cut(&place.worker_id, place.context_tokens, Instant::now());
        let reason = format!("its {} tokens are full", place.context_tokens);
        self.seek_longer(&reason.into(), place);
    }

    /// Whether what there is of the answer is a whole one, though a request for more of it has failed so.
    pub(super) fn is_whole_without(&self, failure: &Failure) -> bool {
        self.contexts.is_cut() && !matches!(failure, Failure::NoPlace(NoPlace::Stopping))
    }

    /// When there is no more time: at the deadline, or, where the answer is whole as it is, when its end has been
    /// held back for long enough. Who computes it then has as long as any worker may be silent, and is blamed for
    /// nothing before it has had what prompts may take.
    pub(super) fn time_ends(&self, reading: Option<&Reading>) -> Instant {
        let Some(cut_at) = self.contexts.cut_at() else { return self.asking.deadline };
        let held_until = match reading {
            Some(reading) if self.progress.is_started() => {
                reading.heard_at + self.relay.shared.stall
            }
            _ => cut_at + PLACE_WITHIN,
        };
        held_until.min(self.asking.deadline)
    }
}
