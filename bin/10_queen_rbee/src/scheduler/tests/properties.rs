use std::collections::BTreeSet;

use proptest::prelude::*;

use super::placement::need_of;
use super::*;
use crate::registry::Liveness::{Gone, Suspect};
use Readiness::{Coming, Ending, Resting};

proptest! {
    #[test]
    fn a_decision_has_the_properties_that_the_readme_promises(
        world in any_world(), asked in any_asked(),
    ) {
        let demand = asked.demand();
        let decision = world.decide_for(&demand);
        let suits = |w: &&W| {
            let has_file = demand.digest.is_none() || w.digest.is_none() || w.digest.as_ref() == demand.digest;
            w.model == model() && has_file && demand.ways.meet(w.ways)
        };
        let serves = |w: &&W| w.liveness != Gone && suits(w);
        let here: Vec<_> = world.workers.iter().filter(serves).collect();
        // One that goes on token by token must have said that it has the file.
        let is_known = |w: &W| demand.digest.is_none() || w.digest.is_some() || !w.ways.meet(Ways::TOKENS);
        let takes = |w: &W| w.readiness == Ready && is_known(w) && w.view().has_room(demand.priority);
        let open = |w: &&&W| takes(w) && !demand.was_failed_by(&w.id) && !w.is_in_doubt;
        let has_file = |h: &&H| {
            let entry = h.catalog.iter().find(|entry| entry.alias == model());
            entry.is_some_and(|entry| demand.digest.is_none_or(|digest| entry.sha256 == *digest))
        };
        let wakes = |w: &&W| w.readiness == Resting && w.rests_for <= demand.left;
        match &decision {
            Decision::Dispatch { worker, why } => {
                let chosen = here.iter().find(|w| w.id == *worker).expect("it serves the request");
                prop_assert!(takes(chosen) && !chosen.is_taken);
                let expected = |w: &W| w.view().expected_us(asked.bytes, 0);
                let comes_first = chosen.circuit == Circuit::HalfOpen || demand.session == Some(worker);
                for other in here.iter().filter(open).filter(|w| w.liveness == Alive) {
                    prop_assert!(comes_first || expected(chosen) <= expected(other) + 250_000);
                }
                prop_assert_eq!(&why.chosen.worker, worker);
                prop_assert!(why.next.as_ref().is_none_or(|next| next.worker != *worker));
            }
            Decision::Spawn(spawn) => {
                let chosen = world.hives.iter().find(|h| h.id == spawn.hive).expect("a known hive");
                prop_assert!(has_file(&chosen) && chosen.liveness != Gone);
                prop_assert!(!world.is_spawning);
                prop_assert!(!here.iter().any(|w| w.readiness == Coming));
                prop_assert_eq!(here.iter().filter(open).count(), 0);
                for evicted in &spawn.evict {
                    let gone = world.residents.iter().find(|r| r.id == *evicted).expect("a resident");
                    let has_other_file = demand.digest.is_some() && gone.digest.is_some() && gone.digest.as_ref() != demand.digest;
                    prop_assert!(gone.makes_way_for.as_ref().is_none_or(|it| *it == model()));
                    prop_assert!(!gone.view().is_used() && (gone.model != model() || has_other_file));
                    let of_model = |id: &&WorkerId| {
                        world.residents.iter().any(|r| r.id == **id && r.model == gone.model)
                    };
                    let ended = spawn.evict.iter().filter(of_model).count();
                    // All workers of a model can spare the same; here they may be told of differently.
                    let alike = world.residents.iter().filter(|r| r.model == gone.model);
                    let spare = alike.map(|r| r.spare as usize).max().unwrap_or_default();
                    prop_assert!(ended <= spare);
                    prop_assert!(gone.hive == spawn.hive && Some(gone.device) == spawn.device);
                }
                let at_hive = || world.failed.iter().filter(|(hive, ..)| *hive == spawn.hive);
                let is_paused = |(_, device, may_try): &(HiveAlias, Option<DeviceId>, bool)| {
                    *device == spawn.device && !may_try
                };
                prop_assert!(!at_hive().any(is_paused));
                // Where nobody names a device, it may have been, or will be, this one.
                let may_be_here = |(_, device, _): &(HiveAlias, Option<DeviceId>, bool)| {
                    device.is_none() || spawn.device.is_none() || *device == spawn.device
                };
                prop_assert!(spawn.evict.is_empty() || !at_hive().any(may_be_here));
                let word = world.words.iter().filter(|_| world.can_tell).find(|word| {
                    word.hive == spawn.hive && Some(word.device) == spawn.device && word.model == model()
                });
                prop_assert!(word.is_none_or(|word| !word.is_refused));
                let is_more = |few: &Vec<WorkerId>| spawn.evict.iter().any(|gone| !few.contains(gone));
                let too_few = word.and_then(|word| word.too_few.as_ref());
                let is_agreed = word.is_some_and(|word| word.agreed.is_some());
                prop_assert!(too_few.is_none_or(|few| is_agreed || is_more(few)));
                let cannot_tell = !world.can_tell || word.is_some_and(|word| word.needed.is_none());
                if !spawn.asks && !spawn.evict.is_empty() && !cannot_tell {
                    let agreed = word.and_then(|word| word.agreed.as_ref()).expect("the hive's word");
                    prop_assert!(agreed.iter().all(|gone| spawn.evict.contains(gone)));
                }
            }
            Decision::MakeWay(way) => {
                prop_assert!(demand.waited >= Duration::from_secs(5));
                prop_assert_eq!(here.iter().filter(open).count(), 0);
                let is_there = |r: &&R| way.workers.contains(&r.id);
                let told: Vec<_> = world.residents.iter().filter(is_there).collect();
                prop_assert_eq!(told.len(), way.workers.len());
                prop_assert!(told.iter().any(|r| r.is_busy), "those that are idle are ended");
                for r in &told {
                    prop_assert!(r.hive == way.hive && r.device == way.device);
                    prop_assert!(!r.is_busy || (r.load > 0 && !r.keeps_place));
                    prop_assert!(r.makes_way_for.as_ref().is_none_or(|it| *it == model()));
                    let of_model = told.iter().filter(|other| other.model == r.model).count();
                    prop_assert!(of_model <= r.spare as usize, "pinned ones never");
                }
                let fleet = world.fleet();
                let hive = fleet.hives.iter().find(|h| *h.id == way.hive).expect("a known hive");
                let device = hive.devices.iter().find(|d| d.id == way.device).expect("its device");
                let need = |model: &ModelAlias| need_of(&fleet, hive, way.device, model);
                let freed: u64 = told.iter().map(|r| need(&r.model)).sum();
                prop_assert!(device.memory_free_bytes + freed >= need(&model()), "it is enough");
            }
            Decision::Hold(_) => prop_assert!(demand.alone),
            Decision::Wait(reason) => {
                prop_assert!(*reason != WaitReason::Resting || here.iter().any(wakes));
                let can_come = |w: &&W| w.readiness != Ending;
                let awaited = world.workers.iter().filter(suits).any(|w| w.is_awaited);
                let may_return = *reason == WaitReason::News && awaited;
                let memory = world
                    .residents
                    .iter()
                    .any(|r| r.view().is_used() || r.model == model() || r.makes_way_for.is_some());
                let coming = world.is_spawning || !world.claims.is_empty();
                prop_assert!(coming || memory || may_return || here.iter().any(can_come));
            }
            Decision::Reject { .. } => {
                prop_assert!(!here.iter().any(wakes), "it can be waited for");
                // Where all hives have said that it does not fit, they are of no use.
                let has_failed = |h: &H| world.failed.iter().any(|(hive, ..)| *hive == h.id);
                let usable = |h: &H| {
                    h.liveness != Gone && has_file(&h) && !world.can_tell && !has_failed(h)
                };
                prop_assert!(!world.hives.iter().any(usable));
                prop_assert_eq!(here.iter().filter(open).count(), 0);
            }
        }
    }

    #[test]
    fn more_load_never_speaks_for_a_worker(
        world in any_world(), speeds in prop::collection::vec(100_000_u64..9_000_000, 8),
        bytes in 0_u32..20_000, which in 0_usize..8, more in 1_u32..6, is_ours in any::<bool>(),
        alone in any::<bool>(),
    ) {
        let demand = Demand { prompt_bytes: bytes, alone, ..demand() };
        let mut world = world;
        for (worker, service_us) in world.workers.iter_mut().zip(speeds) {
            worker.speed.service_us = service_us;
        }
        let chosen = |world: &World| match world.decide_for(&demand) {
            Decision::Dispatch { worker, .. } => Some(worker),
            _ => None,
        };
        let before = chosen(&world);
        if let Some(worker) = world.workers.get_mut(which) {
            let load = if is_ours { &mut worker.in_flight } else { &mut worker.foreign };
            *load += more;
            let id = worker.id.clone();
            prop_assert!(before.as_ref() == Some(&id) || chosen(&world) != Some(id));
        }
    }

    #[test]
    fn the_order_of_the_list_decides_nothing(world in any_world(), bytes in 0_u32..20_000) {
        let demand = Demand { prompt_bytes: bytes, ..demand() };
        let mut turned = world.clone();
        turned.workers.reverse();
        turned.hives.reverse();
        turned.residents.reverse();
        prop_assert_eq!(turned.decide_for(&demand), world.decide_for(&demand));
    }

    /// Requests with a few beginnings, at workers that keep what they were given.
    #[test]
    fn nobody_is_starved_or_drowned_and_beginnings_are_found_again(
        seed_order in prop::collection::vec(0_usize..4, 60..200),
    ) {
        const BYTES: u32 = 6400;
        let mut workers: Vec<W> = ["a", "b", "c"].iter().map(|name| w(name, 4, 0)).collect();
        let mut held: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); 3];
        let mut running: std::collections::VecDeque<usize> = std::collections::VecDeque::new();
        let mut hits = 0;
        let mut given = [0_usize; 3];
        for prefix in &seed_order {
            for (worker, held) in workers.iter_mut().zip(&held) {
                worker.held_bytes = if held.contains(prefix) { BYTES - 128 } else { 0 };
            }
            let demand = Demand { prompt_bytes: BYTES, ..demand() };
            let Decision::Dispatch { worker, .. } = World::of(&workers, &[]).decide_for(&demand) else {
                panic!("there is room");
            };
            let chosen = workers.iter().position(|w| w.id == worker).unwrap();
            hits += usize::from(!held[chosen].insert(*prefix));
            workers[chosen].in_flight += 1;
            given[chosen] += 1;
            running.push_back(chosen);
            if running.len() > 8 {
                let ended = running.pop_front().unwrap();
                workers[ended].in_flight -= 1;
            }
            for worker in &workers {
                prop_assert!(worker.in_flight <= 6, "{:?} is drowned", worker.id);
            }
        }
        prop_assert!(given.iter().all(|n| *n * 12 >= seed_order.len()), "{given:?}: one is starved");
        prop_assert!(hits * 10 >= (seed_order.len() - 12) * 8, "{hits} of {}", seed_order.len());
    }
}

