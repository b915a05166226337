//! The hives, as they report themselves. Pure: `now` is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use worker_contract::{HiveAlias, HiveHeartbeat, ModelEntry};

use super::{Liveness, ReportError, liveness};
use crate::scheduler::HiveView;

/// The interval of a hive's reports.
const INTERVAL: Duration = Duration::from_secs(2);
/// The most hives that are kept in mind.
const MAX_HIVES: usize = 1024;

/// All hives that have reported.
#[derive(Debug, Default)]
pub(super) struct Hives {
    by_id: BTreeMap<HiveAlias, Hive>,
}

/// A hive that has reported.
#[derive(Debug)]
pub(super) struct Hive {
    pub(super) beat: HiveHeartbeat,
    pub(super) at: Instant,
    /// It was stopped on purpose.
    is_stopped: bool,
}

impl Hives {
    /// Takes a hive's report.
    pub(super) fn beat(&mut self, beat: HiveHeartbeat, now: Instant) -> Result<(), ReportError> {
        if self.by_id.len() >= MAX_HIVES && !self.by_id.contains_key(&beat.hive_id) {
            return Err(ReportError::TooMany { limit: MAX_HIVES });
        }
        let hive = Hive { beat, at: now, is_stopped: false };
        self.by_id.insert(hive.beat.hive_id.clone(), hive);
        Ok(())
    }

    /// A hive has a model.
    pub(super) fn catalogued(&mut self, id: &HiveAlias, model: ModelEntry) {
        let Some(hive) = self.by_id.get_mut(id) else { return };
        let catalog = &mut hive.beat.catalog;
        match catalog.iter_mut().find(|known| known.alias == model.alias) {
            Some(known) => *known = model,
            None => catalog.push(model),
        }
    }

    /// A hive was stopped on purpose: nothing is expected of it, at once.
    pub(super) fn stopped(&mut self, id: &HiveAlias) {
        if let Some(hive) = self.by_id.get_mut(id) {
            hive.is_stopped = true;
            hive.beat.workers.clear();
        }
    }

    pub(super) fn get(&self, id: &HiveAlias) -> Option<&Hive> {
        self.by_id.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Hive> {
        self.by_id.values()
    }

    /// The liveness of a hive; one that never reported is gone.
    pub(super) fn liveness(&self, id: &HiveAlias, now: Instant) -> Liveness {
        self.get(id).map_or(Liveness::Gone, |hive| hive.liveness(now))
    }
}

impl Hive {
    pub(super) fn liveness(&self, now: Instant) -> Liveness {
        if self.is_stopped {
            return Liveness::Gone;
        }
        liveness(now.saturating_duration_since(self.at), INTERVAL, false)
    }

    /// How the scheduler sees it.
    pub(super) fn view(&self, now: Instant) -> HiveView<'_> {
        HiveView {
            id: &self.beat.hive_id,
            liveness: self.liveness(now),
            devices: &self.beat.devices,
            catalog: &self.beat.catalog,
        }
    }
}
