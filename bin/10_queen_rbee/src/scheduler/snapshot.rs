//! All that the queen knows at one moment, as far as placing one request is concerned.

use std::cell::{LazyCell, OnceCell};
use std::collections::HashMap;
use std::time::Duration;

use worker_contract::{
    Device, DeviceId, HiveAlias, ModelAlias, ModelEntry, Sha256Digest, WorkerId,
};

use super::{Demand, Ways};
use crate::admission::Priority;
use crate::registry::Liveness;

/// How many requests a worker is given for each of its slots: what waits in it is not seen to wait, and cannot be
/// taken by another one.
const A_SLOT: u32 = 1;
/// The same where somebody waits for them and answers are short: the next one is there when one ends.
const SHORT_A_SLOT: u32 = 2;
/// So short that the way to the worker and back is a part of it that counts, in microseconds.
const SHORT_US: u64 = 100_000;

/// As many bytes of a prompt are about a token, in English and the vocabularies of today.
const BYTES_A_TOKEN: u32 = 4;
/// In other languages, in code and in short messages it is as few.
const FEW_BYTES_A_TOKEN: u32 = 2;
/// At least as many microseconds a worker counts as slower that may refuse the prompt as too long: more
/// than makes a difference between two that would both take it.
const REFUSAL_US: u64 = 1_000_000;

/// For how long a worker that keeps its place counts as used after a request: who asks again and again lets
/// it be idle for moments.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(2);

/// What bears on one request.
pub struct Snapshot<'a> {
    /// The workers that answer for the model: those of its name, then others of its file, each in the order of
    /// their ids.
    pub workers: Vec<WorkerView<'a>>,
    /// Where a worker could be started; looked at only where none can take the request.
    pub fleet: LazyCell<Fleet<'a>, Box<dyn FnOnce() -> Fleet<'a> + 'a>>,
    /// A worker that will answer for the model is being started.
    pub is_spawning: bool,
    /// Who may not have reported yet.
    pub warm_up: WarmUp,
    /// Workers are left out that somebody's rules refuse.
    pub is_ruled_out: bool,
    /// Servers run a model of that name, and none of the workers does: a hive has another file by it.
    pub is_elsewhere: bool,
}

/// Who may not have reported yet since the queen's start, a moment ago.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WarmUp {
    /// Nobody, or that is no longer waited for.
    #[default]
    Over,
    /// Hives that nobody expects: this queen has run before, and some may have found her by themselves.
    Others,
    /// Hives or servers that are expected.
    Expected,
}

/// Where workers run and could run.
#[derive(Debug, Clone, Default)]
pub struct Fleet<'a> {
    /// All hives.
    pub hives: Vec<HiveView<'a>>,
    /// All workers, of any model.
    pub residents: Vec<Resident<'a>>,
    /// Where they are. Once somebody has looked, the residents do not change.
    pub by_device: ByDevice,
    /// Memory that starts under way will take, the earliest first.
    pub claims: Vec<Claim<'a>>,
    /// Where a worker for the model should be.
    pub wish: Wish,
    /// The model has as many workers as its policy allows.
    pub has_enough: bool,
    /// What somebody's rules say of the places for one; of those that are not here they say nothing.
    pub ruled: Vec<Ruled<'a>>,
    /// What a token of the model takes on devices that have shown it, in microseconds.
    pub token_us: HashMap<(&'a HiveAlias, DeviceId), u64>,
    /// What hives have said of models on their devices.
    pub words: HashMap<(&'a HiveAlias, DeviceId, &'a ModelAlias), Word<'a>>,
    /// Where workers of the model could not be started a while ago, though not for want of memory.
    pub failed: Vec<FailedSite<'a>>,
    /// How many tokens the context of a worker would have that is started there; only for a request for
    /// which contexts have turned out too short.
    pub contexts: HashMap<&'a HiveAlias, u32>,
}

/// The residents by their devices, sorted when somebody first asks: where there is room nobody does.
#[derive(Debug, Clone, Default)]
pub struct ByDevice(OnceCell<Vec<usize>>);

impl<'a> Fleet<'a> {
    /// The residents of a device, in their order.
    pub(super) fn residents_of(
        &self,
        hive: &HiveAlias,
        device: DeviceId,
    ) -> impl Iterator<Item = &Resident<'a>> + Clone {
        let place = |number: &usize| {
            let resident = &self.residents[*number];
            (resident.hive, resident.device)
        };
        let sorted = self.by_device.0.get_or_init(|| {
            let mut sorted: Vec<usize> = (0..self.residents.len()).collect();
            sorted.sort_by_key(place);
            sorted
        });
        let from = sorted.partition_point(|number| place(number) < (hive, device));
        let those = &sorted[from..];
        let count = those.partition_point(|number| place(number) == (hive, device));
        those[..count].iter().map(|number| &self.residents[*number])
    }
}

