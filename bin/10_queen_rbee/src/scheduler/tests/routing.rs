use super::*;
use crate::registry::Liveness::{Gone, Suspect};
use Readiness::{Coming, Ending};

#[test]
fn the_least_loaded_worker_for_its_slots_gets_the_request() {
    let rows: [(&str, &[W], &str); 6] = [
        ("an idle one", &[w("a", 4, 1), w("b", 4, 0)], "b"),
        ("the same load on more slots is less", &[w("a", 2, 1), w("b", 8, 2)], "b"),
        ("what others sent counts", &[w("a", 4, 1).foreign(2), w("b", 4, 2)], "b"),
        ("equals are told apart by name", &[w("b", 4, 0), w("a", 4, 0)], "a"),
        ("a silent one is the last choice", &[w("a", 4, 0).live(Suspect), w("b", 4, 3)], "b"),
        ("a silent one is better than none", &[w("a", 4, 0).live(Suspect)], "a"),
    ];
    for (because, workers, expected) in rows {
        check(because, &World::of(workers, &[]), expected);
    }
}

#[test]
fn a_faster_worker_is_given_more() {
    let fast = |in_flight| {
        let speed = Speed { prefill_us_per_kib: 10_000, service_us: 250_000, tokens: 100 };
        W { speed, ..w("fast", 4, in_flight) }
    };
    for (in_flight, slow, expected) in
        [(0, 0, "fast"), (3, 0, "fast"), (3, 1, "fast"), (4, 0, "slow"), (4, 1, "wait sooner")]
    {
        let world = World::of(&[fast(in_flight), w("slow", 4, slow)], &[]);
        check("a quarter of the time a request", &world, expected);
    }
}

#[test]
fn a_request_waits_for_a_full_worker_that_is_much_faster() {
    let takes = |service_us, worker: W| W { speed: Speed { service_us, ..worker.speed }, ..worker };
    let gpu = || takes(200_000, w("gpu", 4, 4));
    let cpu = || takes(4_000_000, w("cpu", 4, 0));
    let check = |because: &str, workers: [W; 2], demand: Demand<'_>, expected: &str| {
        let decision = World::of(&workers, &[]).decide_for(&demand);
        assert_eq!(outcome(&decision), expected, "{because}");
    };
    let session = id("cpu");
    let batch = Demand { priority: Priority::Batch, ..demand() };
    let in_session = Demand { session: Some(&session), ..demand() };
    let of_few_tokens = Demand { answer_tokens: 20, ..demand() };
    let waiting = [interactive(2_000); 16];
    let ahead = |many: usize| Demand { ahead: &waiting[..many], ..demand() };
    let left = |millis| Demand { left: Duration::from_millis(millis), ..demand() };
    let queued = |millis| Demand { queued: Duration::from_millis(millis), ..demand() };
    check("it has its answer in half a second", [gpu(), cpu()], demand(), "wait sooner");
    check("so has a batch request", [gpu(), cpu()], batch, "wait sooner");
    check("two thirds of a second for all", [gpu(), cpu()], of_few_tokens, "cpu");
    check("the last of whom that is true", [gpu(), cpu()], ahead(15), "wait sooner");
    check("too many wait for it already", [gpu(), cpu()], ahead(16), "cpu");
    check("the card may be as late as that", [gpu(), cpu()], left(5_600), "wait sooner");
    check(
        "too few for one more",
        [gpu(), cpu()],
        Demand { ahead: &waiting[..1], ..left(5_500) },
        "cpu",
    );
    check("it has time for the slow answer only", [gpu(), cpu()], left(5_400), "cpu");
    check("not even for that", [gpu(), cpu()], left(3_000), "cpu");
    check("rules were not asked", [W { is_unjudged: true, ..gpu() }, cpu()], demand(), "cpu");
    check("it has waited for long", [gpu(), cpu()], queued(2_000), "cpu");
    check("it is expected to wait on", [gpu(), cpu()], queued(1_999), "wait sooner");
    check("it is silent", [gpu().live(Suspect), cpu()], demand(), "cpu");
    check(
        "it is held",
        [W { is_held: true, ..takes(200_000, w("gpu", 4, 1)) }, cpu()],
        demand(),
        "cpu",
    );
    check("it fails", [gpu().circuit(Circuit::Open), cpu()], demand(), "cpu");
    check("it is not much faster", [takes(1_000_001, gpu()), cpu()], demand(), "cpu");
    check("its session", [gpu(), cpu()], in_session, "cpu");
    check("rules say what comes first", [gpu(), cpu().slower(1)], demand(), "cpu");
    check("one to be tried", [gpu(), cpu().circuit(Circuit::HalfOpen)], demand(), "cpu");
    let long = Demand { prompt_bytes: 64 * 1024, ..demand() };
    let holds = takes(1_000_000, w("gpu", 4, 4)).holds(64 * 1024);
    let fresh = takes(1_000_000, w("cpu", 4, 0));
    check("it holds the conversation", [holds, fresh], long, "wait sooner");
}

