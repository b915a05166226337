//! The hives, as they report themselves. Pure: `now` is passed in.

use std::collections::BTreeMap;
use std::slice;
use std::time::{Duration, Instant};

use worker_contract::{HiveAlias, HiveHeartbeat, ModelEntry};

use super::catalogs::Catalogs;
use super::vigil::excused;
use super::{Due, Liveness, ReportError, ShownSecret};
use crate::scheduler::HiveView;

/// The interval of a hive's reports.
const INTERVAL: Duration = Duration::from_secs(2);
/// For how long after a report no other hive may take the place of the one that sent it: until that one
/// is gone. One that is late for a moment would else lose all its workers to a namesake.
const HOLD: Duration = Duration::from_secs(10);
/// How long the last word of a hive with a name that is taken is remembered.
const RIVAL_MEMORY: Duration = Duration::from_secs(10);
/// The most hives that are kept in mind.
const MAX_HIVES: usize = 1024;

/// All hives that have reported.
#[derive(Debug, Default)]
pub(super) struct Hives {
    by_id: BTreeMap<HiveAlias, Hive>,
    /// Of those in `by_id`.
    catalogs: Catalogs,
}

/// A hive that has reported.
#[derive(Debug)]
pub(super) struct Hive {
    pub(super) beat: HiveHeartbeat,
    /// When it spoke last,
    pub(super) heard_at: Instant,
    /// and since when it is silent, as far as somebody listened.
    pub(super) at: Instant,
    /// The secret that it has shown.
    shown: ShownSecret,
    /// It was stopped on purpose.
    is_stopped: bool,
    /// Another hive with its name that was refused.
    rival: Option<Rival>,
}

/// A hive whose name another one has.
#[derive(Debug, Clone)]
struct Rival {
    /// Where it says that it is.
    address: Option<String>,
    at: Instant,
}

impl Hives {
    /// Whether a report is that of a hive whose name is its own: the same hive's as before, or one whose
    /// predecessor, elsewhere, has fallen silent.
    ///
    /// Two hives of one name would else replace each other's workers and models with every report.
    pub(super) fn admit(&mut self, beat: &HiveHeartbeat, now: Instant) -> Result<(), ReportError> {
        let Some(hive) = self.by_id.get_mut(&beat.hive_id) else {
            return match self.by_id.len() {
                MAX_HIVES.. => Err(ReportError::TooMany { limit: MAX_HIVES }),
                _ => Ok(()),
            };
        };
        let is_heard = !hive.is_stopped && now.saturating_duration_since(hive.at) < HOLD;
        // The hive in the queen's own process has its name by right.
        if !is_heard || beat.address.is_none() || hive.beat.address == beat.address {
            return Ok(());
        }
        let rival = Rival { address: beat.address.clone(), at: now };
        let is_news = hive.rival.replace(rival).is_none();
        let refused = ReportError::NameTaken {
            hive: beat.hive_id.clone(),
            holder: place(hive.beat.address.as_deref()),
        };
        if is_news {
            let other = place(beat.address.as_deref());
            tracing::warn!(hive = %beat.hive_id, other, "two hives have one name: {refused}");
        }
        Err(refused)
    }

    /// Takes a hive's report, which was admitted.
    pub(super) fn beat(&mut self, beat: HiveHeartbeat, shown: ShownSecret, now: Instant) {
        let before = self.by_id.remove(&beat.hive_id);
        let catalog = before.as_ref().map_or(&[][..], |hive| &hive.beat.catalog);
        self.catalogs.replace(catalog, &beat.catalog);
        let rival = before.and_then(|hive| hive.rival);
        let is_remembered = |rival: &Rival| {
            rival.address != beat.address && now.saturating_duration_since(rival.at) < RIVAL_MEMORY
        };
        let rival = rival.filter(is_remembered);
        let hive = Hive { beat, heard_at: now, at: now, shown, is_stopped: false, rival };
        self.by_id.insert(hive.beat.hive_id.clone(), hive);
    }

    /// Nobody was listening for so long, until `now`.
    pub(super) fn excuse(&mut self, pause: Duration, now: Instant) {
        for hive in self.by_id.values_mut() {
            hive.at = excused(hive.at, pause, now);
        }
    }

    /// Forgets a hive.
    pub(super) fn forget(&mut self, id: &HiveAlias) {
        if let Some(hive) = self.by_id.remove(id) {
            self.catalogs.replace(&hive.beat.catalog, &[]);
        }
    }

    /// A hive has a model. What workers there can do with it, only its report tells.
    pub(super) fn catalogued(&mut self, id: &HiveAlias, mut model: ModelEntry) {
        model.gguf.kind = None;
        let Some(hive) = self.by_id.get_mut(id) else { return };
        let catalog = &mut hive.beat.catalog;
        let known = catalog.iter_mut().find(|known| known.alias == model.alias);
        let before = known.as_deref().map_or(&[][..], slice::from_ref);
        self.catalogs.replace(before, slice::from_ref(&model));
        match known {
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

    /// Which files the names of models stand for.
    pub(super) fn catalogs(&self) -> &Catalogs {
        &self.catalogs
    }

    pub(super) fn get(&self, id: &HiveAlias) -> Option<&Hive> {
        self.by_id.get(id)
    }

    /// The secret that a hive has shown; one that has shown none is taken to have one of its own.
    pub(super) fn shown_by(&self, id: &HiveAlias) -> ShownSecret {
        self.get(id).map_or(ShownSecret::OfHive, |hive| hive.shown)
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
        Due::at(now, INTERVAL).liveness(self.at, false)
    }

    /// Where another hive of the same name is, which is refused.
    pub(super) fn rival(&self) -> Option<String> {
        self.rival.as_ref().map(|rival| place(rival.address.as_deref()))
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

fn place(address: Option<&str>) -> String {
    address.unwrap_or("the queen's own process").to_owned()
}
