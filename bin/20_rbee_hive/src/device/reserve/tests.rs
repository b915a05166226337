use proptest::prelude::*;

use super::*;

#[test]
fn what_is_promised_cannot_be_promised_again_until_it_is_given_back() {
    let card = Card::with(100);
    let first = card.reserve(60).unwrap();
    let refused = card.reserve(60).unwrap_err();
    assert_eq!((refused.others.free, refused.others.owed), (100, 60));
    assert!(refused.to_string().contains("promised to workers that are starting"));
    let small = card.reserve(40).unwrap();
    drop(first);
    assert!(card.reserve(61).is_err());
    assert!(card.reserve(60).is_ok());
    drop(small);
    assert!(card.reserve(100).is_ok());
}

#[test]
fn what_a_worker_has_taken_is_no_longer_among_the_free() {
    let mut card = Card::with(100);
    let first = card.reserve(60).unwrap();
    card.free = 40;
    first.taken();
    let second = card.reserve(40).unwrap();
    drop(second);
    // Its process has crashed, and the next one is on its way.
    card.free = 100;
    first.to_be_taken();
    assert!(card.reserve(41).is_err());
    assert!(card.reserve(40).is_ok());
}

#[test]
fn what_a_loading_worker_has_taken_so_far_is_not_counted_twice() {
    let mut card = Card::with(24);
    let first = card.reserve(10).unwrap();
    card.free = 15;
    let second = card.reserve(8).expect("one of ten is still to be taken, fifteen are free");
    assert!(card.reserve(7).is_err(), "1 + 8 + 7 are more than 15");
    // Whoever took these two, they are not what the third may count on.
    card.free = 13;
    assert!(card.reserve(7).is_err());
    let third = card.reserve(6).unwrap();
    card.free = 14 - 8;
    first.taken();
    second.taken();
    assert!(card.reserve(1).is_err(), "all that is free is the third one's");
    drop(third);
    assert!(card.reserve(6).is_ok());
}

#[test]
fn what_a_worker_took_that_ends_is_not_taken_for_what_another_one_took() {
    let mut card = Card::with(24);
    let first = card.reserve(10).unwrap();
    let second = card.reserve(8).unwrap();
    // The second one takes all that it was promised, the first one nothing yet.
    card.free = 16;
    assert!(card.reserve(7).is_err());
    card.free = 24;
    drop(second);
    assert!(card.reserve(15).is_err(), "ten are to be taken");
    assert!(card.reserve(14).is_ok());
    drop(first);
}

#[test]
fn a_reading_of_before_a_worker_had_its_memory_does_not_show_it() {
    let card = Card::with(24);
    let first = card.reserve(10).unwrap();
    let since = card.all.moment();
    first.taken();
    let old = Reading { since, free: |_| Some(24) };
    assert!(card.all.reserve(&[need("GPU-0", 15)], &file(1), &old).is_err());
    assert!(card.all.reserve(&[need("GPU-0", 14)], &file(1), &old).is_ok());
}

#[test]
fn a_reading_that_comes_late_is_not_believed() {
    let mut card = Card::with(24);
    let since = card.all.moment();
    let first = card.reserve(10).unwrap();
    card.free = 14;
    first.taken();
    let second = card.reserve(4).unwrap();
    let late = Reading { since, free: |_| Some(24) };
    assert!(card.all.reserve(&[need("GPU-0", 11)], &file(1), &late).is_err());
    assert!(card.all.reserve(&[need("GPU-0", 10)], &file(1), &late).is_ok());
    drop(second);
}

#[test]
fn nothing_is_promised_where_one_of_several_devices_is_too_small() {
    let all = Reservations::default();
    let reading = Reading {
        since: all.moment(),
        free: |id: DeviceId| Some([100, 10][usize::from(id.index)]),
    };
    let both = [need("GPU-0", 60), need("GPU-1", 60)];
    assert!(all.reserve(&both, &file(1), &reading).is_err());
    assert!(all.reserve(&[need("GPU-0", 100)], &file(1), &reading).is_ok());
    let unknown = Reading { since: all.moment(), free: |_| None };
    assert!(all.reserve(&[need("GPU-0", u64::MAX)], &file(1), &unknown).is_ok());
}