#[test]
fn who_waits_for_a_faster_worker_finds_a_place_at_the_slow_one_when_its_patience_ends() {
    let takes = |service_us, worker: W| W { speed: Speed { service_us, ..worker.speed }, ..worker };
    let cpu = |in_flight| takes(4_000_000, w("cpu", 4, in_flight));
    let check = |because: &str,
                 workers: &[W],
                 waiting: &[u64],
                 demand: Demand<'_>,
                 expected: &str| {
        let ahead: Vec<_> = waiting.iter().map(|millis| interactive(*millis)).collect();
        let demand = Demand { ahead: &ahead, ..demand };
        assert_eq!(outcome(&World::of(workers, &[]).decide_for(&demand)), expected, "{because}");
    };
    let batch = Demand { priority: Priority::Batch, ..demand() };
    let short = Demand { answer_tokens: 20, ..demand() };
    let short_batch = Demand { answer_tokens: 20, ..batch };
    let session = id("cpu");
    let in_session = Demand { session: Some(&session), ..demand() };
    check("nobody waits", &[cpu(3)], &[], demand(), "cpu");
    check("the faster one is believed", &[cpu(0)], &[2_000; 8], demand(), "cpu");
    check("three of four places are kept", &[cpu(0)], &[900; 3], demand(), "cpu");
    check("all of them are", &[cpu(0)], &[900; 4], demand(), "wait kept");
    check("the last one is", &[cpu(3)], &[900], demand(), "wait kept");
    check("so for a session's", &[cpu(3)], &[900], in_session, "wait kept");
    check("it gives it back by then", &[cpu(0)], &[900; 4], short, "cpu");
    check("interactive requests come first", &[cpu(3)], &[2_000], batch, "wait kept");
    check("but for one that is short", &[cpu(3)], &[2_000], short_batch, "cpu");
    check("and is over in time", &[cpu(3)], &[700], short_batch, "wait kept");
    let left = |millis| Demand { left: Duration::from_millis(millis), ..batch };
    check("it has time for more", &[cpu(3)], &[2_000], left(8_751), "wait kept");
    check("it has just the time", &[cpu(3)], &[2_000], left(8_750), "cpu");
    check("another needs it soon", &[cpu(3)], &[1_700], left(8_750), "wait kept");
    let queued = |millis| Demand { queued: Duration::from_millis(millis), ..demand() };
    check("its own patience is over", &[cpu(0)], &[900; 4], queued(3_999), "wait kept");
    check("it has waited for a whole answer", &[cpu(0)], &[900; 4], queued(4_000), "cpu");
    let near = takes(7_900_000, w("near", 4, 0));
    check("others are about as fast", &[cpu(3), near], &[900], demand(), "near");
    let far = takes(40_000_000, w("far", 4, 0));
    check("others are much slower", &[cpu(3), far], &[900], demand(), "wait kept");
    let tried = || cpu(0).circuit(Circuit::HalfOpen);
    check("one that is tried takes one", &[tried()], &[900], demand(), "wait kept");
}

/// An interactive request that waits so long for a faster worker.
fn interactive(millis: u64) -> Ahead {
    Ahead { priority: Priority::Interactive, patience: Duration::from_millis(millis) }
}

#[test]
fn of_two_that_are_expected_at_about_the_same_time_the_idle_one_gets_the_request() {
    let takes = |service_us| Speed { prefill_us_per_kib: 100_000, service_us, tokens: 100 };
    // Wherever the loaded one's expectation lies, and up to a quarter of an answer's time after it.
    for busy_us in (800_000_u64..1_100_000).step_by(9_973) {
        let busy = W { speed: takes(busy_us), ..w("a", 4, 1) };
        let soonest = busy.view().expected_us(0, 0);
        for (idle_us, expected) in [
            (busy_us, "b"),
            (soonest + 1_000, "b"),
            (soonest + 200_000, "b"),
            (soonest + 300_000, "a"),
        ] {
            let world =
                World::of(&[busy.clone(), W { speed: takes(idle_us), ..w("b", 4, 0) }], &[]);
            check(&format!("{busy_us} {idle_us}"), &world, expected);
        }
    }
    let slow = |us| {
        World::of(
            &[
                W { speed: takes(8_000_000), ..w("a", 4, 1) },
                W { speed: takes(us), ..w("b", 4, 0) },
            ],
            &[],
        )
    };
    check("slower than a loaded one, but not by much", &slow(11_900_000), "b");
    check("a machine that is really slower", &slow(12_100_000), "a");
}

