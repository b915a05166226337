//! The order of a queue, in examples and in any crowd.

use std::collections::HashSet;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

#[test]
fn callers_take_turns_however_many_each_has() {
    let mut queue = Admission::new(100);
    for n in 0..6 {
        enter(&mut queue, "greedy", n).unwrap();
    }
    enter(&mut queue, "modest", 100).unwrap();
    enter(&mut queue, "modest", 101).unwrap();
    assert_eq!(drain(&mut queue), [0, 100, 1, 101, 2, 3, 4, 5]);
}

#[test]
fn who_was_idle_has_saved_nothing_up() {
    let mut queue = Admission::new(100);
    for n in 0..4 {
        enter(&mut queue, "a", n).unwrap();
    }
    for expected in [0, 1] {
        assert_eq!(serve_next(&mut queue), Some(expected));
    }
    for n in 10..13 {
        enter(&mut queue, "b", n).unwrap();
    }
    assert_eq!(drain(&mut queue), [2, 10, 3, 11, 12]);
}

#[test]
fn who_leaves_unserved_uses_up_no_turn_of_its_caller() {
    for (leave, expected) in [
        (1..9, [0, 20, 9, 21, 22, 10]),
        (0..9, [9, 20, 21, 10, 22, 23]),
        (2..10, [0, 20, 1, 21, 22, 10]),
    ] {
        let mut queue = Admission::new(100);
        let enter =
            |queue: &mut Admission<usize>, caller, n| queue.enter(&entrant(caller), n).unwrap().0;
        let tickets: Vec<_> = (0..10).map(|n| enter(&mut queue, "a", n)).collect();
        for n in leave.clone() {
            assert_eq!(queue.leave(&tickets[n]), Some(n));
        }
        for n in 20..24 {
            enter(&mut queue, "b", n);
        }
        enter(&mut queue, "a", 10);
        assert_eq!(drain(&mut queue)[..6], expected, "{leave:?} leave");
    }
}

#[test]
fn a_turn_that_is_over_is_not_had_later() {
    let mut queue = Admission::new(100);
    let stuck = queue.enter(&entrant("a"), 0).unwrap().0;
    for n in 20..30 {
        let served = queue.enter(&entrant("b"), n).unwrap().0;
        assert_eq!(queue.serve(&served), Some(n));
    }
    enter(&mut queue, "c", 30).unwrap();
    enter(&mut queue, "a", 1).unwrap();
    queue.leave(&stuck);
    assert_eq!(drain(&mut queue), [30, 1]);
}

#[test]
fn one_that_is_served_out_of_turn_puts_the_others_of_its_caller_before_nobody() {
    for (because, out_of_turn) in [("its own", "greedy"), ("another's", "other")] {
        let mut queue = Admission::new(100);
        for n in 0..30 {
            enter(&mut queue, "greedy", n).unwrap();
        }
        for n in 100..130 {
            let served = queue.enter(&entrant(out_of_turn), n).unwrap().0;
            assert_eq!(queue.serve(&served), Some(n));
        }
        enter(&mut queue, "single", 200).unwrap();
        enter(&mut queue, "single", 201).unwrap();
        enter(&mut queue, "greedy", 30).unwrap();
        assert_eq!(drain(&mut queue)[..6], [0, 1, 200, 2, 201, 3], "{because}");
    }
}

#[test]
fn while_one_waits_that_fits_nowhere_the_others_take_turns() {
    let mut queue = Admission::new(100);
    enter(&mut queue, "stuck", 0).unwrap();
    // It has been served for long when a crowd comes, and enters again each time.
    let again = |queue: &mut Admission<usize>, n| enter(queue, "steady", n).unwrap();
    for n in 100..150 {
        again(&mut queue, n);
        assert_eq!(serve_at(&mut queue, 1), Some(n));
    }
    for n in 1..9 {
        enter(&mut queue, "crowd", n).unwrap();
    }
    again(&mut queue, 200);
    again(&mut queue, 201);
    let mut order = Vec::new();
    for n in 202..208 {
        order.extend(serve_at(&mut queue, 1));
        if order.last() >= Some(&100) {
            again(&mut queue, n);
        }
    }
    assert_eq!(order, [1, 200, 2, 201, 3, 203]);
    assert_eq!(serve_next(&mut queue), Some(0), "it has kept its turn");
}

