//! What is counted of a worker, and shown.

use super::*;

#[test]
fn a_request_takes_a_slot_for_each_answer() {
    let (registry, now) = registry();
    let mut report = beat("a", WorkerState::Ready, 0);
    report.slots.total = 2;
    registry.worker_beat(report.clone(), now).unwrap();
    let (model, prompt) = (model(), PromptChain::default());
    let ask = |answers| {
        let ask = Ask { answers, ..Ask::of(Demand::of(&model), &prompt) };
        match registry.place(&ask, now) {
            Placed::At(place) => Some(place),
            Placed::Not(decision) => {
                assert_eq!(decision, Decision::Wait(WaitReason::Room));
                None
            }
        }
    };
    let place = ask(4).expect("it is idle");
    assert!(ask(1).is_none() && registry.is_crowded(&place), "two of them run, and two wait");
    (report.slots.busy, report.queued) = (2, 2);
    registry.worker_beat(report.clone(), now).unwrap();
    drop(place);
    assert!(ask(1).is_some(), "nobody else has asked for them");
    (report.slots.busy, report.queued) = (0, 0);
    registry.worker_beat(report, now).unwrap();
    let one = ask(1).unwrap();
    let other = ask(1).expect("a slot is free");
    assert!(ask(1).is_none());
    drop((one, other));
    assert_eq!(registry.workers(now)[0].in_flight, 0);
}

#[test]
fn a_worker_that_was_given_up_is_shown_for_as_long_as_its_hive_lists_it() {
    let (registry, begin) = registry();
    registry.worker_beat(beat("w-1", WorkerState::Ready, 0), begin).unwrap();
    let failed = || listed("w-1", SupervisedState::Failed { reason: "killed".into() });
    for seconds in [1, 30] {
        registry.hive_beat(hive(vec![failed()]), after(begin, seconds)).unwrap();
        let workers = registry.workers(after(begin, seconds));
        let [shown] = &*workers else { panic!("{workers:?}") };
        assert_eq!((shown.said.state.name(), shown.said.model.context_length), ("failed", 2048));
    }
    registry.hive_beat(hive(Vec::new()), after(begin, 31)).unwrap();
    assert!(registry.workers(after(begin, 31)).is_empty());
}
