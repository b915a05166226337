//! Workers, as hive and queen tell of them.

use anyhow::{Context, Result};
use cucumber::{then, when};
use rbee_operations::{HiveTarget, Operation, WorkerSpawn, WorkerTarget};
use serde_json::Value;
use test_cluster::{Cluster, DEMO_ALIAS, wait_until};
use worker_contract::{HiveAlias, SupervisedWorker};

use super::{Rbee, SOON, Step};

#[when("I spawn a worker")]
async fn spawn(world: &mut Rbee) -> Step {
    world.worker = Some(world.cluster()?.spawn_worker().await?);
    Ok(())
}

#[when(regex = r#"^I try to spawn a worker on "([^"]+)"$"#)]
async fn try_spawn_on(world: &mut Rbee, device: String) -> Step {
    try_spawn(world, DEMO_ALIAS, &device).await
}

#[when(regex = r#"^I try to spawn a worker for the model "([^"]+)"$"#)]
async fn try_spawn_for(world: &mut Rbee, model: String) -> Step {
    try_spawn(world, &model, "CPU-0").await
}

#[when(regex = r#"^I try to (show|delete) the worker "([^"]+)"$"#)]
async fn try_worker(world: &mut Rbee, what: String, id: String) -> Step {
    let target = WorkerTarget { hive_id: HiveAlias::localhost(), worker_id: id.parse()? };
    let operation = match what.as_str() {
        "show" => Operation::WorkerGet(target),
        _ => Operation::WorkerDelete(target),
    };
    world.run_job(&operation).await
}

#[when("I delete that worker")]
async fn delete(world: &mut Rbee) -> Step {
    let worker_id = world.worker()?.worker_id.clone();
    let target = WorkerTarget { hive_id: HiveAlias::localhost(), worker_id };
    let run = world.api()?.run_job(&Operation::WorkerDelete(target)).await?;
    run.result::<Value>()?;
    Ok(())
}

#[then(regex = r"^the hive lists (\d+) workers?(?: that (?:is|are) (\w+))?$")]
async fn hive_lists(world: &mut Rbee, count: usize, state: String) -> Step {
    let cluster = world.cluster()?;
    let missing = format!("{count} {state} workers in the hive's list");
    let mut seen = Vec::new();
    wait_until(&missing, SOON, async || {
        seen = workers_of_hive(cluster).await.ok()?;
        (in_state(&seen, &state) == count).then_some(())
    })
    .await
    .with_context(|| format!("the hive lists {seen:?}"))?;
    Ok(())
}

#[then(regex = r"^the queen lists (\d+) workers?(?: that (?:is|are) (\w+))?$")]
async fn queen_lists(world: &mut Rbee, count: usize, state: String) -> Step {
    let cluster = world.cluster()?;
    let missing = format!("{count} {state} workers in the queen's list");
    let mut seen = Vec::new();
    wait_until(&missing, SOON, async || {
        seen = cluster.workers().await.ok()?;
        (in_state(&seen, &state) == count).then_some(())
    })
    .await
    .with_context(|| format!("the queen lists {seen:?}"))?;
    Ok(())
}

#[then(regex = r#"^the only worker runs the model "([^"]+)"$"#)]
async fn only_worker_runs(world: &mut Rbee, model: String) -> Step {
    let cluster = world.cluster()?;
    let mut seen = Vec::new();
    wait_until(&format!("one worker, of {model}"), SOON, async || {
        seen = workers_of_hive(cluster).await.ok()?;
        let is_it =
            |worker: &Value| worker["model"] == model.as_str() && worker["state"] == "ready";
        (seen.len() == 1 && is_it(&seen[0])).then_some(())
    })
    .await
    .with_context(|| format!("the hive lists {seen:?}"))?;
    Ok(())
}

