//! The starts of workers that requests wait for: which are under way, and which failed where.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use job_server::JobError;
use rbee_operations::is_want_of_memory;
use worker_contract::{DeviceId, HiveAlias, ModelAlias};

use crate::admission::Admission;
use crate::registry::{LOST, Liveness};
use crate::spawner::{Attempt, Begun};

/// How often a start may be lost at one place.
const MOST_LOST: usize = 2;

/// How often it is reckoned at most who makes way for a model: that looks at all workers at all its places.
const RECKON: Duration = Duration::from_millis(250);

/// A place for a worker.
pub(super) type Site = (HiveAlias, Option<DeviceId>);

/// What became of starts while requests wait for their models.
#[derive(Debug, Default)]
pub(super) struct Starts {
    failed: HashMap<ModelAlias, Failed>,
    /// When it was reckoned last who makes way.
    reckoned: HashMap<ModelAlias, Instant>,
}

#[derive(Debug)]
struct Failed {
    sites: Vec<Site>,
    /// Where starts were lost, and when.
    lost: Vec<(Site, Instant)>,
    error: JobError,
}

/// Where no worker of a model can be started at present.
#[derive(Debug, Default)]
pub(super) struct Closed {
    pub(super) sites: Vec<Site>,
    /// Of one of them news is awaited.
    pub(super) is_news_due: bool,
}

/// The starts that are under way.
#[derive(Default)]
pub(super) struct Attempts {
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
}

/// A start that has ended.
pub(super) struct Ended {
    pub(super) model: ModelAlias,
    pub(super) site: Site,
    /// The queen took it to fit there.
    pub(super) fits: bool,
    pub(super) result: Result<Begun, JobError>,
}

impl Starts {
    /// A start has ended. One that failed is not tried there again for those who wait; one that was lost,
    /// or for which there was less memory than was known, is, once its hive is heard again.
    pub(super) fn ended(&mut self, ended: Ended, now: Instant) {
        let Ended { model, site, fits, result } = ended;
        match result {
            Ok(Begun::Worker) => {
                self.failed.remove(&model);
            }
            Ok(Begun::Word) => {}
            Err(error) => {
                let failed = self.failed.entry(model).or_insert_with(|| Failed::new(error.clone()));
                let code = error.code.as_str();
                // What she knew of its memory was not so: the next report tells.
                let is_lost = LOST.contains(&code) || (fits && is_want_of_memory(code));
                let before = failed.lost.iter().filter(|(lost, _)| *lost == site).count();
                if is_lost && before + 1 < MOST_LOST {
                    failed.lost.push((site, now));
                } else {
                    failed.sites.push(site);
                }
                failed.error = error;
            }
        }
    }

    /// Where no worker of a model can be started, by what was `heard` of each hive last, and when.
    pub(super) fn closed(
        &self,
        model: &ModelAlias,
        heard: impl Fn(&HiveAlias) -> Option<(Instant, Liveness)>,
    ) -> Closed {
        let Some(failed) = self.failed.get(model) else { return Closed::default() };
        let mut closed = Closed { sites: failed.sites.clone(), is_news_due: false };
        for (site, lost_at) in &failed.lost {
            let heard = heard(&site.0);
            if heard.is_none_or(|(at, _)| at <= *lost_at) {
                closed.sites.push(site.clone());
                closed.is_news_due |= heard.is_some_and(|(_, liveness)| liveness != Liveness::Gone);
            }
        }
        closed
    }

    /// Why the last start failed.
    pub(super) fn last_error(&self, model: &ModelAlias) -> Option<&JobError> {
        self.failed.get(model).map(|failed| &failed.error)
    }

    /// Whether it may be reckoned again who makes way for a model. In between those go on who do.
    pub(super) fn may_reckon(&self, model: &ModelAlias, now: Instant) -> bool {
        let last = self.reckoned.get(model);
        last.is_none_or(|at| now.saturating_duration_since(*at) >= RECKON)
    }

    /// It has been reckoned who makes way for a model.
    pub(super) fn reckoned(&mut self, model: &ModelAlias, now: Instant) {
        self.reckoned.insert(model.clone(), now);
    }

    /// Forgets failures that nobody waits behind: the next request tries again.
    pub(super) fn forget_all_but<T>(&mut self, admission: &Admission<T>) {
        self.failed.retain(|model, _| admission.waiting_for(model) > 0);
        self.reckoned.retain(|model, _| admission.waiting_for(model) > 0);
    }
}

impl Failed {
    fn new(error: JobError) -> Self {
        Self { sites: Vec::new(), lost: Vec::new(), error }
    }
}

impl Attempts {
    /// A start has begun, or is joined: what becomes of it is told of the place where it was begun.
    pub(super) fn begun(&mut self, model: &ModelAlias, mut attempt: Attempt) {
        let (model, fits) = (model.clone(), attempt.spawn.fits);
        let site = (attempt.spawn.hive.clone(), attempt.spawn.device);
        self.running.push(Box::pin(async move {
            let result = attempt.ended().await;
            Ended { model, site, fits, result }
        }));
    }

    /// The next start that ends; `None` while none is under way.
    pub(super) async fn next(&mut self) -> Option<Ended> {
        self.running.next().await
    }
}
