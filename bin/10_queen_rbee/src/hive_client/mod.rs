//! How the queen asks a hive to carry an operation out: over HTTP, or, in a build with `local-hive`,
//! by a direct call for the hive of her own machine. Nobody else sees the difference.

#[cfg(feature = "local-hive")]
mod local;
mod remote;
mod resumed;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use daemon_lifecycle::RunFiles;
use futures::future::BoxFuture;
use job_server::{JobContext, JobError, Outcome};
use rbee_operations::Operation;
use worker_contract::HiveAlias;

#[cfg(feature = "local-hive")]
pub use self::local::LocalHive;
use self::remote::HttpHive;
use crate::inventory::Inventory;
use crate::keyring::{Keyring, NoSecret};
use crate::registry::Registry;

/// The name of the hive's program, and of its files in the run folder.
pub(crate) const HIVE_PROGRAM: &str = "rbee-hive";

/// The code of errors over a hive that the queen was told of and that has never reported.
pub(crate) const NEVER_REPORTED: &str = "hive_silent";

/// A hive that carries operations out.
pub trait HiveClient: Send + Sync {
    /// Carries an operation out, telling of it through `job`; ends early when that is cancelled.
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>>;
}

/// Knows who carries operations out at which hive.
pub trait FindHive: std::fmt::Debug + Send + Sync {
    /// The client for a hive.
    fn find(&self, id: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError>;
}

impl FindHive for HiveClients {
    fn find(&self, id: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        self.get(id)
    }
}

/// Finds the client for a hive by its alias. A clone shares connections.
#[derive(Debug, Clone)]
pub struct HiveClients {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    inventory: Inventory,
    run_files: RunFiles,
    keyring: Keyring,
    /// Clients by name, so that connections are used again.
    remote: Mutex<HashMap<HiveAlias, HttpHive>>,
    #[cfg(feature = "local-hive")]
    local: Option<LocalHive>,
}

impl HiveClients {
    /// Clients for the hives of the inventory, and for those that report.
    #[must_use]
    pub fn new(
        registry: Registry,
        inventory: Inventory,
        run_files: RunFiles,
        keyring: Keyring,
        #[cfg(feature = "local-hive")] local: Option<LocalHive>,
    ) -> Self {
        let shared = Shared {
            registry,
            inventory,
            run_files,
            keyring,
            remote: Mutex::default(),
            #[cfg(feature = "local-hive")]
            local,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The client for a hive.
    pub fn get(&self, id: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        #[cfg(feature = "local-hive")]
        if let Some(local) = self.local().filter(|local| id.is_localhost() && local.is_running()) {
            return Ok(Arc::new(local.clone()));
        }
        match self.address(id) {
            Some(address) => Ok(Arc::new(self.remote(id, &address)?)),
            None => Err(self.unknown(id)),
        }
    }

    /// The hive in this process.
    #[cfg(feature = "local-hive")]
    #[must_use]
    pub fn local(&self) -> Option<&LocalHive> {
        self.shared.local.as_ref()
    }

    /// What the hive in this process counts, as it would tell it on a page of its own; `None` without one.
    pub(crate) async fn inner_metrics(&self) -> Option<String> {
        #[cfg(feature = "local-hive")]
        {
            let hive = self.local()?.running()?;
            // It asks the disk of the models what is free.
            let text = tokio::task::spawn_blocking(move || hive.metrics_text()).await;
            text.inspect_err(|error| tracing::error!(%error, "the hive's figures are missing")).ok()
        }
        #[cfg(not(feature = "local-hive"))]
        {
            let _ = self;
            std::future::ready(None).await
        }
    }

    /// Whether a hive is a part of this process.
    #[must_use]
    pub fn is_inside(&self, id: &HiveAlias) -> bool {
        #[cfg(feature = "local-hive")]
        return id.is_localhost() && self.local().is_some_and(LocalHive::is_running);
        #[cfg(not(feature = "local-hive"))]
        {
            let _ = id;
            false
        }
    }

    /// The base URL of a hive that is another process.
    #[must_use]
    pub fn address(&self, id: &HiveAlias) -> Option<String> {
        if let Some(url) = self.shared.inventory.url(id) {
            return Some(url);
        }
        if let Some(url) = self.shared.registry.hive_address(id) {
            return Some(url);
        }
        let beside = self.shared.run_files.read_running().filter(|_| id.is_localhost())?;
        Some(format!("http://{}", beside.addr))
    }

    fn remote(&self, id: &HiveAlias, address: &str) -> Result<HttpHive, NoSecret> {
        let secret = self.shared.keyring.secret(id, self.shared.registry.shown_by(id))?;
        let mut remote = self.shared.remote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = remote.get(id).filter(|known| known.is_at(address, &secret)) {
            return Ok(known.clone());
        }
        // Hives that come and go must not fill this up.
        if remote.len() > 1024 {
            remote.clear();
        }
        let hive = HttpHive::new(address, secret);
        remote.insert(id.clone(), hive.clone());
        Ok(hive)
    }

    fn unknown(&self, id: &HiveAlias) -> JobError {
        if self.shared.inventory.names().contains(id) {
            let message = format!("hive {id} was added and has not reported yet");
            return JobError::new(NEVER_REPORTED, message).hint(format!(
                "put it on its machine: rbee-keeper hive install {id}; then: rbee-keeper hive start {id}"
            ));
        }
        if id.is_localhost() {
            return JobError::new("hive_not_running", "the hive of this machine is not running")
                .hint("start it: rbee-keeper hive start localhost");
        }
        let mut known = self.shared.inventory.names();
        let reported = self.shared.registry.hives(std::time::Instant::now());
        known.extend(reported.into_iter().map(|hive| hive.said.hive_id));
        known.sort();
        known.dedup();
        let known = known.iter().map(HiveAlias::as_str).collect::<Vec<_>>().join(", ");
        let message = if known.is_empty() {
            format!("there is no hive {id}; no hive is known")
        } else {
            format!("there is no hive {id}; known are: {known}")
        };
        JobError::new("hive_not_found", message)
            .hint(format!("make its machine known: rbee-keeper hive add {id} --ssh USER@HOST"))
    }
}