#[then(regex = r#"^(\d+) workers? runs? the model "([^"]+)" in the end$"#)]
async fn run_in_the_end(world: &mut Rbee, count: usize, model: String) -> Step {
    let cluster = world.cluster()?;
    let mut seen = Vec::new();
    wait_until(&format!("{count} workers of {model}"), 3 * SOON, async || {
        seen = cluster.workers().await.ok()?;
        let is_it = |worker: &&Value| worker["model"]["name"] == model.as_str();
        (seen.iter().filter(is_it).count() == count).then_some(())
    })
    .await
    .with_context(|| format!("the queen lists {seen:?}"))?;
    Ok(())
}

#[then(regex = r#"^(\d+) workers? (?:was|were) ever started for the model "([^"]+)"$"#)]
async fn ever_started(world: &mut Rbee, count: usize, model: String) -> Step {
    let path = format!("/v1/decisions?limit=1000&model={model}");
    let decided = world.api()?.get(&path).await?.expect_status(200)?.json()?;
    let all = decided["decisions"].as_array().context("no decisions are told")?;
    let started = all.iter().filter(|decision| decision["kind"] == "spawn").count();
    ensure!(started == count, "{started} were: {all:?}");
    Ok(())
}

#[then("the hive shows that worker with its model, its device and its process")]
async fn hive_shows(world: &mut Rbee) -> Step {
    let spawned = world.worker()?;
    let target =
        WorkerTarget { hive_id: HiveAlias::localhost(), worker_id: spawned.worker_id.clone() };
    let run = world.api()?.run_job(&Operation::WorkerGet(target)).await?;
    let shown: SupervisedWorker = run.result()?;
    ensure!(shown.model.as_str() == DEMO_ALIAS, "it runs {}", shown.model);
    ensure!(shown.device == "CPU-0".parse()?, "it runs on {}", shown.device);
    let processes = world.cluster()?.worker_processes();
    ensure!(processes.iter().any(|p| p.pid == shown.pid), "{} is none of {processes:?}", shown.pid);
    Ok(())
}

#[then(regex = r"^(no|\d+) worker process(?:es)? runs?$")]
fn worker_processes(world: &mut Rbee, count: String) -> Step {
    let wanted: usize = if count == "no" { 0 } else { count.parse()? };
    let running = world.cluster()?.worker_processes();
    ensure!(running.len() == wanted, "expected {wanted}: {running:#?}");
    Ok(())
}

#[then("the worker is the same process as before")]
fn same_process(world: &mut Rbee) -> Step {
    let pid = world.worker()?.pid;
    let running = world.cluster()?.worker_processes();
    let pids: Vec<u32> = running.iter().map(|process| process.pid).collect();
    ensure!(pids == [pid], "it was {pid}, running are {pids:?}");
    Ok(())
}

#[then(regex = r"^each of the (\d+) workers has (\d+) busy slots?$")]
async fn busy_slots(world: &mut Rbee, count: usize, slots: u64) -> Step {
    let cluster = world.cluster()?;
    let mut seen = Vec::new();
    wait_until("the requests to be spread over the workers", SOON, async || {
        seen = cluster.workers().await.ok()?;
        let busy = |worker: &Value| worker["slots"]["busy"] == slots;
        (seen.len() == count && seen.iter().all(busy)).then_some(())
    })
    .await
    .with_context(|| format!("the queen lists {seen:?}"))?;
    Ok(())
}

/// The hive's own list, by way of the queen.
pub(super) async fn workers_of_hive(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = Operation::WorkerList(HiveTarget { hive_id: HiveAlias::localhost() });
    let result: Value = cluster.api()?.run_job(&list).await?.result()?;
    result["workers"].as_array().cloned().context("the result is no list of workers")
}

async fn try_spawn(world: &mut Rbee, model: &str, device: &str) -> Step {
    let spawn = WorkerSpawn {
        hive_id: HiveAlias::localhost(),
        model: model.parse()?,
        device: Some(device.parse()?),
        slots: None,
        ctx_size: None,
    };
    world.run_job(&Operation::WorkerSpawn(spawn)).await
}

fn in_state(workers: &[Value], state: &str) -> usize {
    workers.iter().filter(|worker| state.is_empty() || worker["state"] == state).count()
}
