//! What somebody's rules say is a value like any other.

use super::*;
use crate::registry::Liveness::Suspect;

#[test]
fn a_worker_that_is_to_be_avoided_is_taken_where_the_others_are_slower_still() {
    let rows: [(&str, &[W], &str); 4] = [
        ("an equal one", &[w("a", 4, 0).slower(1000), w("b", 4, 0)], "b"),
        ("a busy one", &[w("a", 4, 0).slower(1000), w("b", 4, 3)], "a"),
        ("the only one", &[w("a", 4, 0).slower(9_000_000_000)], "a"),
        ("one that is wished for", &[w("a", 4, 0), w("b", 4, 3).slower(-9_000_000)], "b"),
    ];
    for (because, workers, expected) in rows {
        check(because, &World::of(workers, &[]), expected);
    }
}

#[test]
fn what_rules_add_counts_whole_however_long_answers_take() {
    let takes = |worker: W, service_us| W { speed: Speed { service_us, ..worker.speed }, ..worker };
    let nas = |slots, load| takes(w("nas", slots, load), 20_000_000);
    let big = || takes(w("big", 4, 0), 18_000_000);
    let loaded = || takes(w("big", 64, 1), 18_000_000);
    let second = 1_000_000;
    for (because, workers, expected) in [
        ("it is sooner with what is added", [big().slower(3 * second), nas(64, 1)], "nas"),
        ("it is later by more than that", [big().slower(3 * second), nas(4, 1)], "big"),
        (
            "the others are avoided while there is one",
            [big().slower(3600 * second), nas(4, 3)],
            "nas",
        ),
        ("nothing is added: the less loaded one", [big(), nas(64, 1)], "big"),
        ("the same is added", [loaded().slower(9 * second), nas(64, 0).slower(9 * second)], "nas"),
    ] {
        check(because, &World::of(&workers, &[]), expected);
    }
}

#[test]
fn a_place_that_is_refused_is_none_and_one_that_is_to_be_avoided_is_the_last_that_fits() {
    let two = || vec![h("a", Alive).gpu(8), h("b", Alive).gpu(8)];
    let gpu = Some("GPU-0".parse().unwrap());
    let cpu = Some("CPU-0".parse().unwrap());
    let rows = [
        ("refused", vec![(alias("a"), gpu, false, 0)], "spawn b GPU-0"),
        ("avoided", vec![(alias("a"), gpu, true, 1), (alias("a"), cpu, true, 1)], "spawn b GPU-0"),
        ("a CPU that is wished for", vec![(alias("b"), cpu, true, -5)], "spawn b CPU-0"),
        (
            "all but one",
            vec![
                (alias("a"), gpu, false, 0),
                (alias("b"), gpu, false, 0),
                (alias("b"), cpu, false, 0),
            ],
            "spawn a CPU-0",
        ),
    ];
    for (because, ruled, expected) in rows {
        check(because, &World { ruled, ..World::of(&[], &two()) }, expected);
    }
    let full = World {
        ruled: vec![(alias("a"), cpu, true, -9000)],
        ..World::of(&[], &[h("a", Alive).cpu(0), h("b", Alive)])
    };
    check("a wish makes no room", &full, "spawn b CPU-0");
    let silent = World {
        ruled: vec![(alias("a"), cpu, true, -9000)],
        ..World::of(&[], &[h("a", Suspect), h("b", Alive)])
    };
    check("nor does it wake a hive", &silent, "spawn b CPU-0");
    let none =
        World { ruled: vec![(alias("a"), cpu, false, 0)], ..World::of(&[], &[h("a", Alive)]) };
    assert!(matches!(none.decide(), Decision::Reject { .. }));
}
