//! Workers that report and are on no hive's list: somebody has started their processes beside the hive.

use super::*;
use crate::doubles::{device, entry};

#[test]
fn a_worker_on_no_hives_list_is_neither_ended_when_idle_nor_to_make_room() {
    for is_listed in [true, false] {
        let (registry, now) = registry();
        let its = || {
            let (model, device) = ("other".parse().unwrap(), "GPU-0".parse().unwrap());
            SupervisedWorker { model, device, ..listed("a", SupervisedState::Ready) }
        };
        let sha256 = "1".repeat(64).parse().unwrap();
        let other = ModelEntry { sha256, ..entry("other", 4 << 30) };
        let report = HiveHeartbeat {
            devices: vec![device("GPU-0", 1 << 30)],
            catalog: vec![entry("m", 4 << 30), other],
            ..hive(is_listed.then(its).into_iter().collect())
        };
        registry.hive_beat(report, now).unwrap();
        let mut said = beat("a", WorkerState::Ready, 0);
        (said.model.name, said.device) = (its().model, its().device);
        registry.worker_beat(said, now).unwrap();

        assert_eq!(registry.replicas(now)[0].idle.is_some(), is_listed);
        let makes_room = match decide(&registry, now) {
            Decision::Spawn(spawn) => spawn.evict == [id("a")],
            _ => false,
        };
        assert_eq!(makes_room, is_listed);
        assert_eq!(registry.retire_all(&[id("a")], now), is_listed);
        assert_eq!(registry.retire(&id("a"), now).is_some(), is_listed);
    }
}

#[test]
fn a_worker_that_its_hive_does_not_know_when_it_is_to_end_it_is_used_again_with_its_next_report() {
    let (registry, now) = registry();
    registry.hive_beat(hive(vec![listed("a", SupervisedState::Ready)]), now).unwrap();
    let reports = || registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    reports();
    let localhost = registry.retire(&id("a"), now).expect("it is idle");
    reports();
    assert!(take(&registry, now).is_none(), "it is being ended");
    registry.unknown_to(&localhost, &id("a"));
    assert!(take(&registry, now).is_none(), "nobody has told of it since");
    reports();
    assert!(take(&registry, now).is_some());
    assert_eq!(registry.retire(&id("a"), now), None, "no hive can end it");
}
