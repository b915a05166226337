use super::*;

/// What is shown, a hive, who is there, the words of hives, and what is decided.
type Words<'a> = (&'a str, H, Vec<R>, Vec<Wd>, &'a str);
/// What is shown, what a token took where, and what is decided.
type Paces<'a> = (&'a str, &'a [(&'a str, &'a str, u64)], &'a str);
/// What is shown, who may not have reported, who has, and what is decided.
type WarmUps<'a> = (&'a str, WarmUp, &'a [W], &'a [H], &'a str);
use crate::registry::Liveness::{Gone, Suspect};
use Readiness::Ending;

#[test]
fn a_worker_is_started_where_none_can_serve() {
    let rows: [(&str, &[W]); 4] = [
        ("there is none", &[]),
        ("it is gone", &[w("a", 4, 0).live(Gone)]),
        ("it is ending", &[w("a", 4, 0).state(Ending)]),
        ("it runs another model", &[w("a", 4, 0).model("other")]),
    ];
    for (because, workers) in rows {
        check(because, &World::of(workers, &[h("h", Alive)]), "spawn h CPU-0");
    }
}

#[test]
fn the_place_is_a_gpu_with_room_before_anything_else() {
    let rows: [(&str, &[H], &str); 6] = [
        ("a GPU before the CPU", &[h("h", Alive).gpu(8)], "spawn h GPU-0"),
        ("a full GPU after the CPU", &[h("h", Alive).gpu(0)], "spawn h CPU-0"),
        ("the larger GPU", &[h("a", Alive).gpu(4), h("b", Alive).gpu(8)], "spawn b GPU-0"),
        ("one that reports", &[h("a", Suspect).gpu(8), h("b", Alive)], "spawn b CPU-0"),
        ("equals by name", &[h("b", Alive), h("a", Alive)], "spawn a CPU-0"),
        ("no device is listed", &[h("a", Alive).bare()], "spawn a"),
    ];
    for (because, hives, expected) in rows {
        check(because, &World::of(&[], hives), expected);
    }
}

#[test]
fn the_longest_idle_workers_make_room_and_no_more_of_them_than_must() {
    let world = |residents: &[R]| World {
        residents: residents.to_vec(),
        ..World::of(&[], &[h("h", Alive).cpu(0).gpu(0)])
    };
    let idle = |name, seconds| r(name, "GPU-0", "other", seconds);
    let big = r("big", "GPU-0", "big", 5);
    let small = |name, seconds| r(name, "GPU-0", "small", seconds);
    let rows: [(&str, &[R], &str); 7] = [
        ("two small ones", &[small("a", 9), small("b", 8), small("c", 1)], "spawn h GPU-0 -a -b"),
        ("the longest idle", &[idle("a", 1), idle("b", 8), idle("c", 9)], "spawn h GPU-0 -c"),
        ("a large one suffices", &[small("a", 9), big.clone()], "spawn h GPU-0 -big"),
        ("pinned ones stay", &[idle("a", 9).kept(), big.clone()], "spawn h GPU-0 -big"),
        ("busy ones stay", &[idle("a", 9).busy(), big.clone()], "spawn h GPU-0 -big"),
        ("all are busy", &[big.clone().busy()], "wait memory"),
        ("nothing would help", &[small("a", 9)], "spawn h GPU-0"),
    ];
    for (because, residents, expected) in rows {
        check(because, &world(residents), expected);
    }
}

#[test]
fn what_a_start_under_way_will_take_is_taken() {
    let world =
        |hive: H, claims: &[C]| World { claims: claims.to_vec(), ..World::of(&[], &[hive]) };
    let gpu = |free| h("h", Alive).gpu(free);
    let rows: [(&str, H, &[C], &str); 8] = [
        ("nothing is started", gpu(2), &[], "spawn h GPU-0"),
        ("room for one only", gpu(2), &[c("GPU-0", 2, 1, 0)], "spawn h CPU-0"),
        ("room for both", gpu(4), &[c("GPU-0", 4, 2, 0)], "spawn h GPU-0"),
        ("it is loaded already", gpu(2), &[c("GPU-0", 4, 2, 0)], "spawn h GPU-0"),
        ("those that end give room", gpu(0), &[c("GPU-0", 0, 4, 8)], "spawn h CPU-0"),
        ("and they have ended", gpu(8), &[c("GPU-0", 0, 4, 8)], "spawn h GPU-0"),
        ("two of them", gpu(4), &[c("GPU-0", 4, 2, 0), c("GPU-0", 4, 2, 0)], "spawn h CPU-0"),
        (
            "everything is taken, and will be idle some day",
            gpu(4).cpu(2),
            &[c("GPU-0", 4, 3, 0), c("CPU-0", 2, 2, 0)],
            "wait memory",
        ),
    ];
    for (because, hive, claims, expected) in rows {
        check(because, &world(hive, claims), expected);
    }
}

