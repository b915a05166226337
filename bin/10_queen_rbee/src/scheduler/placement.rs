//! Where a worker for a model is started, and which idle ones make room for it.

use std::cmp::Reverse;
use std::collections::HashMap;

use worker_contract::{Device, DeviceId, DeviceKind, HiveAlias, ModelAlias, ModelEntry, WorkerId};

use super::beliefs::{Belief, Beliefs};
use super::turns::PATIENCE;
use super::{Advantage, Claim, Demand, Fleet, HiveView, Lack, Resident, Spawn, Word};
use crate::registry::Liveness;

/// What a model needs beyond its weights, as a part of them: KV cache and room to compute. The hive
/// knows exactly and has the last word.
const BEYOND_WEIGHTS: u64 = 5;

/// A place is much faster than another one by so many steps: twice two halves of an octave, four times.
const MUCH_FASTER: u32 = 4;

/// Why there is no place for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSite {
    /// No hive that reports has the model.
    Nowhere,
    /// Hives have another file of that name.
    OtherFile,
    /// Wherever it could be, its context would be as short as those that were too short.
    TooShort,
    /// Wherever it could be, it could not be started.
    Refused,
    /// It would fit if workers were idle that are not.
    Full,
    /// It has as many workers as its policy allows.
    Enough,
}

/// A device of a hive, and what would have to go.
pub(super) struct Site<'a> {
    pub(super) hive: &'a HiveView<'a>,
    pub(super) device: Option<&'a Device>,
    pub(super) free: u64,
    evict: Vec<&'a WorkerId>,
    pub(super) fit: Fit,
    /// What its hive has said, if it was asked.
    pub(super) word: Option<Word<'a>>,
    /// What is known of starts of the model that failed at its hive.
    failed: Failed,
    /// `None` where nobody knows the device.
    belief: Option<Belief>,
    is_wished: (bool, bool),
    extra_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Not even if all that may go were gone.
    No,
    /// If workers that are busy were gone.
    Later,
    /// If workers were gone that are idle, though they had a request a moment ago.
    Soon,
    /// By its weights alone; its hive was not asked what it takes.
    Maybe,
    /// There is room, or will be when the evicted are gone.
    Yes,
}

/// What is known of starts of a model that failed at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// Nothing.
    No,
    /// One has failed there, or where the hive chose: nobody is ended for another try.
    SpareOthers,
    /// One has failed in this very place a moment ago.
    Here,
}

/// The place that suits a model best: on a hive that reports on time; where it fits; wished for; where
/// answers are fast, as was shown there or on alike devices, or as one believes of a GPU and of a processor; with
/// the fewest workers to end; with the most free memory.
pub(super) fn place(fleet: &Fleet<'_>, demand: &Demand<'_>) -> Result<Spawn, NoSite> {
    if fleet.has_enough {
        return Err(NoSite::Enough);
    }
    let sites = all_sites(fleet, demand);
    let open: Vec<&Site<'_>> = sites.iter().filter(|site| site.is_open(demand)).collect();
    let Some(best) = open.iter().max_by_key(|site| site.key()) else {
        return Err(if sites.is_empty() { why_nowhere(fleet, demand) } else { NoSite::Refused });
    };
    if best.is_later() && !best.asks() {
        return Err(NoSite::Full);
    }
    let is_worth_waiting = |site: &&Site<'_>| site.fit == Fit::Soon && site.is_much_better(best);
    if demand.waited < PATIENCE && open.iter().any(is_worth_waiting) {
        return Err(NoSite::Full);
    }
    Ok(best.spawn(&open))
}

/// All places that a request's worker could be at, those that are closed to it included.
pub(super) fn all_sites<'a>(fleet: &'a Fleet<'a>, demand: &Demand<'_>) -> Vec<Site<'a>> {
    let suits = |hive: &&HiveView<'_>| hive.has_file(demand) && is_long_enough(fleet, hive, demand);
    let beliefs = Beliefs::of(fleet);
    there(fleet).filter(suits).flat_map(|hive| sites(fleet, hive, demand, &beliefs)).collect()
}

fn there<'a>(fleet: &'a Fleet<'a>) -> impl Iterator<Item = &'a HiveView<'a>> {
    fleet.hives.iter().filter(|hive| hive.liveness != Liveness::Gone)
}

