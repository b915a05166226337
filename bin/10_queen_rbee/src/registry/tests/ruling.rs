//! What the operator's rules say of workers, also of those that take nothing now.

use super::*;
use crate::admission::Priority;
use crate::decisions::Decisions;
use crate::rules::Rules;
use crate::scheduler::MakeWay;

const NO_BATCH: &str = r#"fn filter(request, worker) { request.priority != "batch" }"#;
const IDLE_ONES: &str = "fn filter(request, worker) { worker.requests < 1 }";
const NOT_A: &str = r#"fn filter(request, worker) { worker.id != "a" }"#;
const NONE: &str = "fn filter(request, worker) { false }";

#[test]
fn a_request_waits_for_workers_only_that_the_rules_let_it_have() {
    let (full, loads) = (WorkerState::Ready, WorkerState::Loading { progress: 0.5 });
    for (script, workers, priority, expected) in [
        (NO_BATCH, &[("a", full.clone())][..], Priority::Interactive, "wait room"),
        (NO_BATCH, &[("a", full.clone())], Priority::Batch, "reject Rules"),
        (NO_BATCH, &[("a", loads.clone())], Priority::Interactive, "wait coming"),
        (NO_BATCH, &[("a", loads.clone())], Priority::Batch, "reject Rules"),
        (IDLE_ONES, &[("a", full.clone())], Priority::Interactive, "wait room"),
        (NOT_A, &[("a", full.clone())], Priority::Interactive, "reject Rules"),
        (NOT_A, &[("a", full.clone()), ("b", full.clone())], Priority::Interactive, "wait room"),
        (NOT_A, &[("a", full.clone()), ("b", loads)], Priority::Interactive, "wait coming"),
        (NONE, &[("a", full.clone()), ("b", full)], Priority::Interactive, "reject Rules"),
    ] {
        let (registry, now) = ruled(script);
        for (port, (name, state)) in (9300..).zip(workers) {
            let mut beat = beat(name, state.clone(), 0);
            beat.address = format!("http://127.0.0.1:{port}");
            registry.worker_beat(beat, now).unwrap();
            for _ in 0..2 {
                assert!(is_given_one(&registry, name, now), "it is known");
            }
        }
        assert_eq!(asked(&registry, priority, now), expected, "{script} {workers:?}");
    }
}

#[test]
fn a_silent_worker_is_waited_for_only_where_the_rules_let_the_request_have_it() {
    for (script, expected) in [(IDLE_ONES, "wait news"), (NOT_A, "reject Rules")] {
        let (registry, start) = ruled(script);
        registry.worker_beat(beat("a", WorkerState::Ready, 1), start).unwrap();
        let later = after(start, 12);
        registry.hive_beat(hive(vec![listed("a", SupervisedState::Ready)]), later).unwrap();
        registry.sweep(later);
        assert_eq!(asked(&registry, Priority::Interactive, later), expected, "{script}");
    }
}

#[test]
fn a_worker_that_makes_way_counts_as_it_will_be_when_its_turn_comes() {
    for (script, expected) in [(IDLE_ONES, "wait next_turn"), (NOT_A, "reject Rules")] {
        let (registry, now) = ruled(script);
        registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
        assert!(is_given_one(&registry, "a", now));
        let way = MakeWay {
            hive: HiveAlias::localhost(),
            device: "CPU-0".parse().unwrap(),
            workers: vec![id("a")],
        };
        assert_eq!(registry.make_way(&way, &"other".parse().unwrap(), now), [id("a")]);
        assert_eq!(asked(&registry, Priority::Interactive, now), expected, "{script}");
    }
}

#[test]
fn a_worker_is_judged_as_it_is_when_it_gets_a_request_and_not_as_it_was() {
    let (model, prompt) = (model(), PromptChain::default());
    let ask = Ask::of(Demand::of(&model), &prompt);
    let loads = WorkerState::Loading { progress: 0.5 };
    // How it was when the rules were asked, and how many requests it has then.
    for (was, before, after, expected) in [
        (WorkerState::Ready, 0, 0, Some("at a")),
        (WorkerState::Ready, 0, 1, None),
        (WorkerState::Ready, 1, 0, None),
        (loads.clone(), 0, 0, Some("at a")),
        (loads, 0, 1, None),
    ] {
        let (registry, now) = ruled(IDLE_ONES);
        let report = |state: &WorkerState, busy| {
            registry.worker_beat(beat("a", state.clone(), busy), now).unwrap();
        };
        report(&was, before);
        let judging = registry.judging(&ask).expect("there is a script");
        let judged = || registry.place_judged(&ask, Some(&judging), now).map(told);
        assert_eq!(judged(), None, "it was not asked yet");
        judging.answer();
        report(&WorkerState::Ready, after);
        let row = format!("{was:?} {before} {after}");
        assert_eq!(judged().as_deref(), expected, "{row}");
        if expected.is_none() {
            judging.answer();
            let then = if after == 0 { "at a" } else { "reject Rules" };
            assert_eq!(judged().as_deref(), Some(then), "{row}");
        }
    }
}

fn ruled(script: &str) -> (Registry, Instant) {
    let rules = Rules::none(Decisions::in_memory());
    rules.load(script).unwrap();
    let (registry, now) = registry();
    (registry.with_rules(rules), now)
}

fn asked(registry: &Registry, priority: Priority, now: Instant) -> String {
    let (model, prompt) = (model(), PromptChain::default());
    let ask = Ask { priority, ..Ask::of(Demand::of(&model), &prompt) };
    told(registry.place(&ask, now))
}

fn told(placed: Placed) -> String {
    match placed {
        Placed::At(place) => format!("at {}", place.worker_id),
        Placed::Not(Decision::Wait(reason)) => format!("wait {}", reason.as_str()),
        Placed::Not(Decision::Reject { reason, .. }) => format!("reject {reason:?}"),
        Placed::Not(decision) => format!("{decision:?}"),
    }
}

/// Gives a worker a request.
fn is_given_one(registry: &Registry, name: &str, now: Instant) -> bool {
    let workers = &mut registry.state().workers;
    workers.reserve(&id(name), 1, false, Priority::Interactive, now).is_some()
}
