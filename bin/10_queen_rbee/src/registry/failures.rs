//! Where starts of models have failed, though not for want of memory. Pure: `now` is passed in.
//!
//! A model that cannot be loaded is tried less and less often in the same place, and for longer nobody is ended
//! for it there: each request for it would cost others their worker. Another file, other settings or another
//! version of the hive is another try.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use job_server::JobError;
use rbee_operations::is_want_of_memory;
use worker_contract::{DeviceId, HiveAlias, ModelAlias};

use super::fits::{Settings, Size};
use super::{Registry, StartRefusal, State};
use crate::policy::Policy;
use crate::scheduler::{FailedSite, Spawn};

/// How long nothing is tried after a first failure. It doubles with each,
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// So many pauses long nobody is ended for another try.
const SPARED: u32 = 2;
/// After how long a failure is no longer counted.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// The most places that are remembered.
const MOST: usize = 1024;

/// How a start fails whose hive was lost over it, or was not there for it, restarted perhaps: nobody knows what
/// became of the worker until that hive reports again.
pub(crate) const LOST: [&str; 11] = [
    "hive_unreachable",
    "hive_lost",
    "hive_gone",
    "hive_busy",
    "hive_restarted",
    "hive_stopped",
    "hive_stopping",
    "hive_not_running",
    "hive_not_found",
    "job_not_found",
    "interrupted",
];
/// How one fails while a worker that its hive has given up is on its list: until somebody takes it off, or
/// starts it again.
const GIVEN_UP: &str = "worker_given_up";
/// How one fails that somebody has ended.
const ENDED: [&str; 2] = ["cancelled", "worker_stopped"];

/// A model in a place; the hive chose the device where there is none.
type Site = (ModelAlias, HiveAlias, Option<DeviceId>);

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Failures {
    known: BTreeMap<Site, Failure>,
}

/// What is being tried: the file, its settings and the hive are those that were there when it began.
#[derive(Debug, Clone)]
pub struct Trial {
    site: Site,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct What {
    settings: Settings,
    version: String,
}

#[derive(Debug)]
struct Failure {
    what: What,
    /// How often it has failed in a row.
    count: u32,
    at: Instant,
    error: JobError,
}

impl Failure {
    fn pause(&self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.count.saturating_sub(1));
        FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }

    /// Whether others are spared.
    fn counts(&self, now: Instant) -> bool {
        self.age(now) < self.pause() * SPARED
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.age(now) < self.pause()
    }
}

impl Failures {
    fn add(&mut self, trial: &Trial, error: &JobError, now: Instant) {
        self.known.retain(|_, failure| failure.age(now) < FORGOTTEN);
        if self.known.len() >= MOST && !self.known.contains_key(&trial.site) {
            let oldest = self.known.iter().min_by_key(|(_, failure)| failure.at);
            if let Some(oldest) = oldest.map(|(site, _)| site.clone()) {
                self.known.remove(&oldest);
            }
        }
        let before = self.known.get(&trial.site).filter(|failure| failure.what == trial.what);
        let count = before.map_or(0, |failure| failure.count).saturating_add(1);
        let (what, error) = (trial.what.clone(), error.clone());
        self.known.insert(trial.site.clone(), Failure { what, count, at: now, error });
    }

    /// Somebody has taken a worker off its hive's list that was given up, or has started it again.
    pub(super) fn mended(&mut self, hive: &HiveAlias, device: DeviceId, model: &ModelAlias) {
        for device in [None, Some(device)] {
            let site = (model.clone(), hive.clone(), device);
            if self.known.get(&site).is_some_and(|failure| failure.error.code == GIVEN_UP) {
                self.known.remove(&site);
            }
        }
    }

    /// A worker has come up.
    pub(super) fn works(&mut self, hive: &HiveAlias, device: DeviceId, model: &ModelAlias) {
        for device in [None, Some(device)] {
            self.known.remove(&(model.clone(), hive.clone(), device));
        }
    }
}

impl State {
    fn what(&self, hive: &HiveAlias, model: &ModelAlias, size: Size) -> Option<What> {
        let settings = self.settings(hive, model, size)?;
        Some(What { settings, version: self.hives.get(hive)?.beat.version.clone() })
    }

    /// The failures of a model that would be the same today.
    fn failures_of(
        &self,
        model: &ModelAlias,
        policy: &dyn Fn(&ModelAlias) -> Option<Policy>,
        now: Instant,
    ) -> Vec<(&Site, &Failure)> {
        let mut known = self.failures.known.iter().filter(|((its, ..), _)| its == model).peekable();
        if known.peek().is_none() {
            return Vec::new();
        }
        let size = policy(model).as_ref().map(Size::of).unwrap_or_default();
        let is_same = |((_, hive, _), failure): &(&Site, &Failure)| {
            self.what(hive, model, size).is_some_and(|what| what == failure.what)
        };
        known.filter(|(_, failure)| failure.counts(now)).filter(is_same).collect()
    }

    /// Where starts of a model failed a while ago.
    pub(super) fn failed_sites(
        &self,
        model: &ModelAlias,
        policy: &dyn Fn(&ModelAlias) -> Option<Policy>,
        now: Instant,
    ) -> Vec<FailedSite<'_>> {
        let mut failed = Vec::new();
        for ((_, hive, device), failure) in self.failures_of(model, policy, now) {
            let may_try = !failure.is_paused(now);
            failed.push(FailedSite { hive, device: *device, may_try });
        }
        failed
    }
}

impl Registry {
    /// What the start of a worker of a size tries; `None` where its hive has no such model.
    #[must_use]
    pub fn trial(&self, model: &ModelAlias, spawn: &Spawn, size: Size) -> Option<Trial> {
        let what = self.state().what(&spawn.hive, model, size)?;
        Some(Trial { site: (model.clone(), spawn.hive.clone(), spawn.device), what })
    }

    /// A start has failed. Where that says something of the model in its place, it is remembered.
    pub fn start_failed(&self, trial: &Trial, error: &JobError, now: Instant) {
        let code = error.code.as_str();
        let says_nothing = is_want_of_memory(code) || LOST.contains(&code) || ENDED.contains(&code);
        if !says_nothing {
            self.state().failures.add(trial, error, now);
        }
    }

    /// Why no worker of a model is started where that has failed, if it has: the latest failure, and when the
    /// next try is possible somewhere.
    #[must_use]
    pub fn failed_start(&self, model: &ModelAlias, now: Instant) -> Option<StartRefusal> {
        let policy = |model: &ModelAlias| self.policy(model);
        let state = self.state();
        let failures = state.failures_of(model, &policy, now);
        let (_, latest) = failures.iter().max_by_key(|(_, failure)| failure.at)?;
        let left = failures.iter().map(|(_, failure)| {
            let pauses = if failure.is_paused(now) { 1 } else { SPARED };
            (failure.pause() * pauses).saturating_sub(failure.age(now))
        });
        let retry_after_s = left.min().unwrap_or_default().as_secs().max(1);
        Some(StartRefusal { reason: latest.error.clone(), retry_after_s })
    }

    /// As if all pauses were over.
    #[cfg(test)]
    pub(crate) fn forget_failed_starts(&self) {
        self.state().failures.known.clear();
    }
}
