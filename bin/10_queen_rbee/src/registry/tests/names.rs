//! Names of one file, and names that are meant by others.

use std::collections::BTreeMap;

use super::*;
use crate::admission::QueueKey;
use crate::attached::Engine;
use crate::decisions::Decisions;
use crate::doubles::entry;
use crate::scheduler::MakeWay;

/// A hive with a file by two names, and a worker that runs it by the first.
fn two_names(worker: WorkerHeartbeat) -> (Registry, Instant) {
    // What lives is told by the clock itself.
    let now = clock::now();
    let registry = Registry::new(SECOND * 2, Vec::new(), now);
    let catalog = vec![entry("m", 1), entry("again", 1)];
    registry.hive_beat(HiveHeartbeat { catalog, ..hive(Vec::new()) }, now).unwrap();
    registry.worker_beat(worker, now).unwrap();
    (registry, now)
}

fn with_file(digit: &str) -> WorkerHeartbeat {
    let mut beat = beat("a", WorkerState::Ready, 0);
    beat.model.digest = Some(digit.repeat(64).parse().unwrap());
    beat
}

fn again() -> ModelAlias {
    "again".parse().unwrap()
}

/// What becomes of a request for the second name.
fn asked(registry: &Registry, now: Instant) -> String {
    asked_with(registry, None, now)
}

/// The same with the file that it must go on with.
fn asked_with(registry: &Registry, digit: Option<&str>, now: Instant) -> String {
    let (again, prompt) = (again(), PromptChain::default());
    let digest = digit.map(|digit| digit.repeat(64).parse().unwrap());
    let demand = Demand { digest: digest.as_ref(), ..Demand::of(&again) };
    match registry.place(&Ask::of(demand, &prompt), now) {
        Placed::At(place) => format!("{} as {}", place.worker_id, place.model),
        Placed::Not(Decision::Wait(reason)) => format!("wait {}", reason.as_str()),
        Placed::Not(Decision::Spawn(_)) => "spawn".to_owned(),
        Placed::Not(Decision::Reject { reason, .. }) => format!("reject {reason:?}"),
        Placed::Not(decision) => format!("{decision:?}"),
    }
}

#[test]
fn names_of_one_file_share_its_worker() {
    let (registry, now) = two_names(with_file("0"));
    assert_eq!(asked(&registry, now), "a as m");
    assert_eq!(asked_with(&registry, Some("0"), now), "a as m", "it goes on with this file");
    assert!(!registry.is_coming(&again()));

    let mut own = with_file("0");
    (own.worker_id, own.model.name) = (id("b"), again());
    registry.worker_beat(own, now).unwrap();
    assert_eq!(asked(&registry, now), "b as again", "it has a worker of its own");
}

