//! Requests for several names of one file.

use super::*;

type Waits<'a> = (Turn<'a>, oneshot::Receiver<Result<Place, NoPlace>>);

#[tokio::test]
async fn callers_take_turns_over_all_names_of_a_file() {
    let stage = two_names();
    stage.beat("w-1", 'b');
    let mut held = vec![stage.placed("m").await, stage.placed("again").await];
    let asked = [("m", "much"), ("m", "much"), ("again", "much"), ("again", "once")];
    let mut all = asked.map(|(model, caller)| stage.enters(model, caller).unwrap());
    assert_eq!(stage.waiting(), [("again", 2), ("m", 2)]);
    let mut order = Vec::new();
    while order.len() < all.len() {
        held.remove(0);
        stage.dispatcher.hand_out(&mut Attempts::default());
        let served = all.iter_mut().enumerate().find_map(|(number, (_, answer))| {
            Some((number, answer.try_recv().ok()?.expect("there is a place")))
        });
        let (number, place) = served.expect("one has gone");
        order.push(number);
        held.push(place);
    }
    assert_eq!(order, [0, 3, 1, 2], "who asks once is not behind all of the other one");
    assert!(stage.waiting().is_empty());
}

#[tokio::test]
async fn all_names_of_a_file_fill_one_queue_and_each_counts_what_was_asked_for_by_it() {
    let stage = two_names();
    let name = |number: usize| if number.is_multiple_of(2) { "m" } else { "again" };
    let mut all: Vec<_> =
        (0..32).map(|number| stage.enters(name(number), "much").unwrap()).collect();
    assert_eq!(stage.waiting(), [("again", 16), ("m", 16)]);
    for name in ["m", "again"] {
        let refused = stage.enters(name, "much").err();
        assert!(
            matches!(refused, Some(NoPlace::QueueFull { limit: 32, gave_way: false, .. })),
            "{name}"
        );
    }
    let _once = stage.enters("m", "once").unwrap();
    let shed = all[31].1.try_recv();
    let Ok(Err(shed @ NoPlace::QueueFull { .. })) = shed else { panic!("{shed:?}") };
    let told = "as many requests wait for again as may wait (32), and this one has given its place to one that \
                comes before it";
    assert_eq!(shed.to_string(), told);
    assert_eq!(stage.waiting(), [("again", 15), ("m", 17)]);
}

#[tokio::test]
async fn who_waits_leaves_the_queue_that_was_entered_whatever_the_names_stand_for_by_then() {
    let stage = two_names();
    let all = ["m", "again"].map(|name| stage.enters(name, "much").unwrap());
    stage.reports("localhost", &[("m", 'd'), ("again", 'c')]);
    let late = stage.enters("again", "much").unwrap();
    assert_eq!(stage.waiting(), [("again", 2), ("m", 1)]);
    drop(all);
    assert_eq!(stage.waiting(), [("again", 1)]);
    drop(late);
    assert_eq!((stage.waiting(), stage.dispatcher.waiting()), (Vec::new(), 0));
}

#[tokio::test]
async fn a_name_whose_workers_are_full_does_not_hold_up_one_that_shares_only_some_of_them() {
    let stage = two_names();
    stage.beat("w-1", 'b');
    let _held = [stage.placed("m").await, stage.placed("again").await];
    let mut first = stage.enters("m", "much").unwrap();
    let mut second = stage.enters("again", "much").unwrap();
    stage.reports("other", &[("again", 'c'), ("third", 'c')]);
    stage.beat_as("w-2", "third", 'c');
    stage.dispatcher.hand_out(&mut Attempts::default());
    let place = second.1.try_recv().expect("it is answered").unwrap();
    assert_eq!(place.worker_id.as_str(), "w-2");
    assert!(first.1.try_recv().is_err(), "there is no room for it");
}

/// A hive with a file by two names.
fn two_names() -> Stage {
    let stage = Stage::without_task(Arc::new(NeverReady), None);
    stage.reports("localhost", &[("m", 'b'), ("again", 'b')]);
    stage
}

impl Stage {
    /// A place that there is at once.
    async fn placed(&self, model: &str) -> Place {
        self.dispatcher.place(asks(model, "local")).await.unwrap()
    }

    fn enters(&self, model: &str, caller: &str) -> Result<Waits<'_>, NoPlace> {
        self.dispatcher.enter(&asks(model, caller), Wait::Start)
    }

    /// How many wait for each model.
    fn waiting(&self) -> Vec<(&'static str, usize)> {
        let known = |model: &ModelAlias| if model.as_str() == "m" { "m" } else { "again" };
        let waiting = self.dispatcher.waiting_by_model();
        waiting.iter().map(|(model, count)| (known(model), *count)).collect()
    }
}

fn asks(model: &str, caller: &str) -> Wanted {
    Wanted { model: model.parse().unwrap(), caller: caller.into(), ..wanted(None) }
}