#[test]
fn a_hive_is_asked_before_anybody_is_ended_and_where_it_matters_what_a_model_takes() {
    let full = || h("h", Alive).cpu(0).gpu(0);
    // The weights have 1 GiB, and are taken for 1.2 with what is beyond them.
    let tight = || h("h", Alive).cpu(0).gpu(1);
    let idle = || vec![r("a", "GPU-0", "other", 9)];
    let of_m = |device, needed| word(device, "m", needed);
    let gpu = |gib| of_m("GPU-0", Some(gib));
    let cpu = || of_m("CPU-0", Some(9));
    let big = || vec![r("a", "GPU-0", "other", 9).has(5)];
    let rows: [Words<'_>; 16] = [
        ("there is room in any case", h("h", Alive).gpu(8), vec![], vec![], "spawn h GPU-0"),
        ("there may be", tight(), vec![], vec![], "ask h GPU-0"),
        ("a slower place has it", tight().cpu(8), vec![], vec![], "ask h GPU-0"),
        ("there is", tight(), vec![], vec![gpu(1)], "spawn h GPU-0"),
        ("there is none", tight(), vec![], vec![gpu(2), cpu()], "reject NowhereToStart Some(5)"),
        (
            "there will be, some day",
            tight(),
            vec![r("b", "GPU-0", "big", 0).busy()],
            vec![gpu(2), cpu()],
            "wait memory",
        ),
        (
            "the one that it named is enough",
            full(),
            vec![r("a", "GPU-0", "other", 9), r("b", "GPU-0", "third", 5)],
            vec![gpu(2).without(&["b"])],
            "spawn h GPU-0 -b",
        ),
        ("one would have to go", full(), idle(), vec![], "ask h GPU-0 -a"),
        ("it has too little", full(), idle(), vec![gpu(5), cpu()], "reject NowhereToStart Some(5)"),
        ("its hive tells that it has more", full(), big(), vec![gpu(5), cpu()], "ask h GPU-0 -a"),
        ("it does not say that this helps", full(), idle(), vec![gpu(1)], "ask h GPU-0 -a"),
        ("it does", full(), idle(), vec![gpu(1).without(&["a"])], "spawn h GPU-0 -a"),
        ("with another one gone", full(), idle(), vec![gpu(1).without(&["b"])], "ask h GPU-0 -a"),
        (
            "it refuses",
            full(),
            idle(),
            vec![gpu(1).refused(), cpu()],
            "reject NowhereToStart Some(5)",
        ),
        ("another place is left", full().cpu(4), idle(), vec![gpu(1).refused()], "spawn h CPU-0"),
        (
            "it cannot tell",
            full(),
            idle(),
            vec![of_m("GPU-0", None), of_m("CPU-0", None)],
            "spawn h GPU-0 -a",
        ),
    ];
    for (because, hive, residents, words, expected) in rows {
        let world = World { can_tell: true, residents, words, ..World::of(&[], &[hive]) };
        check(because, &world, expected);
    }
}

