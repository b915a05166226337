mod absurd;
mod circuits;
mod counted;
mod ends;
mod failing;
mod fitting;
mod names;
mod rests;
mod ruling;
mod starting;
mod twice;
mod unlisted;

use worker_contract::{
    DeviceKind, KvCacheUse, ModelInUse, ModelKind, Restarts, Slots, SupervisedState, Timings,
    Usage, WorkerState,
};

use super::*;
use crate::prompt::PromptChain;
use crate::scheduler::{Decision, Demand, FailedBy, RejectReason, WaitReason};

#[test]
fn a_worker_is_used_from_its_first_report_until_it_is_silent_for_five_intervals() {
    let (registry, start) = registry();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), start).unwrap();
    let gone = take(&registry, start).expect("it is ready").target.gone.clone();

    registry.sweep(after(start, 9));
    assert!(take(&registry, after(start, 9)).is_some(), "suspect is better than none");
    assert!(!gone.is_cancelled());

    registry.sweep(after(start, 10));
    assert!(take(&registry, after(start, 10)).is_none());
    assert!(gone.is_cancelled(), "requests that run on it learn of it");
    assert!(registry.workers(after(start, 10)).is_empty());

    registry.worker_beat(beat("a", WorkerState::Ready, 0), after(start, 11)).unwrap();
    let place = take(&registry, after(start, 11)).expect("it is back");
    assert!(!place.target.gone.is_cancelled());
}

#[test]
fn a_place_is_counted_until_it_is_dropped() {
    let (registry, now) = registry();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    let (first, second) = (take(&registry, now).unwrap(), take(&registry, now).unwrap());
    assert!(take(&registry, now).is_none(), "one slot takes two");
    assert_eq!(registry.workers(now)[0].in_flight, 2);
    drop(first);
    assert!(take(&registry, now).is_some());
    drop(second);
    assert_eq!(registry.workers(now)[0].in_flight, 0);
}

#[test]
fn two_workers_of_one_machine_share_streams_whatever_one_of_them_took_in_a_crowd() {
    let (registry, now) = registry();
    for (name, port) in [("a", 9300), ("b", 9301)] {
        let mut beat = beat(name, WorkerState::Ready, 0);
        beat.slots.total = 4;
        beat.address = format!("http://127.0.0.1:{port}");
        registry.worker_beat(beat, now).unwrap();
    }
    let usage = Usage { prompt_tokens: 40, cached_tokens: 0, completion_tokens: 8 };
    let crowd: Vec<_> = (0..8).map(|_| take(&registry, now).unwrap()).collect();
    for place in &crowd {
        let ms = if place.worker_id.as_str() == "b" { 4000.0 } else { 100.0 };
        let timings = Timings { prefill_ms: ms, decode_ms: ms, ..Timings::default() };
        let answered = Answered { prompt_bytes: 120, usage, timings, ..Answered::default() };
        registry.worker_answered(place, &answered, now);
    }
    drop(crowd);
    registry.sweep(now);
    let (first, second) = (take(&registry, now).unwrap(), take(&registry, now).unwrap());
    assert_ne!(first.worker_id, second.worker_id, "{} / {}", first.why, second.why);
}

#[test]
fn a_long_prompt_goes_to_the_worker_that_reports_room_in_its_kv_cache() {
    let (registry, now) = registry();
    let report = |name: &str, port: u16, used_tokens| {
        let mut beat = beat(name, WorkerState::Ready, 1);
        beat.slots.total = 4;
        beat.address = format!("http://127.0.0.1:{port}");
        beat.kv_cache = KvCacheUse { used_tokens, capacity_tokens: 8192 };
        registry.worker_beat(beat, now).unwrap();
    };
    let (model, prompt) = (model(), PromptChain::of_length(16 * 1024));
    let taken = || match registry.place(&Ask::of(Demand::of(&model), &prompt), now) {
        Placed::At(place) => place.worker_id.clone(),
        Placed::Not(decision) => panic!("{decision:?}"),
    };
    report("a", 9300, 8000);
    report("b", 9301, 100);
    assert_eq!(taken(), id("b"));
    report("a", 9300, 100);
    report("b", 9301, 8000);
    assert_eq!(taken(), id("a"));
}

