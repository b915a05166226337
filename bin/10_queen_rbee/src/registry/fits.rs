//! What hives have said of their memory: what models take of their devices, whether there is room once
//! others are gone, and what they have refused. Pure: `now` is passed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use job_server::JobError;
use rbee_operations::FitReport;
use worker_contract::{DeviceId, HiveAlias, ModelAlias, Sha256Digest, WorkerId};

use super::{Registry, State};
use crate::policy::Policy;
use crate::scheduler::{Spawn, Word};

/// The most models on devices that something is known of.
const MOST: usize = 1024;
/// For how long a hive's word holds that there is room once others are gone.
const AGREED: Duration = Duration::from_secs(30);
/// For how long a worker that was refused for want of memory is not tried again in the same place,
const REFUSED: Duration = Duration::from_secs(60);
/// unless so much more or less is free there than was.
const MORE: u64 = 256 << 20;
/// The code of a hive's refusal.
pub(crate) const NOT_ENOUGH_MEMORY: &str = "not_enough_memory";

/// A model on a device.
type Site = (HiveAlias, DeviceId, ModelAlias);

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Fits {
    known: HashMap<Site, Known>,
}

/// What a hive has said of one model on one device.
#[derive(Debug)]
struct Known {
    settings: Settings,
    at: Instant,
    /// What it takes of the device; `None` where the hive cannot tell.
    needed: Option<u64>,
    /// There is room when these are gone.
    agreed: Option<Vec<WorkerId>>,
    /// When it was refused although what it takes was known, and what was free then.
    refused: Option<(Instant, u64)>,
    /// Why it was refused.
    reason: Option<JobError>,
}

/// What the memory of a worker depends on. With other settings it is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    sha256: Sha256Digest,
    projector: Option<Sha256Digest>,
    slots: Option<u32>,
    ctx_size: Option<u32>,
}

/// Why a model cannot be started for want of memory, and when to try again.
#[derive(Debug, Clone)]
pub struct MemoryRefusal {
    /// What the hive said.
    pub reason: JobError,
    /// In so many seconds it may be another one.
    pub retry_after_s: u64,
}

impl Fits {
    /// What a model was last said to take of a device.
    pub(super) fn needed(
        &self,
        hive: &HiveAlias,
        device: DeviceId,
        model: &ModelAlias,
    ) -> Option<u64> {
        self.known.get(&(hive.clone(), device, model.clone()))?.needed
    }

    fn put(&mut self, site: Site, known: Known) {
        if self.known.len() >= MOST && !self.known.contains_key(&site) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.at);
            if let Some(oldest) = oldest.map(|(site, _)| site.clone()) {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(site, known);
    }
}

impl Known {
    fn is_refused(&self, free: u64, now: Instant) -> bool {
        self.refused.is_some_and(|(at, then)| {
            now.saturating_duration_since(at) < REFUSED && free.abs_diff(then) <= MORE
        })
    }
}

impl State {
    /// What hives have said, as far as it still holds.
    pub(super) fn words(
        &self,
        policy: &dyn Fn(&ModelAlias) -> Option<Policy>,
        now: Instant,
    ) -> HashMap<(&HiveAlias, DeviceId, &ModelAlias), Word<'_>> {
        let mut policies: HashMap<&ModelAlias, Option<Policy>> = HashMap::new();
        let words = self.fits.known.iter().filter_map(|(site, known)| {
            let (hive, device, model) = site;
            // What a hive has refused or could not tell it may see otherwise, with other settings.
            let is_old = now.saturating_duration_since(known.at) >= REFUSED;
            if is_old && (known.agreed.is_none() || known.needed.is_none()) {
                return None;
            }
            let policy = policies.entry(model).or_insert_with(|| policy(model));
            if self.settings(hive, model, policy.as_ref())? != known.settings {
                return None;
            }
            let is_fresh = now.saturating_duration_since(known.at) < AGREED;
            let word = Word {
                needed: known.needed,
                agreed: known.agreed.as_deref().filter(|_| is_fresh),
                is_refused: known.is_refused(self.free_of(hive, *device), now),
            };
            Some(((hive, *device, model), word))
        });
        words.collect()
    }

    /// What a worker would be started with, in so far as its memory depends on it; `None` where the hive
    /// has no such model.
    fn settings(
        &self,
        hive: &HiveAlias,
        model: &ModelAlias,
        policy: Option<&Policy>,
    ) -> Option<Settings> {
        let catalog = &self.hives.get(hive)?.beat.catalog;
        let entry = catalog.iter().find(|entry| entry.alias == *model)?;
        Some(Settings {
            sha256: entry.sha256.clone(),
            projector: entry.projector.as_ref().map(|projector| projector.sha256.clone()),
            slots: policy.and_then(|policy| policy.slots),
            ctx_size: policy.and_then(|policy| policy.ctx_size),
        })
    }

    fn free_of(&self, hive: &HiveAlias, device: DeviceId) -> u64 {
        let devices = self.hives.get(hive).map_or(&[][..], |hive| &hive.beat.devices);
        devices.iter().find(|it| it.id == device).map_or(0, |it| it.memory_free_bytes)
    }

    /// What is known of a model on a device with the settings that hold.
    fn known(&self, site: &Site, settings: &Settings) -> Option<&Known> {
        self.fits.known.get(site).filter(|known| known.settings == *settings)
    }
}

