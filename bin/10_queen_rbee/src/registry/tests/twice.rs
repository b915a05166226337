//! Several processes that speak under one worker's name, and hives that have too many of them.

use super::*;
use crate::registry::workers::MAX_OF_HIVE;

#[test]
fn of_several_processes_with_one_id_one_is_heard_and_keeps_its_requests_whatever_their_pids_are() {
    let rows: [(Option<At>, &[At], At); 7] = [
        (None, &[(1, 1), (1, 2)], (1, 2)),
        (None, &[(1, 1), (2, 2), (3, 3)], (2, 2)),
        (None, &[(1, 1), (2, 1)], (2, 1)),
        (Some((1, 1)), &[(1, 1), (1, 2)], (1, 1)),
        (Some((1, 2)), &[(1, 1), (1, 2)], (1, 2)),
        (Some((1, 1)), &[(1, 1), (2, 1)], (1, 1)),
        (Some((3, 3)), &[(1, 1), (2, 2), (3, 3)], (3, 3)),
    ];
    for (meant, processes, heard) in rows {
        let (registry, start) = registry();
        if let Some(meant) = meant {
            lists(&registry, meant, start);
        }
        // Each takes over at most once, until it is clear that several live.
        for _ in 0..2 {
            for process in processes {
                let _ = registry.worker_beat(says(*process), start);
            }
        }
        let place = take(&registry, start).unwrap();
        for round in 1..20 {
            let now = after(start, 2 * round);
            for process in processes {
                let is_heard = registry.worker_beat(says(*process), now).is_ok();
                assert_eq!(is_heard, *process == heard, "{process:?} where {meant:?} is meant");
            }
        }
        assert!(!place.target.gone.is_cancelled(), "{processes:?} where {meant:?} is meant");
        assert_eq!(place.target.address.port, heard.1);
    }
}

#[test]
fn while_its_hive_lists_a_worker_no_other_process_takes_its_place() {
    for other in [(1, 2), (2, 2)] {
        let (registry, now) = registry();
        lists(&registry, (1, 1), now);
        registry.worker_beat(says((1, 1)), now).unwrap();
        let place = take(&registry, now).unwrap();
        let refused = registry.worker_beat(says(other), now).unwrap_err();
        let told = refused.to_string();
        assert!(told.contains("http://h:1") && told.contains("http://h:2"), "{told}");
        assert!(!place.target.gone.is_cancelled(), "{other:?}");
    }
}

#[test]
fn who_follows_a_process_that_has_ended_is_heard_at_once() {
    type Ends = fn(&Registry, Instant) -> Instant;
    let rows: [(&str, Ends, At); 7] = [
        (
            "it said that it ends",
            |registry, now| ends(registry, WorkerState::Draining, now),
            (2, 2),
        ),
        (
            "it said that it has failed",
            |registry, now| ends(registry, WorkerState::Failed { reason: "no".into() }, now),
            (1, 2),
        ),
        ("it cannot be reached", cannot_be_reached, (1, 2)),
        ("it is silent", |_, now| after(now, 10), (1, 2)),
        ("its hive is about to start it again", is_between, (2, 2)),
        ("its hive names the next", |registry, now| lists(registry, (2, 2), now), (2, 2)),
        (
            "its hive names the next, which has the same pid in its container",
            |registry, now| lists(registry, (1, 2), now),
            (1, 2),
        ),
    ];
    for (name, end, next) in rows {
        let (registry, now) = registry();
        lists(&registry, (1, 1), now);
        registry.worker_beat(says((1, 1)), now).unwrap();
        let first = take(&registry, now).unwrap();
        let now = end(&registry, now);
        registry.worker_beat(says(next), now).expect(name);
        assert!(first.target.gone.is_cancelled(), "{name}");
        drop(first);
        let place = take(&registry, now).expect(name);
        assert_eq!(place.target.address.port, next.1, "{name}");
        assert!(!place.target.gone.is_cancelled(), "{name}");
    }
}

#[test]
fn a_hive_with_many_workers_leaves_room_for_those_of_others() {
    let (registry, now) = registry();
    let of = |hive: &str, number: usize| WorkerHeartbeat {
        hive_id: hive.parse().unwrap(),
        ..beat(&format!("{hive}-{number}"), WorkerState::Ready, 0)
    };
    for number in 0..MAX_OF_HIVE {
        registry.worker_beat(of("a", number), now).unwrap();
    }
    let refused = registry.worker_beat(of("a", MAX_OF_HIVE), now).unwrap_err();
    assert!(matches!(refused, ReportError::TooManyOfHive { .. }), "{refused}");
    registry.worker_beat(of("a", 0), now).expect("one that is known is heard");
    registry.worker_beat(of("b", 0), now).expect("one of another hive");

    let listed = |number: usize| SupervisedWorker {
        hive_id: "b".parse().unwrap(),
        ..listed(&format!("listed-{number}"), SupervisedState::Ready)
    };
    let list = HiveHeartbeat {
        hive_id: "b".parse().unwrap(),
        ..hive((0..2 * MAX_OF_HIVE).map(listed).collect())
    };
    for _ in 0..2 {
        registry.hive_beat(list.clone(), now).unwrap();
        assert_eq!(registry.state().workers.iter().count(), 2 * MAX_OF_HIVE);
    }
}

/// A process: its pid, and the port where it listens.
type At = (u32, u16);

fn says((pid, port): At) -> WorkerHeartbeat {
    let address = format!("http://h:{port}");
    WorkerHeartbeat { address, pid, ..beat("a", WorkerState::Ready, 0) }
}

fn lists(registry: &Registry, (pid, port): At, now: Instant) -> Instant {
    let address = format!("http://h:{port}");
    let process = SupervisedWorker { address, pid, ..listed("a", SupervisedState::Ready) };
    registry.hive_beat(hive(vec![process]), now).unwrap();
    now
}

fn ends(registry: &Registry, state: WorkerState, now: Instant) -> Instant {
    registry.worker_beat(WorkerHeartbeat { state, ..says((1, 1)) }, now).unwrap();
    now
}

fn cannot_be_reached(registry: &Registry, now: Instant) -> Instant {
    let place = take(registry, now).unwrap();
    registry.worker_failed(&place, Failed { request: 1, is_connection: true }, now);
    now
}

fn is_between(registry: &Registry, now: Instant) -> Instant {
    registry.hive_beat(hive(vec![between_processes("a")]), now).unwrap();
    now
}