#[test]
fn a_machine_that_looked_slow_is_believed_to_be_like_others_after_a_while_without_requests() {
    let (registry, now) = registry();
    for name in ["a", "b"] {
        let hive_id = name.parse().unwrap();
        let beat = beat(name, WorkerState::Ready, 0);
        registry.worker_beat(WorkerHeartbeat { hive_id, ..beat }, now).unwrap();
    }
    let usage = Usage { prompt_tokens: 40, cached_tokens: 0, completion_tokens: 8 };
    let answer = |place: &Place, decode_ms, at| {
        let timings = Timings { decode_ms, ..Timings::default() };
        let answered = Answered { prompt_bytes: 120, usage, timings, ..Answered::default() };
        registry.worker_answered(place, &answered, at);
    };
    let places = [take(&registry, now).unwrap(), take(&registry, now).unwrap()];
    let (a, b) = if places[0].worker_id == id("a") { (0, 1) } else { (1, 0) };
    for _ in 0..9 {
        answer(&places[a], 1000.0, now);
        answer(&places[b], 30_000.0, now);
    }
    let slower = |at| {
        registry.sweep(at);
        let state = registry.state();
        let us = |name| state.workers.get(&id(name)).unwrap().speed.service_us;
        us("b") / us("a")
    };
    assert!(slower(now) >= 5, "it is slower: {}", slower(now));
    let later = now + Duration::from_secs(1800);
    for name in ["a", "b"] {
        let hive_id = name.parse().unwrap();
        let beat = beat(name, WorkerState::Ready, 0);
        registry.worker_beat(WorkerHeartbeat { hive_id, ..beat }, later).unwrap();
    }
    for _ in 0..9 {
        answer(&places[a], 1000.0, later);
    }
    assert!(slower(later) < 3, "that was long ago: {}", slower(later));
}

#[test]
fn a_queen_that_has_just_begun_prefers_the_worker_that_reports_to_be_the_faster_one() {
    let (registry, now) = registry();
    for (at, reports) in
        [(0, [("a", 90.0, 1), ("b", 2.0, 1)]), (2, [("a", 5.0, 1), ("b", 60.0, 1)])]
    {
        for (name, tokens_per_second, busy) in reports {
            report(&registry, name, tokens_per_second, busy, after(now, at));
        }
    }
    // What ran there has ended, since it ran through the queen of before.
    let now = after(now, 4);
    for name in ["a", "b"] {
        report(&registry, name, 0.0, 0, now);
    }
    registry.sweep(now);
    let place = take(&registry, now).expect("both are ready");
    assert_eq!(place.worker_id, id("b"), "{}", place.why);
    let usage = Usage { completion_tokens: 8, ..Usage::default() };
    let timings = Timings { decode_ms: 80_000.0, ..Timings::default() };
    let answered = Answered { usage, timings, ..Answered::default() };
    registry.worker_answered(&place, &answered, now);
    drop(place);
    registry.sweep(now);
    assert_eq!(take(&registry, now).unwrap().worker_id, id("a"), "its answers show otherwise");
}

#[test]
fn a_rate_counts_only_where_the_worker_was_busy_at_both_ends_of_its_time() {
    for (because, reports, counts) in [
        ("it is the first one", &[(0, 500.0, 1)][..], false),
        ("it was idle before", &[(0, 0.0, 0), (2, 500.0, 1)], false),
        ("it has ended", &[(0, 0.0, 1), (2, 500.0, 0)], false),
        ("others are missing", &[(0, 0.0, 1), (6, 500.0, 1)], false),
        ("it came beside the other", &[(0, 0.0, 1), (0, 500.0, 1)], false),
        ("it was idle a little", &[(0, 0.0, 1), (2, 500.0, 1), (4, 9.0, 1)], true),
        ("it computed", &[(0, 0.0, 1), (2, 500.0, 1), (4, 0.0, 0)], true),
    ] {
        let (registry, now) = registry();
        for (at, tokens_per_second, busy) in reports {
            report(&registry, "a", *tokens_per_second, *busy, after(now, *at));
        }
        registry.sweep(after(now, reports[reports.len() - 1].0));
        let speed = registry.state().workers.get(&id("a")).unwrap().speed;
        let is_believed = speed == pace::usual(DeviceKind::Cpu);
        assert_eq!(is_believed, !counts, "{because}: {speed:?}");
    }
}

