//! Tables and properties of the scheduler, and the builders that they share.

mod alone;
mod placing;
mod properties;
mod reasons;
mod resting;
mod routing;
mod ruled;
mod silent;
mod turns;

use std::cell::LazyCell;
use std::collections::HashMap;
use std::time::Duration;

use worker_contract::{
    Device, DeviceId, HiveAlias, ModelAlias, ModelEntry, Sha256Digest, WorkerId,
};

use super::*;
use crate::admission::Priority;
use crate::doubles::{device, entry};
use crate::registry::Liveness::{self, Alive};
use Readiness::Ready;

const GIB: u64 = 1 << 30;

/// A moment in the queen's life.
#[derive(Debug, Clone, Default)]
struct World {
    workers: Vec<W>,
    hives: Vec<H>,
    residents: Vec<R>,
    claims: Vec<C>,
    wish: Option<(HiveAlias, Option<DeviceId>)>,
    ruled: Vec<(HiveAlias, Option<DeviceId>, bool, i64)>,
    has_enough: bool,
    is_spawning: bool,
    warm_up: WarmUp,
    /// Whether hives can be asked what models take, unlike those of earlier versions.
    can_tell: bool,
    /// What they have said.
    words: Vec<Wd>,
    /// What a token takes there, in microseconds.
    token_us: Vec<(HiveAlias, DeviceId, u64)>,
    /// Where starts of the model failed, and whether it may be tried again.
    failed: Vec<(HiveAlias, Option<DeviceId>, bool)>,
    /// How long the context is of a worker that is started there.
    contexts: Vec<(HiveAlias, u32)>,
}

impl World {
    fn of(workers: &[W], hives: &[H]) -> Self {
        Self { workers: workers.to_vec(), hives: hives.to_vec(), ..Self::default() }
    }

    fn decide(&self) -> Decision {
        self.decide_for(&demand())
    }

    fn decide_for(&self, demand: &Demand<'_>) -> Decision {
        let of_model = self.workers.iter().filter(|worker| worker.model == *demand.model);
        let mut workers: Vec<_> = of_model.map(W::view).collect();
        workers.sort_by_key(|worker| worker.id);
        let snapshot = Snapshot {
            workers,
            fleet: LazyCell::new(Box::new(|| self.fleet())),
            is_spawning: self.is_spawning,
            warm_up: self.warm_up,
            is_ruled_out: false,
            is_elsewhere: false,
        };
        schedule(&snapshot, demand)
    }

    fn fleet(&self) -> Fleet<'_> {
        Fleet {
            hives: self.hives.iter().map(H::view).collect(),
            residents: self.residents.iter().map(R::view).collect(),
            by_device: ByDevice::default(),
            claims: self.claims.iter().map(C::view).collect(),
            wish: Wish {
                hive: self.wish.as_ref().map(|(hive, _)| hive.clone()),
                device: self.wish.as_ref().and_then(|(_, device)| *device),
            },
            ruled: self
                .ruled
                .iter()
                .map(|(hive, device, is_allowed, extra_ms)| Ruled {
                    hive,
                    device: *device,
                    is_allowed: *is_allowed,
                    extra_ms: *extra_ms,
                })
                .collect(),
            has_enough: self.has_enough,
            token_us: self
                .token_us
                .iter()
                .map(|(hive, device, us)| ((hive, *device), *us))
                .collect(),
            words: self.words(),
            failed: self
                .failed
                .iter()
                .map(|(hive, device, may_try)| FailedSite {
                    hive,
                    device: *device,
                    may_try: *may_try,
                })
                .collect(),
            contexts: self.contexts.iter().map(|(hive, tokens)| (hive, *tokens)).collect(),
        }
    }

    fn words(&self) -> HashMap<(&HiveAlias, DeviceId, &ModelAlias), Word<'_>> {
        if self.can_tell {
            return self.words.iter().map(Wd::view).collect();
        }
        let word = Word { needed: None, agreed: None, is_refused: false, too_few: None };
        let all = self.hives.iter().flat_map(|hive| {
            let devices = hive.devices.iter();
            devices.map(move |device| ((&hive.id, device.id, demand().model), word))
        });
        all.collect()
    }
}