/// A place where the model could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedSite<'a> {
    /// The hive.
    pub hive: &'a HiveAlias,
    /// The device; `None` where the hive chose.
    pub device: Option<DeviceId>,
    /// Whether it may be tried again there, if nobody has to be ended for that.
    pub may_try: bool,
}

/// What a hive has said of a model on one of its devices.
#[derive(Debug, Clone, Copy)]
pub struct Word<'a> {
    /// The memory that a worker takes there; `None` where the hive cannot tell.
    pub needed: Option<u64>,
    /// There is room when these are gone, as the hive said a moment ago.
    pub agreed: Option<&'a [WorkerId]>,
    /// It has refused to start one a moment ago, and no more is free than was.
    pub is_refused: bool,
    /// There is no room although these are gone, as the hive said a moment ago.
    pub too_few: Option<&'a [WorkerId]>,
}

/// What the start of a worker, and the end of those in whose place it comes, will make of a device's
/// memory.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The hive.
    pub hive: &'a HiveAlias,
    /// The device.
    pub device: DeviceId,
    /// What was free when it was begun.
    pub free_before: u64,
    /// What it takes.
    pub needed: u64,
    /// What those give back that end.
    pub freed: u64,
}

/// What somebody's rules say of a place for a worker.
#[derive(Debug, Clone, Copy)]
pub struct Ruled<'a> {
    /// The hive.
    pub hive: &'a HiveAlias,
    /// The device; `None` where the hive chooses.
    pub device: Option<DeviceId>,
    /// Whether it may be taken.
    pub is_allowed: bool,
    /// How much less than others it is wished for.
    pub extra_ms: i64,
}

/// What somebody wants of the place of a model's workers.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// The hive that is preferred.
    pub hive: Option<HiveAlias>,
    /// The device that is preferred.
    pub device: Option<DeviceId>,
}

/// A worker of the model, or of its file by another name.
#[derive(Debug, Clone, Copy)]
pub struct WorkerView<'a> {
    /// Its id.
    pub id: &'a WorkerId,
    /// What stands for its process.
    pub process: u64,
    /// Whether it takes requests.
    pub readiness: Readiness,
    /// For how long it rests, as it says.
    pub rests_for: Duration,
    /// Whether it reports on time.
    pub liveness: Liveness,
    /// Whether requests may be sent to it after failures.
    pub circuit: Circuit,
    /// A connection to it has failed a moment ago, and nobody has told what became of it.
    pub is_in_doubt: bool,
    /// It fell silent a short while ago, and its hive, which lists it as one that lives, ends it or starts it again
    /// where it is not back soon.
    pub is_awaited: bool,
    /// A request that may be what ends workers has it to itself.
    pub is_taken: bool,
    /// Such a request waits for it: it takes nobody else.
    pub is_held: bool,
    /// It has requests to which it has given nothing yet.
    pub has_beginners: bool,
    /// It has interactive requests of this queen.
    pub has_interactive: bool,
    /// How many requests it runs at once.
    pub slots: u32,
    /// Answers that this queen has asked it for, and whose requests have not ended.
    pub in_flight: u32,
    /// Requests of others at its last heartbeat.
    pub foreign: u32,
    /// How many requests waited in it at its last heartbeat.
    pub queued: u32,
    /// How many bytes of the prompt's beginning it has computed before and may still hold.
    pub held_bytes: u32,
    /// For how many tokens its KV cache had room beside the requests that ran, at its last heartbeat; `None`
    /// where nobody knows.
    pub free_tokens: Option<u32>,
    /// How many tokens a prompt and its answer may have; 0 where nobody knows.
    pub context_tokens: u32,
    /// How many microseconds slower than it is somebody wants it to be taken to be.
    pub extra_us: i64,
    /// Somebody's rules have a say in whether it may be taken, and were not asked: it takes nothing now.
    pub is_unjudged: bool,
    /// How fast it is.
    pub speed: Speed,
    /// The model file that it runs, where it is known.
    pub digest: Option<&'a Sha256Digest>,
    /// In which ways it takes requests.
    pub ways: Ways,
}

/// How fast a worker is, as its answers have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    /// What 1 KiB of prompt takes, in microseconds.
    pub prefill_us_per_kib: u64,
    /// What an answer takes from its slot to its end, in microseconds,
    pub service_us: u64,
    /// if it has so many tokens, as usual.
    pub tokens: u64,
}

impl Speed {
    /// What an answer takes that may have so many tokens; 0 where it does not say how many.
    #[must_use]
    #[inline]
    pub fn answer_us(&self, most: u32) -> u64 {
        match u64::from(most) {
            0 => self.service_us,
            most if most >= self.tokens => self.service_us,
            most => self.service_us.saturating_mul(most) / self.tokens.max(1),
        }
    }
}