#[test]
fn an_idle_worker_of_the_file_takes_what_those_of_the_name_have_no_room_for() {
    // The other name may have left the catalogs since its worker began.
    for names in [vec!["m", "again"], vec!["again"]] {
        let (registry, now) = two_names(with_file("0"));
        let folder = tempfile::tempdir().unwrap();
        let policies = Policies::open(&folder.path().join("p.db"), BTreeMap::new(), 0).unwrap();
        let registry = registry.with_policies(policies.clone());
        let catalog = names.iter().map(|name| entry(name, 1)).collect();
        registry.hive_beat(HiveHeartbeat { catalog, ..hive(Vec::new()) }, now).unwrap();
        let mut own = with_file("0");
        (own.worker_id, own.model.name) = (id("b"), again());
        registry.worker_beat(own, now).unwrap();
        let mut other = with_file("1");
        other.worker_id = id("c");
        registry.worker_beat(other, now).unwrap();
        let (model, prompt) = (again(), PromptChain::default());
        let mut held = Vec::new();
        // One slot takes two; of two that are alike its own is the first.
        for expected in ["b", "a", "b", "a"] {
            match registry.place(&Ask::of(Demand::of(&model), &prompt), now) {
                Placed::At(place) => held.push(place),
                Placed::Not(decision) => panic!("{decision:?}"),
            }
            assert_eq!(held.last().unwrap().worker_id, id(expected));
        }
        assert_eq!(asked(&registry, now), "wait room", "c has another file");
        held.retain(|place| place.worker_id != id("a"));
        assert_eq!(asked(&registry, now), "a as m", "its own is full");
        assert_eq!(asked_with(&registry, Some("0"), now), "a as m");
        let change = serde_json::from_str(r#"{"model":"again","policy":{"slots":8}}"#).unwrap();
        policies.set_fields(&change).unwrap();
        assert_eq!(asked(&registry, now), "wait room", "the name has wishes of its own");
        assert_eq!(asked_with(&registry, Some("0"), now), "wait room");
    }
}

#[test]
fn names_that_are_no_more_are_forgotten_and_those_that_run_a_file_are_not() {
    let (registry, now) = two_names(with_file("0"));
    let catalog = vec![entry("again", 1)];
    registry.hive_beat(HiveHeartbeat { catalog, ..hive(Vec::new()) }, now).unwrap();
    for number in 0..500 {
        let mut renamed = with_file("0");
        renamed.model.name = format!("m-{number}").parse().unwrap();
        registry.worker_beat(renamed, now).unwrap();
    }
    registry.sweep(now);
    assert_eq!(asked(&registry, now), "a as m-499");
    registry.worker_beat(with_file("0"), now).unwrap();
    assert_eq!(asked(&registry, now), "a as m");
}

#[test]
fn names_that_share_workers_share_a_queue_and_one_with_wishes_has_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let policies = Policies::open(&folder.path().join("p.db"), BTreeMap::new(), 0).unwrap();
    let (registry, now) = two_names(with_file("0"));
    let registry = registry.with_policies(policies.clone());
    let file = |digit: &str| QueueKey::File(digit.repeat(64).parse().unwrap());
    let queues = || [model(), again()].map(|name| registry.queue_of(&name));
    assert_eq!(queues(), [file("0"), file("0")]);
    let unknown: ModelAlias = "unknown".parse().unwrap();
    assert_eq!(registry.queue_of(&unknown), QueueKey::Name(unknown));

    let set = |json: &str| policies.set_fields(&serde_json::from_str(json).unwrap()).unwrap();
    set(r#"{"model":"again","policy":{"slots":8}}"#);
    assert_eq!(queues(), [file("0"), QueueKey::Name(again())]);
    set(r#"{"model":"again","reset":true}"#);
    let catalog = vec![entry("m", 1)];
    registry.hive_beat(HiveHeartbeat { catalog, ..hive(Vec::new()) }, now).unwrap();
    assert_eq!(queues(), [file("0"), QueueKey::Name(again())], "no catalog has it any longer");
    let another = ModelEntry { sha256: "1".repeat(64).parse().unwrap(), ..entry("again", 1) };
    registry.catalogued(&HiveAlias::localhost(), another);
    assert_eq!(queues(), [file("0"), file("1")]);
}

#[test]
fn a_worker_of_its_own_that_cannot_serve_takes_nobody_from_a_name() {
    let (registry, now) = two_names(with_file("0"));
    assert_eq!(registry.answers_as(&again()), Some(model()));
    assert_eq!(registry.answers_as(&model()), None);
    let mut own = with_file("0");
    (own.worker_id, own.model.name) = (id("b"), again());
    own.state = WorkerState::Loading { progress: 0.5 };
    registry.worker_beat(own.clone(), now).unwrap();
    assert_eq!(asked(&registry, now), "a as m", "its own loads");
    assert!(registry.is_coming(&again()));
    assert_eq!(registry.answers_as(&again()), None, "its own comes first");

    own.state = WorkerState::Ready;
    registry.worker_beat(own, now).unwrap();
    assert_eq!(asked(&registry, now), "b as again");
    let way = MakeWay {
        hive: HiveAlias::localhost(),
        device: "GPU-0".parse().unwrap(),
        workers: vec![id("b")],
    };
    assert_eq!(registry.make_way(&way, &"third".parse().unwrap(), now), [id("b")]);
    assert_eq!(asked(&registry, now), "a as m", "its own makes way");
}

#[test]
fn a_server_of_somebody_else_that_rests_or_loads_is_no_worker_that_comes() {
    let (registry, now) = two_names(with_file("1"));
    let mut report = ServerReport {
        name: "other".parse().unwrap(),
        url: "http://server:8000/v1".parse().unwrap(),
        engine: Engine::Ollama,
        slots: 4,
        most_answers: None,
        names_its_model: false,
        is_named: true,
        models: vec![Served {
            worker_id: id("served"),
            alias: again(),
            name: "again".into(),
            context_length: 4096,
        }],
        failure: None,
    };
    registry.server_probed(&report, now);
    assert_eq!(asked(&registry, now), "served as again");
    registry.worker_rests(&id("served"), Rest::new(429, None, None, now));
    assert!(!registry.is_coming(&again()), "it rests");
    let reason = "it loads".to_owned();
    report.failure = Some(ServerFailure { kind: FailureKind::Loading, reason });
    registry.server_probed(&report, now);
    assert!(!registry.is_coming(&again()), "it loads");
}

#[test]
fn a_worker_is_shared_also_before_it_is_ready_and_not_with_another_file_or_when_it_ends() {
    let loading = WorkerState::Loading { progress: 0.5 };
    for (because, worker, expected) in [
        ("another file", with_file("1"), "spawn"),
        ("nobody knows its file", beat("a", WorkerState::Ready, 0), "spawn"),
        ("it loads", WorkerHeartbeat { state: loading, ..with_file("0") }, "wait coming"),
        ("it ends", WorkerHeartbeat { state: WorkerState::Draining, ..with_file("0") }, "spawn"),
    ] {
        let (registry, now) = two_names(worker);
        assert_eq!(asked(&registry, now), expected, "{because}");
        assert_eq!(registry.is_coming(&again()), expected == "wait coming", "{because}");
    }
}

#[test]
fn a_start_of_the_same_file_by_another_name_is_waited_for_and_one_of_another_file_is_not() {
    let (registry, now) = two_names(with_file("1"));
    let other: HiveAlias = "other".parse().unwrap();
    let mut another = entry("m", 1);
    another.sha256 = "1".repeat(64).parse().unwrap();
    let beat = HiveHeartbeat { hive_id: other.clone(), catalog: vec![another], ..hive(Vec::new()) };
    registry.hive_beat(beat, now).unwrap();
    for (hive, expected) in [(HiveAlias::localhost(), "wait coming"), (other, "spawn")] {
        let start = registry.begin_spawn(&model(), (&hive, None), Size::default(), &[]);
        assert_eq!(asked(&registry, now), expected, "{hive}");
        assert_eq!(registry.is_starting_for(&again()), expected == "wait coming", "{hive}");
        drop(start);
        assert_eq!(asked(&registry, now), "spawn", "it has ended");
    }
    // Its hive lists it before it has said anything itself.
    let listed = listed("b", SupervisedState::Starting { progress: 0.1 });
    let catalog = vec![entry("m", 1), entry("again", 1)];
    registry.hive_beat(HiveHeartbeat { catalog, ..hive(vec![listed]) }, now).unwrap();
    assert_eq!(asked(&registry, now), "wait coming");
}

#[test]
fn a_worker_that_gets_nothing_for_a_while_is_why_all_its_names_wait_unless_another_is_coming() {
    let (registry, now) = two_names(with_file("0"));
    let is_shut = |because: &str, expected: Option<&str>| {
        for name in [model(), again()] {
            assert_eq!(registry.shut_worker(&name, now), expected.map(id), "{because}: {name}");
        }
    };
    is_shut("it works", None);
    for request in 0..3 {
        let place = take(&registry, now).expect("it is ready");
        registry.worker_failed(&place, Failed { request, is_connection: false }, now);
    }
    is_shut("it has failed three requests", Some("a"));
    let start =
        registry.begin_spawn(&model(), (&HiveAlias::localhost(), None), Size::default(), &[]);
    is_shut("one is being started", None);
    drop(start);
    is_shut("it has ended", Some("a"));
    let state = WorkerState::Loading { progress: 0.5 };
    let mut loading = WorkerHeartbeat { state, ..with_file("0") };
    (loading.worker_id, loading.address) = (id("b"), "http://127.0.0.1:9301".into());
    registry.worker_beat(loading, now).unwrap();
    is_shut("one loads", None);
}

#[test]
fn of_a_name_that_stands_for_two_files_only_the_workers_with_the_right_one_are_shared() {
    let (registry, now) = two_names(with_file("1"));
    let mut right = with_file("0");
    (right.worker_id, right.address) = (id("b"), "http://127.0.0.1:9301".into());
    right.hive_id = "other".parse().unwrap();
    registry.worker_beat(right, now).unwrap();
    for _ in 0..3 {
        assert_eq!(asked(&registry, now), "b as m");
    }
}

#[test]
fn a_name_with_wishes_of_its_own_gets_its_own_worker_and_rules_are_asked_about_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let policies = Policies::open(&folder.path().join("policies.db"), BTreeMap::new(), 0).unwrap();
    let (registry, now) = two_names(with_file("0"));
    let registry = registry.with_policies(policies.clone());
    assert_eq!(asked(&registry, now), "a as m");
    let change = serde_json::from_str(r#"{"model":"again","policy":{"slots":8}}"#).unwrap();
    policies.set_fields(&change).unwrap();
    assert_eq!(asked(&registry, now), "spawn");
    assert_eq!(asked_with(&registry, Some("0"), now), "a as m", "an answer goes on with its file");

    let rules = Rules::none(Decisions::in_memory());
    let (registry, now) = two_names(with_file("0"));
    let registry = registry.with_rules(rules.clone());
    rules.load("fn filter(request, worker) { request.model == \"again\" }").unwrap();
    assert_eq!(asked(&registry, now), "a as m");
    rules.load("fn filter(request, worker) { request.model == \"m\" }").unwrap();
    assert_eq!(asked(&registry, now), "reject Rules");
}

#[test]
fn a_name_that_nobody_has_is_that_of_the_latest() {
    let (registry, now) = registry();
    let name = |name: &str| name.parse::<ModelAlias>().unwrap();
    let meant = |asked: &str| registry.meant(&name(asked)).to_string();
    assert_eq!(meant("tiny"), "tiny", "there is none at all");
    let has = |names: &[&str]| {
        let catalog = names.iter().map(|name| entry(name, 1)).collect();
        registry.hive_beat(HiveHeartbeat { catalog, ..hive(Vec::new()) }, now).unwrap();
    };
    has(&["tiny:latest"]);
    assert_eq!((meant("tiny"), meant("tiny:latest")), ("tiny:latest".into(), "tiny:latest".into()));
    assert_eq!(meant("tin"), "tin");
    has(&["tiny", "tiny:latest"]);
    assert_eq!(meant("tiny"), "tiny", "its own name comes first");
}
