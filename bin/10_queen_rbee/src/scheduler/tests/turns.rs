//! Who makes way for a request that has waited, and where a start has failed.

use super::*;

/// What is shown, who is there, and what is decided.
type Residents<'a> = (&'a str, Vec<R>, &'a str);

/// A request that has waited for so long, where only the card could have the model, whose hive says what it
/// needs.
fn after(seconds: u64, residents: &[R], more: impl FnOnce(&mut World)) -> String {
    let words = vec![word("GPU-0", "m", Some(4)), word("CPU-0", "m", Some(9))];
    let hives = [h("h", Alive).cpu(0).gpu(0)];
    let residents = residents.to_vec();
    let mut world = World { can_tell: true, residents, words, ..World::of(&[], &hives) };
    more(&mut world);
    outcome(&world.decide_for(&Demand { waited: Duration::from_secs(seconds), ..demand() }))
}

fn busy(name: &str, gib: u64) -> R {
    r(name, "GPU-0", "other", 0).has(gib).busy()
}

#[test]
fn who_has_waited_for_long_has_those_make_way_that_are_needed_the_least_and_no_more_than_must() {
    let third = |name, gib| r(name, "GPU-0", "third", 3).has(gib);
    let rows: [Residents<'_>; 15] = [
        ("the one that is busy", vec![busy("a", 4)], "way h GPU-0 -a"),
        (
            "it has less to finish",
            vec![busy("a", 4).runs_so_many(3), third("b", 4).busy()],
            "way h GPU-0 -b",
        ),
        (
            "its model has another one",
            vec![busy("a", 4), third("b", 4).runs_so_many(2), third("c", 1).kept().busy()],
            "way h GPU-0 -b",
        ),
        ("one is not enough", vec![busy("a", 2), third("b", 2).busy()], "way h GPU-0 -b -a"),
        (
            "a small one is not needed",
            vec![busy("a", 1), third("b", 4).runs_so_many(2)],
            "way h GPU-0 -b",
        ),
        ("an idle one goes with it", vec![busy("a", 2), third("b", 2)], "way h GPU-0 -b -a"),
        (
            "all together are too small",
            vec![busy("a", 1), third("b", 1)],
            "reject NowhereToStart Some(5)",
        ),
        ("it is pinned", vec![busy("a", 4).kept()], "reject NowhereToStart Some(5)"),
        ("it has just begun", vec![busy("a", 4).keeps_place()], "wait memory"),
        (
            "it is idle for a moment of its turn",
            vec![busy("a", 2), r("b", "GPU-0", "third", 0).has(2).keeps_place()],
            "wait memory",
        ),
        ("it is being loaded", vec![busy("a", 4).runs_so_many(0)], "wait memory"),
        (
            "it makes way for another model",
            vec![busy("a", 4).makes_way_for("third")],
            "wait memory",
        ),
        (
            "it was told before",
            vec![busy("a", 4), busy("b", 4).runs_so_many(5).makes_way_for("m")],
            "way h GPU-0 -b",
        ),
        (
            "one that makes way for it is idle",
            vec![third("a", 4).makes_way_for("m"), third("b", 4)],
            "ask h GPU-0 -a",
        ),
        (
            "one that is idle is kept for another",
            vec![third("a", 4).makes_way_for("x")],
            "wait memory",
        ),
    ];
    for (because, residents, expected) in rows {
        // The order in which they are listed decides nothing.
        let turned: Vec<R> = residents.iter().rev().cloned().collect();
        for residents in [residents, turned] {
            assert_eq!(after(6, &residents, |_| {}), expected, "{because}");
        }
    }
}

#[test]
fn nobody_makes_way_at_once_nor_where_a_start_is_under_way() {
    let one = [busy("a", 4)];
    assert_eq!(after(4, &one, |_| {}), "wait memory");
    let claimed = |world: &mut World| world.claims = vec![c("GPU-0", 0, 0, 0)];
    assert_eq!(after(6, &one, claimed), "wait memory", "who knows what that will leave?");
    let late = |world: &mut World| world.hives[0].liveness = Liveness::Suspect;
    assert_eq!(after(6, &one, late), "wait memory");
    let batch = |seconds| {
        let words = vec![word("GPU-0", "m", Some(4)), word("CPU-0", "m", Some(9))];
        let hives = [h("h", Alive).cpu(0).gpu(0)];
        let residents = one.to_vec();
        let world = World { can_tell: true, residents, words, ..World::of(&[], &hives) };
        let waited = Duration::from_secs(seconds);
        outcome(&world.decide_for(&Demand { priority: Priority::Batch, waited, ..demand() }))
    };
    assert_eq!((batch(50).as_str(), batch(60).as_str()), ("wait memory", "way h GPU-0 -a"));
}

#[test]
fn where_a_start_has_failed_nothing_is_tried_for_a_while_and_nobody_is_ended_for_longer() {
    let words = [word("GPU-0", "m", Some(1)).without(&["a"]), word("CPU-0", "m", Some(3))];
    let residents = [r("a", "GPU-0", "other", 9)];
    let full = || h("h", Alive).cpu(0).gpu(0);
    let gpu = |may_try| (alias("h"), Some("GPU-0".parse::<DeviceId>().unwrap()), may_try);
    let other = || h("i", Alive);
    let rows = [
        ("it is paused", vec![full()], gpu(false), "reject NowhereToStart Some(5)"),
        ("others are spared", vec![full()], gpu(true), "reject NowhereToStart Some(5)"),
        ("nobody has to go", vec![full().gpu_has(8)], gpu(true), "spawn h GPU-0"),
        (
            "it is paused all the same",
            vec![full().gpu_has(8)],
            gpu(false),
            "reject NowhereToStart Some(5)",
        ),
        ("another device has room", vec![full().cpu(4)], gpu(false), "spawn h CPU-0"),
        ("another hive has", vec![full(), other()], gpu(false), "spawn i CPU-0"),
    ];
    for (because, hives, failed, expected) in rows {
        let world = World {
            can_tell: true,
            failed: vec![failed],
            words: words.to_vec(),
            residents: residents.to_vec(),
            ..World::of(&[], &hives)
        };
        check(because, &world, expected);
    }
}

#[test]
fn another_worker_that_must_be_is_tried_elsewhere_where_its_best_place_has_failed() {
    let place = |failed| {
        let world =
            World { failed, ..World::of(&[], &[h("h", Alive).gpu(8), h("i", Alive).gpu(4)]) };
        let spawn = place_another(&world.fleet(), &model(), true);
        spawn.map(|spawn| outcome(&Decision::Spawn(spawn)))
    };
    let failed =
        |hive, device: &str| (alias(hive), Some(device.parse::<DeviceId>().unwrap()), false);
    assert_eq!(place(vec![]).as_deref(), Some("spawn h GPU-0"));
    assert_eq!(place(vec![failed("h", "GPU-0")]).as_deref(), Some("spawn i GPU-0"));
    let all = ["h", "i"].map(|hive| ["GPU-0", "CPU-0"].map(|device| failed(hive, device)));
    assert_eq!(place(all.concat()), None);
}
