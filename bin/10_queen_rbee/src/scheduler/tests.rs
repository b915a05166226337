use proptest::prelude::*;
use worker_contract::{
    Device, DeviceLoad, GgufSummary, HiveAlias, ModelAlias, ModelEntry, WorkerId,
};

use super::*;
use crate::registry::Liveness::{self, Alive, Gone, Suspect};
use Readiness::{Coming, Ending, Ready};

const GIB: u64 = 1 << 30;

#[test]
fn the_least_loaded_worker_for_its_slots_gets_the_request() {
    let rows: [(&str, &[W], &str); 6] = [
        ("an idle one", &[w("a", 4, 1), w("b", 4, 0)], "b"),
        ("the same load on more slots is less", &[w("a", 2, 1), w("b", 8, 2)], "b"),
        ("what others sent counts", &[w("a", 4, 1).foreign(2), w("b", 4, 2)], "b"),
        ("equals are told apart by name", &[w("b", 4, 0), w("a", 4, 0)], "a"),
        ("a silent one is the last choice", &[w("a", 4, 0).live(Suspect), w("b", 4, 7)], "b"),
        ("a silent one is better than none", &[w("a", 4, 0).live(Suspect)], "a"),
    ];
    for (because, workers, expected) in rows {
        check(because, workers, &[], &dispatch(expected));
    }
}

#[test]
fn a_worker_without_room_is_waited_for() {
    check("two for its one slot", &[w("a", 1, 2)], &[h("h", Alive)], &Decision::Wait);
    check("loading", &[w("a", 1, 0).state(Coming)], &[h("h", Alive)], &Decision::Wait);
    check("one more for its one slot", &[w("a", 1, 1)], &[], &dispatch("a"));
}

#[test]
fn a_worker_is_started_where_none_can_serve() {
    let spawn = spawn("h", Some("CPU-0"));
    let rows: [(&str, &[W]); 4] = [
        ("there is none", &[]),
        ("it is gone", &[w("a", 4, 0).live(Gone)]),
        ("it is ending", &[w("a", 4, 0).state(Ending)]),
        ("it runs another model", &[w("a", 4, 0).model("other")]),
    ];
    for (because, workers) in rows {
        check(because, workers, &[h("h", Alive)], &spawn);
    }
}

