//! Workers that have fallen silent.

use super::*;
use crate::registry::Liveness::Gone;
use Readiness::Coming;

#[test]
fn who_has_nobody_else_waits_for_a_silent_worker_that_its_hive_may_start_again() {
    let silent = |name: &str| w(name, 4, 0).live(Gone);
    let awaited = |name: &str| W { is_awaited: true, ..silent(name) };
    let barred = [id("a")];
    let failed = || vec![(alias("h"), Some("CPU-0".parse().unwrap()), false)];
    let (plain, without_a) = (demand(), Demand { barred: &barred, ..demand() });
    let hasty = Demand { has_another_way: true, ..demand() };
    let (hives, none) = (vec![h("h", Alive)], Vec::new);
    let rows = [
        ("it is back soon", vec![awaited("a")], vec![], none(), &plain, "wait news"),
        ("all are silent", vec![awaited("a"), silent("b")], vec![], none(), &plain, "wait news"),
        ("another one has room", vec![awaited("a"), w("b", 4, 0)], vec![], none(), &plain, "b"),
        (
            "another one loads",
            vec![awaited("a"), w("b", 4, 0).state(Coming)],
            vec![],
            none(),
            &plain,
            "wait coming",
        ),
        ("one is started", vec![awaited("a")], hives.clone(), none(), &plain, "spawn h CPU-0"),
        ("none can be started", vec![awaited("a")], hives, failed(), &plain, "wait news"),
        (
            "it was silent for long",
            vec![silent("a")],
            vec![],
            none(),
            &plain,
            "reject UnknownModel None",
        ),
        (
            "it does not suit",
            vec![awaited("a")],
            vec![],
            none(),
            &without_a,
            "reject UnknownModel None",
        ),
    ];
    let nobody = "reject UnknownModel None";
    let anew = ("it begins anew", vec![awaited("a")], vec![], none(), &hasty, nobody);
    for (because, workers, hives, failed, demand, expected) in rows.into_iter().chain([anew]) {
        let world = World { workers, hives, failed, ..World::default() };
        assert_eq!(outcome(&world.decide_for(demand)), expected, "{because}");
    }
}