/// Whether requests may be sent to a worker after failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// Yes.
    Closed,
    /// One, to see whether it works again.
    HalfOpen,
    /// No.
    Open,
}

/// Whether a worker takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: it is loading its model, or is one of rbee's that has just said that it cannot take more.
    Coming,
    /// Not for a while: it is a server of somebody else that has said so.
    Resting,
    /// Yes.
    Ready,
    /// Not for now: it finishes what it runs, so that another model has its turn.
    MakesWay,
    /// No longer: it drains, has failed or is being stopped.
    Ending,
}

/// A hive.
#[derive(Debug, Clone, Copy)]
pub struct HiveView<'a> {
    /// Its alias.
    pub id: &'a HiveAlias,
    /// Whether it reports on time.
    pub liveness: Liveness,
    /// What it can run models on.
    pub devices: &'a [Device],
    /// The models on its disk.
    pub catalog: &'a [ModelEntry],
}

/// A worker, as far as its memory is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Resident<'a> {
    /// Its id.
    pub id: &'a WorkerId,
    /// Its hive.
    pub hive: &'a HiveAlias,
    /// What it runs on.
    pub device: DeviceId,
    /// What it runs.
    pub model: &'a ModelAlias,
    /// Whether it runs or expects requests.
    pub is_busy: bool,
    /// Whether it is being ended.
    pub is_ending: bool,
    /// How many requests it has.
    pub load: u32,
    /// The model for whose worker it makes way, once it has finished what it runs.
    pub makes_way_for: Option<&'a ModelAlias>,
    /// It has begun a short while ago, and need not make way yet.
    pub keeps_place: bool,
    /// How many workers of its model may be ended to make room: no more than it has beyond those that it must
    /// have, as a pinned one must have one. None where no hive can end this one.
    pub spare: u32,
    /// For how long it has had no request.
    pub idle: Duration,
    /// What it has of its device's memory, where its hive has told.
    pub has_bytes: Option<u64>,
    /// The model file that it runs, where it is known.
    pub digest: Option<&'a Sha256Digest>,
    /// How many tokens a prompt and its answer may have; 0 where nobody knows.
    pub context_tokens: u32,
}

impl Resident<'_> {
    /// Whether it has requests, or keeps its place and has had one a moment ago.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.is_busy || (self.keeps_place && self.idle < BETWEEN_REQUESTS)
    }
}