#[test]
fn what_leaves_a_queue_gets_a_place_only_where_it_begins_at_once() {
    for (because, worker, given, expected) in [
        ("a slot is free", w("a", 2, 1), 0, "a"),
        ("somebody waits there", w("a", 2, 1).queues(1), 0, "wait room"),
        ("its slots are taken", w("a", 2, 1).foreign(1), 0, "wait room"),
        ("its KV cache holds the prompt", w("a", 2, 1).has_room_for(100), 0, "a"),
        ("and not what there is of the answer", w("a", 2, 1).has_room_for(100), 1, "wait room"),
        ("it is as empty as it can be", w("a", 2, 0).has_room_for(10), 0, "a"),
    ] {
        let demand = Demand { prompt_bytes: 400, leaves_with: Some(given), ..demand() };
        let decision = World::of(&[worker], &[]).decide_for(&demand);
        assert_eq!(outcome(&decision), expected, "{because}");
    }
    for (process, expected) in [(0, "wait room"), (1, "a")] {
        let failed = [failed_by("a", process)];
        let demand = Demand { failed: &failed, leaves_with: Some(0), ..demand() };
        let decision = World::of(&[w("a", 2, 0)], &[]).decide_for(&demand);
        assert_eq!(outcome(&decision), expected, "it failed it as process {process}, and is 0");
    }
}

#[test]
fn a_long_prompt_goes_where_the_kv_cache_has_room_for_it() {
    let rows: [(&str, u32, &[W], &str); 6] = [
        ("a short prompt fits", 400, &[w("a", 4, 1).has_room_for(100), w("b", 4, 2)], "a"),
        (
            "a long one would wait for another answer to end",
            8192,
            &[w("a", 4, 1).has_room_for(100), w("b", 4, 2).has_room_for(4000)],
            "b",
        ),
        (
            "who does not tell may have room",
            8192,
            &[w("a", 4, 1).has_room_for(100), w("b", 4, 2)],
            "b",
        ),
        ("it has ended since", 8192, &[w("a", 4, 0).has_room_for(100), w("b", 4, 2)], "a"),
        (
            "what is held is there already",
            8192,
            &[w("a", 4, 1).has_room_for(100).holds(8064), w("b", 4, 2)],
            "a",
        ),
        ("there is no other", 8192, &[w("a", 4, 1).has_room_for(0)], "a"),
    ];
    for (because, prompt_bytes, workers, expected) in rows {
        let world = World::of(workers, &[]);
        let decision = world.decide_for(&Demand { prompt_bytes, ..demand() });
        let Decision::Dispatch { worker, .. } = decision else { panic!("{because}: {decision:?}") };
        assert_eq!(worker.as_str(), expected, "{because}");
    }
}

#[test]
fn a_prompt_goes_where_the_context_surely_holds_it_if_that_can_take_it() {
    let small = |load| w("a", 4, load).context(256);
    let large = |load| w("b", 4, load).context(2048);
    let rows: [(&str, u32, &[W], &str); 6] = [
        ("a short one fits anywhere", 400, &[small(0), large(1)], "a"),
        ("about 434 tokens", 1736, &[small(0), large(1)], "b"),
        ("200 in English, 400 in others", 800, &[small(0), large(1)], "b"),
        ("too long for both", 80_000, &[small(0), large(1)], "a"),
        ("who does not tell may hold it", 1736, &[small(0), w("b", 4, 1)], "b"),
        ("it is only an estimate", 1736, &[small(0), large(8)], "a"),
    ];
    for (because, prompt_bytes, workers, expected) in rows {
        let decision = World::of(workers, &[]).decide_for(&Demand { prompt_bytes, ..demand() });
        assert_eq!(outcome(&decision), expected, "{because}");
    }
}

#[test]
fn an_answer_that_may_be_long_goes_where_the_context_holds_it() {
    let small = |load| w("a", 4, load).context(256);
    let large = |load| w("b", 4, load).context(2048);
    for (because, answer_tokens, workers, expected) in [
        ("it does not say", 0, [small(0), large(1)], "a"),
        ("a short one fits anywhere", 100, [small(0), large(1)], "a"),
        ("a long one", 1300, [small(0), large(1)], "b"),
        ("prompt and answer together", 200, [small(0), large(1)], "b"),
        ("too long for both", 80_000, [small(0), large(1)], "a"),
        ("who does not tell may hold it", 1300, [small(0), w("b", 4, 1)], "b"),
        ("rather a short one than none", 1300, [small(0), large(4)], "a"),
    ] {
        let demand = Demand { prompt_bytes: 400, answer_tokens, ..demand() };
        let decision = World::of(&workers, &[]).decide_for(&demand);
        assert_eq!(outcome(&decision), expected, "{because}");
    }
}