/// A request of a table.
#[derive(Debug, Clone)]
struct Asked {
    model: ModelAlias,
    failed: Vec<FailedBy>,
    bytes: u32,
    session: Option<WorkerId>,
    digest: Option<Sha256Digest>,
    ways: Ways,
    priority: Priority,
    waited_s: u64,
    left_s: u64,
}

impl Asked {
    fn demand(&self) -> Demand<'_> {
        Demand {
            failed: &self.failed,
            prompt_bytes: self.bytes,
            session: self.session.as_ref(),
            digest: self.digest.as_ref(),
            ways: self.ways,
            priority: self.priority,
            waited: Duration::from_secs(self.waited_s),
            left: Duration::from_secs(self.left_s),
            ..Demand::of(&self.model)
        }
    }
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let failed = prop::collection::vec(
        ("[a-h]", 0_u64..2).prop_map(|(name, process)| FailedBy { worker: id(&name), process }),
        0..3,
    );
    let session = prop::option::of("[a-h]".prop_map(|name| id(&name)));
    let priority = prop_oneof![Just(Priority::Interactive), Just(Priority::Batch)];
    let waited = prop_oneof![Just(0_u64), Just(6), Just(70)];
    (failed, 0_u32..20_000, session, any_digest(), any_ways(), priority, waited, 0_u64..9).prop_map(
        |(failed, bytes, session, digest, ways, priority, waited_s, left_s)| Asked {
            model: model(),
            failed,
            bytes,
            session,
            digest,
            ways,
            priority,
            waited_s,
            left_s,
        },
    )
}

