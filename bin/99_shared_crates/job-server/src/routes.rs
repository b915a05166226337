//! Jobs over HTTP.
use std::sync::Arc;

use axum::Router;

use crate::{Executor, JobRegistry};

/// All routes of jobs.
pub fn routes(_registry: JobRegistry, _executor: Arc<dyn Executor>) -> Router {
    Router::new()
}
