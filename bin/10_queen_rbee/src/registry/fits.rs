//! What hives have said of their memory: what models take of their devices, whether there is room once
//! others are gone, and what they have refused. Pure: `now` is passed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use job_server::JobError;
use rbee_operations::{FitReport, LARGER_THAN_DEVICE, NOT_ENOUGH_MEMORY};
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
    /// It was refused although what it takes was known.
    refused: Option<Refused>,
    /// Why it was refused.
    reason: Option<JobError>,
}

/// A hive has refused a worker for want of memory.
#[derive(Debug)]
struct Refused {
    at: Instant,
    /// What was free then.
    free: u64,
    /// With these gone there would have been no room; `None` where one was refused when it was started.
    without: Option<Vec<WorkerId>>,
}

/// What the memory of a worker depends on. With other settings it is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    sha256: Sha256Digest,
    projector: Option<Sha256Digest>,
    size: Size,
}

/// How large a worker is started, as far as somebody says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// How many requests run at once.
    pub slots: Option<u32>,
    /// The KV cache, in tokens.
    pub ctx_size: Option<u32>,
}

/// What a hive is asked: whether it has room for a worker on one of its devices. The file and the size are
/// those that are meant when it is asked: when it answers, either may be another one.
#[derive(Debug, Clone)]
pub struct Question {
    site: Site,
    settings: Settings,
}

/// Why a model cannot be started, and when to try again.
#[derive(Debug, Clone)]
pub struct StartRefusal {
    /// What the hive said.
    pub reason: JobError,
    /// In so many seconds it may be another one.
    pub retry_after_s: u64,
}

impl Size {
    /// What a model's policy wants.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        Self { slots: policy.slots, ctx_size: policy.ctx_size }
    }
}

impl Fits {
    /// What a model was last said to take of a device, however large its worker.
    pub(super) fn needed(
        &self,
        hive: &HiveAlias,
        device: DeviceId,
        model: &ModelAlias,
    ) -> Option<u64> {
        self.known.get(&(hive.clone(), device, model.clone()))?.needed
    }

    fn put(&mut self, question: &Question, known: Known) {
        let site = &question.site;
        if self.known.len() >= MOST && !self.known.contains_key(site) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.at);
            if let Some(oldest) = oldest.map(|(site, _)| site.clone()) {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(site.clone(), known);
    }

    /// What is known of a model on a device with the settings that are meant.
    fn of(&self, question: &Question) -> Option<&Known> {
        let known = self.known.get(&question.site)?;
        (known.settings == question.settings).then_some(known)
    }
}

impl Refused {
    fn holds(&self, free: u64, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < REFUSED && free.abs_diff(self.free) <= MORE
    }
}

impl State {
    /// What hives have said, as far as it still holds.
    pub(super) fn words(
        &self,
        policy: &dyn Fn(&ModelAlias) -> Option<Policy>,
        now: Instant,
    ) -> HashMap<(&HiveAlias, DeviceId, &ModelAlias), Word<'_>> {
        let mut sizes: HashMap<&ModelAlias, Size> = HashMap::new();
        let words = self.fits.known.iter().filter_map(|(site, known)| {
            let (hive, device, model) = site;
            // What a hive has refused or could not tell it may see otherwise, with other settings.
            let is_old = now.saturating_duration_since(known.at) >= REFUSED;
            if is_old && (known.agreed.is_none() || known.needed.is_none()) {
                return None;
            }
            let wanted = || policy(model).as_ref().map(Size::of).unwrap_or_default();
            let size = *sizes.entry(model).or_insert_with(wanted);
            if self.settings(hive, model, size)? != known.settings {
                return None;
            }
            let is_fresh = now.saturating_duration_since(known.at) < AGREED;
            let free = self.free_of(hive, *device);
            let refused = known.refused.as_ref().filter(|refused| refused.holds(free, now));
            let word = Word {
                needed: known.needed,
                agreed: known.agreed.as_deref().filter(|_| is_fresh),
                is_refused: refused.is_some_and(|refused| refused.without.is_none()),
                too_few: refused.and_then(|refused| refused.without.as_deref()),
            };
            Some(((hive, *device, model), word))
        });
        words.collect()
    }

    /// What a worker of a size is, in so far as its memory depends on it; `None` where the hive has no such
    /// model.
    pub(super) fn settings(
        &self,
        hive: &HiveAlias,
        model: &ModelAlias,
        size: Size,
    ) -> Option<Settings> {
        let catalog = &self.hives.get(hive)?.beat.catalog;
        let entry = catalog.iter().find(|entry| entry.alias == *model)?;
        let projector = entry.projector.as_ref().map(|projector| projector.sha256.clone());
        Some(Settings { sha256: entry.sha256.clone(), projector, size })
    }

    /// The question whether there is room for a worker; `None` where the hive has no such model.
    fn question(
        &self,
        model: &ModelAlias,
        (hive, device): (&HiveAlias, DeviceId),
        size: Size,
    ) -> Option<Question> {
        let settings = self.settings(hive, model, size)?;
        Some(Question { site: (hive.clone(), device, model.clone()), settings })
    }

    /// What a worker of a size takes of a device, as far as its hive has said.
    pub(super) fn needed(
        &self,
        model: &ModelAlias,
        at: (&HiveAlias, DeviceId),
        size: Size,
    ) -> Option<u64> {
        self.fits.of(&self.question(model, at, size)?)?.needed
    }

    fn free_of(&self, hive: &HiveAlias, device: DeviceId) -> u64 {
        let devices = self.hives.get(hive).map_or(&[][..], |hive| &hive.beat.devices);
        devices.iter().find(|it| it.id == device).map_or(0, |it| it.memory_free_bytes)
    }
}