#[test]
fn those_that_fit_take_turns_behind_one_of_their_caller_that_fits_nowhere() {
    // How many fit nowhere, and in which order the others are served: 100 and more are of another caller, who
    // enters again each time.
    for (stuck, expected) in
        [(1, [100, 10, 101, 11, 102, 12, 103, 13]), (2, [100, 101, 10, 102, 11, 103, 12, 104])]
    {
        let mut queue = Admission::new(100);
        for n in 0..stuck {
            enter(&mut queue, "a", n).unwrap();
        }
        for n in 10..14 {
            enter(&mut queue, "a", n).unwrap();
        }
        for n in 100..103 {
            enter(&mut queue, "b", n).unwrap();
        }
        let mut served = Vec::new();
        for n in 103..111 {
            let fits = order(&queue).iter().position(|n| *n >= 10).unwrap();
            served.extend(serve_at(&mut queue, fits));
            if served.last() >= Some(&100) {
                enter(&mut queue, "b", n).unwrap();
            }
        }
        assert_eq!(served, expected, "{stuck} fit nowhere");
    }
}

#[test]
fn interactive_requests_come_before_batch_ones_and_push_them_out() {
    let mut queue = Admission::new(2);
    let batch = |n| (Entrant { priority: Priority::Batch, ..entrant("a") }, n);
    for n in [0, 1] {
        let (entrant, n) = batch(n);
        assert!(queue.enter(&entrant, n).is_ok());
    }
    let (entrant, n) = batch(2);
    assert_eq!(queue.enter(&entrant, n).unwrap_err(), (QueueFull { limit: 2 }, 2));
    assert_eq!(enter(&mut queue, "a", 3).unwrap(), Some(1), "the last batch one goes");
    assert_eq!(drain(&mut queue), [3, 0]);
}

#[test]
fn a_full_queue_sheds_the_last_of_whoever_has_the_most() {
    let mut queue = Admission::new(3);
    for n in 0..3 {
        enter(&mut queue, "greedy", n).unwrap();
    }
    assert_eq!(enter(&mut queue, "modest", 10).unwrap(), Some(2));
    assert!(enter(&mut queue, "greedy", 3).is_err());
    assert_eq!(queue.len(), 3);
}

#[test]
fn a_request_whose_worker_failed_is_next_again_even_in_a_full_queue() {
    let mut queue = Admission::new(1);
    enter(&mut queue, "a", 0).unwrap();
    let again = Entrant { had_a_place: true, ..entrant("b") };
    assert!(queue.enter(&again, 1).is_ok());
    assert_eq!(drain(&mut queue), [1, 0]);
}

#[test]
fn a_crowd_for_one_model_does_not_keep_others_out() {
    let mut queue = Admission::new(1);
    enter(&mut queue, "a", 0).unwrap();
    let other: ModelAlias = "other".parse().unwrap();
    let key = QueueKey::Name(other.clone());
    let entrant = Entrant { queue: &key, model: &other, ..entrant("a") };
    assert!(queue.enter(&entrant, 1).is_ok());
    assert_eq!((queue.waiting_for(&other), queue.len()), (1, 2));
}

#[test]
fn whoever_had_a_place_makes_room_for_nobody() {
    let mut queue = Admission::new(2);
    let begun = Entrant { priority: Priority::Batch, had_a_place: true, ..entrant("a") };
    queue.enter(&begun, 0).unwrap();
    assert_eq!(queue.enter(&entrant("b"), 1).map(|(_, shed)| shed), Ok(None));
    let refused = queue.enter(&entrant("b"), 2).map(|(_, shed)| shed);
    assert_eq!(refused, Err((QueueFull { limit: 2 }, 2)), "the batch answer has begun");
}

