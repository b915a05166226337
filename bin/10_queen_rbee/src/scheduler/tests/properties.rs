use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::registry::Liveness::{Gone, Suspect};
use Readiness::{Coming, Ending};

proptest! {
    #[test]
    fn a_decision_has_the_properties_that_the_readme_promises(
        world in any_world(), failed in prop::collection::vec("[a-h]", 0..3), bytes in 0_u32..20_000,
    ) {
        let failed: Vec<_> = failed.iter().map(|f| id(f)).collect();
        let demand = Demand { failed: &failed, prompt_bytes: bytes, ..demand() };
        let decision = world.decide_for(&demand);
        let here: Vec<_> =
            world.workers.iter().filter(|w| w.model == model() && w.liveness != Gone).collect();
        let open = |w: &&&W| w.readiness == Ready && w.view().has_room() && !failed.contains(&w.id);
        match &decision {
            Decision::Dispatch { worker, why } => {
                let chosen = here.iter().find(|w| w.id == *worker).expect("it serves the model");
                prop_assert!(chosen.readiness == Ready && chosen.view().has_room());
                let expected = |w: &W| w.view().expected_us(bytes);
                let is_probe = chosen.circuit == Circuit::HalfOpen;
                for other in here.iter().filter(open).filter(|w| w.liveness == Alive) {
                    prop_assert!(is_probe || expected(chosen) <= expected(other) + 250_000);
                }
                prop_assert_eq!(&why.chosen.worker, worker);
                prop_assert!(why.next.as_ref().is_none_or(|next| next.worker != *worker));
            }
            Decision::Spawn(spawn) => {
                let chosen = world.hives.iter().find(|h| h.id == spawn.hive).expect("a known hive");
                prop_assert!(!chosen.catalog.is_empty() && chosen.liveness != Gone);
                prop_assert!(!world.is_spawning);
                prop_assert!(!here.iter().any(|w| w.readiness == Coming));
                prop_assert_eq!(here.iter().filter(open).count(), 0);
                for evicted in &spawn.evict {
                    let gone = world.residents.iter().find(|r| r.id == *evicted).expect("a resident");
                    prop_assert!(!gone.is_busy);
                    let of_model = |id: &&WorkerId| {
                        world.residents.iter().any(|r| r.id == **id && r.model == gone.model)
                    };
                    let ended = spawn.evict.iter().filter(of_model).count();
                    prop_assert!(ended <= gone.spare as usize);
                    prop_assert!(gone.hive == spawn.hive && Some(gone.device) == spawn.device);
                }
            }
            Decision::Wait(_) => {
                let can_come = |w: &&W| w.readiness != Ending;
                let memory = world.residents.iter().any(|r| r.is_busy);
                prop_assert!(world.is_spawning || memory || here.iter().any(can_come));
            }
            Decision::Reject { .. } => {
                let usable = |h: &H| h.liveness != Gone && !h.catalog.is_empty();
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

fn any_world() -> impl Strategy<Value = World> {
    let workers = prop::collection::vec(any_worker(), 0..8);
    let hives = prop::collection::vec(any_hive(), 0..4);
    let residents = prop::collection::vec(any_resident(), 0..6);
    (workers, hives, residents, any::<bool>()).prop_map(
        |(workers, hives, residents, is_spawning)| World {
            workers: unique(workers, |w| w.id.clone()),
            hives: unique(hives, |h| h.id.clone()),
            residents: unique(residents, |r| r.id.clone()),
            is_spawning,
            ..World::default()
        },
    )
}

fn any_liveness() -> impl Strategy<Value = Liveness> {
    prop_oneof![Just(Alive), Just(Suspect), Just(Gone)]
}

fn any_worker() -> impl Strategy<Value = W> {
    let readiness = prop_oneof![Just(Coming), Just(Ready), Just(Ready), Just(Ending)];
    let model = prop_oneof![Just("m"), Just("m"), Just("other")];
    let circuit = prop_oneof![4 => Just(Circuit::Closed), 1 => Just(Circuit::HalfOpen), 1 => Just(Circuit::Open)];
    let load = (1_u32..6, 0_u32..12, 0_u32..4, 0_u32..20_000);
    ("[a-h]", model, readiness, any_liveness(), circuit, load).prop_map(
        |(name, model, readiness, liveness, circuit, (slots, in_flight, foreign, held))| {
            let worker = w(&name, slots, in_flight).model(model).state(readiness).live(liveness);
            worker.foreign(foreign).circuit(circuit).holds(held)
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
    let model = prop_oneof![Just("other"), Just("big")];
    ("[p-z]", device, model, 0_u64..9, any::<bool>(), 0_u32..3).prop_map(
        |(name, device, model, idle, is_busy, spare)| R {
            is_busy,
            spare,
            ..r(&name, device, model, idle)
        },
    )
}

fn unique<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(key(item))).collect()
}
