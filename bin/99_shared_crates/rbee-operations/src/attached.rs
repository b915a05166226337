//! Operations on servers of others, whose models are workers of the pool.

use std::fmt;

use serde::{Deserialize, Serialize};
use worker_contract::{HiveAlias, ModelAlias, WorkerId};

/// A server that runs already, and whose models are to be workers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerAttach {
    /// Its base URL, with or without `/v1` at its end.
    pub url: String,
    /// What it speaks.
    #[serde(default)]
    pub api: ServerApi,
    /// The name that it is to have, by which no hive is called; the URL's host if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<HiveAlias>,
    /// The token that it demands. It is kept by nobody but the queen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// How many requests each of its models runs at once; if left out, as many as a llama-server says, and
    /// a number by the kind of all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Which of its models; all if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

impl WorkerAttach {
    /// Its base URL without user and password, which it should not have.
    #[must_use]
    pub fn shown_url(&self) -> String {
        without_user(&self.url)
    }
}

/// A URL without what stands before its host.
#[must_use]
pub fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// A server that is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerDetach {
    /// Its name.
    pub name: HiveAlias,
}

/// What a server of others speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerApi {
    /// OpenAI's API.
    #[default]
    Openai,
}

/// A model of an attached server, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedWorker {
    /// The worker.
    pub worker_id: WorkerId,
    /// The name of its server.
    pub server: HiveAlias,
    /// The base URL of its server.
    pub url: String,
    /// What kind of server it is, as far as one can tell: `ollama`, `vllm`, …
    pub engine: String,
    /// The model's name in requests.
    pub model: ModelAlias,
    /// The model's name at its server.
    pub original: String,
    /// How many requests it is believed to run at once.
    pub slots: u32,
    /// `ready`, `draining` or `failed`.
    pub state: String,
    /// Why it failed, or gets no requests though it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An attached server none of whose models is a worker, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedServer {
    /// Its name.
    pub server: HiveAlias,
    /// Its base URL.
    pub url: String,
    /// What kind of server it is, as far as one can tell: `ollama`, `vllm`, …
    pub engine: String,
    /// `ready`, `loading` or `failed`; `unknown` until the queen has looked at it.
    pub state: String,
    /// Why none of its models is a worker.
    pub reason: String,
}

impl fmt::Debug for WorkerAttach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, api, name, token: _, slots, models } = self;
        let mut out = f.debug_struct("WorkerAttach");
        out.field("url", url).field("api", api).field("name", name);
        out.field("slots", slots).field("models", models).finish_non_exhaustive()
    }
}