#[test]
fn names_that_share_a_queue_share_its_order_and_its_bound_and_are_counted_apart() {
    let mut queue = Admission::new(5);
    let names: [ModelAlias; 2] = ["m", "again"].map(|name| name.parse().unwrap());
    let file = QueueKey::File("0".repeat(64).parse().unwrap());
    let mut ask = |name: usize, caller, n| {
        let entrant = Entrant { queue: &file, model: &names[name], ..entrant(caller) };
        let shed = queue.enter(&entrant, n).map(|(_, shed)| shed);
        (shed, [0, 1].map(|name| queue.waiting_for(&names[name])))
    };
    assert_eq!(ask(0, "greedy", 0), (Ok(None), [1, 0]));
    assert_eq!(ask(1, "greedy", 1), (Ok(None), [1, 1]));
    assert_eq!(ask(0, "greedy", 2), (Ok(None), [2, 1]));
    assert_eq!(ask(1, "greedy", 3), (Ok(None), [2, 2]));
    assert_eq!(ask(1, "modest", 10), (Ok(None), [2, 3]));
    assert_eq!(ask(0, "modest", 11), (Ok(Some(3)), [3, 2]), "it is full for both");
    assert_eq!(ask(1, "greedy", 4), (Err((QueueFull { limit: 5 }, 4)), [3, 2]));
    assert_eq!((queue.queues_by_arrival(), queue.models_in(&file)), (vec![file.clone()], 2));
    assert_eq!(drain(&mut queue), [0, 10, 1, 11, 2]);
    assert!(queue.models().next().is_none());
}

proptest! {
    #[test]
    fn nobody_is_lost_or_served_twice_and_between_two_of_one_every_other_caller_has_a_turn(
        steps in prop::collection::vec((0_usize..4, any::<bool>(), 0_usize..8), 1..120),
    ) {
        let names = ["a", "b", "c"];
        let mut queue = Admission::new(20);
        let mut inside: Vec<(Ticket, usize)> = Vec::new();
        let mut gone = HashSet::new();
        for (number, (who, leaves, which)) in steps.into_iter().enumerate() {
            if who < 3 {
                match queue.enter(&entrant(names[who]), number) {
                    Ok((ticket, shed)) => {
                        inside.push((ticket, number));
                        if let Some(shed) = shed {
                            inside.retain(|(_, other)| *other != shed);
                            prop_assert!(gone.insert(shed));
                        }
                    }
                    Err(_) => prop_assert!(queue.len() >= 20),
                }
            } else if let Some((ticket, number)) = inside.get(which).cloned() {
                let left = if leaves { queue.leave(&ticket) } else { queue.serve(&ticket) };
                prop_assert_eq!(left, Some(number));
                prop_assert!(gone.insert(number));
                prop_assert_eq!(queue.leave(&ticket), None);
                inside.retain(|(_, other)| *other != number);
            }
            prop_assert_eq!(queue.len(), inside.len());
            prop_assert!(queue.len() <= 20);
        }
        let rest: HashSet<_> = drain(&mut queue).into_iter().collect();
        prop_assert_eq!(rest, inside.into_iter().map(|(_, number)| number).collect());
        prop_assert!(queue.queues.is_empty() && queue.by_model.is_empty());
    }

    #[test]
    fn in_any_crowd_a_request_waits_for_one_of_each_other_caller_for_each_of_its_own_at_most(
        crowd in prop::collection::vec((0_usize..5, 0_usize..4, 0_usize..60), 0..90),
    ) {
        let names = ["single", "a", "b", "c", "d"];
        let mut queue = Admission::new(100);
        let mut inside: Vec<(Ticket, usize)> = Vec::new();
        let mut whose = Vec::new();
        let mut may_be_due = 0;
        for (who, what, which) in crowd {
            if what == 0 && !inside.is_empty() {
                let (ticket, _) = inside.remove(which % inside.len());
                prop_assert!(queue.leave(&ticket).is_some());
            } else if what == 1 {
                let served = serve_next(&mut queue);
                // Another one may have its turn at the same time, and comes before all this.
                may_be_due = 1;
                inside.retain(|(_, number)| Some(*number) != served);
            } else {
                let ticket = queue.enter(&entrant(names[who]), whose.len()).unwrap().0;
                inside.push((ticket, whose.len()));
                whose.push(who);
            }
        }
        enter(&mut queue, "single", whose.len()).unwrap();
        let own = 1 + inside.iter().filter(|(_, number)| whose[*number] == 0).count();
        let before: Vec<_> = drain(&mut queue).into_iter().map_while(|n| whose.get(n)).collect();
        for other in 1..names.len() {
            let others = before.iter().filter(|who| ***who == other).count();
            let is_fair = others <= own + may_be_due;
            prop_assert!(is_fair, "{others} of {other} before the last of {own}");
        }
    }

    #[test]
    fn whoever_is_served_out_of_turn_each_waits_for_about_one_of_each_other_caller(
        crowd in prop::collection::vec((0_usize..4, 0_usize..8, 0_usize..60), 1..150),
    ) {
        let names = ["a", "b", "c", "d"];
        let mut queue = Admission::new(200);
        for (who, what, which) in crowd {
            let waiting = order(&queue);
            let at = (!waiting.is_empty()).then(|| which % waiting.len());
            match (what, at) {
                (0, Some(at)) => _ = ticket_at(&queue, at).and_then(|it| queue.leave(&it)),
                (1..=2, Some(at)) => _ = serve_at(&mut queue, at),
                (3, Some(_)) => _ = serve_next(&mut queue),
                // What waits tells whose it is.
                _ => _ = enter(&mut queue, names[who], who).unwrap(),
            }
            let fresh = queue.enter(&entrant("fresh"), names.len()).unwrap().0;
            let waiting = order(&queue);
            let first_of = |whose| waiting.iter().position(|other| *other == whose);
            let is_behind = (0..names.len()).all(|whose| first_of(whose) < first_of(names.len()));
            prop_assert!(is_behind, "it comes before the first of another: {waiting:?}");
            queue.leave(&fresh);
        }
        let mut before = names.map(|_| 0);
        for whose in drain(&mut queue) {
            before[whose] += 1;
            let (own, most) = (before[whose], before.into_iter().max().unwrap_or(0));
            prop_assert!(most <= own + 2, "{most} of another before number {own} of {whose}");
        }
    }
}

