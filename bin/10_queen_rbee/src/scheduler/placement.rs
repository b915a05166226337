//! Where a worker for a model is started, and which idle ones make room for it.

use std::cmp::Reverse;
use std::collections::HashMap;

use worker_contract::{Device, DeviceId, DeviceKind, ModelAlias, ModelEntry, WorkerId};

use super::{Claim, Demand, Fleet, HiveView, Resident, Spawn};
use crate::registry::Liveness;

/// What a model needs beyond its weights, as a part of them: KV cache and room to compute. The hive
/// knows exactly and has the last word.
const BEYOND_WEIGHTS: u64 = 5;

/// Why there is no place for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSite {
    /// No hive that reports has the model.
    Nowhere,
    /// Wherever it could be, it could not be started.
    Refused,
    /// It would fit if workers were idle that are not.
    Full,
    /// It has as many workers as its policy allows.
    Enough,
}

/// A device of a hive, and what would have to go.
struct Site<'a> {
    hive: &'a HiveView<'a>,
    device: Option<&'a Device>,
    free: u64,
    evict: Vec<&'a WorkerId>,
    fit: Fit,
    is_wished: (bool, bool),
    extra_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// Not even if all that may go were gone.
    No,
    /// If workers that are busy were gone.
    Later,
    /// There is room, or will be when the evicted are gone.
    Yes,
}

/// The place that suits a model best: on a hive that reports on time; where it fits; wished for; a
/// GPU; with the fewest workers to end; with the most free memory.
pub(super) fn place(fleet: &Fleet<'_>, demand: &Demand<'_>) -> Result<Spawn, NoSite> {
    if fleet.has_enough {
        return Err(NoSite::Enough);
    }
    // An answer goes on with the very file that it began with.
    let has_it = |hive: &&HiveView<'_>| {
        let entry = hive.entry(demand.model);
        entry.is_some_and(|entry| demand.digest.is_none_or(|needed| entry.sha256 == *needed))
    };
    let there = fleet.hives.iter().filter(|hive| hive.liveness != Liveness::Gone);
    let with_model = there.filter(has_it);
    let sites: Vec<Site<'_>> = with_model.flat_map(|hive| sites(fleet, hive, demand)).collect();
    let is_refused = |site: &Site<'_>| {
        demand
            .refused
            .iter()
            .any(|(hive, device)| hive == site.hive.id && *device == site.device_id())
    };
    let open: Vec<&Site<'_>> = sites.iter().filter(|site| !is_refused(site)).collect();
    let Some(best) = open.iter().max_by_key(|site| site.key()) else {
        return Err(if sites.is_empty() { NoSite::Nowhere } else { NoSite::Refused });
    };
    if best.fit == Fit::Later {
        return Err(NoSite::Full);
    }
    Ok(best.spawn(open.len() - 1))
}

/// The place of another worker of a model that has some, where it fits. One that is to help them goes to
/// a device that has none of it and is no slower; idle workers of other models make no room for it. One
/// that somebody's policy `must` have goes anywhere, if need be beside another one, which is ready when
/// that one fails.
#[must_use]
pub fn place_another(fleet: &Fleet<'_>, model: &ModelAlias, must: bool) -> Option<Spawn> {
    let demand = Demand::of(model);
    let there = || fleet.residents.iter().filter(|resident| resident.model == model);
    let has_gpu = there().any(|resident| resident.device.kind == DeviceKind::Gpu);
    let is_slower = |site: &Site<'_>| {
        has_gpu && site.device.is_some_and(|device| device.id.kind == DeviceKind::Cpu)
    };
    // Without a list of devices nobody can say whether there is another one.
    let has_one = |site: &Site<'_>| {
        let device = site.device.map(|device| device.id);
        there().any(|r| r.hive == site.hive.id && device.is_none_or(|device| r.device == device))
    };
    let is_free = |site: &Site<'_>| match site.device {
        // Nobody makes room for a second one beside the first.
        Some(_) if must => site.fit == Fit::Yes && (site.evict.is_empty() || !has_one(site)),
        Some(_) => {
            site.fit == Fit::Yes && site.evict.is_empty() && !is_slower(site) && !has_one(site)
        }
        None => must || there().next().is_none(),
    };
    let alive = fleet.hives.iter().filter(|hive| hive.liveness == Liveness::Alive);
    let with_model = alive.filter(|hive| hive.entry(model).is_some());
    let sites: Vec<_> = with_model.flat_map(|hive| sites(fleet, hive, &demand)).collect();
    let open: Vec<_> = sites.iter().filter(|site| is_free(site)).collect();
    let best = open.iter().max_by_key(|site| (!has_one(site), !is_slower(site), site.key()))?;
    Some(best.spawn(open.len() - 1))
}

