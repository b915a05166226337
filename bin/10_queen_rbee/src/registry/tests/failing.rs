//! Where starts have failed, and for how long that counts.

use job_server::JobError;

use super::*;
use crate::doubles::{device, entry};
use crate::scheduler::Lack;

/// A queen with one hive, which has the model.
struct House {
    registry: Registry,
    start: Instant,
}

impl House {
    fn new() -> Self {
        let (registry, start) = registry();
        let house = Self { registry, start };
        house.reports("0", "1");
        house
    }

    /// The hive has the file with the digest that is this digit all over, and is of a version.
    fn reports(&self, digit: &str, version: &str) {
        self.lists(digit, version, Vec::new());
    }

    fn lists(&self, digit: &str, version: &str, workers: Vec<SupervisedWorker>) {
        let mut entry = entry("m", 1 << 30);
        entry.sha256 = digit.repeat(64).parse().unwrap();
        let beat = HiveHeartbeat {
            devices: vec![device("CPU-0", 64 << 30)],
            catalog: vec![entry],
            version: version.into(),
            ..hive(workers)
        };
        self.registry.hive_beat(beat, self.start).unwrap();
    }

    fn fails(&self, code: &str, second: u32) {
        let spawn = Spawn {
            hive: HiveAlias::localhost(),
            device: Some("CPU-0".parse().unwrap()),
            evict: Vec::new(),
            fits: true,
            others: 0,
            by: None,
            lack: Lack::NoWorker,
            asks: false,
        };
        let trial = self.registry.trial(&model(), &spawn, Size::default()).expect("it has it");
        self.registry.start_failed(&trial, &JobError::new(code, "why"), after(self.start, second));
    }

    /// Whether another start may be tried there; `None` where nothing is held against it.
    fn may_try(&self, second: u32) -> Option<bool> {
        let state = self.registry.state();
        let failed = state.failed_sites(&model(), &|_| None, after(self.start, second));
        failed.first().map(|failed| failed.may_try)
    }

    fn retry(&self, second: u32) -> Option<u64> {
        let failed = self.registry.failed_start(&model(), after(self.start, second))?;
        Some(failed.retry_after_s)
    }
}

#[test]
fn the_pause_doubles_with_each_failure_in_a_row_and_others_are_spared_for_twice_as_long() {
    let house = House::new();
    assert_eq!((house.may_try(0), house.retry(0)), (None, None));
    let rows: [(u32, u32); 7] =
        [(0, 30), (100, 60), (300, 120), (600, 240), (1_200, 480), (3_000, 600), (5_000, 600)];
    for (at, pause) in rows {
        house.fails("worker_failed", at);
        assert_eq!(house.may_try(at + pause - 1), Some(false), "{pause}");
        assert_eq!(house.may_try(at + pause), Some(true), "{pause}");
        assert_eq!(house.may_try(at + 2 * pause - 1), Some(true), "{pause}");
        assert_eq!(house.may_try(at + 2 * pause), None, "{pause}");
        assert_eq!(house.retry(at + 1), Some(u64::from(pause) - 1));
        assert_eq!(house.retry(at + pause), Some(u64::from(pause)));
    }
    house.fails("worker_failed", 9_000);
    assert_eq!(house.may_try(9_030), Some(true), "the ones before are long ago");
}

#[test]
fn want_of_memory_and_hives_that_are_lost_say_nothing_of_a_model() {
    let house = House::new();
    for code in [
        "not_enough_memory",
        "larger_than_device",
        "hive_gone",
        "hive_not_running",
        "hive_not_found",
        "hive_stopping",
        "job_not_found",
        "cancelled",
        "worker_stopped",
    ] {
        house.fails(code, 0);
        assert_eq!(house.may_try(1), None, "{code}");
    }
}

#[test]
fn another_file_or_another_version_of_the_hive_is_another_try_and_success_forgets() {
    let house = House::new();
    house.fails("worker_failed", 0);
    for (digit, version, held) in [("1", "1", None), ("0", "2", None), ("0", "1", Some(false))] {
        house.reports(digit, version);
        assert_eq!(house.may_try(1), held, "{digit} {version}");
    }
    let worker = listed("a", SupervisedState::Ready);
    house.registry.started_by(&HiveAlias::localhost(), &worker, house.start);
    assert_eq!(house.may_try(1), None, "one has come up there");
}

#[test]
fn a_worker_that_was_given_up_is_held_against_its_place_until_somebody_deletes_or_restarts_it() {
    let failed = || listed("a", SupervisedState::Failed { reason: "signal 9".into() });
    let starting = || listed("a", SupervisedState::Starting { progress: 0.0 });
    for (because, code, workers, held) in [
        ("it is there", "worker_given_up", vec![failed()], Some(false)),
        ("it was deleted", "worker_given_up", vec![], None),
        ("it was restarted", "worker_given_up", vec![starting()], None),
        ("it was a start that failed", "worker_failed", vec![], Some(false)),
    ] {
        let house = House::new();
        house.lists("0", "1", vec![failed()]);
        house.fails(code, 0);
        house.lists("0", "1", workers);
        assert_eq!(house.may_try(1), held, "{because}");
    }
}