fn entrant(caller: &str) -> Entrant<'_> {
    static MODEL: LazyLock<ModelAlias> = LazyLock::new(|| "m".parse().unwrap());
    static QUEUE: LazyLock<QueueKey> = LazyLock::new(|| QueueKey::Name(MODEL.clone()));
    let (queue, model) = (&*QUEUE, &*MODEL);
    Entrant { queue, model, caller, priority: Priority::Interactive, had_a_place: false }
}

fn enter(
    queue: &mut Admission<usize>,
    caller: &str,
    n: usize,
) -> Result<Option<usize>, (QueueFull, usize)> {
    queue.enter(&entrant(caller), n).map(|(_, shed)| shed)
}

fn serve_next(queue: &mut Admission<usize>) -> Option<usize> {
    serve_at(queue, 0)
}

/// The one is served that so many others wait before.
fn serve_at(queue: &mut Admission<usize>, others: usize) -> Option<usize> {
    let ticket = ticket_at(queue, others)?;
    queue.serve(&ticket)
}

fn ticket_at(queue: &Admission<usize>, others: usize) -> Option<Ticket> {
    let key = queue.queues_by_arrival().into_iter().next()?;
    let spot = queue.waiting(&key).nth(others)?.0;
    Some(Ticket::new(&key, spot))
}

fn order(queue: &Admission<usize>) -> Vec<usize> {
    let keys = queue.queues_by_arrival();
    keys.iter().flat_map(|key| queue.waiting(key)).map(|(_, n)| *n).collect()
}

fn drain(queue: &mut Admission<usize>) -> Vec<usize> {
    std::iter::from_fn(|| serve_next(queue)).collect()
}