/// A worker at the hive of its name says how much it has given since it spoke last.
fn report(registry: &Registry, name: &str, tokens_per_second: f32, busy: u32, now: Instant) {
    let hive_id = name.parse().unwrap();
    let beat = beat(name, WorkerState::Ready, busy);
    let beat = WorkerHeartbeat { hive_id, tokens_per_second, ..beat };
    registry.worker_beat(beat, now).unwrap();
}

#[test]
fn what_others_send_is_told_from_our_own() {
    let (registry, now) = registry();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    let _ours = take(&registry, now).unwrap();
    registry.worker_beat(beat("a", WorkerState::Ready, 1), now).unwrap();
    let mut other = beat("b", WorkerState::Ready, 0);
    other.slots.total = 2;
    other.slots.busy = 1;
    registry.worker_beat(other, now).unwrap();
    assert_eq!(take(&registry, now).unwrap().worker_id.as_str(), "b", "1 of 2 before 1 of 1");
}

#[test]
fn a_failed_connection_makes_suspect_until_the_next_report() {
    let (registry, now) = registry();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    let place = take(&registry, now).unwrap();
    registry.worker_failed(&place, Failed { request: 1, is_connection: true }, now);
    assert_eq!(registry.workers(now)[0].liveness, Liveness::Suspect);
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    assert_eq!(registry.workers(now)[0].liveness, Liveness::Alive);
}

#[test]
fn a_worker_that_refuses_rests_and_is_asked_again() {
    let (registry, now) = registry();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    registry.worker_rests(&id("a"), Rest::new(503, None, None, now));
    assert!(take(&registry, now).is_none());
    let mut changes = registry.changes();
    registry.sweep(after(now, 1));
    assert!(changes.has_changed().unwrap(), "who waits for it is woken");
    changes.mark_unchanged();
    assert!(take(&registry, after(now, 1)).is_some());
}

#[test]
fn a_hive_knows_first_that_its_worker_is_ready_has_failed_or_is_gone() {
    let (registry, now) = registry();
    let tell = |state| registry.hive_beat(hive(vec![listed("a", state)]), now).unwrap();
    tell(SupervisedState::Starting { progress: 0.5 });
    assert!(matches!(decide(&registry, now), Decision::Wait(_)));
    tell(SupervisedState::Ready);
    let gone = take(&registry, now).expect("before its first own report").target.gone.clone();

    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    tell(SupervisedState::Failed { reason: "signal 9".into() });
    assert!(gone.is_cancelled());
    assert!(take(&registry, now).is_none());
    let shown = &registry.workers(now)[0].said.state;
    assert_eq!(*shown, WorkerState::Failed { reason: "signal 9".into() });

    registry.hive_beat(hive(Vec::new()), now).unwrap();
    assert!(registry.workers(now).is_empty());
}

#[test]
fn what_one_process_of_a_worker_said_is_not_believed_of_the_next() {
    let (registry, now) = registry();
    let tell = |worker| registry.hive_beat(hive(vec![worker]), now).unwrap();
    let ready = SupervisedState::Ready;
    tell(listed("a", ready.clone()));
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    let first = take(&registry, now).expect("it is ready").target.gone.clone();

    tell(between_processes("a"));
    assert!(first.is_cancelled(), "requests that run on it learn of it");
    assert!(matches!(decide(&registry, now), Decision::Wait(_)), "no other one is started");
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    assert!(take(&registry, now).is_none(), "its last words, come late");

    let mut next = listed("a", SupervisedState::Starting { progress: 0.0 });
    (next.pid, next.address) = (2, "http://127.0.0.1:9301".into());
    tell(next.clone());
    assert!(take(&registry, now).is_none());
    tell(SupervisedWorker { state: ready, ..next });
    let place = take(&registry, now).expect("the next one is ready");
    assert_eq!(place.target.address.port, 9301);
    assert!(!place.target.gone.is_cancelled());
    drop(place);

    let mut said = beat("a", WorkerState::Ready, 0);
    (said.pid, said.address) = (2, "http://127.0.0.1:9301".into());
    registry.worker_beat(said, now).unwrap();
    tell(between_processes("a"));
    assert!(take(&registry, now).is_some(), "an old list does not end the next process");
}

