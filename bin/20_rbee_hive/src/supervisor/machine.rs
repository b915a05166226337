//! What a worker's supervision decides: a state machine without a clock, a process or a socket.
//!
//! ```text
//!              health: ready
//!   Starting ────────────────▶ Ready ── silent for too long ─────────┐
//!    │  │  │ │                 │ │ │                                 │
//!    │  │  │ │ health: draining│ │ │ stop asked                      │
//!    │  │  │ └───▶ Leaving ◀──┘ │ └──────▶ Stopping ── exit ──▶ Ended(Stopped)
//!    │  │  │          │          │            ▲  after the grace: kill│
//!    │  │  └ stop asked (of Leaving and Failing, too) ┘              │
//!    │  │             │          │ health: failed                    │
//!    │  │ health: failed, or     └───────────────────▶ Failing ◀─────┘
//!    │  │ too late    │                               ▲   │ after the grace: kill
//!    │  └─────────────┼───────────────────────────────┘   │
//!    └── exit ────────┴──── exit ─────────────────────────┴──▶ Ended(Failed)
//!         (of Starting, and its port belongs to another program: Ended(PortTaken))
//! ```

use std::time::{Duration, Instant};

use worker_contract::{SupervisedState, WorkerState};

use super::failure::Explanation;

/// How long the machine waits for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the start of the process to ready.
    pub(super) start: Duration,
    /// From SIGTERM to SIGKILL for a worker that was ready: time to finish its requests.
    pub(super) stop: Duration,
    /// From SIGTERM to SIGKILL for a worker that was never ready: it has no request to finish.
    pub(super) stop_unready: Duration,
    /// How long a worker that said that it failed may take to end by itself.
    pub(super) last_words: Duration,
    /// How long a ready worker may give no answer.
    pub(super) silence: Duration,
}

/// How many questions in a row must be unanswered besides: a hive that was itself kept from running
/// finds its timers expired before it has looked for the answers.
const FEWEST_MISSES: u32 = 3;

/// Something that happened to the worker.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// It answered on `/health`.
    Health(WorkerState),
    /// It did not answer in time.
    NoAnswer,
    /// Its process ended.
    Exited {
        /// Why, as far as exit status and log tell.
        explanation: Explanation,
        /// Whether another program holds its port.
        port_taken: bool,
    },
    /// Somebody wants it gone.
    StopAsked,
    /// The time of [`Machine::wake_at`] has come.
    Tick,
}

/// What an answer of the worker is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// To learn that it is ready, as soon as it is.
    UntilReady,
    /// To learn that it still lives.
    SignOfLife,
}

/// What is to be done to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask it to end (SIGTERM).
    Terminate,
    /// End it (SIGKILL).
    Kill,
}

/// How a worker's process came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// As somebody wished.
    Stopped,
    /// By itself, for this reason.
    Failed(String),
    /// Another program has taken its port before it could listen.
    PortTaken,
}

#[derive(Debug, Clone)]
enum Phase {
    Starting {
        progress: f32,
        ready_by: Instant,
    },
    Ready {
        last_answer: Instant,
        misses: u32,
    },
    /// Somebody else than the hive told it to end.
    Leaving {
        kill_at: Option<Instant>,
    },
    Stopping {
        kill_at: Option<Instant>,
    },
    Failing {
        reason: String,
        kill_at: Option<Instant>,
        /// Whether the hive ends it: how it ends says nothing then.
        is_told: bool,
    },
    Ended(End),
}

/// The supervision of one process of a worker.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    patience: Patience,
    phase: Phase,
    answered: bool,
}

impl Machine {
    /// The supervision of a process that was started at `now`.
    pub(super) fn new(patience: Patience, now: Instant) -> Self {
        let phase = Phase::Starting { progress: 0.0, ready_by: now + patience.start };
        Self { patience, phase, answered: false }
    }

    /// The supervision of a process that was ready when it was last heard of, before `now`.
    pub(super) fn resumed(patience: Patience, now: Instant) -> Self {
        let phase = Phase::Ready { last_answer: now, misses: 0 };
        Self { patience, phase, answered: true }
    }

