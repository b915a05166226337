//! One request, as far as its placing is concerned.

use std::time::Duration;

use worker_contract::{DeviceId, HiveAlias, ModelAlias, Sha256Digest, WorkerId};

use super::Ways;
use crate::admission::Priority;

/// Who has failed a request, or is avoided by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailedBy {
    /// The worker.
    pub worker: WorkerId,
    /// What stands for its process then: one that is started again has failed nobody.
    pub process: u64,
}

/// What a request needs.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The model.
    pub model: &'a ModelAlias,
    /// Who failed this very request before.
    pub failed: &'a [FailedBy],
    /// Workers that cannot take it, whatever else there is.
    pub barred: &'a [WorkerId],
    /// How urgent it is.
    pub priority: Priority,
    /// The length of its prompt.
    pub prompt_bytes: u32,
    /// How many tokens its answer may have; 0 where it does not say.
    pub answer_tokens: u32,
    /// The worker that its session was at before.
    pub session: Option<&'a WorkerId>,
    /// The model file that it must go on with.
    pub digest: Option<&'a Sha256Digest>,
    /// Whether it is to begin alone at a worker, because workers ended that had it.
    pub alone: bool,
    /// In which ways it can be taken.
    pub ways: Ways,
    /// A context of so many tokens has turned out too short for it; 0 where none has.
    pub too_short: u32,
    /// Whether something else becomes of it where nobody can take it: then it waits for none that is silent.
    pub has_another_way: bool,
    /// Places where a worker could not be started while it waited.
    pub refused: &'a [(HiveAlias, Option<DeviceId>)],
    /// Of one of these places news is awaited: its hive was lost over a start.
    pub is_news_due: bool,
    /// For how long it has waited for others to make way.
    pub waited: Duration,
    /// It waits in a worker's own queue with so many tokens of its answer, and leaves that only for a worker
    /// where it begins at once; `None` where it is in no worker.
    pub leaves_with: Option<u32>,
    /// How much time is left for it.
    pub left: Duration,
    /// For how long it has been in the queue,
    pub queued: Duration,
    /// and those before it there that wait for a faster worker.
    pub ahead: &'a [Ahead],
}

/// One that waits for a faster worker though another one has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// How urgent it is.
    pub priority: Priority,
    /// For how much longer it waits so at most.
    pub patience: Duration,
}

impl<'a> Demand<'a> {
    /// Whether a worker has failed it, in whatever process.
    #[must_use]
    #[inline]
    pub fn was_failed_by(&self, worker: &WorkerId) -> bool {
        self.failed.iter().any(|by| by.worker == *worker)
    }

    /// Whether a context may be long enough, as far as is known. One that nobody tells may be.
    #[must_use]
    #[inline]
    pub fn may_fit(&self, context_tokens: u32) -> bool {
        context_tokens == 0 || context_tokens > self.too_short
    }

    /// An interactive request for a model, and nothing more.
    #[must_use]
    pub fn of(model: &'a ModelAlias) -> Self {
        Self {
            model,
            failed: &[],
            barred: &[],
            priority: Priority::Interactive,
            prompt_bytes: 0,
            answer_tokens: 0,
            session: None,
            digest: None,
            alone: false,
            ways: Ways::ALL,
            too_short: 0,
            has_another_way: false,
            refused: &[],
            is_news_due: false,
            waited: Duration::ZERO,
            leaves_with: None,
            left: Duration::MAX,
            queued: Duration::ZERO,
            ahead: &[],
        }
    }
}
