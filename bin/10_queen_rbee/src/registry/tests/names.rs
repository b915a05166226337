//! Names of one file, and names that are meant by others.

use std::collections::BTreeMap;

use super::*;
use crate::decisions::Decisions;
use crate::doubles::entry;

/// A hive with a file by two names, and a worker that runs it by the first.
fn two_names(worker: WorkerHeartbeat) -> (Registry, Instant) {
    // What lives is told by the clock itself.
    let now = clock::now();
    let registry = Registry::new(SECOND * 2, Vec::new(), now);
    let catalog = vec![entry("m", 1), entry("again", 1)];
    registry.hive_beat(HiveHeartbeat { catalog, ..hive(Vec::new()) }, now).unwrap();
    registry.worker_beat(worker, now).unwrap();
    (registry, now)
}

fn with_file(digit: &str) -> WorkerHeartbeat {
    let mut beat = beat("a", WorkerState::Ready, 0);
    beat.model.digest = Some(digit.repeat(64).parse().unwrap());
    beat
}

fn again() -> ModelAlias {
    "again".parse().unwrap()
}

#[test]
fn names_of_one_file_share_its_worker() {
    let (registry, now) = two_names(with_file("0"));
    assert_eq!(registry.running_as(&again()), Some(model()));
    assert_eq!(registry.running_as(&model()), None, "it runs by its own name");
    assert_eq!(registry.running_as(&"other".parse().unwrap()), None, "no catalog has it");

    let mut own = with_file("0");
    (own.worker_id, own.model.name) = (id("b"), again());
    registry.worker_beat(own, now).unwrap();
    assert_eq!(registry.running_as(&again()), None, "it has a worker of its own");
}

#[test]
fn a_worker_is_not_shared_that_has_another_file_or_is_not_well() {
    for (because, worker) in [
        ("another file", with_file("1")),
        ("nobody knows its file", beat("a", WorkerState::Ready, 0)),
        (
            "it loads",
            WorkerHeartbeat { state: WorkerState::Loading { progress: 0.5 }, ..with_file("0") },
        ),
        ("it ends", WorkerHeartbeat { state: WorkerState::Draining, ..with_file("0") }),
    ] {
        assert_eq!(two_names(worker).0.running_as(&again()), None, "{because}");
    }
    let (registry, now) = two_names(with_file("0"));
    let place = take(&registry, now).expect("it is ready");
    registry.worker_failed(&place, Failed { request: 1, is_connection: true }, now);
    assert_eq!(registry.running_as(&again()), None, "its connection has failed");
}

#[test]
fn a_name_with_wishes_of_its_own_and_one_that_rules_are_about_gets_its_own_worker() {
    let folder = tempfile::tempdir().unwrap();
    let policies = Policies::open(&folder.path().join("policies.db"), BTreeMap::new(), 0).unwrap();
    let registry = two_names(with_file("0")).0.with_policies(policies.clone());
    assert_eq!(registry.running_as(&again()), Some(model()));
    let change = serde_json::from_str(r#"{"model":"again","policy":{"slots":8}}"#).unwrap();
    policies.set_fields(&change).unwrap();
    assert_eq!(registry.running_as(&again()), None);

    let rules = Rules::none(Decisions::in_memory());
    let registry = two_names(with_file("0")).0.with_rules(rules.clone());
    assert_eq!(registry.running_as(&again()), Some(model()));
    rules.load("fn filter(request, worker) { true }").unwrap();
    assert_eq!(registry.running_as(&again()), None);
}

#[test]
fn a_name_that_nobody_has_is_that_of_the_latest() {
    let (registry, now) = registry();
    let name = |name: &str| name.parse::<ModelAlias>().unwrap();
    let meant = |asked: &str| registry.meant(&name(asked)).to_string();
    assert_eq!(meant("tiny"), "tiny", "there is none at all");
    let has = |names: &[&str]| {
        let catalog = names.iter().map(|name| entry(name, 1)).collect();
        registry.hive_beat(HiveHeartbeat { catalog, ..hive(Vec::new()) }, now).unwrap();
    };
    has(&["tiny:latest"]);
    assert_eq!((meant("tiny"), meant("tiny:latest")), ("tiny:latest".into(), "tiny:latest".into()));
    assert_eq!(meant("tin"), "tin");
    has(&["tiny", "tiny:latest"]);
    assert_eq!(meant("tiny"), "tiny", "its own name comes first");
}