impl Registry {
    /// A hive has said whether a worker would fit, and what it would take.
    pub fn fit_told(&self, model: &ModelAlias, spawn: &Spawn, report: &FitReport, now: Instant) {
        let Some(device) = spawn.device else { return };
        let policy = self.policy(model);
        let state = &mut *self.state();
        let Some(settings) = state.settings(&spawn.hive, model, policy.as_ref()) else { return };
        let site = (spawn.hive.clone(), device, model.clone());
        let of_device = |needs: &Vec<worker_contract::MemoryNeed>| {
            let needs = needs.iter().filter(|need| need.device == device);
            needs.map(worker_contract::MemoryNeed::total_bytes).fold(0, u64::saturating_add)
        };
        let was_known = state.known(&site, &settings).is_some_and(|known| known.needed.is_some());
        // Who knew what it takes, and was refused all the same, has nothing else to try.
        let is_refused = !report.fits && was_known;
        let reason = report.reason.clone().map(|reason| {
            let error = JobError::new(NOT_ENOUGH_MEMORY, reason);
            match report.hint.clone() {
                Some(hint) => error.hint(hint),
                None => error,
            }
        });
        let known = Known {
            settings,
            at: now,
            needed: report.needs.as_ref().map(of_device),
            agreed: report.fits.then(|| spawn.evict.clone()),
            refused: is_refused.then(|| (now, state.free_of(&spawn.hive, device))),
            reason,
        };
        state.fits.put(site, known);
    }

    /// Whether a hive has said what a worker takes that is to be started there.
    #[must_use]
    pub fn knows_need(&self, model: &ModelAlias, spawn: &Spawn) -> bool {
        let Some(device) = spawn.device else { return false };
        let policy = self.policy(model);
        let state = self.state();
        let settings = state.settings(&spawn.hive, model, policy.as_ref());
        let site = (spawn.hive.clone(), device, model.clone());
        let known = settings.and_then(|settings| state.known(&site, &settings));
        known.is_some_and(|known| known.needed.is_some())
    }

    /// A hive has refused to start a worker for want of memory: for a minute, or until more is free
    /// there, it is not asked again.
    pub fn memory_refused(
        &self,
        model: &ModelAlias,
        spawn: &Spawn,
        error: &JobError,
        now: Instant,
    ) {
        let Some(device) = spawn.device else { return };
        let policy = self.policy(model);
        let state = &mut *self.state();
        let Some(settings) = state.settings(&spawn.hive, model, policy.as_ref()) else { return };
        let site = (spawn.hive.clone(), device, model.clone());
        let needed = state.known(&site, &settings).and_then(|known| known.needed);
        let refused = Some((now, state.free_of(&spawn.hive, device)));
        let (agreed, reason) = (None, Some(error.clone()));
        state.fits.put(site, Known { settings, at: now, needed, agreed, refused, reason });
    }

    /// Why no worker of a model can be started for want of memory, if that is so.
    #[must_use]
    pub fn memory_refusal(&self, model: &ModelAlias, now: Instant) -> Option<MemoryRefusal> {
        let state = self.state();
        let of_model = state.fits.known.iter().filter(|((_, _, its), _)| its == model);
        let (site, known) = of_model.max_by_key(|(_, known)| known.at)?;
        let retry_after_s = known
            .refused
            .map_or(REFUSED, |(at, _)| REFUSED.saturating_sub(now.saturating_duration_since(at)));
        let reason = known.reason.clone().unwrap_or_else(|| {
            let (hive, device, model) = site;
            let mib = known.needed.unwrap_or(0) >> 20;
            let message = format!("{device} of {hive} has no {mib} MiB for {model}");
            JobError::new(NOT_ENOUGH_MEMORY, message)
                .hint("less context or fewer slots need less: rbee-keeper model policy")
        });
        Some(MemoryRefusal { reason, retry_after_s: retry_after_s.as_secs().max(1) })
    }
}
