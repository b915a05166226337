use worker_contract::HiveAlias;

use super::*;

/// How a worker broke off: after so many tokens, whether it had no other request, and whether its hive
/// says that it ended.
type Row = (&'static str, u32, bool, bool);

/// What becomes of a request whose workers break off one after the other.
fn verdict(rows: impl IntoIterator<Item = (String, u32, bool, bool)>) -> Option<Vec<String>> {
    let mut suspicion = Suspicion::default();
    for (name, tokens, was_alone, is_proven) in rows {
        let died = CancellationToken::new();
        if is_proven {
            died.cancel();
        }
        suspicion.got(tokens, 0);
        suspicion.ended(end(&name, was_alone, died));
        let verdict = suspicion.accusation(0, &none).and_then(|_| suspicion.judge(&none));
        if let Some(Conviction { workers, .. }) = verdict {
            return Some(workers.iter().map(ToString::to_string).collect());
        }
    }
    None
}

fn check(rows: &[Row], expected: Option<&[&str]>) {
    let found =
        verdict(rows.iter().map(|(name, t, alone, died)| ((*name).into(), *t, *alone, *died)));
    let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(found, expected, "{rows:?}");
}

/// Workers that end after so many tokens each: over how many of them the request is convicted.
fn convicted_after(tokens: u32, was_alone: bool) -> Option<usize> {
    let count = |most: usize| {
        let name = |number: usize| format!("w-{number}");
        verdict((0..most).map(|number| (name(number), tokens, was_alone, true))).is_some()
    };
    (1..100).find(|most| count(*most))
}

#[test]
fn a_request_that_ends_two_workers_in_a_row_is_to_blame_whatever_little_it_gets() {
    for tokens in [0, 1, GOT_ON - 1] {
        assert_eq!(convicted_after(tokens, true), Some(2), "{tokens}");
        assert_eq!(convicted_after(tokens, false), Some(MOST_IN_ROW), "{tokens}");
    }
    check(&[("a", 500, true, true), ("b", 1, true, true)], Some(&["a", "b"]));
    check(&[("a", 0, true, true), ("a", 0, true, true)], Some(&["a"]));
    let mixed = [("a", 0, false, true), ("b", 0, true, true), ("c", 3, true, true)];
    check(&mixed, Some(&["b", "c"]));
    let in_company = [("a", 500, false, true), ("b", 0, false, true), ("c", 3, true, true)];
    check(&in_company, Some(&["a", "b", "c"]));
    let got_on = [("a", 0, false, true), ("b", GOT_ON, false, true), ("c", 0, true, true)];
    check(&got_on, None);
}

#[test]
fn each_worker_that_ends_where_it_is_not_asks_for_one_more_end_alone() {
    // After how many ends it is convicted, with so many others, where it was in company at these of them, and
    // each worker lived so long with it.
    let convicted_after = |others: usize, company: usize, tokens: u32, lived: Duration| {
        let mut suspicion = Suspicion::default();
        (1..99).find(|count| {
            suspicion.got(tokens, 0);
            suspicion.ended(end("a", *count > company, ended()).after(lived));
            suspicion.judge(&|_, _| others).is_some()
        })
    };
    for (others, at_once, later) in [(0, 0, 0), (1, 1, 1), (2, 1, 2), (3, 1, 3), (9, 1, 3)] {
        let moment_less = MOMENT.checked_sub(Duration::from_millis(1)).unwrap();
        for (lived, more) in [(moment_less, at_once), (MOMENT, later)] {
            for (company, least) in [(0, MOST_ALONE), (2, MOST_ALONE_AT_LAST), (99, MOST_IN_ROW)] {
                let found = convicted_after(others, company, 1, lived);
                let what = format!("{others} others, {company} in company, {lived:?}");
                assert_eq!(found, Some(least + more), "{what}");
            }
        }
    }
    let found = convicted_after(20, 0, GOT_ON, Duration::ZERO);
    assert_eq!(found, Some(MOST_ALONE_IN_ALL + 20));
}

#[test]
fn before_it_is_convicted_it_is_kept_from_workers_for_twice_as_long_as_one_lived_with_it() {
    let start = Instant::now();
    // How long each worker lived with it in seconds, how many others have ended, and for how long it is watched.
    let rows: [(&[u64], usize, Option<u64>); 7] = [
        (&[5], 0, None),
        (&[99, 0], 0, Some(0)),
        (&[1, 2], 0, Some(4)),
        (&[1, 9], 0, Some(LONGEST_WATCH.as_secs())),
        (&[1, 4, 2], 1, Some(8)),
        (&[1, 4], 1, None),
        (&[1, 4, 3, 3, 3], 3, None),
    ];
    for (lived, others, expected) in rows {
        let (mut suspicion, fallen) = (Suspicion::default(), Fallen::default());
        for seconds in lived {
            let by = FailedBy { worker: "a".parse().unwrap(), process: 0 };
            let end = End::new(by, true, ended(), fallen.clone(), start);
            suspicion.ended(end.after(Duration::from_secs(*seconds)));
        }
        let expected = expected.map(|seconds| start + Duration::from_secs(seconds));
        assert_eq!(suspicion.watched_until(&|_, _| others), expected, "{lived:?}, {others}");
    }
}

#[test]
fn who_is_seen_not_to_be_the_only_reason_is_not_convicted_and_a_cut_is_not_watched() {
    let mut suspicion = Suspicion::default();
    for _ in 0..2 {
        suspicion.ended(end("a", true, ended()).after(MOMENT));
    }
    assert!(suspicion.watched_until(&none).is_some());
    assert!(suspicion.judge(&|_, _| 1).is_none(), "a worker ended without it meanwhile");
    assert!(suspicion.is_any(), "it is tried again");
    let mut suspicion = Suspicion::default();
    for _ in 0..2 {
        suspicion.ended(end("a", true, CancellationToken::new()).after(MOMENT));
    }
    assert_eq!(suspicion.watched_until(&none), None);
}

#[test]
fn its_own_ends_are_no_others_and_those_of_the_minute_before_it_fell_are() {
    let (mut suspicion, start) = (Suspicion::default(), Instant::now());
    let at = start + LOOKS_BACK;
    for process in [3, 4] {
        let by = FailedBy { worker: "a".parse().unwrap(), process };
        suspicion.ended(End::new(by, true, ended(), Fallen::default(), at));
    }
    let others = |since: Instant, own: &[u64]| {
        assert_eq!((since, own), (start, &[3, 4][..]));
        0
    };
    assert!(suspicion.accusation(0, &others).is_some() && suspicion.judge(&others).is_some());
    assert_eq!(suspicion.processes(), [3, 4], "they are what it has done");
}

#[test]
fn who_falls_with_the_same_others_each_time_is_not_convicted_for_that_and_one_of_them_alone_is() {
    // Who falls with the first workers, and whether 1 is convicted after the fourth.
    let rows: [([&[u64]; 4], bool); 4] = [
        ([&[1, 2], &[1, 2, 3], &[1, 2], &[1, 2]], false),
        ([&[1, 2], &[1, 2], &[1, 2], &[1]], false),
        ([&[1, 2], &[1, 3], &[1, 2, 3], &[1, 2, 3]], true),
        ([&[1], &[1], &[1], &[1]], true),
    ];
    for (fallen, expected) in rows {
        let mut suspicion = Suspicion::default();
        for requests in fallen {
            assert!(suspicion.accusation(0, &none).is_none(), "{fallen:?}: too early");
            let end = end("a", false, ended());
            for request in requests {
                end.fallen.add(*request);
            }
            suspicion.ended(end);
        }
        assert_eq!(suspicion.judge(&none).is_some(), expected, "{fallen:?}");
    }
    let mut suspicion = Suspicion::default();
    for was_alone in [false, true, true] {
        assert!(suspicion.accusation(0, &none).is_none(), "too early");
        let end = end("a", was_alone, ended());
        for request in [1, 2] {
            end.fallen.add(request);
        }
        suspicion.ended(end);
    }
    assert!(suspicion.judge(&none).is_some(), "the other was not at the beginning");
}

#[test]
fn an_end_that_is_excused_counts_where_the_next_one_is_not_and_there_was_one_before() {
    // Whether it was alone at each, and whether that is excused.
    for (rows, expected) in [
        (&[(false, false), (true, true), (true, false)][..], true),
        (&[(true, true), (true, false)], false),
        (&[(false, false), (false, true), (true, false)], true),
        (&[(false, false), (true, false), (true, true)], false),
    ] {
        let mut suspicion = Suspicion::default();
        for (was_alone, is_excused) in rows {
            let end = end("a", *was_alone, ended());
            suspicion.ended(if *is_excused { end.excused() } else { end });
        }
        assert_eq!(suspicion.judge(&none).is_some(), expected, "{rows:?}");
    }
}

#[test]
fn who_gets_on_between_two_ends_is_blamed_only_for_very_many() {
    check(&[("a", 0, true, true), ("b", GOT_ON, true, true)], None);
    assert_eq!(convicted_after(GOT_ON, true), Some(MOST_ALONE_IN_ALL));
    assert_eq!(convicted_after(GOT_ON, false), Some(MOST_IN_ALL));
    for was_alone in [true, false] {
        assert_eq!(convicted_after(FORGOTTEN, was_alone), None, "a long stream goes on");
    }
    let kills_in_two_minutes = 30;
    assert!(convicted_after(GOT_ON, false) > Some(kills_in_two_minutes));
}

#[test]
fn who_passes_the_place_where_the_worker_before_ended_gets_on_however_little_it_gains() {
    let convicted_after = |tokens, again| {
        let mut suspicion = Suspicion::default();
        suspicion.got(500, 0);
        (1..100).find(|_| {
            let died = CancellationToken::new();
            died.cancel();
            suspicion.ended(end("a", true, died));
            let is_convicted = suspicion.accusation(0, &none).is_some();
            suspicion.got(tokens, again);
            is_convicted
        })
    };
    assert_eq!(convicted_after(0, 500), Some(2), "it ends where the one before did");
    assert_eq!(convicted_after(1, 10), Some(2), "that is soon computed again");
    assert_eq!(convicted_after(1, 500), Some(MOST_ALONE_IN_ALL), "it gets on, though slowly");
}

#[test]
fn cuts_and_hangs_are_not_the_requests_doing() {
    let (cut, died) = (|name| (name, 0, true, false), |name| (name, 0, true, true));
    check(&[cut("a"), cut("b"), cut("c"), died("d")], None);
    check(&[cut("a"), died("b"), died("c")], Some(&["b", "c"]));
    check(&[died("a"), cut("b"), died("c")], Some(&["a", "c"]));
    let between = [("a", 0, true, true), ("b", 10, true, false), ("c", 10, true, true)];
    check(&between, None);
}

#[test]
fn what_it_ended_in_a_crowd_is_its_doing_once_it_is_convicted_and_a_cut_never_is() {
    let mut suspicion = Suspicion::default();
    let process = |pid| {
        let (hive, worker) = (HiveAlias::localhost(), "a".parse().unwrap());
        Some(WorkerProcess { hive, worker, pid })
    };
    for (pid, was_alone, is_proven) in
        [(1, false, true), (2, true, false), (3, true, true), (4, true, true)]
    {
        let died = if is_proven { ended() } else { CancellationToken::new() };
        suspicion.ended(end("a", was_alone, died).of_process(process(pid)));
    }
    let Some(Conviction { workers, processes }) = suspicion.judge(&none) else { panic!("it is") };
    assert_eq!(workers, ["a".parse::<WorkerId>().unwrap()]);
    let ended: Vec<u32> = processes.iter().map(|process| process.pid).collect();
    assert_eq!(ended, [1, 3, 4]);
}

#[test]
fn what_another_request_has_ended_speaks_against_nobody_who_fell_with_it() {
    let (mut deadly, mut beside) = (Suspicion::default(), Suspicion::default());
    for _ in 0..2 {
        let end = end("a", false, ended());
        deadly.ended(end.clone());
        beside.ended(end);
    }
    assert!(beside.is_any());
    deadly.ended(end("b", true, ended()));
    assert!(deadly.judge(&none).is_some());
    assert!(!beside.is_any(), "it is known who it was");
    beside.ended(end("c", true, ended()));
    assert!(beside.accusation(0, &none).is_none() && beside.judge(&none).is_none());
    beside.ended(end("d", true, ended()));
    assert!(beside.judge(&none).is_some(), "it ends workers, too");
}

#[test]
fn a_request_is_suspect_after_two_ends_in_a_row_or_one_alone_until_it_gets_on() {
    // What it got before each end, whether it was alone there, and what it has got since.
    for (ends, since, expected) in [
        (&[(0, false)][..], 0, false),
        (&[(0, true)], 0, true),
        (&[(GOT_ON, true)], 0, false),
        (&[(500, false), (0, false)], 0, true),
        (&[(0, false), (GOT_ON, false)], 0, false),
        (&[(0, false), (GOT_ON - 1, false)], GOT_ON - 1, true),
        (&[(0, false), (0, true)], GOT_ON, false),
    ] {
        let mut suspicion = Suspicion::default();
        for (tokens, was_alone) in ends {
            suspicion.got(*tokens, 0);
            suspicion.ended(end("a", *was_alone, CancellationToken::new()));
        }
        suspicion.got(since, 0);
        assert_eq!(suspicion.is_any(), expected, "{ends:?}, {since}");
    }
}

#[test]
fn what_makes_workers_hang_goes_on_to_have_them_to_itself() {
    let mut suspicion = Suspicion::default();
    for was_alone in [false, false, true] {
        suspicion.ended(end("a", was_alone, CancellationToken::new()));
    }
    assert!(suspicion.accusation(0, &none).is_some() && suspicion.judge(&none).is_none());
    assert!(suspicion.is_any());
}

#[test]
fn a_hang_counts_as_soon_as_its_hive_ends_the_process_and_is_no_other_end_until_then() {
    let (mut suspicion, died) = (Suspicion::default(), [(); 3].map(|()| CancellationToken::new()));
    for (died, is_known) in died.iter().zip([1, 2, 3]) {
        suspicion.ended(end("a", true, died.clone()).hanging(true));
        suspicion.ended(end("b", true, CancellationToken::new()));
        assert!(suspicion.accusation(0, &none).is_some() && suspicion.judge(&none).is_none());
        assert_eq!(suspicion.processes().len(), is_known, "a cut is none of its doing");
    }
    died[0].cancel();
    assert!(suspicion.judge(&none).is_none(), "it is one");
    died[2].cancel();
    assert!(suspicion.judge(&none).is_some());
}

#[test]
fn only_for_hangs_that_would_convict_it_is_waited_that_hives_find_out() {
    let cut = || end("cut", true, CancellationToken::new());
    let hang = || end("hang", true, CancellationToken::new()).hanging(true);
    let back = || end("back", true, CancellationToken::new()).hanging(true);
    let died = || end("died", true, ended()).hanging(true);
    for (ends, expected) in [
        ([hang(), hang()], true),
        ([died(), hang()], true),
        ([died(), died()], false),
        ([cut(), hang()], false),
        ([back(), hang()], false),
    ] {
        let mut suspicion = Suspicion::default();
        let until = ends[1].at + HANG_NEWS;
        for end in &ends {
            suspicion.ended(end.clone());
        }
        let found = suspicion.hangs_until(&|by| by.worker.as_str() == "hang", &none);
        assert_eq!(found, expected.then_some(until), "{ends:?}");
    }
}

#[test]
fn who_gets_on_after_hangs_is_accused_of_none_when_hives_end_them() {
    for (got, expected) in [(GOT_ON - 1, true), (GOT_ON, false)] {
        let mut suspicion = Suspicion::default();
        suspicion.ended(end("a", true, ended()).hanging(true));
        suspicion.ended(end("b", true, ended()).hanging(true));
        assert_eq!(suspicion.accusation(got, &none).is_some(), expected, "{got}");
    }
}

fn end(worker: &str, was_alone: bool, died: CancellationToken) -> End {
    let by = FailedBy { worker: worker.parse().unwrap(), process: 0 };
    End::new(by, was_alone, died, Fallen::default(), Instant::now())
}

/// No worker has ended at which the request was not.
fn none(_: Instant, _: &[u64]) -> usize {
    0
}

/// The word that a process has ended.
fn ended() -> CancellationToken {
    let died = CancellationToken::new();
    died.cancel();
    died
}
