//! What the scheduler is shown of the registry, and what follows from its decision.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::DefaultHasher;
use rbee_operations::Wished;
use worker_contract::{DeviceId, HiveAlias, ModelAlias, Sha256Digest, WorkerId};

use super::fits::Size;
use super::ruling::Ruling;
use super::starts::ClaimedSite;
use super::worker::Worker;
use super::workers::Stay;
use super::{Ask, Due, Liveness, State, Target, WARM_UP};
use crate::policy::{Policies, Policy};
use crate::prompt::{BLOCK_BYTES, PromptChain};
use crate::rules::Judge;
use crate::scheduler::{
    ByDevice, Demand, Fleet, Readiness, Resident, Snapshot, WarmUp, Wish, memory_need,
};

/// A worker that is ready or coming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Its id.
    pub id: WorkerId,
    /// What it runs.
    pub model: ModelAlias,
    /// Whether it is not ready.
    pub is_coming: bool,
    /// For how long it has had no request; `None` while it has some, or where no hive can end it.
    pub idle: Option<Duration>,
    /// Whether a hive lists it, or it has answered a request: one that only says that it is there is no reason to end
    /// another one.
    pub is_borne_out: bool,
}

/// How many workers of a model live.
struct Living {
    policy: Option<Policy>,
    count: u32,
    /// Those that are borne out,
    borne_out: u32,
    /// and those of them that are ready.
    ready: u32,
}