/// Whether a worker that is started there may have the context that a request needs.
pub(super) fn is_long_enough(fleet: &Fleet<'_>, hive: &HiveView<'_>, demand: &Demand<'_>) -> bool {
    fleet.contexts.get(hive.id).is_none_or(|tokens| demand.may_fit(*tokens))
}

/// Why not even a place is there that could be looked at.
fn why_nowhere(fleet: &Fleet<'_>, demand: &Demand<'_>) -> NoSite {
    let with_file = |hive: &&HiveView<'_>| hive.has_file(demand);
    let is_long = |hive: &HiveView<'_>| is_long_enough(fleet, hive, demand);
    let all = || fleet.hives.iter();
    if there(fleet).filter(with_file).any(is_long) {
        // Its devices are gone, or somebody's rules refuse them.
        NoSite::Refused
    } else if all().filter(with_file).any(|hive| !is_long(hive)) {
        NoSite::TooShort
    } else if all().any(|hive| hive.entry(demand.model).is_some() && !hive.has_file(demand)) {
        NoSite::OtherFile
    } else {
        NoSite::Nowhere
    }
}

/// The place of another worker of a model that has some, where it fits. One that is to help them goes to
/// a device that has none of it and is no slower; idle workers of other models make no room for it. One
/// that somebody's policy `must` have goes anywhere, if need be beside another one, which is ready when
/// that one fails; to a processor only where that is preferred or none of the GPUs has room, if a GPU has the first.
#[must_use]
pub fn place_another(fleet: &Fleet<'_>, model: &ModelAlias, must: bool) -> Option<Spawn> {
    let demand = Demand::of(model);
    let beliefs = Beliefs::of(fleet);
    let at = |resident: &Resident<'_>| fleet.hives.iter().find(|hive| hive.id == resident.hive);
    let is_of_file = |resident: &Resident<'_>| {
        let entry = at(resident).and_then(|hive| hive.entry(model));
        entry.is_some_and(|entry| resident.digest == Some(&entry.sha256))
    };
    // One that its policy demands is wanted under its own name.
    let is_it =
        |resident: &&Resident<'_>| resident.model == model || (!must && is_of_file(resident));
    let there: Vec<_> = fleet.residents.iter().filter(is_it).collect();
    let fastest = there.iter().filter_map(|resident| {
        let hive = at(resident)?;
        let device = hive.devices.iter().find(|device| device.id == resident.device)?;
        let bytes = hive.entry(model)?.bytes_on_disk();
        Some(beliefs.of_device(fleet, resident.hive, device, bytes).at_best)
    });
    let fastest = fastest.min();
    let has_gpu = there.iter().any(|resident| resident.device.kind == DeviceKind::Gpu);
    let is_slower = |site: &Site<'_>| {
        site.belief.is_some_and(|its| match fastest {
            _ if its.slowness.is_unknown_cpu => has_gpu,
            Some(ours) => its.at_best > ours + 1,
            None => false,
        })
    };
    // Without a list of devices nobody can say whether there is another one.
    let has_one = |site: &Site<'_>| {
        let device = site.device.map(|device| device.id);
        there
            .iter()
            .any(|r| r.hive == site.hive.id && device.is_none_or(|device| r.device == device))
    };
    let is_free = |site: &Site<'_>| match site.device {
        _ if site.is_barred() => false,
        Some(_) if site.is_hopeless() || site.fit < Fit::Maybe => false,
        // Nobody makes room for a second one beside the first.
        Some(_) if must => site.evict.is_empty() || !has_one(site),
        Some(_) => site.evict.is_empty() && !is_slower(site) && !has_one(site),
        None => must || there.is_empty(),
    };
    let alive = fleet.hives.iter().filter(|hive| hive.liveness == Liveness::Alive);
    let with_model = alive.filter(|hive| hive.entry(model).is_some());
    let sites: Vec<_> = with_model.flat_map(|hive| sites(fleet, hive, &demand, &beliefs)).collect();
    let open: Vec<_> = sites.iter().filter(|site| is_free(site)).collect();
    // Two on one GPU share it, and each is still many times as fast as a processor.
    let has_wish = fleet.wish.hive.is_some() || fleet.wish.device.is_some();
    let is_last = |site: &Site<'_>| {
        let is_cpu = site.device.is_some_and(|device| device.id.kind == DeviceKind::Cpu);
        has_gpu && is_cpu && !(has_wish && site.is_wished == (true, true))
    };
    let key = |site: &Site<'_>| (!is_last(site), !has_one(site), !is_slower(site));
    let best = open.iter().max_by_key(|site| (key(site), site.key()))?;
    let lack = if must { Lack::Policy } else { Lack::Crowd };
    // What decided before the rest did not is no matter of one place and the next.
    Some(Spawn { lack, by: None, ..best.spawn(&open) })
}

