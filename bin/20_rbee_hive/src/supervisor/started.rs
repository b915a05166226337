//! A worker on its way to ready, in the hands of whoever asked for it.

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use worker_contract::{SupervisedState, SupervisedWorker, WorkerId};

/// A worker that is being started. Dropping this stops it, unless it was [kept](Self::keep).
#[derive(Debug)]
pub(crate) struct Started {
    state: watch::Receiver<SupervisedWorker>,
    stop_when_dropped: DropGuard,
}

/// How far the start is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stage {
    /// The model is being loaded; the part that is done, 0 to 1.
    Loading(f32),
    /// It takes requests.
    Ready(SupervisedWorker),
    /// It could not, for this reason.
    Failed(String),
    /// Somebody else stopped it.
    Stopped,
}

impl Started {
    pub(super) fn new(state: watch::Receiver<SupervisedWorker>, stop: CancellationToken) -> Self {
        Self { state, stop_when_dropped: stop.drop_guard() }
    }

    pub(crate) fn worker_id(&self) -> WorkerId {
        self.state.borrow().worker_id.clone()
    }

    /// How far it is; what is told once is not told again by [`Self::changed`].
    pub(crate) fn stage(&mut self) -> Stage {
        let worker = self.state.borrow_and_update().clone();
        let has_ended = self.state.has_changed().is_err();
        match worker.state {
            SupervisedState::Failed { reason } => Stage::Failed(reason),
            SupervisedState::Ready if !has_ended => Stage::Ready(worker),
            SupervisedState::Starting { progress } if !has_ended => Stage::Loading(progress),
            _ => Stage::Stopped,
        }
    }

    /// Waits until there is something else to tell.
    pub(crate) async fn changed(&mut self) {
        // An error means that the task has ended, and the stage tells of that.
        let _ = self.state.changed().await;
    }

    /// Leaves the worker to the supervisor.
    pub(crate) fn keep(self) {
        self.stop_when_dropped.disarm();
    }

    /// Stops the worker; done when its process is gone.
    pub(crate) async fn abandon(mut self) {
        drop(self.stop_when_dropped);
        while self.state.changed().await.is_ok() {}
    }
}
