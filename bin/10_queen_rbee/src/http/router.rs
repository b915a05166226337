//! Every route of the queen.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use access_tokens::{Authenticator, HiveSecrets};
use axum::Router;
use axum::extract::FromRef;
use axum::http::Uri;
use axum::routing::{any, get, post};
use daemon_http::{ApiError, demand_secret, refuse_hives};
use daemon_lifecycle::BuildInfo;
use job_server::{Executor, JobRegistry};
use tokio_util::sync::CancellationToken;

use super::{
    decisions, events, health, heartbeat, inference, metrics, models, rules, status, vectors,
};
use crate::attached::Servers;
use crate::decisions::Decisions;
use crate::dialect::openai;
use crate::events::Feed;
use crate::hive_client::HiveClients;
use crate::registry::Registry;
use crate::relay::Relay;

/// What handlers hand over to. Each handler takes the part that it uses. Cheap to clone, as the router does
/// for each request.
#[derive(Clone)]
pub(crate) struct Handlers(Arc<HandlerParts>);

impl Handlers {
    pub(crate) fn new(parts: HandlerParts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for Handlers {
    type Target = HandlerParts;

    fn deref(&self) -> &HandlerParts {
        &self.0
    }
}

/// The parts of the queen that handlers use.
pub(crate) struct HandlerParts {
    pub(crate) relay: Relay,
    pub(crate) registry: Registry,
    pub(crate) hives: HiveClients,
    pub(crate) jobs: JobRegistry,
    pub(crate) decisions: Decisions,
    pub(crate) feed: Feed,
    pub(crate) facts: Arc<Facts>,
    pub(crate) servers: Servers,
    /// Whose tokens count.
    pub(crate) auth: Authenticator,
    /// Those of hives, by which reports are taken.
    pub(crate) secrets: HiveSecrets,
}

/// What does not change while the queen runs, and what ends her.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) build: BuildInfo,
    pub(crate) began: Instant,
    /// Seconds since the Unix epoch.
    pub(crate) began_at: u64,
    pub(crate) address: String,
    pub(crate) request_timeout: Duration,
    pub(crate) stop: CancellationToken,
    /// Whether the workers of her own hive go on when she ends. Set before `stop`.
    pub(crate) keeps_workers: Arc<AtomicBool>,
}

/// How reports begin, which are many, and of which none is waited for.
pub const REPORTS: &[&str] = &["POST /v1/worker-heartbeat ", "POST /v1/hive-heartbeat "];

/// All routes, without the edge that every daemon has.
///
/// A report decides where requests and secrets are sent, so it needs a secret, always: the local one,
/// or that of the hive that it is about, which opens nothing else.
pub(crate) fn router(handlers: Handlers, executor: Arc<dyn Executor>) -> Router {
    let (jobs, auth) = (handlers.jobs.clone(), handlers.auth.clone());
    let reports = Router::new()
        .route("/v1/worker-heartbeat", post(heartbeat::worker))
        .route("/v1/hive-heartbeat", post(heartbeat::hive));
    let api = Router::new()
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/build-info", get(health::build_info))
        .route("/v1/shutdown", post(health::shutdown))
        .route("/v1/status", get(status::status))
        .route("/v1/decisions", get(decisions::list))
        .route("/v1/events", get(events::follow))
        .route("/v1/policy/test", post(rules::test))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::get))
        .route("/v1/chat/completions", post(inference::chat))
        .route("/v1/completions", post(inference::completion))
        .route("/v1/embeddings", post(vectors::embed))
        .route("/v1/rerank", post(vectors::rerank))
        .route("/v1/{*other}", any(unserved))
        .with_state(handlers.clone())
        .merge(job_server::routes(jobs, executor, auth));
    refuse_hives(api).merge(demand_secret(reports).with_state(handlers))
}

/// What of OpenAI's API is not here.
async fn unserved(uri: Uri) -> ApiError {
    openai::unserved(uri.path())
}

macro_rules! part {
    ($field:ident: $part:ty) => {
        impl FromRef<Handlers> for $part {
            fn from_ref(handlers: &Handlers) -> Self {
                handlers.$field.clone()
            }
        }
    };
}

part!(relay: Relay);
part!(registry: Registry);
part!(hives: HiveClients);
part!(jobs: JobRegistry);
part!(decisions: Decisions);
part!(feed: Feed);
part!(facts: Arc<Facts>);
part!(servers: Servers);
part!(auth: Authenticator);
part!(secrets: HiveSecrets);
