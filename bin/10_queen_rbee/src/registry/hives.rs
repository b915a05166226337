//! The hives, as they report themselves. Pure: `now` is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use worker_contract::{HiveAlias, HiveHeartbeat, ModelEntry};

use super::{Liveness, ReportError, liveness};
use crate::scheduler::HiveView;

/// The interval of a hive's reports.
const INTERVAL: Duration = Duration::from_secs(2);
/// How much later than its interval a report of a hive that runs can come.
const SLACK: Duration = Duration::from_millis(500);
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
    /// Whether a hive's report can be taken. Two machines under one name would take turns in being
    /// it, so the second one is refused for as long as the first one reports.
    pub(super) fn check(&self, beat: &HiveHeartbeat, now: Instant) -> Result<(), ReportError> {
        match self.by_id.get(&beat.hive_id) {
            Some(known) if known.is_elsewhere(beat, now) => Err(ReportError::SameName {
                hive: beat.hive_id.clone(),
                address: known.beat.address.clone().unwrap_or_else(|| "the queen's own".to_owned()),
            }),
            None if self.by_id.len() >= MAX_HIVES => Err(ReportError::TooMany { limit: MAX_HIVES }),
            _ => Ok(()),
        }
    }

    /// Takes a hive's report.
    pub(super) fn beat(&mut self, beat: HiveHeartbeat, now: Instant) {
        let hive = Hive { beat, at: now, is_stopped: false };
        self.by_id.insert(hive.beat.hive_id.clone(), hive);
    }

    /// Forgets a hive.
    pub(super) fn forget(&mut self, id: &HiveAlias) {
        self.by_id.remove(id);
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
    /// Whether the report is of another one that runs beside it.
    fn is_elsewhere(&self, beat: &HiveHeartbeat, now: Instant) -> bool {
        let is_late = now.saturating_duration_since(self.at) > INTERVAL + SLACK;
        self.beat.address != beat.address && !self.is_stopped && !is_late
    }

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
