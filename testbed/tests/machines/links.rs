//! Machines that are cut off, come back, or lose their power, while people ask.

use std::time::Duration;

use test_cluster::{RunningKeeper, wait_until};
use testbed::{DESK, Testbed};

#[tokio::test]
async fn a_machine_that_is_cut_off_is_shown_as_gone_and_the_others_answer() {
    let Some(bed) = Testbed::start(&["gpu-1", "gpu-2"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    for machine in ["gpu-1", "gpu-2"] {
        bed.settle(machine).await.unwrap();
    }
    // So that an answer that goes on elsewhere is the very same.
    for machine in ["gpu-1", "gpu-2"] {
        let set = "echo RBEE_WORKER__ARGUMENTS=--batch-invariant >.local/share/rbee-hive/hive.env";
        bed.sh(machine, set).unwrap();
        bed.keeper(&format!("hive restart {machine}")).await.unwrap().expect_success().unwrap();
    }
    let worker = bed.employ("gpu-1").await.unwrap();
    let file = bed.bring_model("gpu-2").unwrap();
    let import = format!("model import {file} --alias demo --hive gpu-2");
    bed.keeper(&import).await.unwrap().expect_success().unwrap();
    let undisturbed = long_story(&bed).finish().await.unwrap().expect_success().unwrap();

    // An answer that is being written when the cable is pulled goes on elsewhere, without a gap.
    let mut long = long_story(&bed);
    long.wait_for_output().await.unwrap();
    let spawn = "worker spawn --model demo --hive gpu-2";
    bed.keeper(spawn).await.unwrap().expect_success().unwrap();
    bed.cut("gpu-1").unwrap();
    let ended = long.finish().await.unwrap().expect_success().unwrap();
    assert_eq!(ended.stdout, undisturbed.stdout, "a token was lost, or came twice");
    assert!(failovers(&bed) >= 1, "the answer was complete before the cable was pulled");
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

fn long_story(bed: &Testbed) -> RunningKeeper {
    let question = "Tell a long story about a bee.";
    let line = ["infer", "-q", "--model", "demo", "--max-tokens", "240", "--temperature", "0"];
    bed.start_keeper(&[&line[..], &[question]].concat()).unwrap()
}

/// How many answers have gone on at another worker.
fn failovers(bed: &Testbed) -> u64 {
    let ask = "curl -s http://127.0.0.1:8500/metrics \
               -H \"Authorization: Bearer $(cat .local/share/rbee/secrets/local.token)\"";
    let metrics = bed.sh(DESK, ask).unwrap();
    let lines = metrics.lines().filter(|line| line.contains("failovers_total"));
    lines.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
}

async fn answers(bed: &Testbed) {
    let line = "infer --model demo --max-tokens 8 --temperature 0 Hello";
    let answer = bed.keeper(line).await.unwrap().expect_success().unwrap();
    assert!(!answer.stdout.trim().is_empty(), "{answer}");
}