fn sites<'a>(
    fleet: &'a Fleet<'a>,
    hive: &'a HiveView<'a>,
    demand: &Demand<'_>,
    beliefs: &Beliefs<'_>,
) -> Vec<Site<'a>> {
    let bytes = hive.entry(demand.model).map_or(0, ModelEntry::bytes_on_disk);
    let is_wished_hive = fleet.wish.hive.as_ref().is_none_or(|wished| wished == hive.id);
    let ruled = |device: Option<DeviceId>| {
        fleet.ruled.iter().find(|ruled| ruled.hive == hive.id && ruled.device == device)
    };
    let is_allowed = |device| ruled(device).is_none_or(|ruled| ruled.is_allowed);
    let extra_ms = |device| ruled(device).map_or(0, |ruled| ruled.extra_ms);
    // A hive that lists no device chooses itself.
    if hive.devices.is_empty() {
        let is_wished = (is_wished_hive, fleet.wish.device.is_none());
        let (evict, fit, word, extra_ms) = (Vec::new(), Fit::No, None, extra_ms(None));
        let site = Site {
            hive,
            device: None,
            free: 0,
            evict,
            fit,
            word,
            failed: Failed::of(fleet, hive, None),
            belief: None,
            is_wished,
            extra_ms,
        };
        return Vec::from_iter(is_allowed(None).then_some(site));
    }
    let is_there = |device: &&Device| !device.is_gone && is_allowed(Some(device.id));
    let present = hive.devices.iter().filter(is_there);
    let site = |device: &'a Device| {
        let is_wished_device = fleet.wish.device.is_none_or(|wished| wished == device.id);
        let free = free_of(fleet, hive, device);
        let word = fleet.words.get(&(hive.id, device.id, demand.model)).copied();
        let need = need_of(fleet, hive, device.id, demand.model);
        let room = |need| make_room(fleet, hive, device, demand, need, free);
        let (mut evict, mut fit) = room(need);
        if fit != Fit::Yes && word.is_none() {
            let (by_weights, is_room) = room(bytes);
            if is_room == Fit::Yes {
                (evict, fit) = (by_weights, Fit::Maybe);
            }
        }
        // That there is room as it is was true when it was said. Where nobody can tell what is free, the
        // hive's word is all there is.
        let may_hold = |ids: &&[WorkerId]| !ids.is_empty() || device.memory_total_bytes == 0;
        let agreed = word.and_then(|word| word.agreed).filter(may_hold);
        if let Some(agreed) = agreed.and_then(|ids| may_all_go(fleet, hive, device, demand, ids))
            && (fit != Fit::Yes || agreed.len() < evict.len())
        {
            (evict, fit) = (agreed, Fit::Yes);
        }
        Site {
            hive,
            device: Some(device),
            free,
            evict,
            fit,
            word,
            failed: Failed::of(fleet, hive, Some(device.id)),
            belief: Some(beliefs.of_device(fleet, hive.id, device, bytes)),
            is_wished: (is_wished_hive, is_wished_device),
            extra_ms: extra_ms(Some(device.id)),
        }
    };
    present.map(site).collect()
}

/// What a worker of a model takes of a device's memory, as far as one can tell without its hive.
#[must_use]
pub fn memory_need(entry: &ModelEntry) -> u64 {
    let weights = entry.bytes_on_disk();
    weights.saturating_add(weights / BEYOND_WEIGHTS)
}

/// What it takes by its hive's word, else as far as one can tell.
pub(super) fn need_of(
    fleet: &Fleet<'_>,
    hive: &HiveView<'_>,
    device: DeviceId,
    model: &ModelAlias,
) -> u64 {
    let told = fleet.words.get(&(hive.id, device, model)).and_then(|word| word.needed);
    told.unwrap_or_else(|| hive.entry(model).map_or(0, memory_need))
}