impl State {
    /// What bears on one request.
    pub(super) fn snapshot<'a>(
        &'a self,
        demand: &Demand<'_>,
        prompt: &PromptChain,
        interval: Duration,
        policies: Option<&'a Policies>,
        judge: Option<&'a Judge>,
        now: Instant,
    ) -> Snapshot<'a> {
        let model = demand.model.clone();
        // What a server of somebody else calls by that name is another file.
        let is_pinned = LazyCell::new(|| self.is_in_catalog(&model));
        let may_be_it = |(_, worker): &(&WorkerId, &Worker)| {
            !worker.is_of_server || worker.is_named || !*is_pinned
        };
        let files = self.shared_files(&model, demand.digest, policies);
        let answering = self.answering(&model, &files).filter(may_be_it);
        let (held, due) = (self.prefixes.held(prompt.blocks()), Due::at(now, interval));
        // Written in place, one by one: there may be a thousand, and each is large.
        let mut workers = Vec::with_capacity(self.workers.len());
        answering.for_each(|(id, worker)| {
            let hive = || self.hives.liveness(&worker.hive_id, now);
            let held_bytes = u32::try_from(held.blocks_of(worker.holder) * BLOCK_BYTES);
            let held_bytes = held_bytes.unwrap_or(u32::MAX);
            let makes_way = self.turns.makes_way_for(id).is_some();
            workers.push(worker.view(id, worker.liveness(due, hive), held_bytes, makes_way, now));
        });
        let lacks_context = demand.too_short > 0;
        let ruling = judge.map(|judge| self.rule_workers(judge, &mut workers, demand, now));
        let is_spawning = self.starts.is_any_of(&model) || self.starts.is_any_with(&files);
        let runs = |(_, worker): (&WorkerId, &Worker)| !worker.target.gone.is_cancelled();
        let is_elsewhere = workers.is_empty() && self.workers.of_model(&model).any(runs);
        let is_ruled_out = ruling.as_ref().is_some_and(|ruling| !ruling.denied.is_empty());
        Snapshot {
            workers,
            is_spawning,
            fleet: LazyCell::new(Box::new(move || {
                let policy = |model: &ModelAlias| policies.map(|policies| policies.of(model));
                let fleet = self.fleet(&model, &policy, ruling, now);
                if !lacks_context {
                    return fleet;
                }
                let contexts = self.contexts(&model, policy(&model).as_ref()).collect();
                Fleet { contexts, ..fleet }
            })),
            warm_up: self.warm_up(now),
            is_ruled_out,
            is_elsewhere,
        }
    }

    /// Where workers run and could run.
    pub(super) fn fleet<'a>(
        &'a self,
        model: &ModelAlias,
        policy: &dyn Fn(&ModelAlias) -> Option<Policy>,
        ruling: Option<Ruling<'a>>,
        now: Instant,
    ) -> Fleet<'a> {
        let mut living: BTreeMap<&ModelAlias, Living> = BTreeMap::new();
        let lives = |worker: &Worker| {
            !worker.target.gone.is_cancelled()
                && worker.readiness_for_requests() != Readiness::Ending
        };
        for (_, worker) in self.own_workers().filter(|(_, worker)| lives(worker)) {
            let none =
                || Living { policy: policy(&worker.model), count: 0, borne_out: 0, ready: 0 };
            let of_model = living.entry(&worker.model).or_insert_with(none);
            of_model.count += 1;
            if worker.is_borne_out() {
                of_model.borne_out += 1;
                let is_ready = worker.readiness_for_requests() == Readiness::Ready;
                of_model.ready += u32::from(is_ready);
            }
        }
        // One that loads may fail to, so that it stands in for none.
        let spare = |model: &ModelAlias| match living.get(model) {
            Some(Living { policy: Some(policy), borne_out, ready, .. }) => match policy.kept() {
                0 => *borne_out,
                kept => ready.saturating_sub(kept),
            },
            _ => u32::MAX,
        };
        let has_enough = match living.get(model) {
            Some(Living { policy: Some(policy), count, .. }) => *count >= policy.max,
            _ => false,
        };
        // One that its hive has given up has no memory any more.
        let with_memory = self.own_workers().filter(|(_, worker)| !worker.is_given_up());
        // One whose start has not ended has begun for somebody, though it may say that it is ready and idle.
        let is_wanted = |worker: &Worker| {
            worker.is_busy()
                || self.starts.is_any_at(&worker.model, (&worker.hive_id, worker.device))
        };
        let residents = with_memory.map(|(id, worker)| Resident {
            id,
            hive: &worker.hive_id,
            device: worker.device,
            model: &worker.model,
            is_busy: is_wanted(worker) || worker.readiness_for_requests() != Readiness::Ready,
            is_ending: worker.readiness_for_requests() == Readiness::Ending,
            load: worker.load(),
            makes_way_for: self.turns.makes_way_for(id),
            keeps_place: self.turns.keeps_place(id, now),
            spare: if worker.can_be_ended() { spare(&worker.model) } else { 0 },
            idle: now.saturating_duration_since(worker.used_at),
            has_bytes: worker.memory_bytes,
            digest: worker.digest(),
            context_tokens: worker.context_tokens(),
        });
        let wish = policy(model).map_or_else(Wish::default, |policy| Wish {
            hive: policy.hive.and_then(Wished::one),
            device: policy.device.and_then(Wished::one),
        });
        Fleet {
            hives: self.hives.iter().map(|hive| hive.view(now)).collect(),
            residents: residents.collect(),
            by_device: ByDevice::default(),
            claims: self.starts.claims().collect(),
            ruled: ruling.map_or_else(Vec::new, |ruling| self.rule_places(&ruling, model, now)),
            wish,
            has_enough,
            words: self.words(policy, now),
            failed: self.failed_sites(model, policy, now),
            token_us: self.token_times(model),
            contexts: HashMap::new(),
        }
    }

    /// What the start of a worker of a size on a device makes of its memory.
    pub(super) fn claim(
        &self,
        model: &ModelAlias,
        (hive, device): (&HiveAlias, DeviceId),
        size: Size,
        evict: &[WorkerId],
    ) -> Option<ClaimedSite> {
        let beat = &self.hives.get(hive)?.beat;
        let free_before = beat.devices.iter().find(|it| it.id == device)?.memory_free_bytes;
        let guess = |model: &ModelAlias| {
            beat.catalog.iter().find(|entry| entry.alias == *model).map_or(0, memory_need)
        };
        // How large those were started that end, nobody remembers.
        let has = |worker: &Worker| {
            let told = || self.fits.needed(hive, device, &worker.model);
            worker.memory_bytes.or_else(told).unwrap_or_else(|| guess(&worker.model))
        };
        let ended = evict.iter().filter_map(|id| self.workers.get(id));
        let freed = ended.map(has).fold(0, u64::saturating_add);
        let needed = self.needed(model, (hive, device), size).unwrap_or_else(|| guess(model));
        Some(ClaimedSite { hive: hive.clone(), device, free_before, needed, freed })
    }

    /// The workers of hives. A server of somebody else is neither started nor ended here, nor does it
    /// make room.
    fn own_workers(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter().filter(|(_, worker)| !worker.is_of_server)
    }

    /// Whether a worker of a hive runs a model, or is about to.
    pub(super) fn runs(&self, model: &ModelAlias) -> bool {
        let lives = |worker: &Worker| {
            worker.model == *model
                && !worker.target.gone.is_cancelled()
                && worker.readiness_for_requests() != Readiness::Ending
        };
        self.own_workers().any(|(_, worker)| lives(worker)) || self.starts.is_any_of(model)
    }

    /// Whether one of the other workers that answer for a model may have a context of more than so many tokens.
    pub(super) fn has_longer_context(
        &self,
        model: &ModelAlias,
        policies: Option<&Policies>,
        tokens: u32,
        others_than: &[WorkerId],
    ) -> bool {
        let files = self.shared_files(model, None, policies);
        let may_be_longer = |worker: &Worker| match worker.context_tokens() {
            0 => worker.is_of_server,
            context => context > tokens,
        };
        self.answering(model, &files).any(|(id, worker)| {
            !others_than.contains(id)
                && may_be_longer(worker)
                && !worker.target.gone.is_cancelled()
                && worker.readiness_for_requests() != Readiness::Ending
        })
    }

    /// The workers that are ready or coming.
    pub(super) fn replicas(&self, interval: Duration, now: Instant) -> Vec<ReplicaReport> {
        let due = Due::at(now, interval);
        let replicas = self.own_workers().filter_map(|(id, worker)| {
            let hive = || self.hives.liveness(&worker.hive_id, now);
            let readiness = worker.readiness_for_requests();
            let is_gone = worker.liveness(due, hive) == Liveness::Gone;
            let idle = now.saturating_duration_since(worker.used_at);
            (readiness != Readiness::Ending && !is_gone).then(|| ReplicaReport {
                id: id.clone(),
                model: worker.model.clone(),
                is_coming: readiness == Readiness::Coming,
                idle: (!worker.is_busy() && worker.can_be_ended()).then_some(idle),
                is_borne_out: worker.is_borne_out(),
            })
        });
        replicas.collect()
    }

    /// Takes the place that a decision names: counts the request, and remembers what the worker will
    /// hold by it.
    pub(super) fn reserve(
        &mut self,
        id: &WorkerId,
        ask: &Ask<'_>,
        now: Instant,
    ) -> Option<(Arc<Target>, Option<Sha256Digest>, Stay)> {
        let (answers, alone) = (ask.answers, ask.demand.alone);
        let (worker, stay) = self.workers.reserve(id, answers, alone, ask.priority, now)?;
        let (target, digest) = (Arc::clone(&worker.target), worker.digest().cloned());
        self.prefixes.insert(target.holder, ask.prompt.blocks(), worker.cache_tokens());
        if let Some(session) = ask.session {
            self.sessions.put(session, ask.demand.model, id);
        }
        Some((target, digest, stay))
    }

    /// Forgets what processes held that are no more.
    pub(super) fn forget_prefixes(&mut self) {
        if self.prefixes.is_empty() {
            return;
        }
        let is_there = |worker: &Worker| !worker.target.gone.is_cancelled();
        let there: HashSet<_, DefaultHasher> = self
            .workers
            .iter()
            .filter(|(_, worker)| is_there(worker))
            .map(|(_, worker)| worker.holder)
            .collect();
        self.prefixes.keep_only(|holder| there.contains(&holder));
    }

    /// For how long hives that are expected, and attached servers if they count, may still come to be known;
    /// `None` once they are.
    pub(super) fn warm_up_left(&self, with_servers: bool, now: Instant) -> Option<Duration> {
        let left = WARM_UP.checked_sub(now.saturating_duration_since(self.began))?;
        let is_lacking = (with_servers && !self.expected_servers.is_empty())
            || self.expected.iter().any(|hive: &HiveAlias| self.hives.get(hive).is_none());
        (!left.is_zero() && is_lacking).then_some(left)
    }

    /// Who may not have reported since the queen's start, a moment ago.
    fn warm_up(&self, now: Instant) -> WarmUp {
        if self.warm_up_left(true, now).is_some() {
            WarmUp::Expected
        } else if self.has_past && now.saturating_duration_since(self.began) < WARM_UP {
            WarmUp::Others
        } else {
            WarmUp::Over
        }
    }
}