/// That of the file that hives have, another one, or none.
fn any_digest() -> impl Strategy<Value = Option<Sha256Digest>> {
    prop_oneof![2 => Just(None), 1 => Just(Some("0")), 1 => Just(Some("1"))]
        .prop_map(|digit| digit.map(|digit| digit.repeat(64).parse().unwrap()))
}

fn any_ways() -> impl Strategy<Value = Ways> {
    prop_oneof![
        3 => Just(Ways::ALL),
        1 => Just(Ways::TOKENS),
        1 => Just(Ways::PROMPT | Ways::CHAT),
        1 => Just(Ways::OWN),
        1 => Just(Ways::TOKENS | Ways::FORM),
        1 => Just(Ways::TOKENS | Ways::CALL),
        1 => Just(Ways::BEGIN),
    ]
}

fn any_claim() -> impl Strategy<Value = C> {
    let device = prop_oneof![Just("CPU-0"), Just("GPU-0")];
    (device, 0_u64..9, 0_u64..9, 0_u64..9)
        .prop_map(|(device, before, needed, freed)| c(device, before, needed, freed))
}

fn any_word() -> impl Strategy<Value = Wd> {
    let device = prop_oneof![Just("CPU-0"), Just("GPU-0")];
    let model = prop_oneof![3 => Just("m"), 1 => Just("big")];
    let gone = prop::option::of(prop::collection::vec("[p-z]".prop_map(|name| id(&name)), 0..3));
    let needed = prop::option::of(0_u64..12);
    // With some gone there is room, or there is not.
    (device, model, needed, gone, any::<bool>(), any::<bool>()).prop_map(
        |(device, model, needed, gone, is_enough, is_refused)| {
            let (agreed, too_few) = if is_enough { (gone, None) } else { (None, gone) };
            Wd { agreed, is_refused, too_few, ..word(device, model, needed) }
        },
    )
}