#[test]
fn where_some_would_be_too_few_more_are_asked_about_and_none_of_them_alone_again() {
    let full = || h("h", Alive).cpu(0).gpu(0);
    let a = || r("a", "GPU-0", "other", 9).has(3);
    let b = || r("b", "GPU-0", "third", 5).has(1);
    let gpu = || word("GPU-0", "m", Some(2));
    let cpu = || word("CPU-0", "m", Some(9));
    let rows: [Words<'_>; 9] = [
        ("by its size one does", full(), vec![a(), b()], vec![gpu()], "ask h GPU-0 -a"),
        (
            "its hive says that it does not",
            full(),
            vec![a(), b()],
            vec![gpu().not_even_without(&["a"]), cpu()],
            "ask h GPU-0 -a -b",
        ),
        (
            "both do",
            full(),
            vec![a(), b()],
            vec![gpu().without(&["a", "b"]).not_even_without(&["a"]), cpu()],
            "spawn h GPU-0 -a -b",
        ),
        (
            "not even both",
            full(),
            vec![a(), b()],
            vec![gpu().not_even_without(&["a", "b"]), cpu()],
            "reject NowhereToStart Some(5)",
        ),
        (
            "there is no other one",
            full(),
            vec![a()],
            vec![gpu().not_even_without(&["a"]), cpu()],
            "reject NowhereToStart Some(5)",
        ),
        (
            "the other one will be idle some day",
            full(),
            vec![a(), b().busy()],
            vec![gpu().not_even_without(&["a"]), cpu()],
            "wait memory",
        ),
        (
            "what is told to be free is not",
            full().gpu_has(8),
            vec![a(), b()],
            vec![gpu().not_even_without(&[]), cpu()],
            "ask h GPU-0 -a",
        ),
        (
            "it cannot tell what is needed, but that it is too much as it is",
            full(),
            vec![a().kept()],
            vec![word("GPU-0", "m", None).not_even_without(&[]), cpu()],
            "reject NowhereToStart Some(5)",
        ),
        (
            "another place is left",
            full().cpu(4),
            vec![a()],
            vec![gpu().not_even_without(&["a"])],
            "spawn h CPU-0",
        ),
    ];
    for (because, hive, residents, words, expected) in rows {
        let world = World { can_tell: true, residents, words, ..World::of(&[], &[hive]) };
        check(because, &world, expected);
    }
}

#[test]
fn an_idle_worker_of_the_model_makes_room_for_one_that_must_have_another_file() {
    let needed: Sha256Digest = "0".repeat(64).parse().unwrap();
    let place = |resident: R, digest| {
        let world =
            World { residents: vec![resident], ..World::of(&[], &[h("h", Alive).cpu(0).gpu(0)]) };
        outcome(&world.decide_for(&Demand { digest, ..demand() }))
    };
    let m = || r("a", "GPU-0", "m", 9);
    for (because, resident, digest, expected) in [
        ("it has another file", m().runs("1"), Some(&needed), "spawn h GPU-0 -a"),
        ("it is busy", m().runs("1").busy(), Some(&needed), "wait memory"),
        ("it is pinned", m().runs("1").kept(), Some(&needed), "wait memory"),
        ("it has the very file", m().runs("0"), Some(&needed), "wait memory"),
        ("nobody knows its file", m(), Some(&needed), "wait memory"),
        ("any file does", m().runs("1"), None, "wait memory"),
    ] {
        assert_eq!(place(resident, digest), expected, "{because}");
    }
}

#[test]
fn what_others_take_is_what_their_hive_has_said_too() {
    let big = || vec![r("a", "GPU-0", "big", 9), r("b", "GPU-0", "other", 8)];
    let words = vec![word("GPU-0", "m", Some(4)).without(&[]), word("GPU-0", "big", Some(2))];
    let world = World {
        can_tell: true,
        residents: big(),
        words,
        ..World::of(&[], &[h("h", Alive).cpu(0).gpu(1)])
    };
    check("a big one that gives 2 GiB back does not do", &world, "spawn h GPU-0 -a -b");
}

#[test]
fn a_worker_of_the_very_model_makes_no_room_for_another_one() {
    let residents = vec![r("a", "GPU-0", "m", 9)];
    let full = |residents| World { residents, ..World::of(&[], &[h("h", Alive).cpu(0).gpu(0)]) };
    check("it would be loaded again in its place", &full(residents.clone()), "wait memory");
    let other = [residents, vec![r("b", "GPU-0", "other", 1)]].concat();
    check("another one goes", &full(other), "spawn h GPU-0 -b");
}

