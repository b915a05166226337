//! Models that go from one machine to another.

use std::time::Duration;

use test_cluster::wait_until;
use testbed::{DESK, Testbed};

#[tokio::test]
async fn a_model_goes_from_hive_to_hive_and_is_the_same_there() {
    let Some(bed) = Testbed::start(&["gpu-1", "gpu-2"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    for machine in ["gpu-1", "gpu-2"] {
        bed.settle(machine).await.unwrap();
    }
    let file = bed.bring_model(DESK).unwrap();
    bed.keeper(&format!("model import {file} --alias demo"))
        .await
        .unwrap()
        .expect_success()
        .unwrap();
    let original = bed.json("model get demo").await.unwrap();

    // Out of the hive in the queen's process, then between two machines.
    for (from, to) in [("localhost", "gpu-1"), ("gpu-1", "gpu-2")] {
        let line = format!("model copy demo --from {from} --to {to}");
        let copied = bed.json(&line).await.unwrap();
        assert_eq!(copied["sha256"], original["sha256"], "{copied}");
        let again = bed.keeper(&line).await.unwrap().expect_success().unwrap();
        assert!(again.stdout.contains("was in the catalog already"), "{again}");
    }
    bed.keeper("worker spawn --model demo --hive gpu-2").await.unwrap().expect_success().unwrap();

    // Neither without a ticket nor with a hive's own secret.
    let digest = original["sha256"].as_str().unwrap();
    for secret in ["", "$(cat .local/share/rbee-hive/data/secrets/local.token)"] {
        let ask = format!(
            "curl -s -o /dev/null -w '%{{http_code}}' -H \"Authorization: Bearer {secret}\" \
             http://10.77.0.2:9000/v1/models/{digest}/file"
        );
        assert_eq!(bed.sh("gpu-2", &ask).unwrap().trim(), "401");
    }
    let jobs =
        bed.sh(DESK, "cat .local/share/rbee/queen.db | strings | grep -c rbee-ticket || true");
    assert_eq!(jobs.unwrap().trim(), "0", "no ticket is kept");

    for (line, told) in [
        ("model copy none --from gpu-1 --to gpu-2", "hive gpu-1 has no model none"),
        ("model copy demo --from gpu-9 --to gpu-2", "there is no hive gpu-9"),
        ("model copy demo --from gpu-1 --to gpu-1", "name two hives"),
    ] {
        let refused = bed.keeper(line).await.unwrap();
        assert!(refused.code == Some(1) && refused.stderr.contains(told), "{refused}");
    }
}

#[tokio::test]
async fn a_copy_whose_cable_is_pulled_goes_on_where_it_was() {
    let Some(bed) = Testbed::start(&["gpu-1", "gpu-2"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    for machine in ["gpu-1", "gpu-2"] {
        bed.settle(machine).await.unwrap();
    }
    let file = bed.bring_model("gpu-1").unwrap();
    let import = format!("model import {file} --alias demo --hive gpu-1");
    bed.keeper(&import).await.unwrap().expect_success().unwrap();
    // Some seconds for the file, where the kernel can slow a network down.
    bed.as_root(
        "gpu-1",
        "tc qdisc add dev eth0 root tbf rate 150mbit burst 64k latency 400ms || true",
    )
    .unwrap();
    let copy =
        bed.start_keeper(&["model", "copy", "demo", "--from", "gpu-1", "--to", "gpu-2"]).unwrap();
    let size = "find .local/share/rbee-hive/models -name '*.part' -size +0 | head -1";
    wait_until("the copy's middle", Duration::from_secs(30), async || {
        (!bed.sh("gpu-2", size).ok()?.trim().is_empty()).then_some(())
    })
    .await
    .unwrap();
    bed.cut("gpu-1").unwrap();
    bed.hive_when("gpu-1", "gone", |hive| hive["liveness"] == "gone").await.unwrap();
    bed.heal("gpu-1").unwrap();
    copy.finish().await.unwrap().expect_success().unwrap();
    let verified = bed.keeper("model verify demo --hive gpu-2").await.unwrap();
    verified.expect_success().unwrap();
}