#[test]
fn who_has_a_context_that_was_too_short_does_not_get_the_request() {
    let demand = Demand { too_short: 256, ..demand() };
    let small = || w("a", 4, 0).context(256);
    let none = "reject TooShort { tokens: 256 } None";
    let rows: [(&str, Vec<W>, bool, &str); 5] = [
        ("a longer one does", vec![small(), w("b", 4, 3).context(257)], false, "b"),
        ("it may be longer", vec![small(), w("b", 4, 3)], false, "b"),
        ("a longer one is full", vec![small(), w("b", 4, 8).context(2048)], false, "wait room"),
        ("there is no other", vec![small()], false, "spawn h CPU-0"),
        ("and none may be started", vec![small()], true, none),
    ];
    for (because, workers, has_enough, expected) in rows {
        let world = World { has_enough, ..World::of(&workers, &[h("h", Alive)]) };
        assert_eq!(outcome(&world.decide_for(&demand)), expected, "{because}");
    }
}

#[test]
fn for_a_context_that_was_too_short_none_is_started_that_would_be_as_short() {
    let demand = Demand { too_short: 256, ..demand() };
    let none = "reject TooShort { tokens: 256 } None";
    let at = |name: &str, tokens| (alias(name), tokens);
    let ending = || w("b", 4, 0).context(2048).state(Ending);
    let rows = [
        ("it would be longer", vec![at("h", 257)], vec![], "spawn h CPU-0"),
        ("it would be as short", vec![at("h", 256), at("i", 256)], vec![], none),
        (
            "another hive's would be longer",
            vec![at("h", 256), at("i", 512)],
            vec![],
            "spawn i CPU-0",
        ),
        (
            "a longer one is silent, and may be back",
            vec![at("h", 256), at("i", 256)],
            vec![w("b", 4, 0).context(2048).live(Gone)],
            "wait news",
        ),
        (
            "a longer one has failed, and is silent for good",
            vec![at("h", 256), at("i", 256)],
            vec![ending().live(Gone)],
            none,
        ),
        (
            "so is one that is as short",
            vec![at("h", 256), at("i", 256)],
            vec![w("b", 4, 0).context(256).live(Gone)],
            none,
        ),
        (
            "a longer one is ending",
            vec![at("h", 256), at("i", 256)],
            vec![ending()],
            "reject NoWorkerLeft Some(1)",
        ),
    ];
    for (because, contexts, more, expected) in rows {
        let workers = [vec![w("a", 4, 0).context(256)], more].concat();
        let hives = [h("h", Alive), h("i", Alive)];
        let world = World { contexts, ..World::of(&workers, &hives) };
        assert_eq!(outcome(&world.decide_for(&demand)), expected, "{because}");
    }
    let gone = [h("h", Alive), h("i", Gone)];
    let world = |tokens| World {
        contexts: vec![at("h", 256), at("i", tokens)],
        ..World::of(&[w("a", 4, 0).context(256)], &gone)
    };
    assert_eq!(outcome(&world(256).decide_for(&demand)), none, "it would not help");
    let gone = r#"reject HiveGone { hive: HiveAlias("i") } Some(5)"#;
    assert_eq!(outcome(&world(512).decide_for(&demand)), gone);
}

#[test]
fn an_idle_worker_whose_context_is_too_short_makes_room_for_a_longer_one_of_its_model() {
    let resident = |context_tokens| R { context_tokens, ..r("a", "GPU-0", "m", 9) };
    for (context, expected) in [(256, "spawn h GPU-0 -a"), (512, "wait memory")] {
        let world = World {
            residents: vec![resident(context)],
            contexts: vec![(alias("h"), 512)],
            ..World::of(&[w("a", 4, 0).context(256)], &[h("h", Alive).cpu(0).gpu(0)])
        };
        let demand = Demand { too_short: 256, ..demand() };
        assert_eq!(outcome(&world.decide_for(&demand)), expected, "{context}");
    }
}