#[test]
fn weights_in_files_hold_what_the_system_calls_free_once_for_each_file() {
    let card = Card::with(100);
    let large = |number| card.reserve_mapped(60, number);
    let first = large(1).unwrap();
    first.taken();
    let refused = large(2).unwrap_err();
    assert!(refused.to_string().contains("60 B hold the weights of running workers"), "{refused}");
    assert!(refused.is_for_weights_in_files());
    let same = large(1).expect("the same pages are read by both");
    drop(first);
    assert!(large(2).is_err(), "there is one left that reads them");
    let device = super::super::sample::device("GPU-0");
    let shown = card.all.without_held(vec![Device { memory_free_bytes: 100, ..device }]);
    assert_eq!(shown[0].memory_free_bytes, 40);
    drop(same);
    assert!(large(2).is_ok());
    assert!(!card.reserve(101).unwrap_err().is_for_weights_in_files());
}

#[test]
fn who_overcommits_is_not_refused_for_weights_in_files() {
    let card = Card { all: Reservations::new(true, None), free: 100 };
    let first = card.reserve_mapped(60, 1).unwrap();
    let second = card.reserve_mapped(u64::MAX, 2).unwrap();
    assert!(card.reserve(101).is_err(), "other memory counts");
    drop((first, second));
}

#[test]
fn a_worker_of_an_earlier_hive_may_count_on_its_memory_when_it_is_started_again() {
    let card = Card::with(40);
    let adopted = card.all.adopt(&[need("GPU-0", 60)], &file(1));
    adopted.settled();
    let small = card.reserve(40).unwrap();
    drop(small);
    adopted.to_be_taken();
    let card = Card { free: 100, ..card };
    assert!(card.reserve(41).is_err());
    drop(adopted);
    let loading = card.all.adopt(&[need("GPU-0", 60)], &file(1));
    assert!(card.reserve(41).is_err());
    drop(loading);
    assert!(card.reserve(100).is_ok());
}

#[test]
fn a_worker_that_cannot_be_started_again_and_again_takes_nothing_from_what_others_have_loaded() {
    let mut card = Card::with(24);
    let doomed = card.reserve(6).unwrap();
    card.free = 18;
    doomed.taken();
    card.all.read(&[card.device()], card.all.moment());
    let loading = card.reserve(10).unwrap();
    card.free = 8;
    assert!(card.reserve(9).is_err());
    // Its process is gone. The next ones end before they have taken anything.
    card.free = 14;
    doomed.to_be_taken();
    let fits = |bytes: u64| card.would_get(bytes);
    assert!(fits(8) && !fits(9), "six are to be taken again");
    for _ in 0..5 {
        doomed.to_be_taken();
        assert!(fits(8) && !fits(9), "no process came between");
    }
    drop((doomed, loading));
}

#[test]
fn what_others_took_before_a_promise_is_not_taken_for_what_was_promised() {
    let mut card = Card::with(20);
    let worker = card.reserve(5).unwrap();
    card.free = 15;
    worker.taken();
    card.all.read(&[card.device()], card.all.moment());
    // Hours later, and nobody has asked for a worker: other programs took what they wanted.
    card.free = 7;
    card.all.read(&[card.device()], card.all.moment());
    card.free = 12;
    worker.to_be_taken();
    worker.being_taken();
    assert!(card.reserve(8).is_err(), "five of twelve are to be taken again");
    assert!(card.reserve(7).is_ok());
}

#[test]
fn what_a_loading_worker_of_an_earlier_hive_has_is_not_asked_of_what_is_free_again() {
    let all = Reservations::default();
    let fits = |free: u64, bytes: u64| {
        let reading = Reading { since: all.moment(), free: move |_| Some(free) };
        all.reserve(&[need("CPU-0", bytes)], &file(1), &reading).is_ok()
    };
    let adopted = all.adopt(&[need("CPU-0", 60)], &file(1));
    adopted.partly_taken(40);
    assert!(fits(50, 30) && !fits(50, 31), "twenty are still to be taken");
    assert!(fits(40, 30) && !fits(40, 31), "ten of them have been");
    adopted.taken();
    assert!(fits(30, 30));
    adopted.to_be_taken();
    assert!(fits(90, 30) && !fits(90, 31), "the next process takes all of it");
}