fn any_world() -> impl Strategy<Value = World> {
    let workers = prop::collection::vec(any_worker(), 0..8);
    let hives = prop::collection::vec(any_hive(), 0..4);
    let residents = prop::collection::vec(any_resident(), 0..6);
    let claims = prop::collection::vec(any_claim(), 0..3);
    let words = prop::collection::vec(any_word(), 0..4);
    let flags = (any::<bool>(), any::<bool>());
    let failed = prop::collection::vec(any_failed(), 0..2);
    (workers, hives, residents, claims, words, flags, failed).prop_map(
        |(workers, hives, residents, claims, words, (is_spawning, can_tell), failed)| World {
            workers: unique(workers, |w| w.id.clone()),
            hives: unique(hives, |h| h.id.clone()),
            residents: unique(residents, |r| r.id.clone()),
            words: unique(words, |word| (word.device, word.model.clone())),
            claims,
            failed,
            can_tell,
            is_spawning,
            ..World::default()
        },
    )
}

fn any_failed() -> impl Strategy<Value = (HiveAlias, Option<DeviceId>, bool)> {
    let device = prop_oneof![Just("CPU-0"), Just("GPU-0")];
    ("[a-dh]", device, any::<bool>())
        .prop_map(|(hive, device, may_try)| (alias(&hive), device.parse().ok(), may_try))
}

fn any_liveness() -> impl Strategy<Value = Liveness> {
    prop_oneof![Just(Alive), Just(Suspect), Just(Gone)]
}

fn any_worker() -> impl Strategy<Value = W> {
    let readiness =
        prop_oneof![Just(Coming), Just(Ready), Just(Ready), Just(Resting), Just(Ending)];
    let rests = (0_u64..9).prop_map(Duration::from_secs);
    let model = prop_oneof![Just("m"), Just("m"), Just("other")];
    let circuit = prop_oneof![4 => Just(Circuit::Closed), 1 => Just(Circuit::HalfOpen), 1 => Just(Circuit::Open)];
    let load = (1_u32..6, 0_u32..12, 0_u32..4, 0_u32..20_000);
    let free = prop::option::of(0_u32..4_000);
    let is_kept = (prop::bool::weighted(0.1), any::<bool>(), any::<bool>());
    let can = (any_digest(), any_ways(), is_kept, free, rests);
    ("[a-h]", model, readiness, any_liveness(), circuit, load, can).prop_map(
        |(
            name,
            model,
            readiness,
            liveness,
            circuit,
            load,
            (digest, ways, (is_taken, has_beginners, is_listed), free_tokens, rests_for),
        )| {
            let (slots, in_flight, foreign, held) = load;
            let worker = w(&name, slots, in_flight).model(model).state(readiness).live(liveness);
            let worker = worker.foreign(foreign).circuit(circuit).holds(held);
            let is_awaited = is_listed && liveness == Gone && readiness != Ending;
            W {
                rests_for,
                is_awaited,
                is_taken,
                has_beginners,
                free_tokens,
                digest,
                ways,
                ..worker
            }
        },
    )
}

fn any_hive() -> impl Strategy<Value = H> {
    let gpus = prop::option::of(0_u64..16);
    ("[a-dh]", any_liveness(), gpus, 0_u64..3, any::<bool>()).prop_map(
        |(name, liveness, gpu, cpu, has_model)| {
            let hive = h(&name, liveness).cpu(cpu);
            let hive = if let Some(free) = gpu { hive.gpu(free) } else { hive };
            if has_model { hive } else { hive.without_model() }
        },
    )
}

fn any_resident() -> impl Strategy<Value = R> {
    let device = prop_oneof![Just("CPU-0"), Just("GPU-0")];
    let model = prop_oneof![2 => Just("other"), 2 => Just("big"), 1 => Just("m")];
    // One that is busy without requests is being loaded.
    let turn = (
        0_u32..3,
        prop::bool::weighted(0.2),
        prop_oneof![
            4 => Just(None),
            1 => Just(Some("m")),
            1 => Just(Some("third")),
        ],
    );
    ("[p-z]", device, model, 0_u64..9, any::<bool>(), 0_u32..3, any_digest(), turn).prop_map(
        |(name, device, model, idle, is_busy, spare, digest, (load, keeps_place, way))| R {
            is_busy,
            load: if is_busy { load } else { 0 },
            keeps_place,
            makes_way_for: way.map(|model| model.parse().unwrap()),
            spare,
            digest,
            ..r(&name, device, model, idle)
        },
    )
}

fn unique<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(key(item))).collect()
}