impl Registry {
    /// What the hive is asked that is to start a worker of a size; `None` where its device is not known, or
    /// not its model.
    #[must_use]
    pub fn question(&self, model: &ModelAlias, spawn: &Spawn, size: Size) -> Option<Question> {
        self.state().question(model, (&spawn.hive, spawn.device?), size)
    }

    /// A hive has said whether a worker would fit with some others gone, and what it would take.
    pub fn fit_told(
        &self,
        question: &Question,
        without: &[WorkerId],
        report: &FitReport,
        now: Instant,
    ) {
        let (hive, device, _) = &question.site;
        let state = &mut *self.state();
        let of_device = |needs: &Vec<worker_contract::MemoryNeed>| {
            let needs = needs.iter().filter(|need| need.device == *device);
            needs.map(worker_contract::MemoryNeed::total_bytes).fold(0, u64::saturating_add)
        };
        let was_known = state.fits.of(question).is_some_and(|known| known.needed.is_some());
        let free = state.free_of(hive, *device);
        let refused = if report.fits {
            // That fewer were too few is so all the same.
            let before = state.fits.known.remove(&question.site);
            let before = before.filter(|known| known.settings == question.settings);
            let refused = before.and_then(|known| known.refused);
            refused.filter(|refused| refused.without.is_some())
        } else {
            // Who knew what it takes, and was refused all the same, has nothing else to try but more of them.
            let without = Some(without.to_vec());
            was_known.then_some(Refused { at: now, free, without })
        };
        let reason = report.reason.clone().map(|reason| {
            let error = JobError::new(report.refusal_code(), reason);
            match report.hint.clone() {
                Some(hint) => error.hint(hint),
                None => error,
            }
        });
        let known = Known {
            settings: question.settings.clone(),
            at: now,
            needed: report.needs.as_ref().map(of_device),
            agreed: report.fits.then(|| without.to_vec()),
            refused,
            reason,
        };
        state.fits.put(question, known);
    }

    /// Whether a hive has said what the worker takes.
    #[must_use]
    pub fn knows_need(&self, question: &Question) -> bool {
        self.state().fits.of(question).is_some_and(|known| known.needed.is_some())
    }

    /// A hive has refused to start a worker for want of memory: for a minute, or until more is free
    /// there, it is not asked again.
    pub fn memory_refused(&self, question: &Question, error: &JobError, now: Instant) {
        let (hive, device, _) = &question.site;
        let state = &mut *self.state();
        let needed = state.fits.of(question).and_then(|known| known.needed);
        let free = state.free_of(hive, *device);
        let known = Known {
            settings: question.settings.clone(),
            at: now,
            needed,
            agreed: None,
            refused: Some(Refused { at: now, free, without: None }),
            reason: Some(error.clone()),
        };
        state.fits.put(question, known);
    }

    /// Why no worker of a model can be started for want of memory, if that is so: where it may be otherwise once
    /// others have ended, before where it is not.
    #[must_use]
    pub fn memory_refusal(&self, model: &ModelAlias, now: Instant) -> Option<StartRefusal> {
        let state = self.state();
        let of_model = state.fits.known.iter().filter(|((_, _, its), _)| its == model);
        let may_have_room = |known: &Known| {
            known.reason.as_ref().is_none_or(|reason| reason.code != LARGER_THAN_DEVICE)
        };
        let (site, known) = of_model.max_by_key(|(_, known)| (may_have_room(known), known.at))?;
        let refused_at = known.refused.as_ref().map_or(now, |refused| refused.at);
        let retry_after_s = REFUSED.saturating_sub(now.saturating_duration_since(refused_at));
        let reason = known.reason.clone().unwrap_or_else(|| {
            let (hive, device, model) = site;
            let mib = known.needed.unwrap_or(0) >> 20;
            let message = format!("{device} of {hive} has no {mib} MiB for {model}");
            JobError::new(NOT_ENOUGH_MEMORY, message)
                .hint("less context or fewer slots need less: rbee-keeper model policy")
        });
        Some(StartRefusal { reason, retry_after_s: retry_after_s.as_secs().max(1) })
    }
}
