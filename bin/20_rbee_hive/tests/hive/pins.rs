//! What an operator agrees to by hand: another file of a model, and another name for it.

use std::fs;

use rbee_operations::{ModelName, ModelPin, Operation};
use worker_contract::{HiveAlias, ModelEntry, Sha256Digest, SupervisedState};

use crate::support::{Home, TestHive, alias, model_target, result};

#[tokio::test]
async fn a_file_that_changed_runs_once_its_digest_is_accepted_and_no_other() {
    let home = Home::new();
    let hive = home.start_with(home.double("serves")).await.unwrap();
    let before = hive.import(&home.double_model(), "m").await.unwrap();
    let named = name(&hive, "m", "n").await;
    assert_eq!((named.alias.as_str(), &named.sha256), ("n", &before.sha256));

    fs::write(home.models().join(format!("{}.gguf", before.sha256)), "GGUF of another").unwrap();
    assert_eq!(hive.spawn("m").await.unwrap_err().code, "model_changed");
    let verified = hive.run(Operation::ModelVerify(model_target("m"))).await.unwrap();
    let actual: Sha256Digest = verified.data["actual"].as_str().unwrap().parse().unwrap();
    for refused in [&before.sha256, &"ab".repeat(32).parse().unwrap()] {
        let error = hive.run(pin("m", refused)).await.unwrap_err();
        assert_eq!(error.code, "model_changed", "{refused} is not what lies there");
        assert_eq!(hive.spawn("m").await.unwrap_err().code, "model_changed");
    }

    let pinned: ModelEntry = result(hive.run(pin("m", &actual)).await.unwrap());
    assert_eq!(pinned.sha256, actual);
    for name in ["m", "n"] {
        let worker = hive.spawn(name).await.expect("all names of a file are pinned together");
        assert_eq!(worker.state, SupervisedState::Ready);
    }
    let error = hive.run(pin("m", &actual)).await.unwrap_err();
    assert_eq!(error.code, "model_in_use", "not under a running worker");
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_further_name_is_a_model_of_its_own_to_whoever_asks() {
    let home = Home::new();
    let hive = home.start_with(home.double("serves")).await.unwrap();
    let first = hive.import(&home.double_model(), "m").await.unwrap();
    let other = home.path().join("other.gguf");
    fs::write(&other, "GGUF of another").unwrap();
    hive.import(&other, "taken").await.unwrap();
    name(&hive, "m", "n").await;
    name(&hive, "m", "n").await;
    let error = hive.run(named("m", "taken")).await.unwrap_err();
    assert_eq!(error.code, "alias_taken");
    let error = hive.run(named("none", "x")).await.unwrap_err();
    assert_eq!(error.code, "model_not_found");

    hive.run(Operation::ModelDelete(model_target("m"))).await.unwrap();
    let worker = hive.spawn("n").await.expect("its file is there as long as it has a name");
    assert_eq!(worker.model, alias("n"));
    hive.delete(&worker.worker_id).await.unwrap();
    hive.run(Operation::ModelDelete(model_target("n"))).await.unwrap();
    assert!(!home.models().join(format!("{}.gguf", first.sha256)).exists());
    hive.hive.shutdown().await;
}

async fn name(hive: &TestHive, model: &str, further: &str) -> ModelEntry {
    result(hive.run(named(model, further)).await.unwrap())
}

fn named(model: &str, further: &str) -> Operation {
    let (hive_id, model) = (HiveAlias::localhost(), alias(model));
    Operation::ModelAlias(ModelName { hive_id, model, alias: alias(further) })
}

fn pin(model: &str, accept: &Sha256Digest) -> Operation {
    let hive_id = HiveAlias::localhost();
    Operation::ModelPin(ModelPin { hive_id, model: alias(model), accept: accept.clone() })
}
