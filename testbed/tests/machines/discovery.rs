//! Hives that are found on the network, and join by their secret only.

use std::time::Duration;

use serde_json::Value;
use test_cluster::wait_until;
use testbed::{DESK, Testbed};

#[tokio::test]
async fn a_hive_on_the_network_is_found_and_joins_with_its_secret_only() {
    let Some(bed) = Testbed::start(&["gpu-1", "nas"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    bed.sh(DESK, "scp -q -o BatchMode=yes -r bin nas:").unwrap();
    start_by_hand(&bed, "true");

    let found = found_when(&bed, 2).await;
    let of = |name: &str| found.iter().find(|hive| hive["hive_id"] == name).unwrap();
    assert_eq!((&of("gpu-1")["is_known"], &of("nas")["is_known"]), (&true.into(), &false.into()));
    assert_eq!(of("nas")["url"], "http://10.77.0.3:9000");
    let shown = bed.keeper("hive discover --wait 2").await.unwrap().expect_success().unwrap();
    assert!(shown.stdout.contains("hive add nas --url http://10.77.0.3:9000"), "{shown}");

    // It reports to the queen all the time, and is not heard.
    wait_until("the queen's refusal", Duration::from_secs(20), async || {
        bed.sh("nas", "cat hive.log").ok()?.contains("does not take heartbeats").then_some(())
    })
    .await
    .unwrap();
    let hives = bed.json("hive list").await.unwrap();
    assert!(hives.as_array().unwrap().iter().all(|hive| hive["hive_id"] != "nas"), "{hives}");

    let wrong = add(&bed, &"x".repeat(48));
    assert!(wrong.is_ok(), "what a secret is worth shows when it is used");
    let silent = bed.json("hive status nas").await.unwrap();
    assert_eq!(silent["liveness"], "gone", "{silent}");
    bed.keeper("hive remove nas").await.unwrap().expect_success().unwrap();

    let secret = bed.sh("nas", "cat home/data/secrets/local.token").unwrap();
    add(&bed, secret.trim()).unwrap();
    bed.hive_when("nas", "alive", |hive| hive["liveness"] == "alive").await.unwrap();
    bed.employ("nas").await.unwrap();
    let answer = bed.keeper("infer --model demo --max-tokens 4 Hello").await.unwrap();
    answer.expect_success().unwrap();
}

#[tokio::test]
async fn a_hive_that_is_not_to_be_announced_is_not_found() {
    let Some(bed) = Testbed::start(&["nas"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.sh(DESK, "scp -q -o BatchMode=yes -r bin nas:").unwrap();
    start_by_hand(&bed, "false");
    wait_until("the hive", Duration::from_secs(20), async || {
        bed.sh("nas", "cat hive.log").ok()?.contains("hive listens").then_some(())
    })
    .await
    .unwrap();
    assert_eq!(bed.json("hive discover --wait 2").await.unwrap(), Value::Array(Vec::new()));
}

fn start_by_hand(bed: &Testbed, announce: &str) {
    let start = format!(
        "RBEE_HOME=$HOME/home RBEE_HIVE__ANNOUNCE={announce} setsid bin/rbee-hive --bind 0.0.0.0:9000 --alias nas \
         --advertise 10.77.0.3 --queen http://10.77.0.1:8500 >hive.log 2>&1 </dev/null &"
    );
    bed.sh("nas", &start).unwrap();
}

fn add(bed: &Testbed, secret: &str) -> anyhow::Result<String> {
    let line = format!(
        "printf %s '{secret}' | rbee-keeper hive add nas --url http://10.77.0.3:9000 --secret-file -"
    );
    bed.sh(DESK, &line)
}

/// The hives that are found, once there are as many.
async fn found_when(bed: &Testbed, count: usize) -> Vec<Value> {
    wait_until("the announcements", Duration::from_secs(30), async || {
        let found = bed.json("hive discover --wait 2").await.ok()?.as_array()?.clone();
        (found.len() >= count).then_some(found)
    })
    .await
    .unwrap()
}
