//! Which busy workers make way for a model that has waited for memory. Pure.
//!
//! Who always has requests is never idle, so that a model beside it would get no turn. Once a request has
//! waited for long, those that are needed the least get no further ones; they finish what they run and are
//! then ended as idle ones are. A worker that has just begun keeps its place for a while: so models take
//! turns, and each of them gets some work done in its own.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use worker_contract::ModelAlias;

use super::placement::{Room, Site, all_sites, as_many_as_spare, claims_on, need_of};
use super::{Demand, Fleet, MakeWay, Resident};
use crate::admission::Priority;
use crate::registry::Liveness;

/// How long a request waits for memory until others make way for it,
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// and one for which nobody waits.
const BATCH_PATIENCE: Duration = Duration::from_secs(60);

/// The workers that have to go for a request that has waited for long, where all that has memory is busy.
/// Those that were told before are told again, so that it is known who is still needed.
pub(super) fn make_way(fleet: &Fleet<'_>, demand: &Demand<'_>) -> Option<MakeWay> {
    let patience = match demand.priority {
        Priority::Interactive => PATIENCE,
        Priority::Batch => BATCH_PATIENCE,
    };
    if demand.waited < patience {
        return None;
    }
    let mut running: BTreeMap<&ModelAlias, usize> = BTreeMap::new();
    for resident in fleet.residents.iter().filter(|resident| !resident.is_ending) {
        *running.entry(resident.model).or_default() += 1;
    }
    let sites = all_sites(fleet, demand);
    let open = sites.iter().filter(|site| site.is_open(demand) && site.is_later());
    let ways = open.filter_map(|site| Some((who_goes(fleet, site, demand, &running)?, site)));
    let is_told = |resident: &&&Resident<'_>| resident.makes_way_for.is_some();
    let (workers, site) = ways.max_by_key(|(workers, site)| {
        let untold = workers.len() - workers.iter().filter(is_told).count();
        (Reverse(untold), site.key())
    })?;
    Some(MakeWay {
        hive: site.hive.id.clone(),
        device: site.device?.id,
        workers: workers.iter().map(|resident| resident.id.clone()).collect(),
    })
}

/// Who has to go at a place: those that were told so, those that are idle, then those of models that have
/// others, and that have the least to finish. `None` where that would not be enough, and where nobody who is
/// busy has to: then what is ending makes room.
fn who_goes<'a>(
    fleet: &'a Fleet<'a>,
    site: &Site<'_>,
    demand: &Demand<'_>,
    running: &BTreeMap<&ModelAlias, usize>,
) -> Option<Vec<&'a Resident<'a>>> {
    let device = site.device?;
    // What a start under way leaves is known when it has ended.
    let is_moving = claims_on(fleet, site.hive, device).next().is_some();
    if site.hive.liveness != Liveness::Alive || is_moving {
        return None;
    }
    let here = || fleet.residents_of(site.hive.id, device.id);
    let takes = |resident: &Resident<'_>| {
        let guess = || need_of(fleet, site.hive, device.id, resident.model);
        resident.has_bytes.unwrap_or_else(guess)
    };
    let may_go = |r: &&Resident<'_>| r.may_make_way(demand) && !r.is_ending && r.may_be_told();
    let has_others = |r: &Resident<'_>| running.get(r.model).is_some_and(|count| *count > 1);
    let too_few = site.word.and_then(|word| word.too_few);
    let is_known = |r: &Resident<'_>| too_few.is_some_and(|few| few.contains(r.id));
    let mut candidates: Vec<_> = here().filter(may_go).collect();
    candidates.sort_by_cached_key(|r| {
        let is_told = r.makes_way_for.is_some();
        (!is_known(r), !is_told, r.is_busy, !has_others(r), r.load, Reverse(r.idle), r.id)
    });
    let ending = here().filter(|r| r.is_ending).map(takes);
    let free = ending.fold(site.free, u64::saturating_add);
    let need = need_of(fleet, site.hive, device.id, demand.model);
    let gone = Room { need, free, too_few }.made_by(as_many_as_spare(candidates), takes)?;
    gone.iter().any(|resident| resident.is_busy).then_some(gone)
}

impl Resident<'_> {
    /// Whether it is idle or has something to finish; one that is being loaded has its turn before it.
    fn may_be_told(&self) -> bool {
        !self.is_used() || (self.load > 0 && !self.keeps_place)
    }
}
