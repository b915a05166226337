//! Ctrl-C and SIGTERM: the first asks the running job to end, the second ends the program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// A shell's number for a program that SIGINT ended.
const CTRL_C: u8 = 130;
/// A shell's number for a program that SIGTERM ended.
const TERMINATED: u8 = 143;

/// What signals were received, and who has to be told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupts(Arc<State>);

#[derive(Debug, Default)]
struct State {
    asked: CancellationToken,
    jobs: AtomicUsize,
    exit_code: AtomicU8,
}

impl Interrupts {
    /// Waits until the program is to end at once: at the first signal, or, while a job runs that
    /// has to be cancelled first, at the second one.
    pub(crate) async fn end(&self) -> io::Result<Failure> {
        let mut ctrl_c = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        loop {
            let exit_code = tokio::select! {
                _ = ctrl_c.recv() => CTRL_C,
                _ = terminate.recv() => TERMINATED,
            };
            self.0.exit_code.store(exit_code, Ordering::Relaxed);
            if self.0.jobs.load(Ordering::Relaxed) == 0 || self.0.asked.is_cancelled() {
                return Ok(Failure::Interrupted { exit_code });
            }
            self.0.asked.cancel();
        }
    }

    /// From here on the first signal cancels the token instead of ending the program.
    pub(crate) fn job_runs(&self) -> JobRuns {
        self.0.jobs.fetch_add(1, Ordering::Relaxed);
        JobRuns(self.clone())
    }
}

/// A job that a signal has to cancel before the program ends.
#[derive(Debug)]
pub(crate) struct JobRuns(Interrupts);

impl JobRuns {
    /// Waits for the first signal.
    pub(crate) async fn asked_to_end(&self) {
        self.0.0.asked.cancelled().await;
    }

    /// How the command ends, if it was asked to.
    pub(crate) fn interruption(&self) -> Option<Failure> {
        let exit_code = self.0.0.exit_code.load(Ordering::Relaxed);
        self.0.0.asked.is_cancelled().then_some(Failure::Interrupted { exit_code })
    }
}

impl Drop for JobRuns {
    fn drop(&mut self) {
        self.0.0.jobs.fetch_sub(1, Ordering::Relaxed);
    }
}