#[test]
fn the_last_words_of_a_process_do_not_say_which_secret_a_worker_has() {
    let (registry, now) = registry();
    let report = |shown| {
        let sender = Sender::of(shown);
        registry.worker_beat_by(beat("a", WorkerState::Ready, 0), sender, now).unwrap();
    };
    registry.hive_beat(hive(vec![listed("a", SupervisedState::Ready)]), now).unwrap();
    report(ShownSecret::Own);
    let target = take(&registry, now).expect("it is ready").target.clone();
    assert_eq!(target.shown(), ShownSecret::Own);
    report(ShownSecret::OfHive);
    assert_eq!(target.shown(), ShownSecret::OfHive);
    registry.hive_beat(hive(vec![between_processes("a")]), now).unwrap();
    report(ShownSecret::Own);
    assert_eq!(target.shown(), ShownSecret::OfHive, "its last words, come late");
}

#[test]
fn a_worker_that_reports_from_its_next_process_before_its_hive_does_is_used_at_once() {
    let (registry, now) = registry();
    registry.hive_beat(hive(vec![listed("a", SupervisedState::Ready)]), now).unwrap();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    let first = take(&registry, now).expect("it is ready").target.gone.clone();
    let mut next = beat("a", WorkerState::Ready, 0);
    next.pid = 2;
    registry.worker_beat(next, now).unwrap();
    assert!(first.is_cancelled());
    let place = take(&registry, now).expect("the next one is ready");
    registry.hive_beat(hive(vec![listed("a", SupervisedState::Ready)]), now).unwrap();
    let mut listed = listed("a", SupervisedState::Ready);
    listed.pid = 2;
    registry.hive_beat(hive(vec![listed]), now).unwrap();
    assert!(!place.target.gone.is_cancelled(), "its hive only says the same later");
}

#[test]
fn a_worker_that_only_its_hive_has_told_of_is_forgotten_with_that_hive() {
    let (registry, now) = registry();
    let starting = || SupervisedState::Starting { progress: 0.1 };
    registry.hive_beat(hive(vec![listed("a", starting())]), now).unwrap();
    let known = || registry.state().workers.iter().count();
    registry.sweep(after(now, 9));
    assert_eq!(known(), 1);
    registry.sweep(after(now, 10));
    assert_eq!(known(), 0);
}

#[test]
fn a_silent_worker_does_not_come_back_to_life_by_its_hives_word() {
    let (registry, now) = registry();
    let ready = || hive(vec![listed("a", SupervisedState::Ready)]);
    registry.hive_beat(ready(), now).unwrap();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    let later = after(now, 60);
    registry.hive_beat(ready(), later).unwrap();
    registry.sweep(later);
    registry.hive_beat(ready(), later).unwrap();
    assert!(take(&registry, later).is_none());
    assert_eq!(registry.state().workers.iter().count(), 1);

    registry.sweep(after(later, 60));
    assert_eq!(registry.state().workers.iter().count(), 0, "nobody speaks for it any longer");
}

#[test]
fn a_worker_that_no_hive_lists_is_no_less_a_worker() {
    let (registry, now) = registry();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    registry.hive_beat(hive(Vec::new()), now).unwrap();
    assert!(take(&registry, now).is_some());
}

#[test]
fn a_stopped_hive_takes_its_workers_with_it() {
    let (registry, now) = registry();
    registry.hive_beat(hive(vec![listed("a", SupervisedState::Ready)]), now).unwrap();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    registry.hive_stopped(&HiveAlias::localhost());
    assert!(take(&registry, now).is_none());
    assert_eq!(registry.hives(now)[0].liveness, Liveness::Gone);
}

#[test]
fn a_fresh_queen_waits_for_the_hives_that_she_expects_but_not_for_long() {
    let now = Instant::now();
    let registry = Registry::new(SECOND * 2, vec![HiveAlias::localhost()], now);
    assert!(matches!(decide(&registry, now), Decision::Wait(_)));
    let unknown =
        |decision| matches!(decision, Decision::Reject { reason: RejectReason::UnknownModel, .. });
    assert!(unknown(decide(&registry, after(now, 3))));
    registry.hive_beat(hive(Vec::new()), now).unwrap();
    assert!(unknown(decide(&registry, now)));
}

#[test]
fn a_queen_who_has_run_before_waits_a_moment_for_hives_that_she_does_not_expect() {
    let now = Instant::now();
    let registry = Registry::new(SECOND * 2, Vec::new(), now).with_past();
    let is_unknown = |at| {
        let decision = decide(&registry, at);
        matches!(decision, Decision::Reject { reason: RejectReason::UnknownModel, .. })
    };
    assert!(!is_unknown(after(now, 2)) && is_unknown(after(now, 3)));
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    assert!(take(&registry, now).is_some(), "it runs: nothing is waited for");
}

