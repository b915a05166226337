//! What a worker's supervision decides: a state machine without a clock, a process or a socket.
//!
//! ```text
//!              health: ready
//!   Starting ────────────────▶ Ready
//!    │  │  │                   │   │
//!    │  │  └── stop asked ──┐  │   │ stop asked
//!    │  │                   ▼  │   ▼
//!    │  │ health: failed,  Stopping ──────── exit ──▶ Ended(Stopped)
//!    │  │ or too late          │  after the grace: kill
//!    │  ▼                      │
//!    │ Failing ──── exit ──────┼────────────────────▶ Ended(Failed)
//!    │    after the grace: kill│                            ▲
//!    └── exit ─────────────────┘──── exit of Ready ─────────┘
//!         (of Starting, and its port belongs to another program: Ended(PortTaken))
//! ```

use std::time::{Duration, Instant};

use worker_contract::{SupervisedState, WorkerState};

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
}

/// Something that happened to the worker.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// It answered on `/health`.
    Health(WorkerState),
    /// Its process ended.
    Exited {
        /// Why, as far as exit status and log tell.
        explanation: String,
        /// Whether another program holds its port.
        port_taken: bool,
    },
    /// Somebody wants it gone.
    StopAsked,
    /// The time of [`Machine::wake_at`] has come.
    Tick,
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
    Starting { progress: f32, ready_by: Instant },
    Ready,
    Stopping { kill_at: Option<Instant> },
    Failing { reason: String, kill_at: Option<Instant> },
    Ended(End),
}

