//! Workers that have said that they take no more at present: they rest. Pure: `now` is passed in.

use std::fmt;
use std::time::{Duration, Instant};

use worker_contract::{HiveAlias, ModelAlias, WorkerId};

use super::names::is_there;
use super::{Registry, State};
use crate::scheduler::Readiness;

/// How long one rests that does not say for how long.
const USUAL: Duration = Duration::from_secs(1);
/// The longest that one is asked for nothing: it may have room sooner than it says.
const LONGEST: Duration = Duration::from_secs(10);

/// That a worker takes no more at present. Its words are for who asked alone: they may repeat the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    status: u16,
    code: Option<String>,
    /// When it is asked again.
    pub(super) until: Instant,
    told_until: Option<Instant>,
}

/// A server that rests, as it is told to who gets no place because of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resting {
    /// The server.
    pub server: HiveAlias,
    /// The status with which it said so,
    pub status: u16,
    /// and the code.
    pub code: Option<String>,
    /// How many seconds are left.
    pub left_s: u32,
    /// It said itself for how long.
    is_told: bool,
}

impl Rest {
    /// That of a worker which answers with a status and a code that is a name, and has `told` for how long
    /// it takes no more.
    #[must_use]
    pub fn new(status: u16, code: Option<String>, told: Option<Duration>, now: Instant) -> Self {
        let until = now + told.unwrap_or(USUAL).min(LONGEST);
        Self { status, code, until, told_until: told.map(|told| now + told) }
    }

    /// When it takes requests again, as it says.
    #[must_use]
    pub fn ends(&self) -> Instant {
        self.told_until.unwrap_or(self.until)
    }

    /// How long that is from now.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.ends().saturating_duration_since(now)
    }

    pub(super) fn shown(&self, server: &HiveAlias, now: Instant) -> Resting {
        let left = self.left(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Resting {
            server: server.clone(),
            status: self.status,
            code: self.code.clone(),
            left_s: u32::try_from(seconds).unwrap_or(u32::MAX).max(1),
            is_told: self.told_until.is_some(),
        }
    }
}

impl fmt::Display for Resting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, status, code, left_s, is_told } = self;
        write!(f, "{server} takes no more at present: HTTP {status}")?;
        if let Some(code) = code {
            write!(f, " ({code})")?;
        }
        if *is_told {
            write!(f, "; it wants to be left alone for another {left_s} s")?;
        }
        Ok(())
    }
}

impl Registry {
    /// A worker has answered that it cannot take more at present.
    pub fn worker_rests(&self, id: &WorkerId, rest: Rest) {
        self.state().workers.rest(id, rest);
        self.touch();
    }

    /// What a server has said that rests.
    #[must_use]
    pub fn resting(&self, id: &WorkerId, now: Instant) -> Option<Resting> {
        self.state().resting(id, now)
    }

    /// The server that takes requests for a model first, where all rest that are there for it, and none is
    /// coming.
    #[must_use]
    pub fn resting_server(&self, model: &ModelAlias, now: Instant) -> Option<Resting> {
        let state = self.state();
        let files = state.shared_files(model, None, self.shared.policies.get());
        if state.is_coming(model, &files) {
            return None;
        }
        let is_pinned = state.is_in_catalog(model);
        let there = state.answering(model, &files).filter(|(_, worker)| {
            is_there(worker) && (!worker.is_of_server || worker.is_named || !is_pinned)
        });
        let mut soonest = None;
        for (id, worker) in there {
            let rest = worker
                .rest
                .as_ref()
                .filter(|_| worker.readiness_for_requests() == Readiness::Resting)?;
            if soonest.is_none_or(|(ends, _)| rest.ends() < ends) {
                soonest = Some((rest.ends(), id));
            }
        }
        state.resting(soonest?.1, now)
    }
}

impl State {
    fn resting(&self, id: &WorkerId, now: Instant) -> Option<Resting> {
        let worker = self.workers.get(id).filter(|worker| worker.is_of_server)?;
        worker.rest.as_ref().map(|rest| rest.shown(&worker.hive_id, now))
    }

    /// A server is asked again at once, whatever it has said.
    pub(super) fn wake_server(&mut self, name: &HiveAlias) {
        let all = self.workers.iter_mut();
        for worker in all.filter(|worker| worker.is_of_server && worker.hive_id == *name) {
            worker.rest = None;
        }
    }
}