#[test]
fn a_queen_waits_for_hives_from_when_she_can_be_heard_and_not_while_she_stands_still() {
    let now = Instant::now();
    let registry = Registry::new(SECOND * 2, Vec::new(), now).with_past();
    let waits = |at| matches!(decide(&registry, at), Decision::Wait(_));
    registry.opens(after(now, 20));
    assert!(waits(after(now, 22)) && !waits(after(now, 23)));
    registry.state().excuse(SECOND * 10, after(now, 32));
    assert!(waits(after(now, 32)) && !waits(after(now, 33)));
    registry.state().excuse(SECOND * 60, after(now, 40));
    assert!(waits(after(now, 42)) && !waits(after(now, 43)), "she did not begin later than now");
}

#[test]
fn of_two_processes_with_one_id_the_one_that_its_hive_lists_is_heard_and_keeps_its_requests() {
    for (meant, others) in [(Some(1), [2, 1, 2, 2]), (Some(2), [2, 1, 1, 1]), (None, [2, 1, 2, 1])]
    {
        let (registry, now) = registry();
        if let Some(pid) = meant {
            let lists = SupervisedWorker { pid, ..listed("a", SupervisedState::Ready) };
            registry.hive_beat(hive(vec![lists]), now).unwrap();
        }
        let says = |pid| WorkerHeartbeat {
            address: format!("http://h:{}", 9300 + pid),
            pid,
            ..beat("a", WorkerState::Ready, 0)
        };
        registry.worker_beat(says(1), now).unwrap();
        // Each takes over at most once, until it is clear that both live.
        for pid in [others[0], others[1]] {
            let _ = registry.worker_beat(says(pid), now);
        }
        let place = take(&registry, now).unwrap();
        for pid in others {
            let heard = registry.worker_beat(says(pid), now).is_ok();
            assert_eq!(heard, pid == meant.unwrap_or(2), "{pid} where {meant:?} is meant");
        }
        assert!(!place.target.gone.is_cancelled(), "where {meant:?} is meant");
        assert_eq!(u32::from(place.target.address.port), 9300 + meant.unwrap_or(2));
    }
}

