//! Whether a request is what ends workers. Pure.
//!
//! A worker that broke off over a request is counted with it; held against it is only what is proven: that
//! the process ended, by its hive's word. Who gets on between two ends is caught by somebody else's kills;
//! who ends workers does so again as soon as the same is computed again. Of those that fall together nobody knows who
//! it was, and most workers end by themselves: who falls again is tried where it begins alone, and what it ends there is
//! its doing, unless workers end meanwhile at which it is not. Before it is convicted it is kept from all of them for a
//! while, so that this can be seen.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use worker_contract::WorkerId;

use crate::registry::{Fallen, WorkerProcess};
use crate::scheduler::FailedBy;

/// How many workers in a row may end over a request that is alone there: then it is to blame.
const MOST_ALONE: usize = 2;
/// How many in a row may end of which it was alone at the last one.
const MOST_ALONE_AT_LAST: usize = 3;
/// How many workers in a row may end over a request, alone there or not, if no other fell with all of them: one less than
/// have a hive give a worker up.
const MOST_IN_ROW: usize = 4;
/// How many ends of other workers count for it: each asks for one more end in a row where it is alone.
const MOST_OTHERS: usize = 3;
/// These count from so long before the first end over it: where somebody kills workers, that has begun before.
const LOOKS_BACK: Duration = Duration::from_secs(60);
/// How many count where its workers ended a moment after it came: who kills workers hardly hits one just then, and
/// requests that come together and end workers would speak for each other.
const MOST_OTHERS_AT_ONCE: usize = 1;
/// What a moment is.
const MOMENT: Duration = Duration::from_secs(1);
/// For how many times as long as a worker lived with it, at most, it is watched whether workers end without it. Where
/// somebody kills them at regular times, the next kill is seen, unless the request came late between two each time.
const WATCHED: u32 = 2;
/// The longest that this is watched.
const LONGEST_WATCH: Duration = Duration::from_secs(10);
/// How long it may take a hive to end a worker that hangs, once the queen has taken it to be gone: as long as it listens,
/// and some more.
const HANG_NEWS: Duration = Duration::from_secs(15);
/// Two ends with as many tokens between them are not in a row: what ends workers comes again with the
/// first tokens. Where machines are slow these take seconds, in which somebody may kill the next worker.
const GOT_ON: u32 = 16;
/// So many that were computed again, and one more, are as good: it has passed the place of the end before.
const PASSED: u32 = 64;
/// How many workers at which a request is alone may end in all, whatever it gets in between.
const MOST_ALONE_IN_ALL: usize = 8;
/// How many may end in all: more than somebody ends who kills one every four seconds for two minutes, or
/// the long streams beside each other there would be taken for what kills. No other may have fallen with all of them.
const MOST_IN_ALL: usize = 40;
/// After as many tokens without an end nothing before counts. A context holds only so many of these, so
/// that the ends over one request are bounded.
const FORGOTTEN: u32 = 512;

/// The workers that broke off over one request, and what it got in between.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    ends: Vec<End>,
    /// The tokens since the last end.
    since: u32,
}

/// What a request is to blame for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conviction {
    /// The workers whose ends have proven it, each once.
    pub(super) workers: Vec<WorkerId>,
    /// All processes that ended over it, or hang, in a crowd as well, as far as they are known: none of these ends is
    /// the worker's fault.
    pub(super) processes: Vec<WorkerProcess>,
}

/// A worker that broke off while it had the request.
#[derive(Debug, Clone)]
pub(super) struct End {
    by: FailedBy,
    /// The same as its hive knows it, where it is known.
    process: Option<WorkerProcess>,
    was_alone: bool,
    /// It may have fallen with the one before it, for the same reason.
    is_excused: bool,
    /// It gives no sign of life: that its hive ends it for that is told later.
    hangs: bool,
    /// The tokens between the end before it and this one.
    tokens: u32,
    /// Fires when its process is known to have ended.
    died: CancellationToken,
    /// Who fell with it.
    fallen: Fallen,
    at: Instant,
    /// For how long it had had the request.
    lived: Duration,
}

