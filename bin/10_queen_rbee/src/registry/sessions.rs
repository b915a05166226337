//! Which worker of a model a session was at last. Pure.

use std::num::NonZeroUsize;

use lru::LruCache;
use worker_contract::{ModelAlias, WorkerId};

/// How many sessions are remembered.
const MOST: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// The name of a session: who asks, and what they call it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Who asks, so that nobody meets another one's session.
    pub caller: String,
    /// What they call it.
    pub name: String,
}

/// The sessions that were served last.
#[derive(Debug)]
pub(super) struct Sessions {
    at: LruCache<(SessionKey, ModelAlias), WorkerId>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { at: LruCache::new(MOST) }
    }
}

impl Sessions {
    /// Where a session was last with a model.
    pub(super) fn get(&mut self, key: &SessionKey, model: &ModelAlias) -> Option<&WorkerId> {
        self.at.get(&(key.clone(), model.clone()))
    }

    /// A session is at a worker of a model.
    pub(super) fn put(&mut self, key: &SessionKey, model: &ModelAlias, worker: &WorkerId) {
        self.at.put((key.clone(), model.clone()), worker.clone());
    }
}