#[test]
fn workers_get_no_more_main_memory_than_they_may_have_however_much_is_free() {
    let all = Reservations::new(false, Some(100));
    let reserve = |need: MemoryNeed, number| {
        let reading = Reading { since: all.moment(), free: |_| Some(100) };
        all.reserve(&[need], &file(number), &reading)
    };
    let mapped = |bytes| MemoryNeed { mapped_bytes: bytes, ..need("CPU-0", 10) };
    let first = reserve(mapped(30), 1).unwrap();
    first.being_taken();
    first.taken();
    assert_eq!(shown(&all, "CPU-0"), 60);
    let refused = reserve(mapped(60), 2).unwrap_err();
    assert!(refused.is_for_limit() && refused.is_for_weights_in_files(), "{refused}");
    assert!(refused.to_string().contains("workers may have 100 B in all"), "{refused}");
    let same = reserve(mapped(30), 1).expect("the weights are there");
    assert!(reserve(need("CPU-0", 51), 3).is_err());
    assert!(reserve(need("GPU-0", 100), 3).is_ok(), "that is no main memory");
    drop((first, same));
    assert!(reserve(need("CPU-0", 100), 3).is_ok());
}

#[test]
fn what_a_starting_worker_is_promised_is_not_in_the_way_of_what_comes_instead_of_it() {
    // What workers may have in all, what is free beside the worker, and what it has taken so far.
    for (most, free, taken) in
        [(None, 100, 0), (None, 100, 30), (Some(100), 200, 0), (Some(100), 200, 30)]
    {
        let all = Reservations::new(false, most);
        let reading =
            |free: u64| Reading { since: all.moment(), free: move |_: DeviceId| Some(free) };
        let its = need("CPU-0", 60);
        let starting = all.reserve(std::slice::from_ref(&its), &file(1), &reading(free)).unwrap();
        starting.being_taken();
        let refused = |bytes, free| {
            let leaving = [plan(its.clone(), 1)];
            all.would_refuse(&[need("CPU-0", bytes)], &file(2), &leaving, &reading(free))
        };
        assert_eq!(refused(100, free - taken), None, "{most:?} {taken}");
        let told = refused(101, free - taken).expect("there are a hundred").to_string();
        assert!(!told.contains("starting"), "{told}");
        drop(starting);
        assert!(refused(free + 1, free).is_some(), "one that has ended has nothing to give back");
    }
}

fn plan(need: MemoryNeed, number: u8) -> WorkerPlan {
    WorkerPlan {
        binary: "/bin/worker".into(),
        model: "m".parse().unwrap(),
        model_file: "/m.gguf".into(),
        digest: file(number),
        projector: None,
        device: need.device,
        slots: 1,
        ctx_size: 512,
        memory: vec![need],
    }
}

fn shown(all: &Reservations, device: &str) -> u64 {
    let device = super::super::sample::device(device);
    all.without_held(vec![Device { memory_free_bytes: 100, ..device }])[0].memory_free_bytes
}

/// One device and what is promised of it.
struct Card {
    all: Reservations,
    free: u64,
}

impl Card {
    fn with(free: u64) -> Self {
        Self { all: Reservations::default(), free }
    }

    fn reserve(&self, bytes: u64) -> Result<Reservation, TooLittleMemory> {
        let reserved = self.all.reserve(&[need("GPU-0", bytes)], &file(1), &self.reading());
        reserved.inspect(Reservation::being_taken)
    }

    /// Whether a worker would be promised so much, which then gets no process.
    fn would_get(&self, bytes: u64) -> bool {
        self.all.reserve(&[need("GPU-0", bytes)], &file(1), &self.reading()).is_ok()
    }

    fn reserve_mapped(&self, bytes: u64, number: u8) -> Result<Reservation, TooLittleMemory> {
        let need = MemoryNeed { mapped_bytes: bytes, ..need("GPU-0", 0) };
        self.all.reserve(&[need], &file(number), &self.reading())
    }

    fn device(&self) -> Device {
        let device = super::super::sample::device("GPU-0");
        Device { memory_free_bytes: self.free, ..device }
    }

