use super::*;
use crate::registry::Liveness::Gone;
use Readiness::{Coming, MakesWay};

/// What becomes of a request that has a minute left.
fn decide(world: &World) -> String {
    outcome(&world.decide_for(&Demand { left: Duration::from_secs(60), ..demand() }))
}

fn refused(worker: &str, retry_after_s: u64) -> String {
    let reason = RejectReason::Resting { worker: id(worker) };
    format!("reject {reason:?} {:?}", Some(retry_after_s))
}

#[test]
fn a_server_that_rests_is_waited_for_only_where_that_is_over_in_time() {
    let short = || w("a", 4, 0).rests(5_000);
    let long = || w("a", 4, 0).rests(60_500);
    let full = || w("b", 4, 8);
    let rows: [(&str, Vec<W>, String); 12] = [
        ("it is over soon", vec![short()], "wait resting".into()),
        ("it is over just in time", vec![w("a", 4, 0).rests(60_000)], "wait resting".into()),
        ("it takes too long", vec![long()], refused("a", 61)),
        ("one is over in time", vec![long(), w("b", 4, 0).rests(9_000)], "wait resting".into()),
        ("the first is told", vec![long(), w("b", 4, 0).rests(60_001)], refused("b", 61)),
        ("another one takes it", vec![short(), w("b", 4, 3)], "b".into()),
        ("another one is full", vec![long(), full()], "wait room".into()),
        ("another one is coming", vec![long(), w("b", 4, 0).state(Coming)], "wait coming".into()),
        (
            "another one has its turn again",
            vec![long(), w("b", 4, 0).state(MakesWay)],
            "wait next_turn".into(),
        ),
        (
            "another one may work again",
            vec![long(), w("b", 4, 0).circuit(Circuit::Open)],
            "wait circuit".into(),
        ),
        ("another one is gone", vec![long(), w("b", 4, 0).live(Gone)], refused("a", 61)),
        ("it is gone itself", vec![short().live(Gone)], "reject UnknownModel None".into()),
    ];
    for (because, workers, expected) in rows {
        assert_eq!(decide(&World::of(&workers, &[])), expected, "{because}");
    }
}

#[test]
fn where_a_hive_has_the_model_a_worker_is_started_beside_a_server_that_rests() {
    let servers = |millis| [w("a", 4, 0).rests(millis)];
    let busy = || r("b", "CPU-0", "big", 0).busy();
    for (because, millis, world, expected) in [
        ("it rests for long", 60_500, World::default(), "spawn h CPU-0".to_owned()),
        ("it rests for a moment", 1_000, World::default(), "spawn h CPU-0".to_owned()),
        (
            "one is being started",
            60_500,
            World { is_spawning: true, ..World::default() },
            "wait coming".to_owned(),
        ),
        (
            "it has as many as it may have",
            60_500,
            World { has_enough: true, ..World::default() },
            refused("a", 61),
        ),
        (
            "it could not be started",
            60_500,
            World {
                failed: vec![(alias("h"), Some("CPU-0".parse().unwrap()), false)],
                ..World::default()
            },
            refused("a", 61),
        ),
    ] {
        let (workers, hives) = (servers(millis).to_vec(), vec![h("h", Alive)]);
        assert_eq!(decide(&World { workers, hives, ..world }), expected, "{because}");
    }
    for (millis, expected) in [(60_500, "wait memory"), (1_000, "wait resting")] {
        let full = World::of(&servers(millis), &[h("h", Alive).cpu(0)]);
        assert_eq!(decide(&World { residents: vec![busy()], ..full }), expected, "{millis}");
    }
    let gone = World::of(&servers(60_500), &[h("h", Gone)]);
    assert_eq!(decide(&gone), refused("a", 61), "its hive is gone");
}

#[test]
fn a_start_beside_a_server_that_rests_is_told_as_that() {
    let lack = |workers: &[W]| match World::of(workers, &[h("h", Alive)]).decide() {
        Decision::Spawn(spawn) => spawn.lack,
        decision => panic!("{decision:?}"),
    };
    let rests = || w("a", 4, 0).rests(1_000);
    assert_eq!(lack(&[rests()]), Lack::Resting);
    assert_eq!(lack(&[rests(), w("b", 4, 0).circuit(Circuit::Open)]), Lack::Resting);
    assert_eq!(lack(&[rests().live(Gone)]), Lack::NoWorker);
}

#[test]
fn who_cannot_go_to_a_server_does_not_wait_until_it_has_rested() {
    let barred = [id("a")];
    let demand = Demand { barred: &barred, ..demand() };
    let world = World::of(&[w("a", 4, 0).rests(1_000)], &[]);
    assert_eq!(outcome(&world.decide_for(&demand)), "reject Unable None");
}
