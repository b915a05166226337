//! From a request to its place at a worker: it waits its turn, the scheduler decides, a worker is
//! started where one is needed. The shell around `admission` and `scheduler`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use job_server::JobError;
use tokio::time::sleep_until;
use worker_contract::{HiveAlias, ModelAlias, WorkerId};

use crate::admission::{Admission, QueueFull, Ticket};
use crate::registry::{Place, Placed, Registry};
use crate::scheduler::{Decision, Demand, RejectReason};
use crate::spawner::{Attempt, Spawner};

/// Finds places at workers. A clone shares the queues.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    registry: Registry,
    spawner: Spawner,
    admission: Arc<Mutex<Admission>>,
}

/// Why a request gets no place.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoPlace {
    /// Too many wait already.
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    /// Its time was over before a worker could take it.
    #[error("no worker for {model} could take the request before its deadline")]
    Deadline {
        /// The model.
        model: ModelAlias,
    },
    /// No worker runs the model, and no catalog has it.
    #[error("the model {model} does not exist")]
    UnknownModel {
        /// The model.
        model: ModelAlias,
    },
    /// The hive that has the model is gone.
    #[error("the hive {hive}, which has the model {model}, does not report")]
    HiveGone {
        /// The hive.
        hive: HiveAlias,
        /// The model.
        model: ModelAlias,
        /// When to try again, in seconds.
        retry_after_s: u64,
    },
    /// The workers of the model are ending or unreachable, and no hive can start another one.
    #[error("the workers of the model {model} are ending or do not answer")]
    NoWorkerLeft {
        /// The model.
        model: ModelAlias,
        /// When to try again, in seconds.
        retry_after_s: u64,
    },
    /// A worker could not be started.
    #[error("no worker could be started for {model}: {source}")]
    SpawnFailed {
        /// The model.
        model: ModelAlias,
        /// What the hive said.
        source: JobError,
    },
}

impl Dispatcher {
    /// A dispatcher with at most `max_per_model` waiting requests for each model.
    #[must_use]
    pub fn new(registry: Registry, spawner: Spawner, max_per_model: usize) -> Self {
        Self { registry, spawner, admission: Arc::new(Mutex::new(Admission::new(max_per_model))) }
    }

    /// What it decides on.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.admission().len()
    }

    /// Waits for a place at a worker, at most until `deadline`. `failed` are the workers that failed
    /// this request; one that `had_a_place` before has waited already and is next. Dropping the
    /// returned future gives the turn up.
    pub async fn place(
        &self,
        model: &ModelAlias,
        failed: &[WorkerId],
        had_a_place: bool,
        deadline: Instant,
    ) -> Result<Place, NoPlace> {
        let turn = self.enter(model, had_a_place, deadline)?;
        let demand = Demand { model, failed };
        let mut changes = self.registry.changes();
        let mut attempt: Option<Attempt> = None;
        loop {
            changes.mark_unchanged();
            if turn.is_next() {
                match self.registry.place(&demand, Instant::now()) {
                    Placed::At(place) => return Ok(place),
                    Placed::Not(Decision::Spawn { hive, device }) => {
                        attempt = Some(self.spawner.spawn(model, hive, device));
                    }
                    Placed::Not(Decision::Reject { reason, retry_after_s }) => {
                        return Err(refused(model, reason, retry_after_s));
                    }
                    Placed::Not(Decision::Wait | Decision::Dispatch { .. }) => {}
                }
            }
            if attempt.is_none() {
                attempt = self.spawner.under_way(model);
            }
            tokio::select! {
                biased;
                end = ended(attempt.as_mut()) => {
                    attempt = None;
                    if let Err(source) = end {
                        return self.last_look(&turn, &demand, source);
                    }
                }
                // The sender lives as long as the registry that this holds.
                _ = changes.changed() => {}
                () = sleep_until(deadline.into()) => {
                    return Err(NoPlace::Deadline { model: model.clone() });
                }
            }
        }
    }

    /// A start failed. Another worker may have come meanwhile; otherwise the request ends with the
    /// reason, and does not cause the next start that fails.
    fn last_look(
        &self,
        turn: &Turn<'_>,
        demand: &Demand<'_>,
        source: JobError,
    ) -> Result<Place, NoPlace> {
        if turn.is_next()
            && let Placed::At(place) = self.registry.place(demand, Instant::now())
        {
            return Ok(place);
        }
        Err(NoPlace::SpawnFailed { model: demand.model.clone(), source })
    }

    fn enter(
        &self,
        model: &ModelAlias,
        had_a_place: bool,
        deadline: Instant,
    ) -> Result<Turn<'_>, QueueFull> {
        let mut admission = self.admission();
        let ticket = if had_a_place {
            admission.enter_again(model, deadline)
        } else {
            admission.enter(model, deadline, Instant::now())?
        };
        Ok(Turn { ticket, dispatcher: self })
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        // Nothing panics under this lock halfway through a change.
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, given up when dropped.
struct Turn<'a> {
    ticket: Ticket,
    dispatcher: &'a Dispatcher,
}

impl Turn<'_> {
    fn is_next(&self) -> bool {
        self.dispatcher.admission().is_next(&self.ticket, Instant::now())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut admission = self.dispatcher.admission();
        admission.leave(&self.ticket);
        let others_wait = !admission.is_empty();
        drop(admission);
        if others_wait {
            self.dispatcher.registry.touch();
        }
    }
}

async fn ended(attempt: Option<&mut Attempt>) -> Result<(), JobError> {
    match attempt {
        Some(attempt) => attempt.ended().await,
        None => std::future::pending().await,
    }
}

fn refused(model: &ModelAlias, reason: RejectReason, retry_after_s: Option<u64>) -> NoPlace {
    let model = model.clone();
    let retry_after_s = retry_after_s.unwrap_or(1);
    match reason {
        RejectReason::UnknownModel => NoPlace::UnknownModel { model },
        RejectReason::HiveGone { hive } => NoPlace::HiveGone { hive, model, retry_after_s },
        RejectReason::NoWorkerLeft => NoPlace::NoWorkerLeft { model, retry_after_s },
    }
}
