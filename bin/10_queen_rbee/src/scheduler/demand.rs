//! One request, as far as its placing is concerned.

use worker_contract::{ModelAlias, WorkerId};

/// What a request needs.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The model.
    pub model: &'a ModelAlias,
    /// Workers that failed this very request before.
    pub failed: &'a [WorkerId],
}