impl WorkerView<'_> {
    /// All answers that it is known to be asked for.
    #[must_use]
    #[inline]
    pub fn load(&self) -> u32 {
        self.in_flight.saturating_add(self.foreign)
    }

    /// Whether it is not known to be gone.
    #[must_use]
    #[inline]
    pub fn is_there(&self) -> bool {
        self.liveness != Liveness::Gone
    }

    /// Whether it is silent, and could take a request if it were heard again.
    #[must_use]
    pub fn may_be_back(&self, demand: &Demand<'_>) -> bool {
        !self.is_there()
            && self.readiness != Readiness::Ending
            && !demand.barred.contains(self.id)
            && self.context_tokens > 0
            && demand.may_fit(self.context_tokens)
    }

    /// Whether it is there and can take a request, ready or not, as far as is known.
    #[must_use]
    #[inline]
    pub fn serves(&self, demand: &Demand<'_>) -> bool {
        self.is_there() && self.suits(demand)
    }

    /// Whether a request waits for it though it is silent, where nobody else can take it.
    #[must_use]
    #[inline]
    pub fn may_return(&self, demand: &Demand<'_>) -> bool {
        self.is_awaited && !demand.has_another_way && self.suits(demand)
    }

    /// Whether it could take a request, there or not, as far as is known.
    #[inline]
    fn suits(&self, demand: &Demand<'_>) -> bool {
        let has_file = match (demand.digest, self.digest) {
            (Some(needed), Some(its)) => needed == its,
            _ => true,
        };
        !demand.barred.contains(self.id)
            && has_file
            && demand.may_fit(self.context_tokens)
            && demand.ways.meet(self.ways)
    }

    /// Whether it can be given one more request.
    #[must_use]
    #[inline]
    pub fn has_room(&self, priority: Priority) -> bool {
        self.places(priority) > 0
    }

    /// How many more requests it can be given.
    #[must_use]
    #[inline]
    pub fn places(&self, priority: Priority) -> u32 {
        let requests_a_slot = match priority {
            Priority::Interactive if self.speed.service_us <= SHORT_US => SHORT_A_SLOT,
            Priority::Interactive | Priority::Batch => A_SLOT,
        };
        let places = self.slots.max(1).saturating_mul(requests_a_slot);
        let left = places.saturating_sub(self.in_flight);
        match self.circuit {
            _ if self.is_taken => 0,
            Circuit::Closed => left,
            Circuit::HalfOpen => left.min(1),
            Circuit::Open => 0,
        }
    }

    /// Whether it is one of rbee's, of whose process it is heard when it ends.
    #[must_use]
    #[inline]
    pub fn is_of_rbee(&self) -> bool {
        self.ways.meet(Ways::TOKENS)
    }

    /// Whether others may be kept out for a request: a batch one keeps nobody out where interactive ones run.
    pub(super) fn may_be_kept_for(&self, demand: &Demand<'_>) -> bool {
        demand.priority == Priority::Interactive || !self.has_interactive
    }

    /// Whether it takes a request now.
    #[must_use]
    #[inline]
    pub fn takes(&self, demand: &Demand<'_>) -> bool {
        let is_worth_it = || demand.leaves_with.is_none_or(|given| self.begins(demand, given));
        // Where all others have got tokens, it is known who ended the worker.
        let may_come = if demand.alone && self.is_of_rbee() {
            !self.has_beginners && self.may_be_kept_for(demand)
        } else {
            !self.is_held
        };
        may_come && self.has_room(demand.priority) && is_worth_it()
    }

    /// Whether a request with so many tokens of its answer would begin here at once, as far as its last heartbeat tells:
    /// what leaves one queue for another only loses its turn.
    fn begins(&self, demand: &Demand<'_>, given: u32) -> bool {
        let needs = (demand.prompt_bytes / BYTES_A_TOKEN).saturating_add(given);
        let holds = self.load() == 0 || self.free_tokens.is_none_or(|free| needs <= free);
        self.queued == 0 && self.load() < self.slots.max(1) && holds
    }

    /// How long a request of so many bytes takes here, in microseconds, as far as one can tell: what
    /// of the prompt is not held, and an answer, both slower the more others compute; and where the KV cache has
    /// no room for the prompt beside them, an answer that ends first. One whose context may be too short for
    /// the prompt, or for an answer of so many tokens behind it, comes after others: only it can tell.
    #[must_use]
    pub fn expected_us(&self, prompt_bytes: u32, answer_tokens: u32) -> u64 {
        let slots = u64::from(self.slots.max(1));
        let load = u64::from(self.load());
        let fresh = prompt_bytes.saturating_sub(self.held_bytes);
        let prefill = u64::from(fresh).saturating_mul(self.speed.prefill_us_per_kib) / 1024;
        let alone = prefill.saturating_add(self.speed.answer_us(answer_tokens));
        let is_crowded =
            load > 0 && self.free_tokens.is_some_and(|free| fresh / BYTES_A_TOKEN > free);
        let wait = if is_crowded { self.speed.service_us } else { 0 };
        let may_cut = answer_tokens.saturating_add(prompt_bytes / BYTES_A_TOKEN);
        let needs = may_cut.max(prompt_bytes / FEW_BYTES_A_TOKEN);
        let may_refuse = self.context_tokens > 0 && needs > self.context_tokens;
        let refusal = if may_refuse { self.speed.service_us.max(REFUSAL_US) } else { 0 };
        (alone.saturating_mul(slots + load) / slots).saturating_add(wait).saturating_add(refusal)
    }

    /// How many requests like this one would be answered here within so many microseconds, each in the place of
    /// one that ends: its slots are full.
    pub(super) fn answers_by(&self, limit_us: u64, demand: &Demand<'_>) -> u32 {
        let answer_us = self.expected_us(demand.prompt_bytes, demand.answer_tokens);
        let (slots, load) = (u64::from(self.slots.max(1)), u64::from(self.load()));
        let usual_us = self.speed.service_us.saturating_mul(slots + load) / slots;
        let between_two = (usual_us / slots).max(1);
        let left = limit_us.saturating_sub(answer_us);
        u32::try_from(left / between_two).unwrap_or(u32::MAX)
    }
}

impl HiveView<'_> {
    /// The catalog's entry of a model.
    #[must_use]
    pub fn entry(&self, model: &ModelAlias) -> Option<&ModelEntry> {
        self.catalog.iter().find(|entry| entry.alias == *model)
    }

    /// Whether it has the file that a request must have: an answer goes on with the very one that it began
    /// with.
    #[must_use]
    pub fn has_file(&self, demand: &Demand<'_>) -> bool {
        let is_it = |entry: &ModelEntry| demand.digest.is_none_or(|needed| entry.sha256 == *needed);
        self.entry(demand.model).is_some_and(is_it)
    }
}

impl std::fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { workers, is_spawning, warm_up, .. } = self;
        let mut out = f.debug_struct("Snapshot");
        out.field("workers", workers).field("is_spawning", is_spawning);
        out.field("warm_up", warm_up).finish_non_exhaustive()
    }
}