    fn reading(&self) -> Reading<impl Fn(DeviceId) -> Option<u64> + use<>> {
        let free = self.free;
        Reading { since: self.all.moment(), free: move |_| Some(free) }
    }
}

fn need(device: &str, weights_bytes: u64) -> MemoryNeed {
    MemoryNeed {
        device: device.parse().unwrap(),
        weights_bytes,
        mapped_bytes: 0,
        context_bytes: 0,
        compute_bytes: 0,
    }
}

fn file(number: u8) -> Sha256Digest {
    format!("{number:02x}").repeat(32).parse().unwrap()
}

/// What happens to a card of 100 bytes.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A worker is asked for, by a reading that so many steps have followed.
    Ask {
        need: u64,
        age: usize,
    },
    /// A loading worker takes so much more.
    Take {
        who: usize,
        bytes: u64,
    },
    Ready {
        who: usize,
    },
    Crash {
        who: usize,
    },
    End {
        who: usize,
    },
}

fn steps(with_ends: bool) -> impl Strategy<Value = Vec<Step>> {
    let who = 0..6usize;
    let ask = (1..70u64, 0..4usize)
        .prop_map(move |(need, age)| Step::Ask { need, age: if with_ends { age } else { 0 } });
    let take = (who.clone(), 1..40u64).prop_map(|(who, bytes)| Step::Take { who, bytes });
    let ready = who.clone().prop_map(|who| Step::Ready { who });
    let crash = who.clone().prop_map(|who| Step::Crash { who });
    let end = who.prop_map(|who| Step::End { who });
    let ends = u32::from(with_ends);
    let step = prop_oneof![4 => ask, 4 => take, 2 => ready, ends => crash, ends => end];
    prop::collection::vec(step, 1..60)
}

/// A worker: its reservation, what it needs, what it has taken.
type Worker = (Reservation, u64, u64);

/// Runs the steps and gives, for each worker asked for, what was promised before, what it needed, and
/// whether it was promised.
fn play(steps: Vec<Step>) -> Vec<(u64, u64, bool)> {
    let all = Reservations::default();
    let mut workers: Vec<Worker> = Vec::new();
    let mut readings: Vec<(Moment, u64)> = Vec::new();
    let mut asked = Vec::new();
    for step in steps {
        let free = 100 - workers.iter().map(|(_, _, has)| has).sum::<u64>();
        readings.push((all.moment(), free));
        let loads = |workers: &[Worker], who: usize| who < workers.len();
        match step {
            Step::Ask { need: bytes, age } => {
                let (since, free) = readings[readings.len().saturating_sub(age + 1)];
                let reading = Reading { since, free: move |_| Some(free) };
                let promised = workers.iter().map(|(_, need, _)| need).sum();
                let granted = all.reserve(&[need("GPU-0", bytes)], &file(1), &reading);
                let granted = granted.inspect(Reservation::being_taken);
                asked.push((promised, bytes, granted.is_ok()));
                workers.extend(granted.ok().map(|granted| (granted, bytes, 0)));
            }
            Step::Take { who, bytes } if loads(&workers, who) => {
                let (_, need, has) = &mut workers[who];
                *has = (*has + bytes).min(*need);
            }
            Step::Ready { who } if loads(&workers, who) => {
                let (reservation, need, has) = &mut workers[who];
                *has = *need;
                reservation.taken();
            }
            Step::Crash { who } if loads(&workers, who) => {
                let (reservation, _, has) = &mut workers[who];
                *has = 0;
                reservation.to_be_taken();
                reservation.being_taken();
            }
            Step::End { who } if loads(&workers, who) => {
                workers.remove(who);
            }
            _ => {}
        }
    }
    asked
}

proptest! {
    /// Whatever loads, crashes and ends in between, and however old the readings are.
    #[test]
    fn never_is_more_promised_than_there_is(steps in steps(true)) {
        for (promised, needed, granted) in play(steps) {
            prop_assert!(!granted || promised + needed <= 100, "{promised} + {needed}");
        }
    }

    #[test]
    fn while_workers_only_load_whatever_fits_is_promised(steps in steps(false)) {
        for (promised, needed, granted) in play(steps) {
            prop_assert_eq!(granted, promised + needed <= 100, "{} + {}", promised, needed);
        }
    }
}
