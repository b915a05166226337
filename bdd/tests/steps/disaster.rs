//! Workers that end before their time.

use std::pin::pin;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow};
use cucumber::{then, when};
use serde_json::Value;
use test_cluster::{Api, Cluster, Signal, is_alive, send_signal, wait_until, write_broken_model};
use worker_contract::{SupervisedState, SupervisedWorker};

use super::stream::very_long;
use super::worker::workers_of_hive;
use super::{Rbee, SOON, Step};

#[when("the worker is killed")]
async fn kill_worker(world: &mut Rbee) -> Step {
    let pid = world.worker()?.pid;
    send_signal(pid, Signal::KILL);
    let gone = async || (!is_alive(pid)).then_some(());
    wait_until("the end of the killed worker", SOON, gone).await?;
    world.killed.push(pid);
    Ok(())
}

#[when("the worker hangs")]
fn hang_worker(world: &mut Rbee) -> Step {
    let pid = world.worker()?.pid;
    send_signal(pid, Signal::STOP);
    world.killed.push(pid);
    Ok(())
}

#[when("the worker is killed until it does not come back")]
async fn kill_too_often(world: &mut Rbee) -> Step {
    for _ in 0..20 {
        kill_worker(world).await?;
        let next = next_process(world).await?;
        if matches!(next.state, SupervisedState::Failed { .. }) {
            return Ok(());
        }
        world.worker = Some(next);
    }
    Err(anyhow!("it came back {} times", world.killed.len()).into())
}

#[when("a request comes whose workers are killed, one after the other")]
async fn deadly_request(world: &mut Rbee) -> Step {
    let (api, cluster) = (world.api()?, world.cluster()?);
    let is_busy = |worker: &&Value| worker["in_flight"] != 0;
    // Those keep what they have.
    let before = cluster.workers().await?;
    let others: Vec<Value> = before.iter().filter(is_busy).map(|it| it["pid"].clone()).collect();
    let (mut killed, body) = (Vec::new(), deadly());
    let mut answer = pin!(api.post("/v1/chat/completions", &body));
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer?,
            pid = next_victim(cluster, &others, &killed) => {
                let pid = pid?;
                send_signal(pid, Signal::KILL);
                killed.push(pid);
            }
        }
    };
    world.killed.extend(killed);
    world.answers.push(answer);
    Ok(())
}

/// The process that has a request, beside some that have others.
async fn next_victim(cluster: &Cluster, others: &[Value], killed: &[u32]) -> Result<u32> {
    let pid = |worker: &Value| worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let has_it = |worker: &Value| {
        let is_new = pid(worker).is_some_and(|pid| !killed.contains(&pid));
        worker["in_flight"] != 0 && is_new && !others.contains(&worker["pid"])
    };
    let busy = cluster.wait_for_worker("a worker that has the request", has_it).await?;
    // Of two that end together, one that has not begun the request is not held against it.
    let worker = Api::new(busy["address"].as_str().context("a worker without an address")?, None)?;
    wait_until("the worker to begin the request", SOON, async || {
        let health = worker.get("/health").await.ok()?;
        (health.json().ok()?["slots"]["busy"] != 0).then_some(())
    })
    .await?;
    pid(&busy).context("a worker without a process")
}

#[when("the same request comes again")]
async fn deadly_again(world: &mut Rbee) -> Step {
    let answer = world.api()?.post("/v1/chat/completions", &deadly()).await?;
    world.answers.push(answer);
    Ok(())
}

#[then(regex = r"^(\d+) workers were killed$")]
fn killed_so_many(world: &mut Rbee, count: usize) -> Step {
    ensure!(world.killed.len() == count, "killed were {:?}", world.killed);
    Ok(())
}

/// A request whose prompt alone keeps a worker busy for a while: it is killed before it has got on.
fn deadly() -> Value {
    let mut body = very_long();
    body["messages"][0]["content"] = "A bee flies from flower to flower. ".repeat(80).into();
    body["max_tokens"] = 100.into();
    body
}

#[then("the same worker runs in another process")]
async fn comes_back(world: &mut Rbee) -> Step {
    let next = next_process(world).await?;
    ensure!(next.state == SupervisedState::Ready, "it does not come back: {next:?}");
    world.worker = Some(next);
    Ok(())
}

/// The worker when it is ready in another process, or has failed.
async fn next_process(world: &Rbee) -> Result<SupervisedWorker> {
    let (cluster, before) = (world.cluster()?, world.worker()?);
    let mut seen = Vec::new();
    wait_until("another process of the worker", SOON, async || {
        seen = workers_of_hive(cluster).await.ok()?;
        let next = seen.iter().find(|worker| worker["worker_id"] == before.worker_id.as_str())?;
        let next: SupervisedWorker = serde_json::from_value(next.clone()).ok()?;
        match next.state {
            SupervisedState::Ready => !world.killed.contains(&next.pid),
            SupervisedState::Failed { .. } => true,
            _ => false,
        }
        .then_some(next)
    })
    .await
    .with_context(|| format!("the hive lists {seen:?}"))
}

#[then("another process than the killed one has answered")]
fn another_process(world: &mut Rbee) -> Step {
    let running = world.cluster()?.worker_processes();
    let fresh = running.iter().any(|process| !world.killed.contains(&process.pid));
    ensure!(fresh, "no other worker runs: {running:?}");
    Ok(())
}

#[when("a worker is started by hand with a broken file")]
fn start_broken_worker(world: &mut Rbee) -> Step {
    let cluster = world.cluster()?;
    let file = cluster.home().path().join("broken.gguf");
    write_broken_model(&file)?;
    let token = cluster.home().path().join("data/secrets/local.token");
    let queen = cluster.home().address("queen-rbee")?;
    let child = cluster
        .command("llm-worker-rbee")
        .args(["--port", "0", "--alias", "broken", "--worker-id", "w-broken"])
        .args(["--hive-id", "localhost", "--device", "CPU-0", "--slots", "1"])
        .args(["--ctx-size", "512", "--queen", &queen, "--heartbeat-interval-ms", "200"])
        .arg("--token-file")
        .arg(token)
        .arg("--model")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    world.hand_worker = Some(child);
    Ok(())
}

#[then("the queen lists a worker that failed with a reason")]
async fn failed_worker(world: &mut Rbee) -> Step {
    let failed = |worker: &Value| worker["worker_id"] == "w-broken" && worker["state"] == "failed";
    let worker = world.cluster()?.wait_for_worker("a failed worker", failed).await?;
    let reason = worker["reason"].as_str().context("no reason is told")?;
    ensure!(!reason.is_empty(), "the reason is empty");
    Ok(())
}

#[then(regex = r"^the worker's exit code is (\d+)$")]
async fn exit_code(world: &mut Rbee, code: i32) -> Step {
    let child = world.hand_worker.take().context("no worker was started by hand")?;
    let end = tokio::time::timeout(SOON, child.wait_with_output()).await;
    let output = end.context("the worker does not end")??;
    world.hand_stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(code), "{}: {}", output.status, world.hand_stderr);
    Ok(())
}

#[then(regex = r#"^the last line of its stderr begins with "([^"]+)"$"#)]
fn last_line(world: &mut Rbee, begin: String) -> Step {
    let last = world.hand_stderr.lines().last().unwrap_or_default();
    ensure!(last.starts_with(&begin), "the last line is {last:?}");
    Ok(())
}