/// The supervision of one process of a worker.
#[derive(Debug)]
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

    /// Takes in what happened and says what is to be done.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Option<Action> {
        match event {
            Event::Health(state) => self.health(state, now),
            Event::Exited { explanation, port_taken } => {
                self.exited(explanation, port_taken);
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
            Phase::Stopping { kill_at } | Phase::Failing { kill_at, .. } => *kill_at,
            Phase::Ready | Phase::Ended(_) => None,
        }
    }

    /// Whether the worker's `/health` is of interest.
    pub(super) fn asks_for_health(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. })
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
            Phase::Ready => SupervisedState::Ready,
            Phase::Stopping { .. } | Phase::Ended(End::Stopped) => SupervisedState::Stopping,
            Phase::Failing { reason, .. } | Phase::Ended(End::Failed(reason)) => {
                SupervisedState::Failed { reason: reason.clone() }
            }
            Phase::Ended(End::PortTaken) => SupervisedState::Starting { progress: 0.0 },
        }
    }

    fn health(&mut self, state: WorkerState, now: Instant) -> Option<Action> {
        let Phase::Starting { progress, .. } = &mut self.phase else {
            return None;
        };
        self.answered = true;
        match state {
            WorkerState::Loading { progress: part } if part.is_finite() => {
                *progress = part.clamp(0.0, 1.0);
            }
            WorkerState::Loading { .. } => {}
            WorkerState::Ready => self.phase = Phase::Ready,
            // Somebody else told it to stop: see it through.
            WorkerState::Draining => {
                self.phase = Phase::Stopping { kill_at: Some(now + self.patience.stop) };
            }
            WorkerState::Failed { reason } => {
                let kill_at = Some(now + self.patience.last_words);
                self.phase = Phase::Failing { reason, kill_at };
            }
        }
        None
    }

    fn exited(&mut self, explanation: String, port_taken: bool) {
        let end = match &self.phase {
            Phase::Stopping { .. } => End::Stopped,
            Phase::Starting { .. } if port_taken && !self.answered => End::PortTaken,
            Phase::Failing { reason, .. } if !explanation.contains(reason.as_str()) => {
                End::Failed(format!("{reason}: {explanation}"))
            }
            Phase::Starting { .. } | Phase::Ready | Phase::Failing { .. } => {
                End::Failed(explanation)
            }
            Phase::Ended(_) => return,
        };
        self.phase = Phase::Ended(end);
    }

    fn stop_asked(&mut self, now: Instant) -> Option<Action> {
        let grace = match &self.phase {
            Phase::Starting { .. } | Phase::Failing { .. } => self.patience.stop_unready,
            Phase::Ready => self.patience.stop,
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
                self.phase = Phase::Failing { reason, kill_at };
                Some(Action::Terminate)
            }
            Phase::Stopping { kill_at } | Phase::Failing { kill_at, .. } => {
                *kill_at = None;
                Some(Action::Kill)
            }
            Phase::Ready | Phase::Ended(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Patience = Patience {
        start: Duration::from_secs(600),
        stop: Duration::from_secs(10),
        stop_unready: Duration::from_secs(1),
        last_words: Duration::from_secs(5),
    };

    #[test]
    fn a_worker_becomes_ready_when_it_says_so() {
        let (mut machine, now) = starting();
        machine.step(Event::Health(WorkerState::Loading { progress: 0.5 }), now);
        assert_eq!(machine.state(), SupervisedState::Starting { progress: 0.5 });
        machine.step(Event::Health(WorkerState::Ready), now);
        assert_eq!(machine.state(), SupervisedState::Ready);
        assert_eq!(machine.wake_at(), None);
    }

    #[test]
    fn a_stop_is_a_request_first_and_a_kill_after_the_grace() {
        for (mut machine, grace) in [(starting().0, 1), (ready(), 10), (failing(), 1)] {
            let now = Instant::now();
            assert_eq!(machine.step(Event::StopAsked, now), Some(Action::Terminate));
            assert_eq!(machine.step(Event::StopAsked, now), None, "asked twice");
            let due = machine.wake_at().expect("a stop has a deadline");
            assert_eq!(due - now, Duration::from_secs(grace));
            assert_eq!(machine.step(Event::Tick, now), None, "not before its time");
            assert_eq!(machine.step(Event::Tick, due), Some(Action::Kill));
            assert_eq!(machine.step(Event::Tick, due), None, "killed once");
            machine.step(exit("signal 9", true), due);
            assert_eq!(machine.end(), Some(&End::Stopped));
        }
    }

    #[test]
    fn an_exit_that_nobody_asked_for_is_a_failure_with_its_reason() {
        for mut machine in [starting().0, ready()] {
            machine.step(exit("signal 9", false), Instant::now());
            assert_eq!(machine.end(), Some(&End::Failed("signal 9".into())));
        }
    }

    #[test]
    fn a_taken_port_counts_only_before_the_worker_ever_answered() {
        let mut machine = starting().0;
        machine.step(exit("in use", true), Instant::now());
        assert_eq!(machine.end(), Some(&End::PortTaken));

        let mut machine = starting().0;
        machine.step(Event::Health(WorkerState::Loading { progress: 0.1 }), Instant::now());
        machine.step(exit("crash", true), Instant::now());
        assert_eq!(machine.end(), Some(&End::Failed("crash".into())));

        let mut machine = ready();
        machine.step(exit("crash", true), Instant::now());
        assert_eq!(machine.end(), Some(&End::Failed("crash".into())));
    }

    #[test]
    fn the_workers_own_reason_is_shown_at_once_and_kept() {
        let mut machine = failing();
        let SupervisedState::Failed { reason } = machine.state() else {
            panic!("{machine:?}");
        };
        assert_eq!(reason, "no tensors");
        machine.step(exit("exit status 1", false), Instant::now());
        assert_eq!(machine.end(), Some(&End::Failed("no tensors: exit status 1".into())));
    }

    #[test]
    fn a_worker_that_is_never_ready_is_ended_and_says_how_long_it_had() {
        let (mut machine, now) = starting();
        let due = machine.wake_at().expect("a start has a deadline");
        assert_eq!(due - now, Duration::from_secs(600));
        assert_eq!(machine.step(Event::Tick, due), Some(Action::Terminate));
        let due = machine.wake_at().expect("the end has a deadline");
        assert_eq!(machine.step(Event::Tick, due), Some(Action::Kill));
        machine.step(exit("signal 9", false), due);
        let Some(End::Failed(reason)) = machine.end() else {
            panic!("{machine:?}");
        };
        assert!(reason.contains("600 s"), "{reason}");
    }

    #[test]
    fn a_progress_that_is_no_number_is_ignored() {
        let (mut machine, now) = starting();
        machine.step(Event::Health(WorkerState::Loading { progress: f32::NAN }), now);
        assert_eq!(machine.state(), SupervisedState::Starting { progress: 0.0 });
    }

    proptest! {
        /// Whatever happens in whatever order: a worker that was asked to stop, or that failed, is
        /// gone or killed in bounded time; a kill comes once; an end is final.
        #[test]
        fn no_order_of_events_leaves_a_process_behind(events in prop::collection::vec(any_event(), 0..30)) {
            let (mut machine, mut now) = starting();
            let mut kills = 0;
            for event in events {
                let end = machine.end().cloned();
                now += Duration::from_millis(700);
                kills += usize::from(machine.step(event, now) == Some(Action::Kill));
                if end.is_some() {
                    prop_assert_eq!(machine.end(), end.as_ref());
                }
            }
            machine.step(Event::StopAsked, now);
            while let Some(due) = machine.wake_at() {
                prop_assert!(due <= now + PATIENCE.stop);
                now = due;
                kills += usize::from(machine.step(Event::Tick, now) == Some(Action::Kill));
            }
            prop_assert!(machine.end().is_some() || kills >= 1);
            prop_assert!(kills <= 2, "one for a failure, one for a stop after it");
            machine.step(exit("gone", false), now);
            prop_assert!(machine.end().is_some());
        }
    }

    fn starting() -> (Machine, Instant) {
        let now = Instant::now();
        (Machine::new(PATIENCE, now), now)
    }

    fn ready() -> Machine {
        let (mut machine, now) = starting();
        machine.step(Event::Health(WorkerState::Ready), now);
        machine
    }

    fn failing() -> Machine {
        let (mut machine, now) = starting();
        let failed = WorkerState::Failed { reason: "no tensors".into() };
        machine.step(Event::Health(failed), now);
        machine
    }

    fn exit(explanation: &str, port_taken: bool) -> Event {
        Event::Exited { explanation: explanation.into(), port_taken }
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Health(WorkerState::Loading { progress: 0.5 })),
            Just(Event::Health(WorkerState::Ready)),
            Just(Event::Health(WorkerState::Draining)),
            Just(Event::Health(WorkerState::Failed { reason: "no".into() })),
            Just(Event::StopAsked),
            Just(Event::Tick),
            any::<bool>().prop_map(|taken| exit("crash", taken)),
        ]
    }
}