/// What tells that a process has ended.
#[derive(Debug)]
pub(super) struct News {
    /// Fires when it is known to have ended.
    pub(super) died: CancellationToken,
    /// Until when that may take, where its hive has to find out that it hangs.
    pub(super) until: Option<Instant>,
}

/// How many workers like those over whose ends a request is judged have ended since a time, the processes that are named
/// left out.
pub(super) type OtherEnds<'a> = &'a dyn Fn(Instant, &[u64]) -> usize;

impl End {
    /// That of a worker at which the request was alone, or not.
    pub(super) fn new(
        by: FailedBy,
        was_alone: bool,
        died: CancellationToken,
        fallen: Fallen,
        at: Instant,
    ) -> Self {
        let (process, is_excused, hangs) = (None, false, false);
        let (tokens, lived) = (0, Duration::ZERO);
        Self { by, process, was_alone, is_excused, hangs, tokens, died, fallen, at, lived }
    }

    /// The same of a process that is known.
    pub(super) fn of_process(self, process: Option<WorkerProcess>) -> Self {
        Self { process, ..self }
    }

    /// The same of one that had had the request for so long.
    pub(super) fn after(self, lived: Duration) -> Self {
        Self { lived, ..self }
    }

    /// The same of one that may have fallen with the one before it.
    pub(super) fn excused(self) -> Self {
        Self { is_excused: true, ..self }
    }

    /// The same of one that gives no sign of life, or does.
    pub(super) fn hanging(self, hangs: bool) -> Self {
        Self { hangs, ..self }
    }

    fn is_held_against_it(&self) -> bool {
        self.was_alone && !self.is_excused
    }

    /// Whether its process is known to have ended.
    fn is_proven(&self) -> bool {
        self.died.is_cancelled()
    }

    fn news(&self) -> News {
        let until = self.hangs.then(|| self.at + HANG_NEWS);
        News { died: self.died.clone(), until }
    }
}

impl Suspicion {
    /// The request has got so many tokens, behind so many that were computed again. Who passes the place where
    /// the worker before ended did not end it with what came before that; but only what is gained bounds how
    /// often it may be so.
    pub(super) fn got(&mut self, tokens: u32, again: u32) {
        let passed = if tokens > 0 && again >= PASSED { GOT_ON } else { 0 };
        self.since = self.since.saturating_add(tokens.max(passed));
        if self.since >= FORGOTTEN {
            self.ends.clear();
        }
    }

    /// A worker broke off, which may be the request's doing.
    pub(super) fn ended(&mut self, end: End) {
        let tokens = std::mem::take(&mut self.since);
        self.ends.push(End { tokens, ..end });
    }

    /// Whether a worker broke off where it was alone.
    pub(super) fn fell_alone(&self) -> bool {
        self.ends.iter().any(|end| end.was_alone)
    }

    /// Whether it should begin alone at the next worker: one has ended where it was alone, or two in a row. A stream that
    /// got on well before its worker ended need not: it would keep others out for nothing.
    pub(super) fn is_any(&self) -> bool {
        let ends = self.unexplained();
        let fell_at_once = |last: &End| last.was_alone && last.tokens < GOT_ON;
        let is_suspect = row(&ends).len() > 1 || ends.last().is_some_and(fell_at_once);
        self.since < GOT_ON && is_suspect
    }

    /// The ends of which nobody else is known to have been the reason.
    fn unexplained(&self) -> Vec<End> {
        self.ends.iter().filter(|end| !end.fallen.is_explained()).cloned().collect()
    }

    /// What stands for the processes that ended.
    pub(super) fn processes(&self) -> Vec<u64> {
        self.ends.iter().map(|end| end.by.process).collect()
    }

    /// Where so many workers broke off over it that it would be to blame if their processes ended: what
    /// tells so of each. A cut is nobody's end, nor is a hang for which its hive does not end the process.
    pub(super) fn accusation(&self, others: OtherEnds<'_>) -> Option<Vec<News>> {
        let (ends, own) = (self.unexplained(), self.processes());
        let is_any = guilty(&ends, &|since| others(since, &own)).is_some();
        is_any.then(|| ends.iter().map(End::news).collect())
    }