/// What a decision comes to, without its reasons.
fn outcome(decision: &Decision) -> String {
    match decision {
        Decision::Dispatch { worker, .. } => worker.to_string(),
        Decision::Spawn(spawn) => {
            let device = spawn.device.map(|device| format!(" {device}")).unwrap_or_default();
            let evict: Vec<_> = spawn.evict.iter().map(|id| format!(" -{id}")).collect();
            let verb = if spawn.asks { "ask" } else { "spawn" };
            format!("{verb} {}{device}{}", spawn.hive, evict.concat())
        }
        Decision::MakeWay(way) => {
            let gone: Vec<_> = way.workers.iter().map(|id| format!(" -{id}")).collect();
            format!("way {} {}{}", way.hive, way.device, gone.concat())
        }
        Decision::Hold(worker) => format!("hold {worker}"),
        Decision::Wait(reason) => format!("wait {}", reason.as_str()),
        Decision::Reject { reason, retry_after_s } => {
            format!("reject {reason:?} {retry_after_s:?}")
        }
    }
}

fn check(because: &str, world: &World, expected: &str) {
    assert_eq!(outcome(&world.decide()), expected, "{because}");
}

/// A worker of a table, with closed circuit and the usual speed.
#[derive(Debug, Clone)]
struct W {
    id: WorkerId,
    model: ModelAlias,
    readiness: Readiness,
    rests_for: Duration,
    liveness: Liveness,
    circuit: Circuit,
    is_in_doubt: bool,
    is_awaited: bool,
    is_taken: bool,
    is_held: bool,
    has_beginners: bool,
    has_interactive: bool,
    slots: u32,
    in_flight: u32,
    foreign: u32,
    queued: u32,
    held_bytes: u32,
    free_tokens: Option<u32>,
    context_tokens: u32,
    extra_us: i64,
    is_unjudged: bool,
    speed: Speed,
    digest: Option<Sha256Digest>,
    ways: Ways,
}

/// A worker that has failed a request, in its present process or in one before.
fn failed_by(name: &str, process: u64) -> FailedBy {
    FailedBy { worker: id(name), process }
}

fn w(name: &str, slots: u32, in_flight: u32) -> W {
    W {
        id: id(name),
        model: model(),
        readiness: Ready,
        rests_for: Duration::ZERO,
        liveness: Alive,
        circuit: Circuit::Closed,
        is_in_doubt: false,
        is_awaited: false,
        is_taken: false,
        is_held: false,
        has_beginners: false,
        has_interactive: false,
        slots,
        in_flight,
        foreign: 0,
        queued: 0,
        held_bytes: 0,
        free_tokens: None,
        context_tokens: 0,
        extra_us: 0,
        is_unjudged: false,
        speed: Speed { prefill_us_per_kib: 100_000, service_us: 1_000_000, tokens: 100 },
        digest: None,
        ways: Ways::ALL,
    }
}

impl W {
    fn state(self, readiness: Readiness) -> Self {
        Self { readiness, ..self }
    }

    /// A server of somebody else that takes nothing for so long.
    fn rests(self, millis: u64) -> Self {
        let rests_for = Duration::from_millis(millis);
        Self { rests_for, ..self.state(Readiness::Resting) }
    }

    fn live(self, liveness: Liveness) -> Self {
        Self { liveness, ..self }
    }

    fn foreign(self, foreign: u32) -> Self {
        Self { foreign, ..self }
    }

    fn queues(self, queued: u32) -> Self {
        Self { queued, ..self }
    }

    fn model(self, model: &str) -> Self {
        Self { model: model.parse().unwrap(), ..self }
    }

