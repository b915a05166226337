//! How the queen asks a hive to carry an operation out: over HTTP, or, in a build with `local-hive`,
//! by a direct call for the hive of her own machine. Nobody else sees the difference.

#[cfg(feature = "local-hive")]
mod local;
mod remote;
mod resumed;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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
use crate::registry::{HiveReport, Liveness, Registry};

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

    /// That the queen's own hive is missing, and why: the models that nobody else has may be its own.
    fn missing(&self) -> Option<String> {
        None
    }
}

impl FindHive for HiveClients {
    fn find(&self, id: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        self.get(id)
    }

    fn missing(&self) -> Option<String> {
        self.missing_here()
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
            Some(address) => self.at(id, &address),
            None => Err(self.unknown(id)),
        }
    }

    /// The client for a hive that is known to be at a base URL, whatever it has reported.
    pub(crate) fn at(
        &self,
        id: &HiveAlias,
        address: &str,
    ) -> Result<Arc<dyn HiveClient>, JobError> {
        Ok(Arc::new(self.remote(id, address)?))
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

    /// What is to be done about an operation when the queen has ended in the middle of it, if not to begin it again: the
    /// next life of the hive in her goes on with some.
    #[must_use]
    pub fn after_end(&self, operation: &Operation) -> Option<String> {
        let is_inside = operation.hive_id().is_some_and(|hive| self.is_inside(hive));
        is_inside.then(|| resumed::after_end(operation)).flatten()
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

    /// Why the hive in this process could not be started, while that is tried again.
    fn trouble_inside(&self) -> Option<String> {
        #[cfg(feature = "local-hive")]
        return self.local()?.trouble();
        #[cfg(not(feature = "local-hive"))]
        {
            let _ = self;
            None
        }
    }

    /// That the hive in this process could not be started, and why, while none of its name runs.
    #[must_use]
    pub fn missing_here(&self) -> Option<String> {
        let trouble = self.trouble_inside()?;
        missing(&self.shared.registry.hives(Instant::now()), &trouble)
    }

    /// All hives that have reported or that the queen was told of.
    #[must_use]
    pub fn all(&self, now: Instant) -> Vec<HiveReport> {
        self.with_trouble(self.shared.registry.hives_and(self.shared.inventory.places(), now))
    }

    /// The same hives, of which the one in this process says why it could not be started, where none of its name runs.
    #[must_use]
    pub fn with_trouble(&self, hives: Vec<HiveReport>) -> Vec<HiveReport> {
        match self.trouble_inside() {
            Some(trouble) => with_trouble(hives, &trouble),
            None => hives,
        }
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
            return not_running(self.trouble_inside().as_deref());
        }
        let mut known = self.shared.inventory.names();
        let reported = self.shared.registry.hives(Instant::now());
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

/// That the hive of this machine is not there; `trouble` is why it could not be started.
fn not_running(trouble: Option<&str>) -> JobError {
    let error = |message| JobError::new("hive_not_running", message);
    match trouble {
        Some(trouble) => error(could_not_be_started(trouble))
            .hint("the queen tries again every few seconds, and it is there when she can start it"),
        None => error("the hive of this machine is not running".to_owned())
            .hint("start it: rbee-keeper hive start localhost"),
    }
}

fn with_trouble(mut hives: Vec<HiveReport>, trouble: &str) -> Vec<HiveReport> {
    let trouble = Some(could_not_be_started(trouble));
    match hives.iter_mut().find(|hive| hive.said.hive_id.is_localhost()) {
        Some(hive) if hive.liveness == Liveness::Gone => hive.said.trouble = trouble,
        // Another one has its name, and runs.
        Some(_) => {}
        None => {
            let mut silent = HiveReport::silent(HiveAlias::localhost(), None);
            (silent.said.address, silent.said.trouble) = (None, trouble);
            hives.insert(0, silent);
        }
    }
    hives
}

fn missing(hives: &[HiveReport], trouble: &str) -> Option<String> {
    let runs =
        |hive: &HiveReport| hive.said.hive_id.is_localhost() && hive.liveness != Liveness::Gone;
    (!hives.iter().any(runs)).then(|| could_not_be_started(trouble))
}

fn could_not_be_started(trouble: &str) -> String {
    format!("the hive of this machine could not be started: {trouble}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hive_that_could_not_be_started_says_why_to_who_looks_for_it() {
        let trouble = "the model catalog /data/hive.db cannot be opened: database or disk is full";
        let error = not_running(Some(trouble));
        assert_eq!(error.code, "hive_not_running");
        assert!(error.message.ends_with(trouble), "{error:?}");
        assert!(error.hint.unwrap().contains("tries again"));
        assert!(not_running(None).hint.unwrap().contains("hive start localhost"));
    }

    #[test]
    fn a_hive_that_could_not_be_started_is_listed_with_its_trouble_where_none_of_its_name_runs() {
        let told = |hives: Vec<HiveReport>| {
            let told = with_trouble(hives, "full").into_iter();
            told.map(|hive| (hive.said.hive_id.to_string(), hive.said.trouble)).collect::<Vec<_>>()
        };
        let trouble = Some(could_not_be_started("full"));
        let hive = |name: &str| HiveReport::silent(name.parse().unwrap(), None);
        let (here, nas) = ("localhost".to_owned(), ("nas".to_owned(), None));
        assert_eq!(told(vec![hive("nas")]), [(here.clone(), trouble.clone()), nas.clone()]);
        let both = vec![hive("nas"), hive("localhost")];
        assert_eq!(told(both), [nas, (here.clone(), trouble)]);
        let running = || HiveReport { liveness: Liveness::Alive, ..hive("localhost") };
        assert_eq!(told(vec![running()]), [(here, None)]);

        let of_models = |hives: &[HiveReport]| missing(hives, "full").is_some();
        assert!(of_models(&[hive("nas")]) && of_models(&[hive("localhost")]));
        assert!(!of_models(&[hive("nas"), running()]), "another one has its models");
    }
}
