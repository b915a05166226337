//! Machines that are cut off, come back, or lose their power, while people ask.

use std::time::Duration;

use test_cluster::wait_until;
use testbed::Testbed;

#[tokio::test]
async fn a_machine_that_is_cut_off_is_shown_as_gone_and_the_others_answer() {
    let Some(bed) = Testbed::start(&["gpu-1", "gpu-2"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    for machine in ["gpu-1", "gpu-2"] {
        bed.settle(machine).await.unwrap();
    }
    let worker = bed.employ("gpu-1").await.unwrap();

    // An answer that is being written when the cable is pulled goes on elsewhere.
    let mut long = bed
        .start_keeper(&[
            "infer",
            "--model",
            "demo",
            "--max-tokens",
            "400",
            "--temperature",
            "0",
            "Tell a long story",
        ])
        .unwrap();
    long.wait_for_output().await.unwrap();
    bed.employ("gpu-2").await.unwrap();
    bed.cut("gpu-1").unwrap();
    let ended = long.finish().await.unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    bed.hive_when("gpu-1", "gone", |hive| hive["liveness"] == "gone").await.unwrap();
    answers(&bed).await;

    bed.heal("gpu-1").unwrap();
    bed.hive_when("gpu-1", "alive again", |hive| hive["liveness"] == "alive").await.unwrap();
    let same = bed.json(&format!("worker get {worker} --hive gpu-1")).await.unwrap();
    assert_eq!(same["state"], "ready", "its worker ran on: {same}");
    wait_until("the worker in the queen's list", Duration::from_secs(20), async || {
        let status = bed.json("status").await.ok()?;
        let workers = status["workers"].as_array()?;
        let is_back = |known: &serde_json::Value| {
            known["worker_id"] == worker.as_str() && known["liveness"] == "alive"
        };
        workers.iter().any(is_back).then_some(())
    })
    .await
    .unwrap();

    bed.power_off("gpu-2").unwrap();
    answers(&bed).await;
    bed.hive_when("gpu-2", "gone", |hive| hive["liveness"] == "gone").await.unwrap();
    answers(&bed).await;
}

async fn answers(bed: &Testbed) {
    let line = "infer --model demo --max-tokens 8 --temperature 0 Hello";
    let answer = bed.keeper(line).await.unwrap().expect_success().unwrap();
    assert!(!answer.stdout.trim().is_empty(), "{answer}");
}