#[test]
fn who_cannot_take_a_request_does_not_get_it_and_is_not_waited_for() {
    let barred: [WorkerId; 1] = ["a".parse().unwrap()];
    let demand = Demand { barred: &barred, ..demand() };
    let coming = || w("b", 4, 0).state(Coming);
    let rows: [(&str, Vec<W>, bool, &str); 5] = [
        ("another one does", vec![w("a", 4, 0), w("b", 4, 3)], false, "b"),
        ("the other one is full", vec![w("a", 4, 0), w("b", 4, 8)], false, "wait room"),
        ("the other one is coming", vec![w("a", 4, 0), coming()], false, "wait coming"),
        ("there is no other", vec![w("a", 4, 0)], false, "spawn h CPU-0"),
        ("and none may be started", vec![w("a", 4, 0)], true, "reject Unable None"),
    ];
    for (because, workers, has_enough, expected) in rows {
        let world = World { has_enough, ..World::of(&workers, &[h("h", Alive)]) };
        assert_eq!(outcome(&world.decide_for(&demand)), expected, "{because}");
    }
}

#[test]
fn a_model_whose_worker_makes_way_waits_for_its_next_turn() {
    let away = || w("a", 4, 2).state(Readiness::MakesWay);
    for (because, workers, expected) in [
        ("no other could be started", vec![away()], "wait next_turn"),
        ("another one has room", vec![away(), w("b", 4, 3)], "b"),
    ] {
        assert_eq!(outcome(&World::of(&workers, &[]).decide()), expected, "{because}");
    }
    let hives = [h("h", Alive)];
    check("another place is free", &World::of(&[away()], &hives), "spawn h CPU-0");
    let enough = World { has_enough: true, ..World::of(&[away()], &hives) };
    check("it has as many as it may have", &enough, "wait next_turn");
    let other = r("b", "CPU-0", "big", 0).busy();
    let full = World { residents: vec![other], ..World::of(&[away()], &[h("h", Alive).cpu(0)]) };
    check("no other place is free", &full, "wait next_turn");
}

#[test]
fn the_worker_that_holds_the_beginning_gets_the_request_unless_it_is_drowned() {
    let prompt = Demand { prompt_bytes: 8192, ..demand() };
    let held = |load| World::of(&[w("a", 4, load).holds(8064), w("b", 4, 0)], &[]);
    for (load, expected, reason) in
        [(0, "a", Reason::Prefix), (2, "a", Reason::Prefix), (3, "b", Reason::Soonest)]
    {
        let Decision::Dispatch { worker, why } = held(load).decide_for(&prompt) else {
            panic!("it is not placed");
        };
        assert_eq!((worker.as_str(), why.reason), (expected, reason), "{load} requests: {why}");
    }
    let longer = World::of(&[w("a", 4, 0).holds(1024), w("b", 4, 0).holds(4096)], &[]);
    assert_eq!(outcome(&longer.decide_for(&prompt)), "b", "the longer one");
}

#[test]
fn the_beginning_is_the_reason_only_where_without_it_another_worker_would_have_been_chosen() {
    let fast = Speed { prefill_us_per_kib: 10_000, service_us: 100_000, tokens: 100 };
    let quick = |load| W { speed: fast, ..w("a", 4, load) };
    let rows: [(&str, [W; 2], Reason); 5] = [
        ("it is idle", [w("a", 4, 0).holds(1024), w("b", 4, 3)], Reason::Soonest),
        ("its machine is faster", [quick(0).holds(1024), w("b", 4, 0)], Reason::Soonest),
        ("the other one has less to do", [w("a", 4, 1).holds(8064), w("b", 4, 0)], Reason::Prefix),
        ("else they are alike", [w("a", 4, 0).holds(128), w("b", 4, 0)], Reason::Prefix),
        ("both hold as much", [w("a", 4, 0).holds(128), w("b", 4, 0).holds(128)], Reason::Soonest),
    ];
    for (because, workers, expected) in rows {
        let decision =
            World::of(&workers, &[]).decide_for(&Demand { prompt_bytes: 8192, ..demand() });
        let Decision::Dispatch { worker, why } = decision else { panic!("{because}") };
        assert_eq!((worker.as_str(), why.reason), ("a", expected), "{because}: {why}");
    }
}

#[test]
fn the_beginning_is_the_reason_where_without_it_the_other_worker_would_have_been_as_good() {
    let speed = Speed { prefill_us_per_kib: 100_000, service_us: 990_000, tokens: 100 };
    let workers = [W { speed, ..w("a", 4, 0).holds(8064) }, w("b", 4, 0)];
    let decision = World::of(&workers, &[]).decide_for(&Demand { prompt_bytes: 8192, ..demand() });
    let Decision::Dispatch { worker, why } = decision else { panic!("{decision:?}") };
    assert_eq!((worker.as_str(), why.reason), ("a", Reason::Prefix), "{why}");
}

