//! What runs when a scenario begins, and what runs at its end.

use anyhow::{Context, Result, bail};
use cucumber::{given, then, when};
use test_cluster::{Cluster, ClusterBuilder, Signal, Topology, send_signal, wait_until};

use super::{Rbee, SOON, Step};

#[given(regex = r"^an? (integrated|distributed) cluster$")]
async fn cluster(world: &mut Rbee, topology: String) -> Step {
    world.cluster = Some(builder(&topology)?.start().await?);
    Ok(())
}

#[given(regex = r"^an? (integrated|distributed) cluster with the demo model$")]
async fn cluster_with_model(world: &mut Rbee, topology: String) -> Step {
    let cluster = builder(&topology)?.start().await?;
    cluster.import_demo_model().await?;
    world.cluster = Some(cluster);
    Ok(())
}

#[given(regex = r"^an? (integrated|distributed) cluster with a worker$")]
async fn cluster_with_worker(world: &mut Rbee, topology: String) -> Step {
    with_worker(world, builder(&topology)?).await
}

#[given(regex = r"^an? (integrated|distributed) cluster with a worker of 1 slot$")]
async fn cluster_with_one_slot(world: &mut Rbee, topology: String) -> Step {
    with_worker(world, builder(&topology)?.env("RBEE_WORKER__SLOTS", "1")).await
}

#[given(regex = r#"^an? (integrated|distributed) cluster with a worker that was told "([^"]+)"$"#)]
async fn cluster_with_told_worker(world: &mut Rbee, topology: String, arguments: String) -> Step {
    with_worker(world, builder(&topology)?.env("RBEE_WORKER__ARGUMENTS", &arguments)).await
}

#[given("an integrated cluster with a worker of 1 slot and a queue of 1")]
async fn cluster_with_short_queue(world: &mut Rbee) -> Step {
    let builder = Cluster::builder().env("RBEE_WORKER__SLOTS", "1");
    with_worker(world, builder.env("RBEE_QUEEN__MAX_QUEUE_PER_MODEL", "1")).await
}

#[given("an integrated cluster with a worker and a deadline of 2 seconds")]
async fn cluster_with_deadline(world: &mut Rbee) -> Step {
    with_worker(world, Cluster::builder().env("RBEE_QUEEN__REQUEST_TIMEOUT_S", "2")).await
}

#[given(regex = r#"^an? (integrated|distributed) cluster whose workers may have "([^"]+)"$"#)]
async fn cluster_with_little_memory(world: &mut Rbee, topology: String, memory: String) -> Step {
    let cluster = builder(&topology)?.env("RBEE_HIVE__MEMORY", &memory).start().await?;
    world.cluster = Some(cluster);
    Ok(())
}

#[given(regex = r"^an? (integrated|distributed) cluster that is not running$")]
async fn cluster_at_rest(world: &mut Rbee, topology: String) -> Step {
    world.cluster = Some(builder(&topology)?.without_daemons().start().await?);
    Ok(())
}

#[given(regex = r#"^the configuration holds the key "(\w+)" under "(\w+)"$"#)]
fn odd_configuration(world: &mut Rbee, key: String, section: String) -> Step {
    let file = world.cluster()?.home().path().join("config.toml");
    let text = std::fs::read_to_string(&file)?;
    let header = format!("[{section}]\n");
    std::fs::write(file, text.replace(&header, &format!("{header}{key} = \"x\"\n")))?;
    Ok(())
}

#[given("another program holds a port")]
fn taken_port(world: &mut Rbee) -> Step {
    world.port = Some(std::net::TcpListener::bind("127.0.0.1:0")?);
    Ok(())
}

#[when(regex = r"^the queen is (terminated|killed) and started again$")]
async fn queen_restarts(world: &mut Rbee, how: String) -> Step {
    let queen = world.cluster_mut()?.queen()?;
    if how == "killed" {
        queen.kill().await?;
        queen.start_again().await?;
    } else {
        queen.restart().await?;
    }
    world.cluster()?.wait_for_hive().await?;
    Ok(())
}

#[when("the hive is killed")]
async fn hive_killed(world: &mut Rbee) -> Step {
    world.cluster_mut()?.hive()?.kill().await?;
    Ok(())
}

#[when("the hive's list of its workers is damaged")]
fn ledger_damaged(world: &mut Rbee) -> Step {
    let file = world.cluster()?.home().path().join("run/workers.json");
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains("pid"), "it names no worker: {text}");
    std::fs::write(file, &text[..text.len() / 2])?;
    Ok(())
}

#[when("the queen starts again")]
async fn queen_starts_again(world: &mut Rbee) -> Step {
    world.cluster_mut()?.queen()?.start_again().await?;
    world.cluster()?.wait_for_hive().await?;
    Ok(())
}

#[when("the hive starts again")]
async fn hive_starts_again(world: &mut Rbee) -> Step {
    world.cluster_mut()?.hive()?.start_again().await?;
    Ok(())
}

#[then(regex = r"^the queen ended with exit code (\d+)$")]
fn queen_ended(world: &mut Rbee, code: i32) -> Step {
    let status = world.ended.context("the queen has not ended")?;
    ensure!(status.code() == Some(code), "the queen ended with {status}");
    Ok(())
}

#[then("queen and hive are healthy")]
async fn all_healthy(world: &mut Rbee) -> Step {
    world.api()?.get("/health").await?.expect_status(200)?;
    world.cluster()?.wait_for_hive().await?;
    if world.cluster()?.topology() == Topology::Distributed {
        let hive = world.cluster_mut()?.hive()?;
        hive.api()?.get("/health").await?.expect_status(200)?;
    }
    Ok(())
}

#[then(regex = r#"^(no|\d+) process(?:es)? of "([\w-]+)" runs?( soon)?$"#)]
async fn processes_of(world: &mut Rbee, count: String, name: String, soon: String) -> Step {
    let wanted: usize = if count == "no" { 0 } else { count.parse()? };
    let cluster = world.cluster()?;
    let running = || cluster.processes().into_iter().filter(|p| p.name == name).count();
    if soon.is_empty() {
        ensure!(running() == wanted, "expected {wanted}: {:?}", cluster.processes());
        return Ok(());
    }
    let missing = format!("{wanted} processes of {name}");
    Ok(wait_until(&missing, SOON, async || (running() == wanted).then_some(())).await?)
}

#[when(regex = r#"^the process of "([\w-]+)" is killed$"#)]
fn process_killed(world: &mut Rbee, name: String) -> Step {
    let all = world.cluster()?.processes();
    let process = all.iter().find(|process| process.name == name);
    send_signal(process.with_context(|| format!("no {name} runs: {all:?}"))?.pid, Signal::KILL);
    Ok(())
}

#[then("no process runs")]
fn nothing_runs(world: &mut Rbee) -> Step {
    let left = world.cluster()?.processes();
    ensure!(left.is_empty(), "still running: {left:#?}");
    Ok(())
}

fn builder(topology: &str) -> Result<ClusterBuilder> {
    match topology {
        "integrated" => Ok(Cluster::builder().integrated()),
        "distributed" => Ok(Cluster::builder().distributed()),
        other => bail!("no topology is called {other}"),
    }
}

async fn with_worker(world: &mut Rbee, builder: ClusterBuilder) -> Step {
    let cluster = builder.start().await?;
    cluster.import_demo_model().await?;
    let worker = cluster.spawn_worker().await.context("no worker could be spawned")?;
    world.worker = Some(worker);
    world.cluster = Some(cluster);
    Ok(())
}