pub(super) fn claims_on<'a>(
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

/// The idle workers that have to go so that so many bytes are free for a worker: as few as will do, the
/// longest idle first. Where their hive has said that some would be too few, others have to go with them.
fn make_room<'a>(
    fleet: &'a Fleet<'a>,
    hive: &HiveView<'_>,
    device: &Device,
    demand: &Demand<'_>,
    need: u64,
    free: u64,
) -> (Vec<&'a WorkerId>, Fit) {
    let word = fleet.words.get(&(hive.id, device.id, demand.model));
    let too_few = word.and_then(|word| word.too_few);
    let is_one_of_them =
        |resident: &Resident<'_>| too_few.is_some_and(|few| few.contains(resident.id));
    if need <= free && too_few.is_none() {
        return (Vec::new(), Fit::Yes);
    }
    let here = fleet.residents_of(hive.id, device.id);
    let size = |resident: &Resident<'_>| {
        resident.has_bytes.unwrap_or_else(|| need_of(fleet, hive, device.id, resident.model))
    };
    let may_go = |r: &&Resident<'_>| !r.is_used() && r.may_make_way(demand);
    let mut idle: Vec<_> = here.clone().filter(may_go).collect();
    let is_other = |r: &Resident<'_>| r.makes_way_for.is_none();
    idle.sort_by_key(|r| (!is_one_of_them(r), is_other(r), Reverse(r.idle), r.id));
    idle = as_many_as_spare(idle);
    let room = idle.iter().map(|resident| size(resident)).fold(free, u64::saturating_add);
    let wanted = Room { need, free, too_few };
    if let Some(evict) = wanted.made_by(idle, size) {
        return (evict.iter().map(|resident| resident.id).collect(), Fit::Yes);
    }
    let is_kept_for_another = |r: &Resident<'_>| r.makes_way_for.is_some_and(|m| m != demand.model);
    let goes_some_day = |r: &&Resident<'_>| {
        let goes = r.is_used() || is_kept_for_another(r);
        r.is_ending || (goes && r.spare > 0) || r.model == demand.model
    };
    let others = here.clone().filter(goes_some_day).filter(|resident| !is_one_of_them(resident));
    // What is being started will be idle some day.
    let coming = claims_on(fleet, hive, device).map(|claim| claim.needed);
    let busy = others.map(size).chain(coming).fold(0, u64::saturating_add);
    let is_enough = room.saturating_add(busy) >= need && (too_few.is_none() || busy > 0);
    let idle_soon = here.filter(|r| !r.is_busy && r.may_make_way(demand)).collect();
    let fit = match wanted.made_by(as_many_as_spare(idle_soon), size) {
        Some(_) => Fit::Soon,
        None if is_enough => Fit::Later,
        None => Fit::No,
    };
    (Vec::new(), fit)
}

/// What must become free on a device.
pub(super) struct Room<'a> {
    pub(super) need: u64,
    pub(super) free: u64,
    /// There is too little without these, whatever their sizes.
    pub(super) too_few: Option<&'a [WorkerId]>,
}

impl Room<'_> {
    /// The first of some workers without whom there is room: no more than must go. `None` where there is none
    /// even without all of them.
    pub(super) fn made_by<'a>(
        &self,
        workers: Vec<&'a Resident<'a>>,
        size: impl Fn(&Resident<'_>) -> u64,
    ) -> Option<Vec<&'a Resident<'a>>> {
        let is_one_of_them =
            |resident: &Resident<'_>| self.too_few.is_some_and(|few| few.contains(resident.id));
        let (mut gone, mut room) = (Vec::new(), self.free);
        let mut is_more = self.too_few.is_none();
        for resident in workers {
            if room >= self.need && is_more {
                break;
            }
            room = room.saturating_add(size(resident));
            is_more |= !is_one_of_them(resident);
            gone.push(resident);
        }
        if room < self.need || !is_more {
            return None;
        }
        // Smaller ones that were taken before a large one may not be needed; where the sizes that are known
        // have shown to be wrong, nobody can say who is.
        Some(match self.too_few {
            None => needed(gone, size, room - self.need),
            Some(_) => gone,
        })
    }
}

