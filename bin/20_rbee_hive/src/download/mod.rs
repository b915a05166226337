//! From a reference to files on the disk: which files, from where, whole and with the right digest.
//!
//! ```text
//! reference ─▶ hub ─▶ choose ─▶ transfers ─▶ fetch ─▶ plan   which bytes next
//!                                (once each)    │ └─▶ answer  are these the right ones
//!                                               └───▶ verify  the digest, while they arrive
//! ```
//! `plan`, `choose`, `projector`, `retry` and `rate` decide and do nothing else.

mod answer;
mod choose;
mod client;
mod error;
mod fetch;
mod holds;
mod hub;
mod part_file;
mod plan;
mod probe;
mod projector;
mod rate;
mod retry;
mod running;
mod transfers;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use access_tokens::{Secret, TokenError, stored_secret};
use rbee_config::HiveConfig;
use rbee_operations::HubRef;
use tokio_util::sync::CancellationToken;
use url::Url;

pub(crate) use self::choose::{Memory, NoChoice, choose};
pub(crate) use self::error::DownloadError;
pub(crate) use self::fetch::{Fetched, Hears, Reached, Remote};
pub(crate) use self::holds::Hold;
pub(crate) use self::hub::{Hub, RepoFile, Repository};
pub(crate) use self::part_file::{Note, read_note};
pub(crate) use self::projector::{Beside, are_one, beside, is_of, is_projector, named};
pub(crate) use self::rate::{Rate, eta};
pub(crate) use self::retry::unattended_pauses;
pub(crate) use self::running::{Entered, RunningDownloads};

use self::client::Client;
use self::fetch::Fetcher;
use self::hub::DEFAULT_ENDPOINT;
use self::retry::Attempts;
use self::transfers::Transfers;

/// The name of the token for the hub, among the secrets.
const HUB_TOKEN: &str = "huggingface.token";
/// The variable that names a hub, as the hub's own tools read it.
const HUB_VARIABLE: &str = "HF_ENDPOINT";

/// All that a hive downloads.
#[derive(Debug)]
pub(crate) struct Downloads {
    transfers: Transfers,
    received: Arc<AtomicU64>,
    endpoint: String,
    secrets: PathBuf,
    retries: u32,
    /// Fires when what is cancelled is left to the next hive.
    ending: CancellationToken,
    running: RunningDownloads,
    /// Held by whoever makes a model of downloaded files: who waited for the same files comes after.
    turn: tokio::sync::Mutex<()>,
}

impl Downloads {
    /// Nothing is asked of any server before somebody wants a model.
    pub(crate) fn new(config: &HiveConfig, secrets: PathBuf, partial: PathBuf) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let fetcher = Fetcher {
            client: Client::new(Duration::from_secs(config.download_stall_s)),
            folder: partial,
            connections: config.download_connections.into(),
            retries: config.download_retries,
            received: Arc::clone(&received),
        };
        let of_environment = || std::env::var(HUB_VARIABLE).ok().filter(|url| !url.is_empty());
        let endpoint = config.hf_endpoint.clone().or_else(of_environment);
        Self {
            transfers: Transfers::new(fetcher),
            received,
            endpoint: endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            secrets,
            retries: config.download_retries,
            ending: CancellationToken::new(),
            running: RunningDownloads::default(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// The hive ends: nobody wanted what is cancelled from now on to be given up.
    pub(crate) fn leave(&self) {
        self.ending.cancel();
    }

    /// Fires when the hive ends.
    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// Those that run.
    pub(crate) fn running(&self) -> &RunningDownloads {
        &self.running
    }

    /// Waits until nobody else makes a model of downloaded files; `None` if it is cancelled before.
    pub(crate) async fn turn(
        &self,
        cancel: &CancellationToken,
    ) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        cancel.run_until_cancelled(self.turn.lock()).await
    }

    /// How many bytes of models ever came over the network since the start.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Fetches the files of one model, or waits for whoever does it already.
    pub(crate) async fn get(
        &self,
        files: Vec<Remote>,
        hears: &dyn Hears,
        cancel: &CancellationToken,
    ) -> Result<Vec<Fetched>, Arc<DownloadError>> {
        self.transfers.get(files, hears, cancel).await
    }

    /// Which files a repository has.
    pub(crate) async fn repository(
        &self,
        hub: &Hub,
        model: &HubRef,
        hears: &dyn Hears,
        cancel: &CancellationToken,
    ) -> Result<Repository, DownloadError> {
        let mut attempts = Attempts::new(self.retries.min(3));
        loop {
            let asked = hub.repository(&self.transfers.fetcher().client, model);
            let asked = cancel.run_until_cancelled(asked).await.ok_or(DownloadError::Cancelled)?;
            let error = match asked {
                Ok(repository) => return Ok(repository),
                Err(error) => error,
            };
            let Some(pause) = attempts.pause_after(&error) else { return Err(error) };
            hears.note(format!("{error}; trying again in {:.1} s", pause.as_secs_f32()));
            let slept = cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
            slept.ok_or(DownloadError::Cancelled)?;
        }
    }

    /// The hub, with the token that this machine has for it.
    pub(crate) fn hub(&self) -> Result<Hub, HubError> {
        let token = stored_secret(&self.secrets, HUB_TOKEN)?;
        let endpoint: Url = self.endpoint.parse().map_err(|_| HubError::Endpoint {
            endpoint: self.endpoint.chars().take(200).collect(),
        })?;
        let is_web = matches!(endpoint.scheme(), "http" | "https") && endpoint.has_host();
        is_web.then_some(Hub { endpoint, token }).ok_or_else(|| HubError::Endpoint {
            endpoint: self.endpoint.chars().take(200).collect(),
        })
    }

    /// The token for an address, if it is the hub's own.
    pub(crate) fn token_for(&self, url: &Url) -> Result<Option<Secret>, HubError> {
        let hub = self.hub()?;
        Ok(hub.token.filter(|_| hub.endpoint.origin() == url.origin()))
    }

    /// Whether somebody needs an unfinished file: it is being written to, or not in the catalog yet.
    pub(crate) fn is_busy(&self, key: &str) -> bool {
        self.transfers.holds().is_held(key)
    }

    /// Keeps an unfinished file from whoever removes what nobody needs.
    pub(crate) fn hold(&self, key: &str) -> Hold {
        self.transfers.holds().hold(key)
    }

    /// Does something to an unfinished file that nobody needs, and lets nobody need it meanwhile.
    pub(crate) fn if_idle(&self, key: &str, work: impl FnOnce()) {
        self.transfers.holds().if_free(key, work);
    }

    /// Ends all downloads; what arrived is kept.
    pub(crate) async fn shutdown(&self) {
        self.transfers.shutdown().await;
    }
}

/// The hub cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    /// Its address is none.
    #[error("the hub's address {endpoint:?} is no http or https URL")]
    Endpoint { endpoint: String },
    /// The token for it cannot be read.
    #[error("the token for the hub cannot be read")]
    Token(#[from] TokenError),
}
