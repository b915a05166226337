//! The calls.

use std::sync::Arc;
use std::time::Duration;

use access_tokens::Secret;
use backon::ExponentialBuilder;
use rbee_operations::{JobCreated, JobList, JobSummary, Operation};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::Serialize;
use worker_contract::JobId;

use crate::ClientError;
use crate::answer::{parse, refused};

/// The deadline of a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The deadline of a call that is no stream, answer included.
const CALL: Duration = Duration::from_secs(30);
/// How long a stream may be silent. Daemons send a comment every ten seconds.
const SILENCE: Duration = Duration::from_secs(35);
/// How often a broken stream is opened again in a row, over 12 to 24 seconds.
const RETRIES: usize = 8;
const QUEEN_ADVICE: &str = "start the queen with `rbee-keeper queen start`, or check the URL";

/// A client for the jobs of one daemon. A clone shares its connections.
#[derive(Debug, Clone)]
pub struct JobClient {
    http: Client,
    shared: Arc<Shared>,
}

#[derive(Debug, Clone)]
struct Shared {
    base_url: String,
    token: Option<Secret>,
    advice: String,
    retries: ExponentialBuilder,
}

impl JobClient {
    /// A client for the daemon at `base_url`, such as `http://127.0.0.1:8500`; `token` goes with
    /// each call. A URL that is none is reported by the first call.
    ///
    /// Proxies of the environment are not used: jobs stay in the network.
    ///
    /// # Panics
    /// Never: the HTTP client is built without TLS and from constants.
    #[must_use]
    pub fn new(base_url: &str, token: Option<Secret>) -> Self {
        let http = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
            .expect("a client without TLS, made from constants, can be built");
        let shared = Shared {
            base_url: base_url.trim_end_matches('/').to_owned(),
            token,
            advice: QUEEN_ADVICE.to_owned(),
            retries: ExponentialBuilder::new()
                .with_min_delay(Duration::from_millis(100))
                .with_max_delay(Duration::from_secs(3))
                .with_max_times(RETRIES)
                .with_jitter(),
        };
        Self { http, shared: Arc::new(shared) }
    }

    /// The same client with other advice for when nothing answers; by default it is how to start the
    /// queen.
    #[must_use]
    pub fn with_advice(mut self, advice: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.shared).advice = advice.into();
        self
    }

    /// The same client with another number of times that a broken stream is opened again in a row,
    /// with pauses that grow from 0.1 to 3 seconds; by default eight times.
    #[must_use]
    pub fn with_retries(mut self, times: usize) -> Self {
        let shared = Arc::make_mut(&mut self.shared);
        shared.retries = shared.retries.with_max_times(times);
        self
    }

    /// Begins a job.
    ///
    /// # Errors
    /// The daemon cannot be reached, or refuses.
    pub async fn submit(&self, operation: &Operation) -> Result<JobId, ClientError> {
        /// `SubmitJob`, without a copy of the operation.
        #[derive(Serialize)]
        struct Submit<'a> {
            operation: &'a Operation,
        }
        let request = self.request(Method::POST, "/v1/jobs").json(&Submit { operation });
        let created: JobCreated = parse(self, self.send(request.timeout(CALL)).await?).await?;
        Ok(created.job_id)
    }

    /// The jobs that the daemon keeps, the latest first, but those that only look (lists, logs, …): all that have not
    /// ended, and up to `limit` others.
    ///
    /// # Errors
    /// The daemon cannot be reached, or refuses.
    pub async fn list(&self, limit: usize) -> Result<JobList, ClientError> {
        self.listed(&format!("/v1/jobs?limit={limit}")).await
    }

    /// The same with those that only look.
    ///
    /// # Errors
    /// The daemon cannot be reached, or refuses.
    pub async fn list_with_looks(&self, limit: usize) -> Result<JobList, ClientError> {
        self.listed(&format!("/v1/jobs?limit={limit}&all=true")).await
    }

    async fn listed(&self, path: &str) -> Result<JobList, ClientError> {
        let request = self.request(Method::GET, path);
        parse(self, self.send(request.timeout(CALL)).await?).await
    }

    /// One job.
    ///
    /// # Errors
    /// The daemon cannot be reached, or has no such job.
    pub async fn get(&self, job_id: &JobId) -> Result<JobSummary, ClientError> {
        let request = self.request(Method::GET, &format!("/v1/jobs/{job_id}"));
        parse(self, self.send(request.timeout(CALL)).await?).await
    }

    /// Asks a job to end. It has ended when its stream has, or when the answer says so.
    ///
    /// # Errors
    /// The daemon cannot be reached, or has no such job.
    pub async fn cancel(&self, job_id: &JobId) -> Result<JobSummary, ClientError> {
        let request = self.request(Method::DELETE, &format!("/v1/jobs/{job_id}"));
        parse(self, self.send(request.timeout(CALL)).await?).await
    }

    /// A request with the token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base_url()));
        match &self.shared.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// Sends a request; an HTTP error becomes an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.failed(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refused(self, response).await)
    }

    /// What a failed exchange means.
    pub(crate) fn failed(&self, source: reqwest::Error) -> ClientError {
        let url = self.base_url().to_owned();
        if source.is_builder() {
            return ClientError::InvalidUrl { url, source };
        }
        // The base URL is named beside it.
        let source = source.without_url();
        ClientError::Unreachable { url, advice: self.shared.advice.clone(), source }
    }

    pub(crate) fn protocol(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Protocol { url: self.base_url().to_owned(), reason: reason.into() }
    }

    pub(crate) fn retries(&self) -> ExponentialBuilder {
        self.shared.retries
    }

    fn base_url(&self) -> &str {
        &self.shared.base_url
    }
}