#[test]
fn the_fastest_device_is_the_one_that_has_shown_to_be() {
    let two = || vec![h("a", Alive).gpu(8), h("b", Alive).gpu(4)];
    let world = |shown: &[(&str, &str, u64)]| World {
        token_us: shown
            .iter()
            .map(|(hive, device, us)| (alias(hive), device.parse().unwrap(), *us))
            .collect(),
        ..World::of(&[], &two())
    };
    let rows: [Paces<'_>; 6] = [
        ("nobody has: more memory", &[], "spawn a GPU-0"),
        ("a faster GPU", &[("a", "GPU-0", 60_000), ("b", "GPU-0", 20_000)], "spawn b GPU-0"),
        ("about as fast", &[("a", "GPU-0", 24_000), ("b", "GPU-0", 23_500)], "spawn a GPU-0"),
        ("another one is as fast, for all one knows", &[("b", "GPU-0", 60_000)], "spawn a GPU-0"),
        (
            "a fast processor",
            &[("a", "GPU-0", 60_000), ("b", "GPU-0", 50_000), ("b", "CPU-0", 9_000)],
            "spawn b CPU-0",
        ),
        (
            "processors that nobody has seen are no faster",
            &[("a", "GPU-0", 600_000), ("b", "GPU-0", 600_000)],
            "spawn a GPU-0",
        ),
    ];
    for (because, shown, expected) in rows {
        check(because, &world(shown), expected);
    }
}

#[test]
fn a_device_that_nobody_has_seen_is_tried_before_anybody_is_ended_on_one_that_is_fast() {
    let gpu = |name: &str, product: &str, free| {
        let mut hive = h(name, Alive).cpu(0).gpu(free);
        hive.devices[1].name = product.into();
        hive
    };
    let idle = R { hive: alias("a"), ..r("w", "GPU-0", "big", 60) };
    let of = |hives: Vec<H>, shown: &[(&str, &str, u64)]| World {
        residents: vec![idle.clone()],
        token_us: shown
            .iter()
            .map(|(hive, device, us)| (alias(hive), device.parse().unwrap(), *us))
            .collect(),
        ..World::of(&[], &hives)
    };
    let shown = &[("a", "GPU-0", 500)][..];
    for (because, hives, shown, expected) in [
        ("a card like it", vec![gpu("a", "x", 0), gpu("b", "x", 4)], shown, "spawn b GPU-0"),
        (
            "another card that may be as fast",
            vec![gpu("a", "x", 0), gpu("b", "y", 4)],
            &[("a", "GPU-0", 2_500)][..],
            "spawn b GPU-0",
        ),
        (
            "another card that is likely to be much slower",
            vec![gpu("a", "x", 0), gpu("b", "y", 4)],
            shown,
            "spawn a GPU-0 -w",
        ),
        (
            "with room on both the known one",
            vec![gpu("a", "x", 2), gpu("b", "y", 4)],
            shown,
            "spawn a GPU-0",
        ),
        (
            "it has shown to be slow",
            vec![gpu("a", "x", 0), gpu("b", "x", 4)],
            &[("a", "GPU-0", 500), ("b", "GPU-0", 5_000)][..],
            "spawn a GPU-0 -w",
        ),
        (
            "a processor, before nobody has seen one",
            vec![gpu("a", "x", 0), h("b", Alive)],
            shown,
            "spawn a GPU-0 -w",
        ),
    ] {
        check(because, &of(hives, shown), expected);
    }
    // Of two machines without a card the second one gets the second model.
    let full = R { device: "CPU-0".parse().unwrap(), ..idle.clone() };
    let world = World {
        residents: vec![full],
        token_us: vec![(alias("a"), "CPU-0".parse().unwrap(), 9_000)],
        ..World::of(&[], &[h("a", Alive).cpu(0), h("b", Alive)])
    };
    check("both processors", &world, "spawn b CPU-0");
    let Decision::Spawn(spawn) = world.decide() else { panic!("nothing is started") };
    assert_eq!(spawn.by, Some(Advantage::FewerEnds));
}

#[test]
fn a_worker_in_its_turn_that_is_idle_between_two_requests_is_not_ended() {
    let world = |resident| World {
        residents: vec![resident],
        ..World::of(&[], &[h("h", Alive).cpu(0).gpu(0)])
    };
    let idle = |seconds| r("a", "GPU-0", "other", seconds);
    for (because, resident, expected) in [
        ("it had a request a moment ago", idle(1).keeps_place(), "wait memory"),
        ("that is a while ago", idle(2).keeps_place(), "spawn h GPU-0 -a"),
        ("its turn is over", idle(0), "spawn h GPU-0 -a"),
        ("it is pinned", idle(1).keeps_place().kept(), "spawn h GPU-0"),
    ] {
        check(because, &world(resident), expected);
    }
}

