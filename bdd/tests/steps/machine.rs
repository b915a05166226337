//! Other machines of the house, and strangers.

use anyhow::Context;
use cucumber::{given, then, when};
use serde_json::{Value, json};
use test_cluster::{Api, wait_until};
use worker_contract::HiveAlias;

use super::{Rbee, Step};

#[given(regex = r#"^another machine "([^"]+)" with the demo model$"#)]
async fn machine_with_model(world: &mut Rbee, alias: String) -> Step {
    let alias: HiveAlias = alias.parse()?;
    let cluster = world.cluster_mut()?;
    cluster.add_machine(&alias).await?;
    cluster.import_demo_model_on(&alias).await?;
    Ok(())
}

#[given(regex = r#"^another machine "([^"]+)"$"#)]
async fn machine(world: &mut Rbee, alias: String) -> Step {
    world.cluster_mut()?.add_machine(&alias.parse()?).await?;
    Ok(())
}

#[given(regex = r#"^another machine "([^"]+)" with a worker$"#)]
async fn machine_with_worker(world: &mut Rbee, alias: String) -> Step {
    machine_with_model(world, alias.clone()).await?;
    world.cluster()?.spawn_worker_on(&alias.parse()?).await?;
    Ok(())
}

#[given(regex = r#"^another machine that calls itself "([^"]+)" as well$"#)]
async fn machine_of_the_same_name(world: &mut Rbee, alias: String) -> Step {
    world.cluster_mut()?.add_machine(&alias.parse()?).await?;
    let cluster = world.cluster()?;
    let mut seen = Value::Null;
    wait_until("a hive with a rival in the queen's list", super::SOON, async || {
        seen = cluster.status().await.ok()?;
        let hives = seen["hives"].as_array()?;
        hives.iter().any(|hive| hive["rival"].is_string()).then_some(())
    })
    .await
    .with_context(|| format!("the queen tells {seen}"))?;
    Ok(())
}

#[when("the other machine loses its power")]
fn power_cut(world: &mut Rbee) -> Step {
    Ok(world.cluster_mut()?.cut_power()?)
}

#[then(regex = r#"^(\d+) workers? runs? on "([^"]+)"$"#)]
async fn workers_on(world: &mut Rbee, count: usize, alias: String) -> Step {
    let cluster = world.cluster()?;
    let mut seen = Vec::new();
    let missing = format!("{count} workers on {alias}");
    wait_until(&missing, super::SOON, async || {
        seen = cluster.workers().await.ok()?;
        let there = seen.iter().filter(|worker| worker["hive_id"] == alias.as_str());
        (there.count() == count).then_some(())
    })
    .await
    .with_context(|| format!("the queen lists {seen:?}"))?;
    Ok(())
}

#[when("a stranger reports a worker of his own")]
async fn stranger(world: &mut Rbee) -> Step {
    let report = stranger_worker();
    let api = Api::new(world.api()?.base(), None)?;
    world.answers.push(api.post("/v1/worker-heartbeat", &report).await?);
    Ok(())
}

fn stranger_worker() -> Value {
    json!({
        "worker_id": "w-stranger",
        "hive_id": "localhost",
        "address": "http://127.0.0.1:9",
        "model": {"name": "smollm2-135m", "context_length": 2048},
        "device": "CPU-0",
        "state": "ready",
        "slots": {"total": 4, "busy": 0},
        "queued": 0,
        "kv_cache": {"used_tokens": 0, "capacity_tokens": 2048},
        "tokens_per_second": 0.0,
        "engine_build": "none",
        "pid": 1,
    })
}
