//! Which ends of workers speak for a request that was not there, and which workers hang.

use super::*;

#[test]
fn the_ends_of_other_workers_of_its_model_are_counted_but_for_those_that_were_to_end() {
    let (registry, start) = registry();
    let names = ["own", "killed", "replaced", "drained", "silent", "other"];
    let beats = |names: &[&str], now| {
        for name in names {
            let mut beat = beat(name, WorkerState::Ready, 0);
            if *name == "other" {
                beat.model.name = "n".parse().unwrap();
            }
            registry.worker_beat(beat, now).unwrap();
        }
    };
    let entry = |name: &str, is_over: bool| match (name, is_over) {
        ("drained", true) => listed(name, SupervisedState::Stopping),
        (_, true) => between_processes(name),
        (_, false) => listed(name, SupervisedState::Ready),
    };
    let lists = |over: &[&str], now| {
        let all = names.iter().filter(|name| **name != "silent");
        let all = all.map(|name| entry(name, over.contains(name))).collect();
        registry.hive_beat(hive(all), now).unwrap();
    };
    beats(&names, start);
    lists(&[], start);
    let process = |name: &str| registry.state().workers.get(&id(name)).unwrap().holder;
    let own = [process("own")];
    let others = |since| registry.other_ends(since, &own);

    lists(&["own"], after(start, 1));
    assert_eq!(others(start), 0, "its own is none");
    lists(&["own", "killed", "other"], after(start, 2));
    lists(&["own", "killed", "other"], after(start, 3));
    assert_eq!(others(start), 1, "it ended once, and the other one has another model");
    let mut next = beat("replaced", WorkerState::Ready, 0);
    next.pid = 2;
    registry.worker_beat(next, after(start, 4)).unwrap();
    assert_eq!(others(start), 2, "another process speaks in its place");
    lists(&["own", "killed", "other", "drained"], after(start, 5));
    registry.hive_beat(hive(Vec::new()), after(start, 6)).unwrap();
    assert_eq!(others(start), 2, "nobody wonders about those");
    registry.sweep(after(start, 60));
    assert_eq!(others(start), 3, "its machine is gone");
    assert_eq!(others(after(start, 3)), 2, "before it there was one");

    let last = registry.state().workers.ends.last().unwrap();
    registry.explain_ends(&[last]);
    assert_eq!(others(start), 2, "it is known what ended that");
}

#[test]
fn a_worker_hangs_that_falls_silent_over_a_request_while_its_hive_is_heard() {
    // Until when its hive is heard, when the request comes, and whether the worker hangs.
    for (because, heard_until, came_at, expected) in [
        ("only it is silent", 10, 0, true),
        ("its machine is cut off", 3, 0, false),
        ("it was late before", 10, 7, false),
    ] {
        let (registry, start) = registry();
        registry.worker_beat(beat("a", WorkerState::Ready, 0), start).unwrap();
        let place = take(&registry, after(start, came_at)).expect(because);
        for second in 0..=heard_until {
            let ready = listed("a", SupervisedState::Ready);
            registry.hive_beat(hive(vec![ready]), after(start, second)).unwrap();
        }
        registry.sweep(after(start, 10));
        assert!(place.target.gone.is_cancelled(), "{because}");
        let failed = Failed { request: 1, is_connection: true };
        let blame = registry.worker_failed(&place, failed, after(start, 10));
        assert_eq!(blame.hangs, expected, "{because}");
    }
}

#[test]
fn a_worker_that_reports_or_is_known_to_have_ended_does_not_hang() {
    let (registry, start) = registry();
    let lists = |state, now| {
        registry.hive_beat(hive(vec![listed("a", state)]), now).unwrap();
    };
    registry.worker_beat(beat("a", WorkerState::Ready, 0), start).unwrap();
    lists(SupervisedState::Ready, start);
    let failed = Failed { request: 1, is_connection: true };
    let hangs = |place: &Place, now| registry.worker_failed(place, failed, now).hangs;
    let first = take(&registry, start).unwrap();
    assert!(!hangs(&first, start), "its connection broke");
    lists(SupervisedState::Ready, after(start, 10));
    registry.sweep(after(start, 10));
    assert!(hangs(&first, after(start, 10)));
    registry.worker_beat(beat("a", WorkerState::Ready, 0), after(start, 11)).unwrap();
    assert!(!hangs(&first, after(start, 11)), "it was only stopped");
    let second = take(&registry, after(start, 11)).unwrap();
    lists(SupervisedState::Failed { reason: "it hangs".into() }, after(start, 12));
    assert!(second.target.died.is_cancelled() && !hangs(&second, after(start, 12)));
    assert!(!first.target.died.is_cancelled(), "it has not ended for the first silence");
}

#[test]
fn a_silent_worker_is_waited_for_until_its_hive_says_what_became_of_it_or_for_a_minute() {
    let failed = || SupervisedState::Failed { reason: "it hangs".into() };
    let next = || SupervisedState::Starting { progress: 0.0 };
    for (because, pid, state, expected) in
        [("it is given up", 1, failed(), "no_worker"), ("it is started again", 2, next(), "coming")]
    {
        let (registry, start) = registry();
        let lists = |pid, state, second| {
            let listed = SupervisedWorker { pid, ..listed("a", state) };
            registry.hive_beat(hive(vec![listed]), after(start, second)).unwrap();
            registry.sweep(after(start, second));
        };
        let told = |second| match decide(&registry, after(start, second)) {
            Decision::Wait(reason) => reason.as_str(),
            Decision::Reject { .. } => "no_worker",
            decision => panic!("{decision:?}"),
        };
        registry.worker_beat(beat("a", WorkerState::Ready, 0), start).unwrap();
        for second in (1..=59).step_by(2) {
            lists(1, SupervisedState::Ready, second);
        }
        assert_eq!(told(59), "news", "{because}");
        lists(1, SupervisedState::Ready, 60);
        assert_eq!(told(60), "no_worker", "{because}: that takes its hive too long");
        lists(pid, state, 61);
        assert_eq!(told(61), expected, "{because}");
    }
}