#[test]
fn a_much_better_place_is_waited_for_while_its_worker_was_used_a_moment_ago() {
    let world = |resident: R, wish: Option<&str>| World {
        residents: vec![resident],
        wish: wish.map(|device| (alias("h"), Some(device.parse().unwrap()))),
        ..World::of(&[], &[h("h", Alive).gpu(0)])
    };
    let used = || r("a", "GPU-0", "other", 1).keeps_place();
    let idle = || r("a", "GPU-0", "other", 2).keeps_place();
    for (because, resident, wish, waited, expected) in [
        ("a card before a processor", used(), None, 0, "wait memory"),
        ("it was long enough", used(), None, 5, "spawn h CPU-0"),
        ("it is idle", idle(), None, 0, "spawn h GPU-0 -a"),
        ("it runs something", used().busy(), None, 0, "spawn h CPU-0"),
        ("another one is wished for", used(), Some("CPU-0"), 0, "spawn h CPU-0"),
        ("it is wished for", used(), Some("GPU-0"), 0, "wait memory"),
    ] {
        let demand = Demand { waited: Duration::from_secs(waited), ..demand() };
        let decision = world(resident, wish).decide_for(&demand);
        assert_eq!(outcome(&decision), expected, "{because}");
    }
    let shown = |us| (alias("h"), "CPU-0".parse().unwrap(), us);
    let gpu = |us| (alias("h"), "GPU-0".parse().unwrap(), us);
    for (because, cpu_us, expected) in
        [("it is as fast", 9_000, "spawn h CPU-0"), ("it is far slower", 40_000, "wait memory")]
    {
        let token_us = vec![shown(cpu_us), gpu(8_000)];
        check(because, &World { token_us, ..world(used(), None) }, expected);
    }
}

#[test]
fn a_model_does_not_lose_more_workers_than_it_has_beyond_its_least() {
    let pair = |spare| {
        let idle = |name, seconds| r(name, "GPU-0", "small", seconds).spare(spare);
        let residents = vec![idle("a", 9), idle("b", 8), r("c", "GPU-0", "other", 1)];
        World { residents, ..World::of(&[], &[h("h", Alive).cpu(0).gpu(0)]) }
    };
    check("both may go", &pair(2), "spawn h GPU-0 -a -b");
    check("one of them may, and is too small", &pair(1), "spawn h GPU-0 -c");
    check("none may", &pair(0), "spawn h GPU-0 -c");
}

#[test]
fn a_gpu_comes_before_the_fewest_ended_workers() {
    let residents = vec![r("a", "GPU-0", "big", 5)];
    let world = World { residents, ..World::of(&[], &[h("h", Alive).gpu(0)]) };
    check("an idle one is ended for the GPU", &world, "spawn h GPU-0 -a");
}

#[test]
fn a_wish_for_a_place_is_heard_while_the_place_reports() {
    let hives = [h("a", Alive).gpu(8), h("b", Alive)];
    let wish = |hive: &str, device: Option<&str>| {
        Some((alias(hive), device.map(|device| device.parse().unwrap())))
    };
    let world = |wish| World { wish, ..World::of(&[], &hives) };
    check("the hive", &world(wish("b", None)), "spawn b CPU-0");
    check("the device", &world(wish("a", Some("CPU-0"))), "spawn a CPU-0");
    check("it is not there", &world(wish("c", None)), "spawn a GPU-0");
}

#[test]
fn where_a_start_failed_it_is_not_tried_again_for_the_same_request() {
    let hives = [h("a", Alive).gpu(8), h("b", Alive)];
    let sites = [
        (alias("a"), Some("GPU-0".parse().unwrap())),
        (alias("b"), Some("CPU-0".parse().unwrap())),
        (alias("a"), Some("CPU-0".parse().unwrap())),
    ];
    let expected =
        ["spawn a GPU-0", "spawn a CPU-0", "spawn a CPU-0", "reject NowhereToStart Some(5)"];
    for (tried, expected) in expected.iter().enumerate() {
        let demand = Demand { refused: &sites[..tried], ..demand() };
        assert_eq!(outcome(&World::of(&[], &hives).decide_for(&demand)), *expected);
    }
}