fn sites<'a>(fleet: &'a Fleet<'a>, hive: &'a HiveView<'a>, demand: &Demand<'_>) -> Vec<Site<'a>> {
    let need = need_of(hive, demand.model);
    let is_wished_hive = fleet.wish.hive.as_ref().is_none_or(|wished| wished == hive.id);
    let ruled = |device: Option<DeviceId>| {
        fleet.ruled.iter().find(|ruled| ruled.hive == hive.id && ruled.device == device)
    };
    let is_allowed = |device| ruled(device).is_none_or(|ruled| ruled.is_allowed);
    let extra_ms = |device| ruled(device).map_or(0, |ruled| ruled.extra_ms);
    // A hive that lists no device chooses itself.
    if hive.devices.is_empty() {
        let is_wished = (is_wished_hive, fleet.wish.device.is_none());
        let (evict, fit, extra_ms) = (Vec::new(), Fit::No, extra_ms(None));
        let site = Site { hive, device: None, free: 0, evict, fit, is_wished, extra_ms };
        return Vec::from_iter(is_allowed(None).then_some(site));
    }
    let is_there = |device: &&Device| !device.is_gone && is_allowed(Some(device.id));
    let present = hive.devices.iter().filter(is_there);
    let site = |device: &'a Device| {
        let is_wished_device = fleet.wish.device.is_none_or(|wished| wished == device.id);
        let free = free_of(fleet, hive, device);
        let (evict, fit) = make_room(fleet, hive, device, need, free);
        Site {
            hive,
            device: Some(device),
            free,
            evict,
            fit,
            is_wished: (is_wished_hive, is_wished_device),
            extra_ms: extra_ms(Some(device.id)),
        }
    };
    present.map(site).collect()
}

/// What a worker of a model takes of a device's memory, as far as one can tell.
#[must_use]
pub fn memory_need(entry: &ModelEntry) -> u64 {
    let weights = entry.gguf.size_bytes;
    weights.saturating_add(weights / BEYOND_WEIGHTS)
}

fn need_of(hive: &HiveView<'_>, model: &ModelAlias) -> u64 {
    hive.entry(model).map_or(0, memory_need)
}

fn claims_on<'a>(
    fleet: &'a Fleet<'_>,
    hive: &HiveView<'_>,
    device: &Device,
) -> impl Iterator<Item = &'a Claim<'a>> {
    let (hive, device) = (hive.id.clone(), device.id);
    fleet.claims.iter().filter(move |claim| *claim.hive == hive && claim.device == device)
}

/// The memory of a device that is free, and that no start under way will take. A model that is half
/// loaded is told by the hive already, so what is told counts where it is less.
fn free_of(fleet: &Fleet<'_>, hive: &HiveView<'_>, device: &Device) -> u64 {
    let told = device.memory_free_bytes;
    let mut left: Option<u64> = None;
    for claim in claims_on(fleet, hive, device) {
        let before = left.unwrap_or(claim.free_before);
        left = Some(before.saturating_add(claim.freed).saturating_sub(claim.needed));
    }
    left.map_or(told, |left| left.min(told))
}

/// The idle workers that have to go so that so many bytes are free: as few as will do, the longest
/// idle first.
fn make_room<'a>(
    fleet: &'a Fleet<'a>,
    hive: &HiveView<'_>,
    device: &Device,
    need: u64,
    free: u64,
) -> (Vec<&'a WorkerId>, Fit) {
    if need <= free {
        return (Vec::new(), Fit::Yes);
    }
    let here = fleet.residents.iter().filter(|r| r.hive == hive.id && r.device == device.id);
    let size = |resident: &Resident<'_>| need_of(hive, resident.model);
    let mut idle: Vec<_> = here.clone().filter(|r| !r.is_busy && r.spare > 0).collect();
    idle.sort_by_key(|resident| (Reverse(resident.idle), resident.id));
    // Of two workers of one model that may lose one, the other one stays.
    let mut ended: HashMap<&ModelAlias, u32> = HashMap::new();
    idle.retain(|resident| {
        let ended = ended.entry(resident.model).or_default();
        *ended += 1;
        *ended <= resident.spare
    });
    let (mut evict, mut room) = (Vec::new(), free);
    for resident in idle {
        room = room.saturating_add(size(resident));
        evict.push(resident);
        if room >= need {
            break;
        }
    }
    if room >= need {
        // Smaller ones that were taken before a large one may not be needed.
        evict = needed(evict, size, room - need);
        return (evict.iter().map(|resident| resident.id).collect(), Fit::Yes);
    }
    let busy = here.filter(|r| r.is_busy && r.spare > 0).map(size);
    // What is being started will be idle some day.
    let coming = claims_on(fleet, hive, device).map(|claim| claim.needed);
    let busy = busy.chain(coming).fold(0, u64::saturating_add);
    let fit = if room.saturating_add(busy) >= need { Fit::Later } else { Fit::No };
    (Vec::new(), fit)
}

/// Leaves out what is not needed while so many bytes are to spare.
fn needed<'a>(
    evict: Vec<&'a Resident<'a>>,
    size: impl Fn(&Resident<'_>) -> u64,
    mut spare: u64,
) -> Vec<&'a Resident<'a>> {
    let mut kept: Vec<_> = evict.into_iter().rev().collect();
    kept.retain(|resident| {
        let stays = size(resident) > spare;
        if !stays {
            spare -= size(resident);
        }
        stays
    });
    kept.reverse();
    kept
}

impl Site<'_> {
    fn device_id(&self) -> Option<DeviceId> {
        self.device.map(|device| device.id)
    }

    fn spawn(&self, others: usize) -> Spawn {
        Spawn {
            hive: self.hive.id.clone(),
            device: self.device_id(),
            evict: self.evict.iter().map(|id| (*id).clone()).collect(),
            fits: self.fit == Fit::Yes,
            others,
        }
    }

    fn key(&self) -> impl Ord + '_ {
        let device = self.device.map(|device| {
            let is_gpu = device.id.kind == DeviceKind::Gpu;
            (is_gpu, Reverse(self.evict.len()), self.free, Reverse(device.id))
        });
        let is_alive = self.hive.liveness == Liveness::Alive;
        let rest = (Reverse(self.extra_ms), device, Reverse(self.hive.id));
        (is_alive, self.fit == Fit::Yes, self.is_wished, self.fit, rest)
    }
}
