//! The starts of workers that requests wait for: which are under way, and which failed where.

use std::collections::HashMap;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use job_server::JobError;
use worker_contract::{DeviceId, HiveAlias, ModelAlias};

use crate::admission::Admission;
use crate::scheduler::Spawn;
use crate::spawner::Attempt;

/// A place for a worker.
pub(super) type Site = (HiveAlias, Option<DeviceId>);

/// What became of starts while requests wait for their models.
#[derive(Debug, Default)]
pub(super) struct Starts {
    failed: HashMap<ModelAlias, Failed>,
}

#[derive(Debug)]
struct Failed {
    sites: Vec<Site>,
    error: JobError,
}

/// The starts that are under way.
#[derive(Default)]
pub(super) struct Attempts {
    running: FuturesUnordered<BoxFuture<'static, Ended>>,
}

/// A start that has ended.
pub(super) struct Ended {
    model: ModelAlias,
    site: Site,
    result: Result<(), JobError>,
}

impl Starts {
    /// A start has ended. One that failed is not tried there again for those who wait.
    pub(super) fn ended(&mut self, ended: Ended) {
        let Ended { model, site, result } = ended;
        match result {
            Ok(()) => {
                self.failed.remove(&model);
            }
            Err(error) => {
                let failed = self
                    .failed
                    .entry(model)
                    .or_insert_with(|| Failed { sites: Vec::new(), error: error.clone() });
                failed.sites.push(site);
                failed.error = error;
            }
        }
    }

    /// Where workers of a model could not be started.
    pub(super) fn refused(&self, model: &ModelAlias) -> &[Site] {
        self.failed.get(model).map_or(&[], |failed| &failed.sites)
    }

    /// Why the last start failed.
    pub(super) fn last_error(&self, model: &ModelAlias) -> Option<&JobError> {
        self.failed.get(model).map(|failed| &failed.error)
    }

    /// Forgets failures that nobody waits behind: the next request tries again.
    pub(super) fn forget_all_but<T>(&mut self, admission: &Admission<T>) {
        self.failed.retain(|model, _| admission.waiting_for(model) > 0);
    }
}

impl Attempts {
    /// A start has begun, or is joined.
    pub(super) fn begun(&mut self, model: &ModelAlias, spawn: Spawn, mut attempt: Attempt) {
        let (model, site) = (model.clone(), (spawn.hive, spawn.device));
        self.running.push(Box::pin(async move {
            let result = attempt.ended().await;
            Ended { model, site, result }
        }));
    }

    /// The next start that ends; `None` while none is under way.
    pub(super) async fn next(&mut self) -> Option<Ended> {
        self.running.next().await
    }
}