#[test]
fn nothing_is_started_twice_and_a_fresh_queen_waits_for_reports() {
    let spawning = World { is_spawning: true, ..World::of(&[], &[h("h", Alive)]) };
    check("one is being started", &spawning, "wait coming");
    let fresh =
        |warm_up, workers: &[W], hives: &[H]| World { warm_up, ..World::of(workers, hives) };
    let hive = || [h("h", Alive)];
    let rows: [WarmUps<'_>; 6] = [
        ("nobody has reported", WarmUp::Expected, &[], &[], "wait warm_up"),
        ("it may run elsewhere", WarmUp::Expected, &[], &hive(), "wait warm_up"),
        ("it runs", WarmUp::Expected, &[w("a", 1, 0)], &hive(), "a"),
        ("all have reported", WarmUp::Others, &[], &hive(), "spawn h CPU-0"),
        ("somebody else may have it", WarmUp::Others, &[], &[], "wait warm_up"),
        ("nobody has it", WarmUp::Over, &[], &[], "reject UnknownModel None"),
    ];
    for (because, warm_up, workers, hives, expected) in rows {
        check(because, &fresh(warm_up, workers, hives), expected);
    }
}

#[test]
fn a_start_says_why() {
    let residents = vec![r("w-1", "GPU-0", "big", 5)];
    let world = World { residents, ..World::of(&[], &[h("h", Alive).gpu(0)]) };
    let Decision::Spawn(spawn) = world.decide() else { panic!("nothing is started") };
    assert_eq!(
        spawn.to_string(),
        "no worker runs it; one is to be started on h GPU-0, in the place of w-1, which is idle (best of 2 \
         places: it is believed to be faster)"
    );
}

#[test]
fn another_worker_goes_to_a_device_that_has_none_and_one_that_must_be_goes_anywhere() {
    let hives = || vec![h("h", Alive).gpu(8), h("i", Alive).gpu(0)];
    let place = |hives: Vec<H>, residents: &[R], must| {
        let world = World { residents: residents.to_vec(), ..World::of(&[], &hives) };
        let spawn = place_another(&world.fleet(), &model(), must);
        spawn.map(|spawn| outcome(&Decision::Spawn(spawn)))
    };
    let gpu = r("a", "GPU-0", "m", 1);
    let cpu = r("a", "CPU-0", "m", 1);
    let other = R { hive: alias("i"), ..r("b", "GPU-0", "big", 1) };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(place(hives(), std::slice::from_ref(&cpu), false), some("spawn h GPU-0"));
    assert_eq!(place(hives(), std::slice::from_ref(&gpu), false), None, "processors are slower");
    assert_eq!(place(hives(), &[gpu.clone(), other.clone()], false), None, "it is full");
    assert_eq!(place(hives(), &[gpu.clone(), other], true), some("spawn i GPU-0 -b"));
    let one = |free| vec![h("h", Alive).gpu(free)];
    for (free, residents, expected) in [
        (8, vec![gpu.clone()], "spawn h GPU-0"),
        (0, vec![gpu.clone()], "spawn h CPU-0"),
        (8, vec![cpu.clone()], "spawn h GPU-0"),
        (8, vec![gpu, cpu.clone()], "spawn h GPU-0"),
    ] {
        assert_eq!(place(one(free), &residents, true), some(expected), "{residents:?}");
    }
    let wish = Some((alias("h"), Some("CPU-0".parse().unwrap())));
    let residents = vec![r("a", "GPU-0", "m", 1)];
    let world = World { residents, wish, ..World::of(&[], &one(8)) };
    let spawn = place_another(&world.fleet(), &model(), true).map(Decision::Spawn);
    assert_eq!(spawn.map(|spawn| outcome(&spawn)), some("spawn h CPU-0"), "it is preferred");
    let without = || vec![h("h", Alive).bare()];
    assert_eq!(place(without(), std::slice::from_ref(&cpu), false), None, "who knows its devices?");
    assert!(place(without(), &[cpu], true).is_some(), "the hive does");
}

#[test]
fn a_model_gets_no_more_workers_than_its_policy_allows_and_none_of_another_file() {
    let open = w("a", 4, 0).circuit(Circuit::Open);
    let enough = World { has_enough: true, ..World::of(&[open], &[h("h", Alive)]) };
    check("its circuit is waited for", &enough, "wait circuit");
    let suspect = w("a", 4, 0).state(Ending);
    let enough = World { has_enough: true, ..World::of(&[suspect], &[h("h", Alive)]) };
    check("news are waited for", &enough, "wait news");
    let other: Sha256Digest = "1".repeat(64).parse().unwrap();
    let demand = Demand { digest: Some(&other), ..demand() };
    let decision = World::of(&[], &[h("h", Alive)]).decide_for(&demand);
    assert!(outcome(&decision).starts_with("reject"), "{decision:?}");
}
