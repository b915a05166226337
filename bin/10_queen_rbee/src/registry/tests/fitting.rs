//! What hives say of their memory, and for which size of a worker that counts.

use std::collections::BTreeMap;

use job_server::JobError;
use rbee_operations::{FitReport, LARGER_THAN_DEVICE, ModelPolicySet, NOT_ENOUGH_MEMORY};
use worker_contract::MemoryNeed;

use super::*;
use crate::doubles::{device, entry};
use crate::scheduler::{Lack, Spawn, WaitReason};

const GIB: u64 = 1 << 30;

/// A queen with policies and one hive, which has the model of 4 GiB.
struct House {
    registry: Registry,
    policies: Policies,
    now: Instant,
    _folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.db");
        let policies = Policies::open(&file, BTreeMap::new(), 0).unwrap();
        let (registry, now) = registry();
        let registry = registry.with_policies(policies.clone());
        let house = Self { registry, policies, now, _folder: folder };
        house.report(64);
        house
    }

    fn report(&self, free_gib: u64) {
        let beat = HiveHeartbeat {
            devices: vec![device("GPU-0", free_gib * GIB)],
            catalog: vec![entry("m", 4 * GIB)],
            ..hive(Vec::new())
        };
        self.registry.hive_beat(beat, self.now).unwrap();
    }

    fn wants_slots(&self, slots: u32) {
        self.wants(&format!(r#"{{"slots":{slots}}}"#));
    }

    fn wants(&self, policy: &str) {
        let change = format!(r#"{{"model":"m","policy":{policy}}}"#);
        let change: ModelPolicySet = serde_json::from_str(&change).unwrap();
        self.policies.set_fields(&change).unwrap();
    }

    fn question(&self) -> Question {
        let size = Size::of(&self.policies.of(&model()));
        self.registry.question(&model(), &spawn(&[]), size).expect("it is in the catalog")
    }

    fn told(&self, question: &Question, gone: &[&str], fits: bool, gib: u64) {
        let need = MemoryNeed {
            device: "GPU-0".parse().unwrap(),
            weights_bytes: gib * GIB,
            mapped_bytes: 0,
            context_bytes: 0,
            compute_bytes: 0,
        };
        let report = FitReport { needs: Some(vec![need]), fits, ..FitReport::unknown() };
        let gone: Vec<_> = gone.iter().map(|name| id(name)).collect();
        self.registry.fit_told(question, &gone, &report, self.now);
    }

    /// What is known by the policy that holds.
    fn word(&self) -> Option<(Option<u64>, Option<usize>)> {
        let policy = |model: &ModelAlias| Some(self.policies.of(model));
        let state = self.registry.state();
        let words = state.words(&policy, self.now);
        let word = words.values().next()?;
        Some((word.needed, word.too_few.map(<[WorkerId]>::len)))
    }

    /// What a start under way is taken to need.
    fn claimed(&self, slots: Option<u32>) -> u64 {
        let (hive, device) = (HiveAlias::localhost(), "GPU-0".parse().unwrap());
        let size = Size { slots, ctx_size: None };
        let _mark = self.registry.begin_spawn(&model(), (&hive, Some(device)), size, &[]);
        let state = self.registry.state();
        state.starts.claims().last().expect("it is under way").needed
    }
}

fn spawn(evict: &[&str]) -> Spawn {
    Spawn {
        hive: HiveAlias::localhost(),
        device: Some("GPU-0".parse().unwrap()),
        evict: evict.iter().map(|name| id(name)).collect(),
        fits: true,
        others: 0,
        by: None,
        lack: Lack::NoWorker,
        asks: true,
    }
}

#[test]
fn a_pinned_model_can_spare_workers_beyond_those_that_it_must_have() {
    for (policy, names, spare) in [
        (r#"{"pin":true}"#, &["a"][..], 0),
        (r#"{"pin":true}"#, &["a", "b"], 1),
        (r#"{"pin":true,"min":2}"#, &["a", "b"], 0),
        (r#"{"pin":false,"min":1}"#, &["a", "b"], 1),
    ] {
        let house = House::new();
        house.wants(policy);
        let its = names.iter().map(|name| listed(name, SupervisedState::Ready));
        house.registry.hive_beat(hive(its.collect()), house.now).unwrap();
        for (port, name) in (9300..).zip(names) {
            let mut beat = beat(name, WorkerState::Ready, 0);
            beat.address = format!("http://127.0.0.1:{port}");
            house.registry.worker_beat(beat, house.now).unwrap();
        }
        let (state, of) = (house.registry.state(), |model: &_| Some(house.policies.of(model)));
        let fleet = state.fleet(&model(), &of, None, house.now);
        let spares: Vec<_> = fleet.residents.iter().map(|resident| resident.spare).collect();
        assert_eq!(spares, vec![spare; names.len()], "{policy}");
    }
}

#[test]
fn a_worker_is_no_reason_to_end_another_one_before_a_hive_lists_it_or_it_has_answered() {
    for (is_listed, has_answered, expected) in
        [(false, false, false), (true, false, true), (false, true, true)]
    {
        let House { registry, policies, now, .. } = &House::new();
        let change = r#"{"model":"m","policy":{"min":1}}"#;
        policies.set_fields(&serde_json::from_str(change).unwrap()).unwrap();
        registry.worker_beat(beat("said", WorkerState::Ready, 0), *now).unwrap();
        let place = take(registry, *now).expect("it says that it is ready");
        if has_answered {
            registry.worker_answered(&place, &Answered::default(), *now);
        }
        drop(place);
        let names = if is_listed { &["real", "said"][..] } else { &["real"][..] };
        let its = names.iter().map(|name| listed(name, SupervisedState::Ready));
        registry.hive_beat(hive(its.collect()), *now).unwrap();

        let replicas = registry.replicas(*now);
        let shown = replicas.iter().find(|replica| replica.id == id("said")).unwrap();
        assert_eq!(shown.is_borne_out, expected);
        let (state, of) = (registry.state(), |model: &_| Some(policies.of(model)));
        let fleet = state.fleet(&model(), &of, None, *now);
        let real = fleet.residents.iter().find(|resident| *resident.id == id("real")).unwrap();
        assert_eq!(real.spare > 0, expected, "listed: {is_listed}, answered: {has_answered}");
    }
}

#[test]
fn what_a_hive_answers_is_said_of_the_policy_that_held_when_it_was_asked() {
    let house = House::new();
    let asked = house.question();
    house.wants_slots(32);
    house.told(&asked, &[], true, 5);
    assert_eq!(house.word(), None, "of 32 slots nothing was asked");
    assert!(!house.registry.knows_need(&house.question()));
    house.told(&house.question(), &[], true, 40);
    assert_eq!(house.word(), Some((Some(40 * GIB), None)));
}

#[test]
fn a_start_claims_what_a_worker_of_its_size_takes_and_no_other() {
    let house = House::new();
    house.wants_slots(32);
    house.told(&house.question(), &[], true, 40);
    assert_eq!(house.claimed(Some(32)), 40 * GIB);
    let guess = 4 * GIB + 4 * GIB / 5;
    assert_eq!(house.claimed(Some(1)), guess, "of a smaller one its hive has said nothing");
    assert_eq!(house.claimed(None), guess);
}

#[test]
fn that_some_are_too_few_is_remembered_until_memory_changes_even_where_more_are_enough() {
    let house = House::new();
    let question = house.question();
    house.told(&question, &["a"], false, 5);
    assert_eq!(house.word(), Some((Some(5 * GIB), None)), "what it takes was only guessed");
    house.told(&question, &["a"], false, 5);
    assert_eq!(house.word(), Some((Some(5 * GIB), Some(1))));
    house.told(&question, &["a", "b"], true, 5);
    assert_eq!(house.word(), Some((Some(5 * GIB), Some(1))), "or it would be asked again");
    house.report(60);
    assert_eq!(house.word(), Some((Some(5 * GIB), None)));
}

#[test]
fn a_place_that_may_get_room_is_told_before_one_that_is_too_small_for_a_model() {
    let house = House::new();
    let at = |device: &str| {
        let spawn = Spawn { device: Some(device.parse().unwrap()), ..spawn(&[]) };
        house.registry.question(&model(), &spawn, Size::default()).unwrap()
    };
    let full = JobError::new(NOT_ENOUGH_MEMORY, "it is full");
    house.registry.memory_refused(&at("GPU-0"), &full, house.now);
    let too_small = JobError::new(LARGER_THAN_DEVICE, "it is too small");
    let later = house.now + Duration::from_secs(1);
    house.registry.memory_refused(&at("CPU-0"), &too_small, later);
    let told = || house.registry.memory_refusal(&model(), later).unwrap().reason;
    assert_eq!(told(), full);
    let report = FitReport {
        fits: false,
        reason: Some("it is too small, too".into()),
        larger_than_device: true,
        ..FitReport::unknown()
    };
    house.registry.fit_told(&at("GPU-0"), &[], &report, later);
    assert_eq!(told().code, LARGER_THAN_DEVICE);
}

#[test]
fn a_pause_of_the_queen_is_no_report_of_a_hive() {
    let house = House::new();
    let alias = HiveAlias::localhost();
    let later = after(house.now, 60);
    assert_eq!(house.registry.hive_heard(&alias, later), Some((house.now, Liveness::Gone)));
    house.registry.state().hives.excuse(SECOND * 60, later);
    let heard = house.registry.hive_heard(&alias, later);
    assert_eq!(heard, Some((house.now, Liveness::Alive)), "it has said nothing since");
}

#[test]
fn who_was_heard_in_a_pause_is_excused_up_to_the_present_only() {
    // When they were heard, how long it is after that, and what they are then, where eight seconds until the
    // tenth are excused.
    let rows = [
        (0, 11, Liveness::Alive),
        (0, 18, Liveness::Gone),
        (9, 15, Liveness::Alive),
        (9, 20, Liveness::Gone),
        (10, 15, Liveness::Alive),
        (10, 20, Liveness::Gone),
    ];
    for (heard, seen, expected) in rows {
        let house = House::new();
        let (heard_at, seen_at) = (after(house.now, heard), after(house.now, seen));
        house.registry.hive_beat(hive(Vec::new()), heard_at).unwrap();
        house.registry.worker_beat(beat("a", WorkerState::Ready, 0), heard_at).unwrap();
        house.registry.state().excuse(SECOND * 8, after(house.now, 10));
        let case = format!("heard at {heard}, seen at {seen}");
        assert_eq!(house.registry.hives(seen_at)[0].liveness, expected, "{case}");
        let state = house.registry.state();
        let due = Due::at(seen_at, SECOND * 2);
        assert_eq!(state.workers.get(&id("a")).unwrap().silence(due), Some(expected), "{case}");
    }
}

#[test]
fn a_worker_whose_start_is_under_way_makes_no_room_though_it_says_that_it_is_idle() {
    let house = House::new();
    let other = ModelEntry { sha256: "1".repeat(64).parse().unwrap(), ..entry("other", 4 * GIB) };
    let report = |free_gib: u64, workers: Vec<SupervisedWorker>| {
        let beat = HiveHeartbeat {
            devices: vec![device("GPU-0", free_gib * GIB)],
            catalog: vec![entry("m", 4 * GIB), other.clone()],
            ..hive(workers)
        };
        house.registry.hive_beat(beat, house.now).unwrap();
    };
    report(6, Vec::new());
    house.told(&house.question(), &[], false, 5);
    let (localhost, gpu) = (HiveAlias::localhost(), "GPU-0".parse().unwrap());
    let size = Size::default();
    let mark = house.registry.begin_spawn(&other.alias, (&localhost, Some(gpu)), size, &[]);
    let mut said = beat("w-1", WorkerState::Ready, 0);
    (said.model.name, said.device) = (other.alias.clone(), gpu);
    house.registry.worker_beat(said, house.now).unwrap();
    let its = || {
        let model = other.alias.clone();
        vec![SupervisedWorker { model, device: gpu, ..listed("w-1", SupervisedState::Ready) }]
    };
    report(1, its());
    assert_eq!(decide(&house.registry, house.now), Decision::Wait(WaitReason::Memory));
    drop(mark);
    report(1, its());
    match decide(&house.registry, house.now) {
        Decision::Spawn(spawn) => assert_eq!(spawn.evict, [id("w-1")]),
        other => panic!("{other:?}"),
    }
}