/// Of those of each model, the first so many as it may lose: of two of one that may lose one, the other one
/// stays.
pub(super) fn as_many_as_spare<'a>(mut workers: Vec<&'a Resident<'a>>) -> Vec<&'a Resident<'a>> {
    let mut ended: HashMap<&ModelAlias, u32> = HashMap::new();
    workers.retain(|resident| {
        let ended = ended.entry(resident.model).or_default();
        *ended += 1;
        *ended <= resident.spare
    });
    workers
}

/// Those workers, if all of them are idle there and may go.
fn may_all_go<'a>(
    fleet: &'a Fleet<'a>,
    hive: &HiveView<'_>,
    device: &Device,
    demand: &Demand<'_>,
    ids: &[WorkerId],
) -> Option<Vec<&'a WorkerId>> {
    let mut ended: HashMap<&ModelAlias, u32> = HashMap::new();
    let mut goes = |id: &WorkerId| {
        let resident = fleet.residents.iter().find(|resident| resident.id == id)?;
        let ended = ended.entry(resident.model).or_default();
        *ended += 1;
        let is_here = resident.hive == hive.id && resident.device == device.id;
        let may_go = is_here && !resident.is_used() && resident.may_make_way(demand);
        (may_go && *ended <= resident.spare).then_some(resident.id)
    };
    ids.iter().map(&mut goes).collect()
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

impl Failed {
    fn of(fleet: &Fleet<'_>, hive: &HiveView<'_>, device: Option<DeviceId>) -> Self {
        let at_hive = || fleet.failed.iter().filter(|failed| failed.hive == hive.id);
        match at_hive().find(|failed| failed.device == device) {
            Some(here) if !here.may_try => Self::Here,
            Some(_) => Self::SpareOthers,
            // Where the hive chooses, it may be any of its devices.
            None if at_hive().any(|failed| device.is_none() || failed.device.is_none()) => {
                Self::SpareOthers
            }
            None => Self::No,
        }
    }
}

impl Resident<'_> {
    /// Whether it may be ended for a request, once it is idle.
    pub(super) fn may_make_way(&self, demand: &Demand<'_>) -> bool {
        let is_kept = self.makes_way_for.is_some_and(|model| model != demand.model);
        self.spare > 0 && !is_kept && !self.is_as_good(demand)
    }

    /// Whether it would be loaded again in its own place: it runs the very model, no other file than the
    /// request must have, and with a context that may be long enough.
    fn is_as_good(&self, demand: &Demand<'_>) -> bool {
        let is_other_file = match (demand.digest, self.digest) {
            (Some(needed), Some(its)) => needed != its,
            _ => false,
        };
        self.model == demand.model && !is_other_file && demand.may_fit(self.context_tokens)
    }
}

