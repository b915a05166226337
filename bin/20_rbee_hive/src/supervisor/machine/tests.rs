use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience {
    start: Duration::from_secs(600),
    stop: Duration::from_secs(10),
    stop_unready: Duration::from_secs(1),
    last_words: Duration::from_secs(5),
    silence: Duration::from_secs(15),
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
    let ended = "the worker was not ready after 600 s, and was ended for it";
    assert_eq!(machine.end(), Some(&End::Failed(ended.into())));
}

#[test]
fn a_ready_worker_that_is_silent_for_too_long_is_ended() {
    let (mut machine, mut now) = (ready(), Instant::now());
    for _ in 0..2 {
        now += Duration::from_secs(7);
        assert_eq!(machine.step(Event::NoAnswer, now), None, "{machine:?}");
    }
    now += Duration::from_secs(7);
    assert_eq!(machine.step(Event::NoAnswer, now), Some(Action::Terminate));
    let due = machine.wake_at().expect("the end has a deadline");
    assert_eq!(machine.step(Event::Tick, due), Some(Action::Kill), "a stopped one hears nothing");
    let (how, log) = ("signal 9, by hand".into(), "\nits last log lines:\n  x".into());
    machine.step(Event::Exited { explanation: Explanation { how, log }, port_taken: false }, due);
    let ended =
        "the worker gave no sign of life for 21 s, and was ended for it\nits last log lines:\n  x";
    assert_eq!(machine.end(), Some(&End::Failed(ended.into())), "the signal was the hive's own");
}

#[test]
fn a_hive_that_did_not_run_itself_does_not_blame_the_worker() {
    let (mut machine, mut now) = (ready(), Instant::now());
    for _ in 0..10 {
        now += Duration::from_hours(1);
        assert_eq!(machine.step(Event::NoAnswer, now), None);
        assert_eq!(machine.step(Event::NoAnswer, now), None);
        assert_eq!(machine.step(Event::Health(WorkerState::Ready), now), None);
    }
    assert_eq!(machine.state(), SupervisedState::Ready);
}

#[test]
fn a_worker_that_another_program_told_to_end_has_failed_when_it_has() {
    for mut machine in [starting().0, ready()] {
        let now = Instant::now();
        machine.step(Event::Health(WorkerState::Draining), now);
        assert_eq!(machine.state(), SupervisedState::Stopping, "it finishes its requests");
        let due = machine.wake_at().expect("it has a deadline");
        let mut prompt = machine.clone();
        prompt.step(exit("exit status 0", false), now);
        assert_eq!(prompt.end(), Some(&End::Failed("exit status 0".into())));
        assert_eq!(machine.step(Event::Tick, due), Some(Action::Kill));
        machine.step(exit("signal 9", false), due);
        let ended = "another program told the worker to end, which took it too long";
        assert_eq!(machine.end(), Some(&End::Failed(ended.into())));
    }
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
    let explanation = Explanation { how: explanation.into(), log: String::new() };
    Event::Exited { explanation, port_taken }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Health(WorkerState::Loading { progress: 0.5 })),
        Just(Event::Health(WorkerState::Ready)),
        Just(Event::Health(WorkerState::Draining)),
        Just(Event::Health(WorkerState::Failed { reason: "no".into() })),
        Just(Event::NoAnswer),
        Just(Event::StopAsked),
        Just(Event::Tick),
        any::<bool>().prop_map(|taken| exit("crash", taken)),
    ]
}
