//! A hub that models come from, and what becomes of them.

use std::fs;

use anyhow::Context;
use cucumber::{given, then, when};
use rbee_operations::{HiveTarget, Operation};
use serde_json::Value;
use test_cluster::{Cluster, ModelHub, Topology, demo_model, sha256_hex, wait_until};
use worker_contract::HiveAlias;

use super::{Rbee, SOON, Step};

/// The file of the hub that scenarios speak of.
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

#[given(regex = r#"^a model hub with "([^"]+)"$"#)]
async fn hub(world: &mut Rbee, file: String) -> Step {
    let hub = ModelHub::start().await?;
    hub.put(&file, fs::read(demo_model()?)?);
    world.hub = Some(hub);
    Ok(())
}

#[given(regex = r"^an? (integrated|distributed) cluster that uses the hub$")]
async fn cluster(world: &mut Rbee, topology: String) -> Step {
    let topology = match topology.as_str() {
        "integrated" => Topology::Integrated,
        _ => Topology::Distributed,
    };
    let endpoint = world.hub()?.address.clone();
    let builder = Cluster::builder().topology(topology).env("HF_ENDPOINT", &endpoint);
    world.cluster = Some(builder.start().await?);
    world.cluster()?.wait_for_hive().await?;
    Ok(())
}

#[given(regex = "^the hub is (slow|fast)$")]
#[when(regex = "^the hub is (slow|fast)$")]
fn set_pace(world: &mut Rbee, pace: String) -> Step {
    world.hub()?.faults().slow = (pace == "slow").then_some(128 << 10);
    Ok(())
}

#[given(regex = r"^the hub cuts (\d+) connections$")]
fn cuts(world: &mut Rbee, count: u32) -> Step {
    let mut faults = world.hub()?.faults();
    (faults.cut_after, faults.cuts) = (Some(1 << 20), count);
    Ok(())
}

#[given("the hub sends other bytes than it says")]
fn wrong_bytes(world: &mut Rbee) -> Step {
    world.hub()?.faults().wrong_bytes = true;
    Ok(())
}

#[when(regex = r#"^I interrupt a download of "([^"]+)" in the middle$"#)]
async fn interrupt(world: &mut Rbee, reference: String) -> Step {
    let running = world.cluster()?.start_keeper(["model", "download", &reference])?;
    let hub = world.hub()?.clone();
    let sent = async || (hub.sent() > 8 << 20).then_some(());
    wait_until("the first megabytes", SOON, sent).await?;
    running.interrupt();
    let run = running.finish().await?;
    ensure!(run.code == Some(130), "it ended with {:?}: {}", run.code, run.stderr);
    Ok(())
}

#[when(regex = r#"^the hive is restarted in the middle of a download of "([^"]+)"$"#)]
async fn restart_hive(world: &mut Rbee, reference: String) -> Step {
    let running = world.cluster()?.start_keeper(["model", "download", &reference])?;
    let hub = world.hub()?.clone();
    let sent = async || (hub.sent() > 8 << 20).then_some(());
    wait_until("the first megabytes", SOON, sent).await?;
    let restarted = world.cluster()?.keeper(["hive", "restart", "localhost"]).await?;
    ensure!(restarted.code == Some(0), "the hive was not restarted: {}", restarted.stderr);
    let run = running.finish().await?;
    ensure!(run.stderr.contains("goes on when it starts again"), "it says: {}", run.stderr);
    Ok(())
}

#[when(
    regex = r#"^the hive is killed and started again in the middle of a download of "([^"]+)"$"#
)]
async fn kill_hive(world: &mut Rbee, reference: String) -> Step {
    let running = world.cluster()?.start_keeper(["model", "download", &reference])?;
    let hub = world.hub()?.clone();
    let sent = async || (hub.sent() > 8 << 20).then_some(());
    wait_until("the first megabytes", SOON, sent).await?;
    let hive = world.cluster_mut()?.hive()?;
    hive.kill().await?;
    hive.start_again().await?;
    hub.faults().slow = None;
    world.keeper_runs.push(running.finish().await?);
    Ok(())
}

#[then(regex = r#"^the hive soon lists the model "([^"]+)"$"#)]
async fn soon_lists(world: &mut Rbee, alias: String) -> Step {
    let api = world.api()?;
    let is_there = async || {
        let list = Operation::ModelList(HiveTarget { hive_id: HiveAlias::localhost() });
        let result: Value = api.run_job(&list).await.ok()?.result().ok()?;
        result["models"].as_array()?.iter().any(|model| model["alias"] == *alias).then_some(())
    };
    wait_until("the model on the list", SOON, is_there).await?;
    Ok(())
}

#[then("the hub sent less than the file twice")]
fn sent_less(world: &mut Rbee) -> Step {
    let (sent, size) = (world.hub()?.sent(), fs::metadata(demo_model()?)?.len());
    ensure!(sent < 2 * size, "it sent {sent} bytes of a file of {size}");
    Ok(())
}

#[when(regex = r#"^the hub has another "([^"]+)"$"#)]
fn another(world: &mut Rbee, file: String) -> Step {
    let mut bytes = fs::read(demo_model()?)?;
    *bytes.last_mut().context("the demo model is not empty")? ^= 1;
    world.hub()?.put(&file, bytes);
    Ok(())
}

#[then("I see both digests")]
fn both_digests(world: &mut Rbee) -> Step {
    let pinned = sha256_hex(&fs::read(demo_model()?)?);
    let offered = world.hub()?.sha256(FILE).context("the hub has no such file")?;
    let shown = &world.keeper_run()?.stdout;
    ensure!(shown.contains(&pinned) && shown.contains(&offered), "it shows: {shown}");
    Ok(())
}

#[when("the catalog is lost while the queen is down")]
async fn lose_catalog(world: &mut Rbee) -> Step {
    let data = world.cluster()?.home().path().join("data");
    let queen = world.cluster_mut()?.queen()?;
    queen.kill().await?;
    for file in ["hive.db", "hive.db-wal", "hive.db-shm"] {
        let _ = fs::remove_file(data.join(file));
    }
    queen.start_again().await?;
    world.cluster()?.wait_for_hive().await?;
    Ok(())
}
