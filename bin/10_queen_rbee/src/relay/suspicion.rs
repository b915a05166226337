//! Whether a request is what ends workers. Pure.
//!
//! A worker that broke off over a request is counted with it; held against it is only what is proven: that
//! the process ended, by its hive's word. Who gets on between two ends is caught by somebody else's kills;
//! who ends workers does so again as soon as the same is computed again.

use tokio_util::sync::CancellationToken;
use worker_contract::WorkerId;

/// How many workers in a row may end while a request has them to itself: then it is to blame.
const MOST_ALONE: usize = 2;
/// How many workers in a row may end over a request, alone there or not.
const MOST_IN_ROW: usize = 5;
/// Two ends with as many tokens between them are not in a row: what ends workers comes again with the
/// first tokens, and these take seconds where machines are slow.
const GOT_ON: u32 = 64;
/// How many workers that a request had to itself may end in all, whatever it gets in between.
const MOST_ALONE_IN_ALL: usize = 8;
/// How many may end in all: more than somebody ends who kills one every four seconds for two minutes, or
/// the long streams beside each other there would be taken for what kills.
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

/// A worker that broke off while it had the request.
#[derive(Debug, Clone)]
struct End {
    worker: WorkerId,
    was_alone: bool,
    /// The tokens between the end before it and this one.
    tokens: u32,
    /// Fires when its process is known to have ended.
    died: CancellationToken,
}

impl Suspicion {
    /// The request has got so many tokens, behind so many that were computed again. Who passes the place where
    /// the worker before ended did not end it with what came before that; but only what is gained bounds how
    /// often it may be so.
    pub(super) fn got(&mut self, tokens: u32, again: u32) {
        let passed = if tokens > 0 { again.min(GOT_ON) } else { 0 };
        self.since = self.since.saturating_add(tokens.max(passed));
        if self.since >= FORGOTTEN {
            self.ends.clear();
        }
    }

    /// A worker broke off, which may be the request's doing.
    pub(super) fn ended(&mut self, worker: WorkerId, was_alone: bool, died: CancellationToken) {
        let tokens = std::mem::take(&mut self.since);
        self.ends.push(End { worker, was_alone, tokens, died });
    }

    /// Whether it should have the next worker to itself. A stream that got on well before its worker ended
    /// need not: it would keep others out for nothing.
    pub(super) fn is_any(&self) -> bool {
        self.since < GOT_ON && self.ends.last().is_some_and(|last| last.tokens < GOT_ON)
    }

    /// Where so many workers broke off over it that it would be to blame if their processes ended: what
    /// tells so of each. A hang or a cut is nobody's end.
    pub(super) fn accusation(&self) -> Option<Vec<CancellationToken>> {
        let is_any = guilty(&self.ends).is_some();
        is_any.then(|| self.ends.iter().map(|end| end.died.clone()).collect())
    }

    /// The workers that the request has ended, where that is proven; else the accusation is dropped.
    pub(super) fn judge(&mut self) -> Option<Vec<WorkerId>> {
        let (mut proven, mut cut_off, mut between) = (Vec::new(), None, 0_u32);
        for mut end in self.ends.drain(..) {
            if end.died.is_cancelled() {
                end.tokens = end.tokens.saturating_add(std::mem::take(&mut between));
                proven.push(end);
            } else {
                between = between.saturating_add(end.tokens);
                cut_off = cut_off.or(Some(end));
            }
        }
        let verdict = guilty(&proven);
        if verdict.is_none() {
            if proven.is_empty() {
                // It may still be what makes workers hang: it goes on to have them to itself.
                proven.extend(cut_off);
            } else {
                self.since = self.since.saturating_add(between);
            }
            self.ends = proven;
        }
        verdict
    }
}

/// The workers whose end a request is to blame for, if all of these have ended.
fn guilty(ends: &[End]) -> Option<Vec<WorkerId>> {
    let later = ends.iter().rev().take_while(|end| end.tokens < GOT_ON).count();
    // The first of a row has what came before it.
    let row = &ends[ends.len().saturating_sub(later + 1)..];
    of_enough(row.iter().filter(|end| end.was_alone), MOST_ALONE)
        .or_else(|| of_enough(row.iter(), MOST_IN_ROW))
        .or_else(|| of_enough(ends.iter().filter(|end| end.was_alone), MOST_ALONE_IN_ALL))
        .or_else(|| of_enough(ends.iter(), MOST_IN_ALL))
}

/// Their names, each once, where they are so many.
fn of_enough<'a>(ends: impl Iterator<Item = &'a End>, most: usize) -> Option<Vec<WorkerId>> {
    let (mut count, mut names) = (0, Vec::new());
    for end in ends {
        count += 1;
        if !names.contains(&end.worker) {
            names.push(end.worker.clone());
        }
    }
    (count >= most).then_some(names)
}

#[cfg(test)]
mod tests {
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
            suspicion.ended(name.parse().unwrap(), was_alone, died);
            let verdict = suspicion.accusation().and_then(|_| suspicion.judge());
            if let Some(names) = verdict {
                return Some(names.iter().map(ToString::to_string).collect());
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
            assert_eq!(convicted_after(tokens, false), Some(5), "{tokens}");
        }
        check(&[("a", 500, true, true), ("b", 1, true, true)], Some(&["a", "b"]));
        check(&[("a", 0, true, true), ("a", 0, true, true)], Some(&["a"]));
        let mixed = [("a", 0, false, true), ("b", 0, true, true), ("c", 3, true, true)];
        check(&mixed, Some(&["b", "c"]));
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
                suspicion.ended("a".parse().unwrap(), true, died);
                let is_convicted = suspicion.accusation().is_some();
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
        let between = [("a", 0, true, true), ("b", 40, true, false), ("c", 40, true, true)];
        check(&between, None);
    }

    #[test]
    fn a_request_is_suspect_until_it_gets_on() {
        let mut suspicion = Suspicion::default();
        let mut ends_after = |tokens, since| {
            suspicion.got(tokens, 0);
            suspicion.ended("a".parse().unwrap(), false, CancellationToken::new());
            suspicion.got(since, 0);
            suspicion.is_any()
        };
        assert!(!ends_after(GOT_ON, 0), "it got on before");
        assert!(ends_after(0, 0));
        assert!(!ends_after(0, GOT_ON), "it gets on since");
    }
}