    /// Takes in what happened and says what is to be done.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Option<Action> {
        match event {
            Event::Health(state) => {
                self.health(state, now);
                None
            }
            Event::NoAnswer => self.no_answer(now),
            Event::Exited { explanation, port_taken } => {
                self.exited(&explanation, port_taken);
                None
            }
            Event::StopAsked => self.stop_asked(now),
            Event::Tick => self.tick(now),
        }
    }

    /// When [`Event::Tick`] is due, if ever.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Starting { ready_by, .. } => Some(*ready_by),
            Phase::Leaving { kill_at }
            | Phase::Stopping { kill_at }
            | Phase::Failing { kill_at, .. } => *kill_at,
            Phase::Ready { .. } | Phase::Ended(_) => None,
        }
    }

    /// How urgently the worker's `/health` is to be asked for; `None` if it is of no interest.
    pub(super) fn interest(&self) -> Option<Interest> {
        match &self.phase {
            Phase::Starting { .. } => Some(Interest::UntilReady),
            Phase::Ready { .. } => Some(Interest::SignOfLife),
            _ => None,
        }
    }

    /// How the process ended, if it has.
    pub(super) fn end(&self) -> Option<&End> {
        match &self.phase {
            Phase::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// The state as the hive's list shows it.
    pub(super) fn state(&self) -> SupervisedState {
        match &self.phase {
            Phase::Starting { progress, .. } => SupervisedState::Starting { progress: *progress },
            Phase::Ready { .. } => SupervisedState::Ready,
            Phase::Leaving { .. } | Phase::Stopping { .. } | Phase::Ended(End::Stopped) => {
                SupervisedState::Stopping
            }
            Phase::Failing { reason, .. } | Phase::Ended(End::Failed(reason)) => {
                SupervisedState::Failed { reason: reason.clone() }
            }
            Phase::Ended(End::PortTaken) => SupervisedState::Starting { progress: 0.0 },
        }
    }

    fn health(&mut self, state: WorkerState, now: Instant) {
        match &mut self.phase {
            Phase::Starting { .. } => self.answered = true,
            Phase::Ready { last_answer, misses } => (*last_answer, *misses) = (now, 0),
            _ => return,
        }
        match (state, &mut self.phase) {
            (WorkerState::Loading { progress: part }, Phase::Starting { progress, .. })
                if part.is_finite() =>
            {
                *progress = part.clamp(0.0, 1.0);
            }
            (WorkerState::Ready, phase @ Phase::Starting { .. }) => {
                *phase = Phase::Ready { last_answer: now, misses: 0 };
            }
            (WorkerState::Loading { .. } | WorkerState::Ready, _) => {}
            (WorkerState::Draining, phase) => {
                *phase = Phase::Leaving { kill_at: Some(now + self.patience.stop) };
            }
            (WorkerState::Failed { reason }, phase) => {
                let kill_at = Some(now + self.patience.last_words);
                *phase = Phase::Failing { reason, kill_at, is_told: false };
            }
        }
    }

    fn no_answer(&mut self, now: Instant) -> Option<Action> {
        let Phase::Ready { last_answer, misses } = &mut self.phase else { return None };
        *misses += 1;
        let silence = now.saturating_duration_since(*last_answer);
        if *misses < FEWEST_MISSES || silence < self.patience.silence {
            return None;
        }
        let reason = format!("the worker gave no sign of life for {} s", silence.as_secs());
        let kill_at = Some(now + self.patience.stop_unready);
        self.phase = Phase::Failing { reason, kill_at, is_told: true };
        Some(Action::Terminate)
    }

    fn exited(&mut self, explanation: &Explanation, port_taken: bool) {
        let end = match &self.phase {
            Phase::Stopping { .. } => End::Stopped,
            Phase::Starting { .. } if port_taken && !self.answered => End::PortTaken,
            Phase::Failing { reason, is_told: true, .. } => {
                End::Failed(explanation.after(&format!("{reason}, and was ended for it")))
            }
            Phase::Failing { reason, .. } if !explanation.how.contains(reason.as_str()) => {
                End::Failed(explanation.after(&format!("{reason}: {}", explanation.how)))
            }
            Phase::Leaving { kill_at: None } => End::Failed(
                explanation.after("another program told the worker to end, which took it too long"),
            ),
            Phase::Starting { .. }
            | Phase::Ready { .. }
            | Phase::Leaving { .. }
            | Phase::Failing { .. } => End::Failed(explanation.text()),
            Phase::Ended(_) => return,
        };
        self.phase = Phase::Ended(end);
    }

    fn stop_asked(&mut self, now: Instant) -> Option<Action> {
        let grace = match &self.phase {
            Phase::Starting { .. } | Phase::Failing { .. } => self.patience.stop_unready,
            Phase::Ready { .. } | Phase::Leaving { .. } => self.patience.stop,
            Phase::Stopping { .. } | Phase::Ended(_) => return None,
        };
        self.phase = Phase::Stopping { kill_at: Some(now + grace) };
        Some(Action::Terminate)
    }

    fn tick(&mut self, now: Instant) -> Option<Action> {
        if self.wake_at().is_none_or(|at| now < at) {
            return None;
        }
        match &mut self.phase {
            Phase::Starting { .. } => {
                let seconds = self.patience.start.as_secs();
                let reason = format!("the worker was not ready after {seconds} s");
                let kill_at = Some(now + self.patience.stop_unready);
                self.phase = Phase::Failing { reason, kill_at, is_told: true };
                Some(Action::Terminate)
            }
            Phase::Leaving { kill_at } | Phase::Stopping { kill_at } => {
                *kill_at = None;
                Some(Action::Kill)
            }
            Phase::Failing { kill_at, is_told, .. } => {
                (*kill_at, *is_told) = (None, true);
                Some(Action::Kill)
            }
            Phase::Ready { .. } | Phase::Ended(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