    fn circuit(self, circuit: Circuit) -> Self {
        Self { circuit, ..self }
    }

    fn slower(self, extra_us: i64) -> Self {
        Self { extra_us, ..self }
    }

    fn holds(self, held_bytes: u32) -> Self {
        Self { held_bytes, ..self }
    }

    fn has_room_for(self, tokens: u32) -> Self {
        Self { free_tokens: Some(tokens), ..self }
    }

    fn context(self, context_tokens: u32) -> Self {
        Self { context_tokens, ..self }
    }

    fn view(&self) -> WorkerView<'_> {
        WorkerView {
            id: &self.id,
            process: 0,
            readiness: self.readiness,
            rests_for: self.rests_for,
            liveness: self.liveness,
            circuit: self.circuit,
            is_in_doubt: self.is_in_doubt,
            is_awaited: self.is_awaited,
            is_taken: self.is_taken,
            is_held: self.is_held,
            has_beginners: self.has_beginners,
            has_interactive: self.has_interactive,
            slots: self.slots,
            in_flight: self.in_flight,
            foreign: self.foreign,
            queued: self.queued,
            held_bytes: self.held_bytes,
            free_tokens: self.free_tokens,
            context_tokens: self.context_tokens,
            extra_us: self.extra_us,
            is_unjudged: self.is_unjudged,
            speed: self.speed,
            digest: self.digest.as_ref(),
            ways: self.ways,
        }
    }
}

/// A hive of a table: it has the model of 1 GiB, and a CPU with room for it.
#[derive(Debug, Clone)]
struct H {
    id: HiveAlias,
    liveness: Liveness,
    devices: Vec<Device>,
    catalog: Vec<ModelEntry>,
}

fn h(name: &str, liveness: Liveness) -> H {
    let models = [("m", GIB), ("other", GIB), ("small", GIB / 2), ("big", 8 * GIB)];
    let catalog = models.map(|(name, size)| entry(name, size)).into();
    H { id: alias(name), liveness, devices: vec![device("CPU-0", 4 * GIB)], catalog }
}

impl H {
    fn gpu(mut self, free_gib: u64) -> Self {
        self.devices.push(device("GPU-0", free_gib * GIB));
        self
    }

    fn gpu_has(mut self, free_gib: u64) -> Self {
        self.devices[1].memory_free_bytes = free_gib * GIB;
        self
    }

    fn cpu(mut self, free_gib: u64) -> Self {
        self.devices[0].memory_free_bytes = free_gib * GIB;
        self
    }

    fn bare(self) -> Self {
        Self { devices: Vec::new(), ..self }
    }

    fn without_model(self) -> Self {
        Self { catalog: Vec::new(), ..self }
    }

    fn view(&self) -> HiveView<'_> {
        HiveView {
            id: &self.id,
            liveness: self.liveness,
            devices: &self.devices,
            catalog: &self.catalog,
        }
    }
}

/// A resident of the hive `h`.
#[derive(Debug, Clone)]
struct R {
    id: WorkerId,
    hive: HiveAlias,
    device: DeviceId,
    model: ModelAlias,
    is_busy: bool,
    load: u32,
    makes_way_for: Option<ModelAlias>,
    keeps_place: bool,
    spare: u32,
    idle: Duration,
    has_bytes: Option<u64>,
    digest: Option<Sha256Digest>,
    context_tokens: u32,
}

fn r(name: &str, device: &str, model: &str, idle_s: u64) -> R {
    R {
        id: id(name),
        hive: alias("h"),
        device: device.parse().unwrap(),
        model: model.parse().unwrap(),
        is_busy: false,
        load: 0,
        makes_way_for: None,
        keeps_place: false,
        spare: u32::MAX,
        idle: Duration::from_secs(idle_s),
        has_bytes: None,
        digest: None,
        context_tokens: 0,
    }
}

impl R {
    fn has(self, gib: u64) -> Self {
        Self { has_bytes: Some(gib << 30), ..self }
    }

