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

    /// Where so many workers broke off over it that it would be to blame if their processes ended, and it has not got
    /// on with the tokens that it `got` since: what tells so of each. A cut is nobody's end, nor is a hang for which its
    /// hive does not end the process.
    pub(super) fn accusation(
        &self,
        got: u32,
        others: OtherEnds<'_>,
    ) -> Option<Vec<CancellationToken>> {
        let (ends, own) = (self.unexplained(), self.processes());
        let has_got_on = self.since.saturating_add(got) >= GOT_ON;
        let is_any = !has_got_on && guilty(&ends, &|since| others(since, &own)).is_some();
        is_any.then(|| ends.iter().map(|end| end.died.clone()).collect())
    }

    /// Until when it takes hives to end those that still hang, as `hangs` tells, where it would be convicted if they did.
    /// Who does not is none of its doing.
    pub(super) fn hangs_until(
        &mut self,
        hangs: &dyn Fn(&FailedBy) -> bool,
        others: OtherEnds<'_>,
    ) -> Option<Instant> {
        for end in self.ends.iter_mut().filter(|end| !end.is_proven()) {
            end.hangs &= hangs(&end.by);
        }
        let own = self.processes();
        let ends = sifted(self.unexplained(), |end| end.hangs || end.is_proven()).kept;
        guilty(&ends, &|since| others(since, &own))?;
        let hanging = ends.iter().filter(|end| !end.is_proven());
        hanging.map(|end| end.at + HANG_NEWS).max()
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
mod tests;
