use super::*;

#[test]
fn a_request_that_may_end_workers_begins_alone_and_others_keep_away_from_one_meanwhile() {
    let alone = Demand { alone: true, prompt_bytes: 4096, ..demand() };
    let begins = |name, load| W { has_beginners: true, ..w(name, 4, load) };
    let held = |name, load| W { is_held: true, ..begins(name, load) };
    let taken = W { is_taken: true, ..w("a", 4, 1) };
    for (because, workers, expected) in [
        ("one is empty", vec![w("a", 4, 1).holds(4096), w("b", 4, 0)], "b"),
        ("all have got something", vec![w("a", 4, 1), w("b", 4, 2)], "a"),
        ("of one alone is that true", vec![begins("a", 1), w("b", 4, 2)], "b"),
        ("all there have just come", vec![begins("a", 2), begins("b", 1)], "hold b"),
        ("it is full", vec![w("a", 4, 4)], "hold a"),
        ("one is kept already", vec![held("a", 2), begins("b", 1)], "hold a"),
        ("it has its turn there", vec![taken.clone(), begins("b", 1)], "hold a"),
        ("it is kept for it", vec![W { is_held: true, ..w("a", 4, 1) }, begins("b", 1)], "a"),
    ] {
        let found = outcome(&World::of(&workers, &[]).decide_for(&alone));
        assert_eq!(found, expected, "{because}");
    }
    let server = |load| W { ways: Ways::CHAT, ..begins("c", load) };
    let open = |worker: W| worker.circuit(Circuit::Open);
    let kept = |load| W { is_held: true, ..w("a", 4, load) };
    for (because, workers, expected) in [
        ("of two one is for everybody", vec![taken.clone(), w("b", 4, 0)], "hold a"),
        ("so is one of three", vec![taken.clone(), w("b", 4, 0), w("d", 4, 0)], "hold a"),
        ("of four two may be taken", row(&taken, 3), "b"),
        (
            "half are kept, and none of these is fit",
            vec![open(kept(1)), begins("b", 1)],
            "wait alone",
        ),
        ("a server is none of them", vec![taken.clone(), begins("b", 1), server(3)], "c"),
        ("and is as good as an empty one", vec![w("b", 4, 1), server(0)], "c"),
        ("and is never held", vec![begins("b", 1), server(4)], "hold b"),
        ("not even if it is all that there is", vec![server(4)], "wait room"),
    ] {
        let found = outcome(&World::of(&workers, &[]).decide_for(&alone));
        assert_eq!(found, expected, "{because}");
    }
    check("others keep away", &World::of(&[held("a", 1), w("b", 4, 3)], &[]), "b");
    check("and wait", &World::of(&[held("a", 1)], &[]), "wait room");
    check("others keep away", &World::of(&[taken.clone(), w("b", 4, 3)], &[]), "b");
    check("and wait", &World::of(&[taken], &[]), "wait room");
}

#[test]
fn a_batch_request_that_may_end_workers_keeps_nobody_from_one_where_interactive_ones_run() {
    let alone = Demand { alone: true, priority: Priority::Batch, ..demand() };
    let runs = |name, has_beginners| W { has_interactive: true, has_beginners, ..w(name, 4, 1) };
    let idle = W { has_beginners: true, ..w("c", 4, 1) };
    for (because, workers, expected) in [
        ("they have got something", vec![runs("a", false)], "wait alone"),
        ("they are at the beginning", vec![runs("a", true), runs("b", true)], "wait alone"),
        ("another one has none", vec![runs("a", false), idle], "hold c"),
        ("another one is empty", vec![runs("a", false), w("b", 4, 0)], "b"),
    ] {
        let found = outcome(&World::of(&workers, &[]).decide_for(&alone));
        assert_eq!(found, expected, "{because}");
    }
}

/// A worker, and so many empty ones.
fn row(first: &W, empty: usize) -> Vec<W> {
    let names = ["b", "c", "d"].into_iter().take(empty);
    std::iter::once(first.clone()).chain(names.map(|name| w(name, 4, 0))).collect()
}