#[test]
fn an_address_that_is_no_base_url_is_refused() {
    let (registry, now) = registry();
    for address in ["", "127.0.0.1:9300", "file:///etc/passwd", "http://h/path", "https://h"] {
        let beat = WorkerHeartbeat { address: address.into(), ..beat("a", WorkerState::Ready, 0) };
        assert!(registry.worker_beat(beat, now).is_err(), "{address:?}");
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn registry() -> (Registry, Instant) {
    let now = Instant::now();
    (Registry::new(SECOND * 2, Vec::new(), now), now)
}

fn after(now: Instant, seconds: u32) -> Instant {
    now + SECOND * seconds
}

const FAILED: Failed = Failed { request: 1, is_connection: false };

fn take(registry: &Registry, now: Instant) -> Option<Place> {
    match place(registry, now) {
        Placed::At(place) => Some(place),
        Placed::Not(_) => None,
    }
}

fn decide(registry: &Registry, now: Instant) -> Decision {
    match place(registry, now) {
        Placed::At(place) => {
            Decision::Dispatch { worker: place.worker_id.clone(), why: place.why.clone() }
        }
        Placed::Not(decision) => decision,
    }
}

fn place(registry: &Registry, now: Instant) -> Placed {
    let (model, prompt) = (model(), PromptChain::default());
    registry.place(&Ask::of(Demand::of(&model), &prompt), now)
}

#[test]
fn a_worker_is_heard_through_its_own_hive_only() {
    let (registry, begin) = registry();
    registry.worker_beat(beat("w-1", WorkerState::Ready, 0), begin).unwrap();
    let stranger: HiveAlias = "gpu-1".parse().unwrap();
    let mut stolen = beat("w-1", WorkerState::Ready, 0);
    stolen.hive_id = stranger.clone();
    stolen.address = "http://10.1.0.9:9300".into();
    let refused = registry.worker_beat(stolen, begin).unwrap_err();
    assert!(matches!(refused, ReportError::Taken { .. }), "{refused}");

    // Nor does another hive's list end it, nor its answer bring one up elsewhere.
    let foreign = listed("w-9", SupervisedState::Ready);
    registry.started_by(&stranger, &foreign, begin);
    assert!(!registry.state().workers.iter().any(|(id, _)| id.as_str() == "w-9"));
    let mut listed = listed("w-1", SupervisedState::Failed { reason: "no".into() });
    listed.hive_id = stranger.clone();
    let report = HiveHeartbeat { hive_id: stranger, ..hive(vec![listed]) };
    registry.hive_beat(report, begin).unwrap();
    let workers = registry.workers(begin);
    assert_eq!((workers.len(), workers[0].said.state.name()), (1, "ready"));
    assert_eq!(workers[0].said.address, "http://127.0.0.1:9300");
}

#[test]
fn a_worker_that_a_hive_has_started_is_not_known_where_the_hive_was_forgotten_meanwhile() {
    let (registry, now) = registry();
    let name: HiveAlias = "gpu-1".parse().unwrap();
    let its = SupervisedWorker { hive_id: name.clone(), ..listed("a", SupervisedState::Ready) };
    for (is_forgotten, expected) in [(false, 1), (true, 0)] {
        let report = HiveHeartbeat { hive_id: name.clone(), ..hive(Vec::new()) };
        registry.hive_beat(report, now).unwrap();
        if is_forgotten {
            registry.forget_hive(&name);
        }
        registry.started_by(&name, &its, now);
        assert_eq!(registry.state().workers.len(), expected);
    }
}

#[test]
fn two_machines_cannot_be_one_hive_at_once() {
    let (registry, begin) = registry();
    let at = |port: u16| HiveHeartbeat {
        address: Some(format!("http://10.1.0.2:{port}")),
        ..hive(Vec::new())
    };
    registry.hive_beat(at(9000), begin).unwrap();
    let refused = registry.hive_beat(at(9001), begin + Duration::from_secs(2)).unwrap_err();
    assert!(refused.to_string().contains("http://10.1.0.2:9000"), "{refused}");
    let late = registry.hive_beat(at(9001), begin + Duration::from_secs(9));
    assert!(late.is_err(), "the first one is late, and may report yet");
    // The first one is gone, so it was this one that moved.
    registry.hive_beat(at(9001), begin + Duration::from_secs(10)).unwrap();
    // One that was stopped on purpose is nobody's rival.
    registry.hive_stopped(&HiveAlias::localhost());
    registry.hive_beat(at(9000), begin + Duration::from_secs(10)).unwrap();
}

/// A worker of two slots.
fn beat(name: &str, state: WorkerState, busy: u32) -> WorkerHeartbeat {
    WorkerHeartbeat {
        worker_id: id(name),
        hive_id: HiveAlias::localhost(),
        address: "http://127.0.0.1:9300".into(),
        model: ModelInUse {
            name: model(),
            digest: None,
            context_length: 2048,
            kind: ModelKind::Generative,
        },
        device: "CPU-0".parse().unwrap(),
        state,
        slots: Slots { total: 2, busy },
        queued: 0,
        kv_cache: KvCacheUse::default(),
        tokens_per_second: 0.0,
        engine_build: String::new(),
        pid: 1,
    }
}

fn listed(name: &str, state: SupervisedState) -> SupervisedWorker {
    SupervisedWorker {
        worker_id: id(name),
        hive_id: HiveAlias::localhost(),
        model: model(),
        device: "CPU-0".parse().unwrap(),
        address: "http://127.0.0.1:9300".into(),
        port: 9300,
        pid: 1,
        started_at: 0,
        state,
        restarts: None,
        memory_bytes: None,
    }
}

#[test]
fn of_two_hives_with_one_name_the_first_stays_and_both_are_told() {
    let (registry, now) = registry();
    let at = |address: Option<&str>, workers| HiveHeartbeat {
        address: address.map(str::to_owned),
        ..hive(workers)
    };
    let first = || at(Some("http://gpu-1:9000"), vec![listed("a", SupervisedState::Ready)]);
    registry.hive_beat(first(), now).unwrap();
    for seconds in 0..10 {
        let now = after(now, seconds);
        let refused = registry.hive_beat(at(Some("http://gpu-2:9000"), Vec::new()), now);
        let ReportError::NameTaken { holder, .. } = refused.unwrap_err() else {
            panic!("it was refused for another reason");
        };
        assert_eq!(holder, "http://gpu-1:9000");
        registry.hive_beat(first(), now).unwrap();
        assert!(take(&registry, now).is_some(), "the first one's workers stay");
        let shown = registry.hives(now).remove(0);
        assert_eq!(shown.rival.as_deref(), Some("http://gpu-2:9000"));
    }
    let now = after(now, 30);
    registry.hive_beat(first(), now).unwrap();
    assert_eq!(registry.hives(now)[0].rival, None, "the other one was given another name");
}

#[test]
fn a_hive_that_comes_back_at_another_address_is_known_again_once_the_first_is_silent() {
    let (registry, now) = registry();
    let at = |port: u16| HiveHeartbeat {
        address: Some(format!("http://127.0.0.1:{port}")),
        ..hive(Vec::new())
    };
    registry.hive_beat(at(1), now).unwrap();
    assert!(registry.hive_beat(at(2), after(now, 2)).is_err());
    registry.hive_beat(at(2), after(now, 10)).unwrap();
    let alias = HiveAlias::localhost();
    assert_eq!(registry.hive_address(&alias).as_deref(), Some("http://127.0.0.1:2"));
    assert_eq!(registry.hives(after(now, 10))[0].rival, None);

    registry.hive_stopped(&alias);
    registry.hive_beat(at(3), after(now, 10)).expect("at once, after it was stopped");
}

/// It starts again, and its process 1 has ended.
fn between_processes(name: &str) -> SupervisedWorker {
    let restarts = Restarts { count: 0, reason: "signal 9".into(), waiting: true };
    let state = SupervisedState::Starting { progress: 0.0 };
    SupervisedWorker { restarts: Some(restarts), ..listed(name, state) }
}

fn hive(workers: Vec<SupervisedWorker>) -> HiveHeartbeat {
    HiveHeartbeat {
        hive_id: HiveAlias::localhost(),
        address: None,
        version: String::new(),
        devices: Vec::new(),
        catalog: Vec::new(),
        workers,
        trouble: None,
    }
}

fn model() -> ModelAlias {
    "m".parse().unwrap()
}

fn id(name: &str) -> WorkerId {
    name.parse().unwrap()
}

#[test]
fn a_request_that_begins_alone_shares_the_worker_soon_after_its_first_token() {
    let (registry, now) = registry();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    let (model, prompt) = (model(), PromptChain::default());
    let ask_at = |alone, at| {
        let demand = Demand { alone, ..Demand::of(&model) };
        match registry.place(&Ask::of(demand, &prompt), at) {
            Placed::At(place) => Some(place),
            Placed::Not(_) => None,
        }
    };
    let ask = |alone| ask_at(alone, now);
    let alone = ask(true).unwrap();
    assert!(ask(false).is_none(), "others keep away");
    registry.worker_works(&alone, now);
    assert!(ask(false).is_none(), "and for a while longer");
    let other = ask_at(false, after(now, 1)).expect("it is shared");
    assert!(!registry.worker_failed(&alone, FAILED, now).was_alone, "it has had company");
    drop((alone, other));
    let alone = ask(true).unwrap();
    assert!(registry.worker_failed(&alone, FAILED, now).was_alone);
    drop(alone);
    let beginner = ask(false).unwrap();
    assert!(ask(true).is_none(), "another one is at the beginning");
    assert!(ask(false).is_none(), "and it is held meanwhile");
    registry.worker_works(&beginner, now);
    let alone = ask(true).expect("it has got something");
    assert!(registry.worker_failed(&alone, FAILED, now).was_alone, "it is known who it was");
    assert!(!registry.worker_failed(&beginner, FAILED, now).was_alone);
    drop(alone);
    assert!(ask(false).is_some(), "nobody waits for it");
}

#[test]
fn a_listed_worker_that_was_silent_for_long_is_used_again_when_it_reports() {
    let (registry, now) = registry();
    let ready = || hive(vec![listed("a", SupervisedState::Ready)]);
    registry.hive_beat(ready(), now).unwrap();
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    registry.hive_beat(ready(), after(now, 11)).unwrap();
    registry.sweep(after(now, 11));
    assert!(take(&registry, after(now, 11)).is_none());
    registry.worker_beat(beat("a", WorkerState::Ready, 0), after(now, 12)).unwrap();
    let place = take(&registry, after(now, 12)).expect("it is back");
    assert!(!place.target.gone.is_cancelled());
}
