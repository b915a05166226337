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
    check("others keep away", &World::of(&[held("a", 1), w("b", 4, 3)], &[]), "b");
    check("and wait", &World::of(&[held("a", 1)], &[]), "wait room");
    check("others keep away", &World::of(&[taken.clone(), w("b", 4, 3)], &[]), "b");
    check("and wait", &World::of(&[taken], &[]), "wait room");
}