#[test]
fn the_place_is_a_gpu_with_room_before_anything_else() {
    let rows: [(&str, &[H], Decision); 6] = [
        ("a GPU before the CPU", &[h("h", Alive).gpu(8)], spawn("h", Some("GPU-0"))),
        ("a full GPU after the CPU", &[h("h", Alive).gpu(0)], spawn("h", Some("CPU-0"))),
        (
            "the larger GPU",
            &[h("a", Alive).gpu(4), h("b", Alive).gpu(8)],
            spawn("b", Some("GPU-0")),
        ),
        ("one that reports", &[h("a", Suspect).gpu(8), h("b", Alive)], spawn("b", Some("CPU-0"))),
        ("equals by name", &[h("b", Alive), h("a", Alive)], spawn("a", Some("CPU-0"))),
        ("no device is listed", &[h("a", Alive).bare()], spawn("a", None)),
    ];
    for (because, hives, expected) in rows {
        check(because, &[], hives, &expected);
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_its_reason() {
    let unknown = reject(RejectReason::UnknownModel, None);
    check("nobody has it", &[], &[h("h", Alive).without_model()], &unknown);
    let hive_gone = RejectReason::HiveGone { hive: alias("h") };
    check("its hive is gone", &[], &[h("h", Gone)], &reject(hive_gone, Some(5)));
    let ending = [w("a", 4, 0).state(Ending)];
    check("its worker ends", &ending, &[], &reject(RejectReason::NoWorkerLeft, Some(1)));
}

#[test]
fn a_worker_that_failed_the_request_is_tried_again_only_if_no_other_can_and_it_reports() {
    let failed = [id("a")];
    let decide = |workers: &[W], hives: &[H]| decide(workers, hives, &failed, &[], false);
    assert_eq!(decide(&[w("a", 4, 0), w("b", 4, 7)], &[]), dispatch("b"));
    assert_eq!(decide(&[w("a", 4, 0)], &[h("h", Alive)]), dispatch("a"));
    assert_eq!(decide(&[w("a", 4, 0).live(Suspect)], &[h("h", Alive)]), spawn("h", Some("CPU-0")));
    assert_eq!(decide(&[w("a", 4, 0), w("b", 4, 8)], &[]), Decision::Wait);
}

#[test]
fn nothing_is_started_twice_and_a_fresh_queen_waits_for_reports() {
    let spawning = [model()];
    assert_eq!(decide(&[], &[h("h", Alive)], &[], &spawning, false), Decision::Wait);
    assert_eq!(decide(&[], &[], &[], &[], true), Decision::Wait);
    assert_eq!(
        decide(&[], &[h("h", Alive)], &[], &[], true),
        spawn("h", Some("CPU-0")),
        "a hive that has reported can be used at once"
    );
}

proptest! {
    #[test]
    fn a_decision_has_the_properties_that_the_readme_promises(
        workers in prop::collection::vec(any_worker(), 0..8),
        hives in prop::collection::vec(any_hive(), 0..4),
        failed in prop::collection::vec("[a-h]", 0..3),
        spawning in any::<bool>(),
    ) {
        let workers = unique(workers, |w| w.id.clone());
        let hives = unique(hives, |h| h.id.clone());
        let failed: Vec<_> = failed.iter().map(|f| id(f)).collect();
        let spawning = if spawning { vec![model()] } else { vec![] };
        let decision = decide(&workers, &hives, &failed, &spawning, false);

        let here: Vec<_> =
            workers.iter().filter(|w| w.model == model() && w.liveness != Gone).collect();
        let room = |w: &W| w.in_flight < 2 * w.slots;
        let open = |w: &&&W| w.readiness == Ready && room(w) && !failed.contains(&w.id);
        match &decision {
            Decision::Dispatch { worker } => {
                let chosen = here.iter().find(|w| w.id == *worker).expect("it serves the model");
                prop_assert!(chosen.readiness == Ready && room(chosen));
                let part = |w: &W| f64::from(w.in_flight + w.foreign) / f64::from(w.slots);
                for other in here.iter().filter(open).filter(|w| w.liveness == Alive) {
                    prop_assert!(part(chosen) <= part(other) + 1e-9);
                }
            }
            Decision::Spawn { hive, .. } => {
                let chosen = hives.iter().find(|h| h.id == *hive).expect("a known hive");
                prop_assert!(!chosen.catalog.is_empty() && chosen.liveness != Gone);
                prop_assert!(spawning.is_empty());
                prop_assert!(!here.iter().any(|w| w.readiness == Coming));
                prop_assert_eq!(here.iter().filter(open).count(), 0);
            }
            Decision::Wait => {
                let can_come = |w: &&W| w.readiness != Ending;
                prop_assert!(!spawning.is_empty() || here.iter().any(can_come));
            }
            Decision::Reject { .. } => {
                let usable = |h: &H| h.liveness != Gone && !h.catalog.is_empty();
                prop_assert!(!hives.iter().any(usable));
                prop_assert_eq!(here.iter().filter(open).count(), 0);
            }
        }

        let reversed_workers: Vec<_> = workers.iter().rev().cloned().collect();
        let reversed_hives: Vec<_> = hives.iter().rev().cloned().collect();
        prop_assert_eq!(
            decision,
            decide(&reversed_workers, &reversed_hives, &failed, &spawning, false)
        );
    }
}

fn check(because: &str, workers: &[W], hives: &[H], expected: &Decision) {
    assert_eq!(decide(workers, hives, &[], &[], false), *expected, "{because}");
}

fn decide(
    workers: &[W],
    hives: &[H],
    failed: &[WorkerId],
    spawning: &[ModelAlias],
    warming_up: bool,
) -> Decision {
    let snapshot = Snapshot {
        workers: workers.iter().map(W::view).collect(),
        hives: hives.iter().map(H::view).collect(),
        spawning,
        warming_up,
    };
    schedule(&snapshot, &Demand { model: &model(), failed })
}

/// A worker of a table, four slots unless told otherwise.
#[derive(Debug, Clone)]
struct W {
    id: WorkerId,
    model: ModelAlias,
    readiness: Readiness,
    liveness: Liveness,
    slots: u32,
    in_flight: u32,
    foreign: u32,
}

fn w(name: &str, slots: u32, in_flight: u32) -> W {
    let (id, model) = (id(name), model());
    W { id, model, readiness: Ready, liveness: Alive, slots, in_flight, foreign: 0 }
}

impl W {
    fn state(self, readiness: Readiness) -> Self {
        Self { readiness, ..self }
    }

    fn live(self, liveness: Liveness) -> Self {
        Self { liveness, ..self }
    }

    fn foreign(self, foreign: u32) -> Self {
        Self { foreign, ..self }
    }

    fn model(self, model: &str) -> Self {
        Self { model: model.parse().unwrap(), ..self }
    }

    fn view(&self) -> WorkerView<'_> {
        WorkerView {
            id: &self.id,
            model: &self.model,
            readiness: self.readiness,
            liveness: self.liveness,
            slots: self.slots,
            in_flight: self.in_flight,
            foreign: self.foreign,
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
    H { id: alias(name), liveness, devices: vec![device("CPU-0", 4)], catalog: vec![entry()] }
}

impl H {
    fn gpu(mut self, free_gib: u64) -> Self {
        self.devices.push(device("GPU-0", free_gib));
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

fn any_liveness() -> impl Strategy<Value = Liveness> {
    prop_oneof![Just(Alive), Just(Suspect), Just(Gone)]
}

fn any_worker() -> impl Strategy<Value = W> {
    let readiness = prop_oneof![Just(Coming), Just(Ready), Just(Ready), Just(Ending)];
    let model = prop_oneof![Just("m"), Just("m"), Just("other")];
    ("[a-h]", model, readiness, any_liveness(), 1_u32..6, 0_u32..12, 0_u32..4).prop_map(
        |(name, model, readiness, liveness, slots, in_flight, foreign)| {
            w(&name, slots, in_flight).model(model).state(readiness).live(liveness).foreign(foreign)
        },
    )
}

fn any_hive() -> impl Strategy<Value = H> {
    let gpus = prop::option::of(0_u64..16);
    ("[a-d]", any_liveness(), gpus, any::<bool>()).prop_map(|(name, liveness, gpu, has_model)| {
        let hive = h(&name, liveness);
        let hive = if let Some(free) = gpu { hive.gpu(free) } else { hive };
        if has_model { hive } else { hive.without_model() }
    })
}

fn unique<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(key(item))).collect()
}

fn dispatch(worker: &str) -> Decision {
    Decision::Dispatch { worker: id(worker) }
}

fn spawn(hive: &str, device: Option<&str>) -> Decision {
    Decision::Spawn { hive: alias(hive), device: device.map(|d| d.parse().unwrap()) }
}

fn reject(reason: RejectReason, retry_after_s: Option<u64>) -> Decision {
    Decision::Reject { reason, retry_after_s }
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

fn device(name: &str, free_gib: u64) -> Device {
    Device {
        id: name.parse().unwrap(),
        backend: String::new(),
        name: String::new(),
        memory_total_bytes: 16 * GIB,
        memory_free_bytes: free_gib * GIB,
        pci_address: None,
        load: DeviceLoad::default(),
        is_gone: false,
    }
}

fn entry() -> ModelEntry {
    ModelEntry {
        alias: model(),
        sha256: "0".repeat(64).parse().unwrap(),
        source: String::new(),
        added_at: 0,
        shards: Vec::new(),
        gguf: GgufSummary {
            architecture: String::new(),
            name: None,
            license: None,
            quantization: String::new(),
            parameters: 0,
            context_length: 0,
            has_chat_template: true,
            size_bytes: GIB,
        },
    }
}
