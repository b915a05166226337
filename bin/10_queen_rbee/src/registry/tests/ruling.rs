//! What the operator's rules say of workers, also of those that take nothing now.

use super::*;
use crate::admission::Priority;
use crate::decisions::Decisions;
use crate::rules::Rules;

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
                let given = registry.state().workers.reserve(&id(name), false, now).is_some();
                assert!(given, "it is known");
            }
        }
        assert_eq!(asked(&registry, priority, now), expected, "{script} {workers:?}");
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
    match registry.place(&ask, now) {
        Placed::At(place) => format!("at {}", place.worker_id),
        Placed::Not(Decision::Wait(reason)) => format!("wait {}", reason.as_str()),
        Placed::Not(Decision::Reject { reason, .. }) => format!("reject {reason:?}"),
        Placed::Not(decision) => format!("{decision:?}"),
    }
}
