//! When and where another worker is started, and what is told of those that there are.

use super::*;
use crate::doubles::{device, entry};

#[test]
fn after_one_broken_connection_nobody_starts_another_worker_before_worker_or_hive_have_spoken() {
    let millis = |now: Instant, millis| now + Duration::from_millis(millis);
    let report = || HiveHeartbeat {
        devices: vec![device("CPU-0", 64 << 30)],
        catalog: vec![entry("m", 5 << 30)],
        ..hive(vec![listed("a", SupervisedState::Ready)])
    };
    let broken = || {
        let (registry, now) = registry();
        registry.hive_beat(report(), now).unwrap();
        registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
        let place = take(&registry, now).expect("it is ready");
        let failed = Failed { request: 1, is_connection: true };
        registry.worker_failed(&place, failed, millis(now, 100));
        (registry, now)
    };
    let again = |registry: &Registry, now: Instant| {
        let (model, prompt) = (model(), PromptChain::default());
        let process = registry.state().workers.get(&id("a")).unwrap().holder;
        let failed = [FailedBy { worker: id("a"), process }];
        let demand = Demand { failed: &failed, ..Demand::of(&model) };
        match registry.place(&Ask::of(demand, &prompt), now) {
            Placed::At(place) => place.worker_id.to_string(),
            Placed::Not(decision) => format!("{decision:?}"),
        }
    };
    let (registry, now) = broken();
    for at in [100, 1_500, 2_500] {
        assert_eq!(again(&registry, millis(now, at)), "Wait(News)", "{at} ms");
    }
    let silent = again(&registry, millis(now, 2_700));
    assert!(silent.starts_with("Spawn"), "nobody has spoken for it: {silent}");

    let (registry, now) = broken();
    registry.hive_beat(report(), millis(now, 2_000)).unwrap();
    assert_eq!(again(&registry, millis(now, 2_001)), "a", "its hive says that it is well");

    let (registry, now) = broken();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), millis(now, 2_000)).unwrap();
    assert_eq!(again(&registry, millis(now, 2_001)), "a", "it says so itself");
}

#[test]
fn how_long_a_queue_takes_follows_from_what_its_workers_have_shown() {
    let (registry, now) = registry();
    let seconds = || registry.seconds_for(&model(), 10, now);
    assert_eq!(seconds(), u64::MAX, "there is none");
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    let two = seconds();
    let told = "a processor takes about four seconds a request, and has two slots";
    assert!((15..30).contains(&two), "{told}: {two}");
    let mut second = beat("b", WorkerState::Ready, 0);
    second.slots.total = 6;
    registry.worker_beat(second, now).unwrap();
    assert_eq!(seconds(), two / 4);
}

#[test]
fn where_answers_were_fast_the_next_worker_is_started() {
    let (registry, now) = registry();
    let report = |name: &str, free: u64| HiveHeartbeat {
        hive_id: name.parse().unwrap(),
        devices: vec![device("GPU-0", free)],
        catalog: vec![entry("m", 5 << 30)],
        ..hive(Vec::new())
    };
    let answers = |hive: &str, decode_ms: f64| {
        let (name, hive_id) = (format!("w-{hive}"), hive.parse::<HiveAlias>().unwrap());
        let said = WorkerHeartbeat {
            hive_id,
            device: "GPU-0".parse().unwrap(),
            ..beat(&name, WorkerState::Ready, 0)
        };
        registry.worker_beat(said, now).unwrap();
        let place = take(&registry, now).expect("it is the only one");
        let usage = Usage { completion_tokens: 10, ..Usage::default() };
        let timings = Timings { decode_ms, ..Timings::default() };
        let answered = Answered { usage, timings, ..Answered::default() };
        registry.worker_answered(&place, &answered, now);
        drop(place);
        registry.state().workers.remove(&id(&name));
    };
    registry.hive_beat(report("slow", 64 << 30), now).unwrap();
    registry.hive_beat(report("fast", 32 << 30), now).unwrap();
    let chosen = || match decide(&registry, now) {
        Decision::Spawn(spawn) => spawn.hive.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(chosen(), "slow", "nobody knows better: it has more memory");
    answers("slow", 900.0);
    answers("fast", 300.0);
    assert_eq!(chosen(), "fast");
}

#[test]
fn simple_rules_are_followed_in_a_house_of_a_thousand_workers_and_a_hundred_hives() {
    const SCRIPT: &str = "
        fn filter(request, worker) { worker.hive == \"h-77\" && worker.requests < 2 }
        fn score(request, worker) { if worker.is_gpu { 0 } else { 1_000 } }";
    let (registry, now) = registry();
    let rules = Rules::none(crate::decisions::Decisions::in_memory());
    rules.load(SCRIPT).unwrap();
    let registry = registry.with_rules(rules.clone());
    for number in 0..100 {
        let report = HiveHeartbeat {
            hive_id: format!("h-{number}").parse().unwrap(),
            devices: vec![device("CPU-0", 64 << 30), device("GPU-0", 64 << 30)],
            catalog: vec![entry("m", 5 << 30)],
            ..hive(Vec::new())
        };
        registry.hive_beat(report, now).unwrap();
    }
    assert!(
        matches!(decide(&registry, now), Decision::Spawn(spawn) if spawn.hive.as_str() == "h-77")
    );
    for number in 0..1_000 {
        let said = WorkerHeartbeat {
            hive_id: format!("h-{}", number % 100).parse().unwrap(),
            ..beat(&format!("w-{number}"), WorkerState::Ready, 0)
        };
        registry.worker_beat(said, now).unwrap();
    }
    for _ in 0..10 {
        let place = take(&registry, now).expect("ten of them are there");
        assert!(place.worker_id.as_str().ends_with("77"), "{}", place.worker_id);
    }
    assert_eq!(rules.failures(), 0);
}
