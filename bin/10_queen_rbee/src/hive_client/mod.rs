//! How the queen asks a hive to carry an operation out: over HTTP, or, in a build with `local-hive`,
//! by a direct call for the hive of her own machine. Nobody else sees the difference.

#[cfg(feature = "local-hive")]
mod local;
mod remote;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use access_tokens::Secret;
use daemon_lifecycle::RunFiles;
use futures::future::BoxFuture;
use job_server::{JobContext, JobError, Outcome};
use rbee_config::RemoteHive;
use rbee_operations::Operation;
use worker_contract::HiveAlias;

#[cfg(feature = "local-hive")]
pub use self::local::LocalHive;
use self::remote::HttpHive;
use crate::registry::Registry;

/// The name of the hive's program, and of its files in the run folder.
pub(crate) const HIVE_PROGRAM: &str = "rbee-hive";

/// A hive that carries operations out.
pub trait HiveClient: Send + Sync {
    /// Carries an operation out, telling of it through `job`; ends early when that is cancelled.
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>>;
}

/// Finds the client for a hive by its alias. A clone shares connections.
#[derive(Debug, Clone)]
pub struct HiveClients {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    configured: BTreeMap<HiveAlias, String>,
    run_files: RunFiles,
    secret: Secret,
    /// Clients by base URL, so that connections are used again.
    remote: Mutex<HashMap<String, HttpHive>>,
    #[cfg(feature = "local-hive")]
    local: Option<LocalHive>,
}

impl HiveClients {
    /// Clients for the hives of the configuration, and for those that report.
    #[must_use]
    pub fn new(
        registry: Registry,
        configured: &BTreeMap<HiveAlias, RemoteHive>,
        run_files: RunFiles,
        secret: Secret,
        #[cfg(feature = "local-hive")] local: Option<LocalHive>,
    ) -> Self {
        let configured = configured.iter().map(|(alias, hive)| (alias.clone(), base_url(hive)));
        let shared = Shared {
            registry,
            configured: configured.collect(),
            run_files,
            secret,
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
            Some(address) => Ok(Arc::new(self.remote(&address))),
            None => Err(self.unknown(id)),
        }
    }

    /// The hive in this process.
    #[cfg(feature = "local-hive")]
    #[must_use]
    pub fn local(&self) -> Option<&LocalHive> {
        self.shared.local.as_ref()
    }

    /// The base URL of a hive that is another process.
    #[must_use]
    pub fn address(&self, id: &HiveAlias) -> Option<String> {
        if let Some(url) = self.shared.configured.get(id) {
            return Some(url.clone());
        }
        if let Some(url) = self.shared.registry.hive_address(id) {
            return Some(url);
        }
        let beside = self.shared.run_files.read_running().filter(|_| id.is_localhost())?;
        Some(format!("http://{}", beside.addr))
    }

    /// The hives that the configuration names.
    pub fn configured(&self) -> impl Iterator<Item = (&HiveAlias, &String)> {
        self.shared.configured.iter()
    }

    fn remote(&self, address: &str) -> HttpHive {
        let mut remote = self.shared.remote.lock().unwrap_or_else(PoisonError::into_inner);
        // Hives that come back under other addresses must not fill this up.
        if remote.len() > 1024 {
            remote.clear();
        }
        let new = || HttpHive::new(address, self.shared.secret.clone());
        remote.entry(address.to_owned()).or_insert_with(new).clone()
    }

    fn unknown(&self, id: &HiveAlias) -> JobError {
        if id.is_localhost() {
            return JobError::new("hive_not_running", "the hive of this machine is not running")
                .hint("start it: rbee-keeper hive start localhost");
        }
        let mut known: Vec<_> = self.shared.configured.keys().cloned().collect();
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
            .hint(format!("name its machine in config.toml: [hives.{id}] host = \"…\""))
    }
}

/// `http://host:port`, an IPv6 address in brackets.
fn base_url(hive: &RemoteHive) -> String {
    let RemoteHive { host, port } = hive;
    if host.contains(':') {
        format!("http://[{host}]:{port}")
    } else {
        format!("http://{host}:{port}")
    }
}