    fn busy(self) -> Self {
        self.runs_so_many(1)
    }

    fn runs_so_many(self, load: u32) -> Self {
        Self { is_busy: true, load, ..self }
    }

    fn makes_way_for(self, model: &str) -> Self {
        Self { makes_way_for: Some(model.parse().unwrap()), ..self }
    }

    fn keeps_place(self) -> Self {
        Self { keeps_place: true, ..self }
    }

    /// It runs the file with the digest that is this digit all over.
    fn runs(self, digit: &str) -> Self {
        Self { digest: Some(digit.repeat(64).parse().unwrap()), ..self }
    }

    fn spare(self, spare: u32) -> Self {
        Self { spare, ..self }
    }

    fn kept(self) -> Self {
        self.spare(0)
    }

    fn view(&self) -> Resident<'_> {
        Resident {
            id: &self.id,
            hive: &self.hive,
            device: self.device,
            model: &self.model,
            is_busy: self.is_busy,
            is_ending: false,
            load: self.load,
            makes_way_for: self.makes_way_for.as_ref(),
            keeps_place: self.keeps_place,
            spare: self.spare,
            idle: self.idle,
            has_bytes: self.has_bytes,
            digest: self.digest.as_ref(),
            context_tokens: self.context_tokens,
        }
    }
}

/// A start under way on the hive `h`, in GiB.
#[derive(Debug, Clone)]
struct C {
    hive: HiveAlias,
    device: DeviceId,
    free_before: u64,
    needed: u64,
    freed: u64,
}

fn c(device: &str, free_before: u64, needed: u64, freed: u64) -> C {
    C { hive: alias("h"), device: device.parse().unwrap(), free_before, needed, freed }
}

impl C {
    fn view(&self) -> Claim<'_> {
        Claim {
            hive: &self.hive,
            device: self.device,
            free_before: self.free_before * GIB,
            needed: self.needed * GIB,
            freed: self.freed * GIB,
        }
    }
}

/// What the hive `h` has said of a model on a device.
#[derive(Debug, Clone)]
struct Wd {
    hive: HiveAlias,
    device: DeviceId,
    model: ModelAlias,
    needed: Option<u64>,
    agreed: Option<Vec<WorkerId>>,
    is_refused: bool,
    too_few: Option<Vec<WorkerId>>,
}

/// It needs so many GiB; `None` where the hive cannot tell.
fn word(device: &str, model: &str, needed: Option<u64>) -> Wd {
    Wd {
        hive: alias("h"),
        device: device.parse().unwrap(),
        model: model.parse().unwrap(),
        needed: needed.map(|gib| gib * GIB),
        agreed: None,
        is_refused: false,
        too_few: None,
    }
}

impl Wd {
    fn without(self, gone: &[&str]) -> Self {
        Self { agreed: Some(gone.iter().map(|name| id(name)).collect()), ..self }
    }

    fn not_even_without(self, gone: &[&str]) -> Self {
        Self { too_few: Some(gone.iter().map(|name| id(name)).collect()), ..self }
    }

    fn refused(self) -> Self {
        Self { is_refused: true, ..self }
    }

    fn view(&self) -> ((&HiveAlias, DeviceId, &ModelAlias), Word<'_>) {
        let Self { hive, device, model, needed, agreed, is_refused, too_few } = self;
        let (needed, is_refused) = (*needed, *is_refused);
        let (agreed, too_few) = (agreed.as_deref(), too_few.as_deref());
        ((hive, *device, model), Word { needed, agreed, is_refused, too_few })
    }
}

fn demand() -> Demand<'static> {
    static MODEL: std::sync::LazyLock<ModelAlias> = std::sync::LazyLock::new(model);
    Demand::of(&MODEL)
}

fn model() -> ModelAlias {
    "m".parse().unwrap()
}

fn id(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn alias(name: &str) -> HiveAlias {
    name.parse().unwrap()
}