    /// Until when it is kept from workers, to see whether they end without it; `None` where it would not be convicted, or
    /// as many others have ended as count for it.
    pub(super) fn watched_until(&self, others: OtherEnds<'_>) -> Option<Instant> {
        let (proven, own) = (self.proven(), self.processes());
        let others = |since: Instant| others(since, &own);
        guilty(&proven, &others)?;
        let row = row(&proven);
        let watch = lived(row).saturating_mul(WATCHED).min(LONGEST_WATCH);
        let last = row.last().filter(|_| others_since(row, &others) < most_others(row))?;
        Some(last.at + watch)
    }

    /// What the request has ended, where that is proven; else the accusation is dropped, but for workers that hang: as
    /// soon as their hives end them, that counts.
    pub(super) fn judge(&mut self, others: OtherEnds<'_>) -> Option<Conviction> {
        let own = self.processes();
        let verdict = guilty(&self.proven(), &|since| others(since, &own));
        let may_count = |end: &End| end.hangs || end.is_proven();
        let Sifted { mut kept, cut_off, between } = sifted(self.unexplained(), may_count);
        if verdict.is_none() {
            if kept.is_empty() {
                // It may still be what makes workers hang: it goes on to have them to itself.
                kept.extend(cut_off);
            } else {
                self.since = self.since.saturating_add(between);
            }
        }
        self.ends = kept;
        let workers = verdict?;
        self.ends.iter().for_each(|end| end.fallen.explain());
        let processes = self.ends.iter().filter_map(|end| end.process.clone()).collect();
        Some(Conviction { workers, processes })
    }

    /// The ends of which nobody else was the reason, of processes that are known to have ended.
    fn proven(&self) -> Vec<End> {
        sifted(self.unexplained(), End::is_proven).kept
    }
}

/// Some ends, without those that do not count.
#[derive(Debug)]
struct Sifted {
    /// Those that do, each after all tokens since the one before it.
    kept: Vec<End>,
    /// One of the others, best where it was alone.
    cut_off: Option<End>,
    /// The tokens after the last one that counts.
    between: u32,
}

fn sifted(ends: Vec<End>, counts: impl Fn(&End) -> bool) -> Sifted {
    let (mut kept, mut cut_off, mut between) = (Vec::new(), None, 0_u32);
    for mut end in ends {
        if counts(&end) {
            end.tokens = end.tokens.saturating_add(std::mem::take(&mut between));
            kept.push(end);
        } else {
            between = between.saturating_add(end.tokens);
            cut_off = cut_off.filter(|kept: &End| kept.was_alone).or(Some(end));
        }
    }
    Sifted { kept, cut_off, between }
}

/// The workers whose end a request is to blame for, if all of these have ended, and so many others since a time.
fn guilty(ends: &[End], others: &dyn Fn(Instant) -> usize) -> Option<Vec<WorkerId>> {
    let (row, all) = (row(ends), others_since(ends, others));
    let more = others_since(row, others).min(most_others(row));
    let counts = |end: &&End| end.is_held_against_it();
    of_enough(row.iter().filter(counts), MOST_ALONE + more)
        .or_else(|| of_enough(alone_at_last(row, more), MOST_ALONE_AT_LAST + more))
        .or_else(|| of_enough(unless_shared(row), MOST_IN_ROW + more))
        .or_else(|| of_enough(ends.iter().filter(counts), MOST_ALONE_IN_ALL.saturating_add(all)))
        .or_else(|| of_enough(unless_shared(ends), MOST_IN_ALL.saturating_add(all)))
}

/// How many others have ended while these did, and in the time before that counts.
fn others_since(ends: &[End], others: &dyn Fn(Instant) -> usize) -> usize {
    let first = ends.first().map(|end| end.at.checked_sub(LOOKS_BACK).unwrap_or(end.at));
    first.map_or(0, others)
}

/// How many others count for a request whose workers ended in such a row.
fn most_others(row: &[End]) -> usize {
    if lived(row) < MOMENT { MOST_OTHERS_AT_ONCE } else { MOST_OTHERS }
}

/// The longest that one of a row lived with it. At the first one it may have been for long before it came to the place
/// that the others have in common.
fn lived(row: &[End]) -> Duration {
    row.iter().skip(1).map(|end| end.lived).max().unwrap_or_default()
}