#[test]
fn a_short_answer_is_expected_sooner_than_a_usual_one() {
    let workers = [w("a", 4, 1).holds(4096 - 128), w("b", 4, 0)];
    for (answer_tokens, expected) in [(0, "b"), (1000, "b"), (1, "a")] {
        let demand = Demand { prompt_bytes: 4096, answer_tokens, ..demand() };
        let decision = World::of(&workers, &[]).decide_for(&demand);
        assert_eq!(outcome(&decision), expected, "{answer_tokens} tokens");
    }
    let us = |tokens| w("a", 4, 0).view().expected_us(0, tokens);
    assert_eq!(
        [us(0), us(1), us(50), us(100), us(9999)],
        [1_000_000, 10_000, 500_000, 1_000_000, 1_000_000]
    );
}

#[test]
fn a_start_says_what_there_is_instead_of_a_worker() {
    let failed = ["a"; 3].map(|name| failed_by(name, 0));
    let barred = ["a"].map(id);
    let plain = demand();
    let away = || w("a", 4, 0).state(Readiness::MakesWay);
    let rows = [
        ("no worker runs it", vec![], plain),
        ("no worker runs it", vec![w("a", 4, 0).live(Gone)], plain),
        ("its workers are ending or cannot be used", vec![w("a", 4, 0).state(Ending)], plain),
        ("its workers make way for another model", vec![away()], plain),
        (
            "its workers fail or do not answer",
            vec![w("a", 4, 0).circuit(Circuit::Open), w("b", 4, 0).state(Ending)],
            plain,
        ),
        (
            "its workers fail or do not answer",
            vec![w("a", 4, 0)],
            Demand { failed: &failed, ..plain },
        ),
        (
            "the contexts of its workers are too short",
            vec![w("a", 4, 0).context(256)],
            Demand { too_short: 256, ..plain },
        ),
        (
            "none of its workers can take it",
            vec![w("a", 4, 0)],
            Demand { barred: &barred, ..plain },
        ),
    ];
    for (lack, workers, demand) in rows {
        let Decision::Spawn(spawn) = World::of(&workers, &[h("h", Alive)]).decide_for(&demand)
        else {
            panic!("{lack}: none is started")
        };
        assert_eq!(
            spawn.to_string(),
            format!("{lack}; one is to be started on h CPU-0 (the only place)")
        );
    }
    let residents = vec![r("x", "GPU-0", "other", 9), r("y", "GPU-0", "small", 8)];
    let full = World { residents, ..World::of(&[], &[h("h", Alive).cpu(0).gpu(0)]) };
    let Decision::Spawn(spawn) = full.decide() else { panic!("none is started") };
    let told = spawn.to_string();
    assert!(told.contains("in the place of x, which is idle"), "{told}");
}

#[test]
fn a_session_stays_where_it_was_while_it_can() {
    let at = id("b");
    let session = Demand { session: Some(&at), ..demand() };
    let rows = [
        (w("b", 4, 3), "b"),
        (w("b", 4, 8), "a"),
        (w("b", 4, 0).live(Suspect), "a"),
        (w("b", 4, 0).state(Ending), "a"),
        (w("b", 4, 0).circuit(Circuit::Open), "a"),
    ];
    for (b, expected) in rows {
        let world = World::of(&[w("a", 4, 0), b.clone()], &[]);
        assert_eq!(outcome(&world.decide_for(&session)), expected, "{b:?}");
    }
}

/// A worker whose answers are short.
fn short(name: &str, slots: u32, in_flight: u32) -> W {
    let speed = Speed { prefill_us_per_kib: 10_000, service_us: 100_000, tokens: 100 };
    W { speed, ..w(name, slots, in_flight) }
}

#[test]
fn a_worker_without_room_is_waited_for() {
    let hive = [h("h", Alive)];
    check("one for its one slot", &World::of(&[w("a", 1, 1)], &hive), "wait room");
    check("loading", &World::of(&[w("a", 1, 0).state(Coming)], &hive), "wait coming");
    check("one more, where answers are short", &World::of(&[short("a", 1, 1)], &[]), "a");
}

