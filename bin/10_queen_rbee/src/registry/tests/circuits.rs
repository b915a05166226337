//! What opens the circuits of workers, and what closes them.

use super::*;

#[test]
fn a_process_that_ends_over_many_requests_has_failed_once() {
    for (is_connection, has_opened) in [(true, false), (false, true)] {
        let (registry, now) = registry();
        assert_eq!(fail_three(&registry, is_connection, now), has_opened, "{is_connection}");
    }
}

#[test]
fn that_another_process_closes_a_circuit_is_told_once() {
    let (registry, now) = registry();
    assert!(fail_three(&registry, false, now));
    let next = |pid| WorkerHeartbeat { pid, ..beat("a", WorkerState::Ready, 0) };
    registry.worker_beat(next(1), now).unwrap();
    assert!(registry.take_renewed().is_empty(), "it is the same one");
    registry.worker_beat(next(2), now).unwrap();
    assert_eq!(registry.take_renewed(), [(id("a"), model())]);
    assert!(registry.take_renewed().is_empty());
}

#[test]
fn an_answer_that_was_under_way_closes_the_circuit_and_says_so() {
    let (registry, now) = registry();
    registry.worker_beat(roomy(), now).unwrap();
    let running = take(&registry, now).unwrap();
    assert!(fail_three(&registry, false, now));
    assert!(registry.worker_answered(&running, &Answered::default(), now));
    assert!(!registry.worker_answered(&running, &Answered::default(), now));
}

/// Has a worker fail three requests at one moment; tells whether that opened its circuit.
fn fail_three(registry: &Registry, is_connection: bool, now: Instant) -> bool {
    registry.worker_beat(roomy(), now).unwrap();
    let places: Vec<_> = (0..3).map(|_| take(registry, now).unwrap()).collect();
    let fails =
        |(request, place)| registry.worker_failed(place, Failed { request, is_connection }, now);
    let blames: Vec<_> = (1..).zip(&places).map(fails).collect();
    blames.iter().any(|blame| blame.has_opened)
}

fn roomy() -> WorkerHeartbeat {
    let mut beat = beat("a", WorkerState::Ready, 0);
    beat.slots.total = 4;
    beat
}