impl Site<'_> {
    /// Whether a worker could be started there for a request, now or when others have gone.
    pub(super) fn is_open(&self, demand: &Demand<'_>) -> bool {
        let is_it = |(hive, device): &(HiveAlias, Option<DeviceId>)| {
            hive == self.hive.id && *device == self.device_id()
        };
        !demand.refused.iter().any(is_it) && !self.is_hopeless() && !self.is_barred()
    }

    /// Whether starts of the model failed there, so that none is tried at present, or none for which
    /// somebody would have to go.
    fn is_barred(&self) -> bool {
        match self.failed {
            Failed::No => false,
            Failed::SpareOthers => !self.evict.is_empty() || self.is_later(),
            Failed::Here => true,
        }
    }

    fn device_id(&self) -> Option<DeviceId> {
        self.device.map(|device| device.id)
    }

    /// A start there, which is the best of all that are open.
    fn spawn(&self, open: &[&Self]) -> Spawn {
        let others = || open.iter().filter(|site| !std::ptr::eq(**site, self));
        let next = others().max_by_key(|site| site.key());
        let others = others().count();
        Spawn {
            hive: self.hive.id.clone(),
            device: self.device_id(),
            evict: self.evict.iter().map(|id| (*id).clone()).collect(),
            fits: self.fit >= Fit::Maybe,
            others,
            by: next.map(|next| self.advantage(next)),
            lack: Lack::NoWorker,
            asks: self.asks(),
        }
    }

    /// Whether its hive has to be heard first: where nobody knows what the model takes and that matters,
    /// and before anybody is ended for it. One that cannot tell is not asked again.
    fn asks(&self) -> bool {
        match self.word {
            _ if self.device.is_none() => false,
            None => self.fit != Fit::Yes || !self.evict.is_empty(),
            Some(Word { needed: None, .. }) => false,
            Some(Word { agreed, .. }) => {
                let is_enough =
                    |agreed: &[WorkerId]| agreed.iter().all(|id| self.evict.contains(&id));
                !self.evict.is_empty() && !agreed.is_some_and(is_enough)
            }
        }
    }

    /// Whether it is known that no worker can be started there.
    fn is_hopeless(&self) -> bool {
        // That there is no room although some are gone, a hive may know that cannot tell what is needed.
        let has_told = |word: Word<'_>| {
            word.needed.is_some() || (word.too_few.is_some() && word.agreed.is_none())
        };
        let is_too_small = |word: Word<'_>| has_told(word) && self.fit == Fit::No;
        self.word.is_some_and(|word| word.is_refused || is_too_small(word))
    }

    pub(super) fn key(&self) -> impl Ord + '_ {
        let device = self.device.map(|device| {
            let is_gpu = device.id.kind == DeviceKind::Gpu;
            let slowness = Reverse(self.belief.map(|belief| belief.slowness));
            let likely = Reverse(self.belief.map(|belief| belief.likely));
            let is_shown = self.belief.is_some_and(|belief| belief.is_shown);
            let speed = (slowness, is_gpu, Reverse(self.evict.len()), likely);
            (speed, self.free, is_shown, Reverse(device.id))
        });
        let rest = (Reverse(self.extra_ms), device, Reverse(self.hive.id));
        // Whether there is room for certain is asked, and does not make a slow place the better one.
        let fit = self.fit.min(Fit::Maybe);
        (self.is_alive(), fit == Fit::Maybe, self.is_wished, fit, rest)
    }

    /// Whether it fits once others have gone that may not go yet.
    pub(super) fn is_later(&self) -> bool {
        matches!(self.fit, Fit::Later | Fit::Soon)
    }

    /// Whether it is worth waiting for moments for it rather than to have another place at once: the model is wished
    /// to be there, or is several times as fast there.
    fn is_much_better(&self, other: &Self) -> bool {
        if !self.is_alive() || self.extra_ms > other.extra_ms || self.is_wished < other.is_wished {
            return false;
        }
        let (Some(ours), Some(theirs)) = (self.belief, other.belief) else { return false };
        let (ours, theirs) = (ours.slowness, theirs.slowness);
        let is_faster = !ours.is_unknown_cpu
            && (theirs.is_unknown_cpu || ours.step + MUCH_FASTER <= theirs.step);
        self.is_wished > other.is_wished || is_faster
    }

    fn is_alive(&self) -> bool {
        self.hive.liveness == Liveness::Alive
    }

    /// What makes it the better one of two, by the key's order.
    fn advantage(&self, next: &Self) -> Advantage {
        let steps = [self, next].map(|site| site.belief.map(|belief| belief.slowness));
        let likely = [self, next].map(|site| site.belief.map(|belief| belief.likely));
        let are_shown =
            [self, next].iter().all(|site| site.belief.is_some_and(|belief| belief.is_shown));
        let is_gpu = |site: &Self| site.device_id().is_some_and(|it| it.kind == DeviceKind::Gpu);
        if self.is_alive() != next.is_alive() {
            Advantage::OnTime
        } else if self.is_wished != next.is_wished {
            Advantage::Wished
        } else if self.fit.min(Fit::Maybe) != next.fit.min(Fit::Maybe) {
            Advantage::Fits
        } else if self.extra_ms != next.extra_ms {
            Advantage::Rules
        } else if steps[0] != steps[1] && are_shown {
            Advantage::Faster
        } else if steps[0] != steps[1] || is_gpu(self) != is_gpu(next) {
            Advantage::Believed
        } else if self.evict.len() != next.evict.len() {
            Advantage::FewerEnds
        } else if likely[0] != likely[1] {
            Advantage::Believed
        } else if self.free != next.free {
            Advantage::Memory
        } else {
            Advantage::None
        }
    }
}