#[test]
fn a_batch_request_takes_no_place_where_an_interactive_one_would_wait_behind_it() {
    let batch = Demand { priority: Priority::Batch, ..demand() };
    for (slots, in_flight, interactive, others) in [
        (1, 0, "a", "a"),
        (1, 1, "a", "wait room"),
        (1, 2, "wait room", "wait room"),
        (4, 3, "a", "a"),
        (4, 4, "a", "wait room"),
        (4, 7, "a", "wait room"),
    ] {
        let world = World::of(&[short("a", slots, in_flight)], &[]);
        check(&format!("{in_flight} on {slots}"), &world, interactive);
        assert_eq!(outcome(&world.decide_for(&batch)), others, "{in_flight} on {slots}");
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_its_reason() {
    let refused = |because, workers: &[W], hives: &[H], expected| {
        check(because, &World::of(workers, hives), expected);
    };
    let without = h("h", Alive).without_model();
    refused("nobody has it", &[], &[without], "reject UnknownModel None");
    let gone = r#"reject HiveGone { hive: HiveAlias("h") } Some(5)"#;
    refused("its hive is gone", &[], &[h("h", Gone)], gone);
    let with_other = [h("g", Gone), h("h", Alive).without_model()];
    let gone_too = r#"reject HiveGone { hive: HiveAlias("g") } Some(5)"#;
    refused("the hive that is there lacks it", &[], &with_other, gone_too);
    let both = [h("g", Gone), h("localhost", Gone)];
    let here = r#"reject HiveGone { hive: HiveAlias("localhost") } Some(5)"#;
    refused("this machine's is named first", &[], &both, here);
    let ending = [w("a", 4, 0).state(Ending)];
    refused("its worker ends", &ending, &[], "reject NoWorkerLeft Some(1)");
}

#[test]
fn a_worker_that_failed_the_request_is_tried_again_only_if_no_other_can_and_it_reports() {
    let failed = [failed_by("a", 0)];
    let demand = Demand { failed: &failed, ..demand() };
    let hive = [h("h", Alive)];
    let rows: [(&[W], &[H], &str); 6] = [
        (&[w("a", 4, 0), w("b", 4, 3)], &[], "b"),
        (&[w("a", 4, 0), w("b", 4, 0).state(Coming)], &[], "a"),
        (&[w("a", 4, 0)], &hive, "a"),
        (&[w("a", 4, 0).live(Suspect)], &hive, "spawn h CPU-0"),
        (&[W { is_in_doubt: true, ..w("a", 4, 0).live(Suspect) }], &hive, "wait news"),
        (&[w("a", 4, 0), w("b", 4, 8)], &[], "wait room"),
    ];
    for (workers, hives, expected) in rows {
        let decision = World::of(workers, hives).decide_for(&demand);
        assert_eq!(outcome(&decision), expected, "{workers:?}");
    }
}

#[test]
fn a_worker_that_was_started_again_takes_what_it_failed_before_where_others_are_full() {
    let (one, three) = ([failed_by("a", 1)], ["a"; 3].map(|name| failed_by(name, 1)));
    let full = || w("b", 1, 1);
    let rows: [(&str, &[FailedBy], [W; 2], &str); 5] = [
        ("others first", &one, [w("a", 4, 0), w("b", 4, 3)], "b"),
        ("they are full", &one, [w("a", 4, 0), full()], "a"),
        ("it is full, too", &one, [w("a", 1, 1), full()], "wait room"),
        ("it has not reported", &one, [w("a", 4, 0).live(Suspect), full()], "wait room"),
        ("it fails it again and again", &three, [w("a", 4, 0), full()], "wait room"),
    ];
    for (because, failed, workers, expected) in rows {
        let decision = World::of(&workers, &[]).decide_for(&Demand { failed, ..demand() });
        assert_eq!(outcome(&decision), expected, "{because}");
    }
}

#[test]
fn a_worker_whose_connection_has_just_broken_gets_nothing_until_it_or_its_hive_has_spoken() {
    let fallen = || W { is_in_doubt: true, ..w("a", 4, 0).live(Suspect) };
    let server = || W { ways: Ways::CHAT, ..fallen() };
    let rows: [(&str, Vec<W>, &str); 4] = [
        ("another one is there", vec![fallen(), w("b", 4, 3)], "b"),
        ("the other one is full", vec![fallen(), w("b", 1, 1)], "wait room"),
        ("nobody else is there", vec![fallen()], "wait news"),
        ("of a server nobody tells", vec![server()], "a"),
    ];
    for (because, workers, expected) in rows {
        let decision = World::of(&workers, &[h("h", Alive)]).decide_for(&demand());
        assert_eq!(outcome(&decision), expected, "{because}");
    }
}

#[test]
fn for_a_request_that_the_only_worker_fails_three_times_another_one_is_started_where_one_can_be() {
    let failed = ["a"; 3].map(|name| failed_by(name, 0));
    let demand = Demand { failed: &failed, ..demand() };
    let hive = [h("h", Alive)];
    let rows: [(&[W], &[H], bool, &str); 6] = [
        (&[w("a", 4, 0)], &hive, false, "spawn h CPU-0"),
        (&[w("a", 4, 8)], &hive, false, "spawn h CPU-0"),
        (&[w("a", 4, 0)], &hive, true, "a"),
        (&[w("a", 4, 0)], &[], false, "a"),
        (&[w("a", 4, 8)], &[], false, "wait room"),
        (&[w("a", 4, 0), w("b", 4, 0).state(Coming)], &hive, false, "wait coming"),
    ];
    for (workers, hives, has_enough, expected) in rows {
        let world = World { has_enough, ..World::of(workers, hives) };
        assert_eq!(outcome(&world.decide_for(&demand)), expected, "{workers:?}");
    }
}

#[test]
fn a_worker_that_fails_again_and_again_gets_one_request_to_show_that_it_works() {
    let half = w("a", 4, 0).circuit(Circuit::HalfOpen);
    check("before an idle one", &World::of(&[half.clone(), w("b", 4, 0)], &[]), "a");
    let running = W { in_flight: 3, ..half };
    check("though old streams run there", &World::of(&[running, w("b", 4, 0)], &[]), "a");
    let open = w("a", 4, 0).circuit(Circuit::Open);
    check("none", &World::of(&[open.clone(), w("b", 4, 3)], &[]), "b");
    check("nobody else", &World::of(std::slice::from_ref(&open), &[]), "wait circuit");
    check("a hive has it", &World::of(&[open], &[h("h", Alive)]), "spawn h CPU-0");
}

#[test]
fn an_answer_goes_on_with_the_same_model_file_only() {
    let digest = |digit: &str| digit.repeat(64).parse::<Sha256Digest>().unwrap();
    let (ours, other) = (digest("1"), digest("2"));
    let demand = Demand { digest: Some(&ours), ..demand() };
    let has =
        |name: &str, digest: &Sha256Digest| W { digest: Some(digest.clone()), ..w(name, 4, 0) };
    let world = World::of(&[has("a", &other), has("b", &ours)], &[]);
    assert_eq!(outcome(&world.decide_for(&demand)), "b");
    let world = World::of(&[w("a", 4, 0)], &[]);
    assert_eq!(outcome(&world.decide_for(&demand)), "wait coming", "it has not told yet");
    // The hive has the file 000….
    for (hives, expected) in [
        (vec![h("h", Alive)], "reject OtherFile None"),
        (vec![h("h", Alive), h("i", Gone)], "reject OtherFile None"),
        (vec![h("i", Gone)], "reject OtherFile None"),
    ] {
        let world = World::of(&[], &hives);
        assert_eq!(outcome(&world.decide_for(&demand)), expected, "{hives:?}");
    }
    let world = World { has_enough: true, ..World::of(&[has("a", &other)], &[h("h", Alive)]) };
    let refused = "reject Unable None";
    assert_eq!(outcome(&world.decide_for(&demand)), refused, "no other one may be started");
}

#[test]
fn a_decision_says_why() {
    let said = |world: &World, demand: &Demand<'_>| match world.decide_for(demand) {
        Decision::Dispatch { why, .. } => why.to_string(),
        other => panic!("{other:?}"),
    };
    let plain = demand();
    assert_eq!(
        said(&World::of(&[w("a", 4, 1)], &[]), &plain),
        "a is the only worker that can take it (about 1250 ms, 1 requests on 4 slots)"
    );
    let prompt = Demand { prompt_bytes: 2048, ..plain };
    assert_eq!(
        said(&World::of(&[w("a", 4, 0).holds(1024), w("b", 4, 0)], &[]), &prompt),
        "a holds 1024 bytes of the prompt's beginning (about 1100 ms, 0 requests on 4 slots, \
         1024 bytes held; next best b: about 1200 ms, 0 requests on 4 slots)"
    );
}

#[test]
fn who_cannot_go_on_with_an_answer_does_not_get_it() {
    let theirs = || W { ways: Ways::PROMPT, ..w("theirs", 4, 0) };
    let begins = || W { ways: Ways::BEGIN, ..w("begins", 4, 0) };
    let busy = || w("ours", 1, 2);
    let go_on = |ways| Demand { ways, ..demand() };
    for (because, workers, ways, expected) in [
        ("anybody can begin", vec![theirs(), busy()], Ways::ALL, "theirs"),
        ("it knows no token ids", vec![theirs(), busy()], Ways::TOKENS, "wait room"),
        ("it goes on after a text", vec![theirs(), busy()], Ways::TOKENS | Ways::PROMPT, "theirs"),
        ("it can begin", vec![begins(), busy()], Ways::ALL, "begins"),
        ("it begins only", vec![begins(), busy()], Ways::TOKENS | Ways::PROMPT, "wait room"),
        ("nobody can", vec![theirs()], Ways::TOKENS | Ways::OWN, "reject Unable None"),
    ] {
        let decision = World::of(&workers, &[]).decide_for(&go_on(ways));
        assert_eq!(outcome(&decision), expected, "{because}");
    }
}