/// The last ends without much between them. The first of a row has what came before it.
fn row(ends: &[End]) -> &[End] {
    let later = ends.iter().rev().take_while(|end| end.tokens < GOT_ON).count();
    &ends[ends.len().saturating_sub(later + 1)..]
}

/// All of a row, where it was alone at the last one, and at as many `more` before. An excuse of one that ended before
/// counts no more then.
fn alone_at_last(row: &[End], more: usize) -> impl Iterator<Item = &End> {
    let is_last = row.last().is_some_and(End::is_held_against_it);
    let is_alone = is_last && row.iter().filter(|end| end.was_alone).count() > more;
    row.iter().filter(move |_| is_alone)
}

/// All, where no other request fell with each of them: then nobody else can have been it. Who fell with the last one may
/// not have heard of it yet.
fn unless_shared(ends: &[End]) -> impl Iterator<Item = &End> {
    let before = ends.split_last().map_or(ends, |(_, before)| before);
    let with_all = before.iter().map(|end| end.fallen.all()).reduce(|both, these| &both & &these);
    let is_shared = with_all.is_some_and(|requests| requests.len() > 1);
    ends.iter().filter(move |_| !is_shared)
}

/// Their names, each once, where they are so many.
fn of_enough<'a>(ends: impl Iterator<Item = &'a End>, most: usize) -> Option<Vec<WorkerId>> {
    let (mut count, mut names) = (0, Vec::new());
    for end in ends {
        count += 1;
        if !names.contains(&end.by.worker) {
            names.push(end.by.worker.clone());
        }
    }
    (count >= most).then_some(names)
}

#[cfg(test)]
mod tests {
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
            let verdict = suspicion.accusation(&none).and_then(|_| suspicion.judge(&none));
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
                for (company, least) in
                    [(0, MOST_ALONE), (2, MOST_ALONE_AT_LAST), (99, MOST_IN_ROW)]
                {
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
        assert!(suspicion.accusation(&others).is_some() && suspicion.judge(&others).is_some());
        assert_eq!(suspicion.processes(), [3, 4], "they are what it has done");
    }

    #[test]
    fn who_falls_with_the_same_others_each_time_is_not_convicted_for_that_and_one_of_them_alone_is()
    {
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
                assert!(suspicion.accusation(&none).is_none(), "{fallen:?}: too early");
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
            assert!(suspicion.accusation(&none).is_none(), "too early");
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
                let is_convicted = suspicion.accusation(&none).is_some();
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
        let Some(Conviction { workers, processes }) = suspicion.judge(&none) else {
            panic!("it is")
        };
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
        assert!(beside.accusation(&none).is_none() && beside.judge(&none).is_none());
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
        assert!(suspicion.accusation(&none).is_some() && suspicion.judge(&none).is_none());
        assert!(suspicion.is_any());
    }

    #[test]
    fn a_hang_counts_as_soon_as_its_hive_ends_the_process_and_is_no_other_end_until_then() {
        let (mut suspicion, died) =
            (Suspicion::default(), [(); 3].map(|()| CancellationToken::new()));
        for (died, is_known) in died.iter().zip([1, 2, 3]) {
            suspicion.ended(end("a", true, died.clone()).hanging(true));
            suspicion.ended(end("b", true, CancellationToken::new()));
            assert!(suspicion.accusation(&none).is_some() && suspicion.judge(&none).is_none());
            assert_eq!(suspicion.processes().len(), is_known, "a cut is none of its doing");
        }
        died[0].cancel();
        assert!(suspicion.judge(&none).is_none(), "it is one");
        died[2].cancel();
        assert!(suspicion.judge(&none).is_some());
    }

    #[test]
    fn only_of_a_hang_it_is_waited_for_that_its_hive_finds_out() {
        let mut suspicion = Suspicion::default();
        let hang = end("a", true, ended()).hanging(true);
        let until = hang.at + HANG_NEWS;
        suspicion.ended(hang);
        suspicion.ended(end("b", true, ended()));
        let news = suspicion.accusation(&none).expect("two are enough");
        let waits: Vec<_> = news.iter().map(|news| news.until).collect();
        assert_eq!(waits, [Some(until), None]);
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
}
