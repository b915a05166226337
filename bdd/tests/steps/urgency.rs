//! Requests that are urgent, requests that are not, and who of them is served first.

use anyhow::{Context, Result, anyhow};
use cucumber::{given, then, when};
use test_cluster::{Cluster, ask, wait_until};

use super::stream::very_long;
use super::{Rbee, SOON, Step};

/// More requests than a worker with one slot takes.
const MOST_IN_WORKER: usize = 8;

#[given(regex = r"^(\d+) (batch|interactive) requests? that waits?$")]
async fn wait_in_line(world: &mut Rbee, count: usize, priority: String) -> Step {
    for _ in 0..count {
        send(world, &priority)?;
        let (cluster, sent) = (world.cluster()?, world.urgent.len());
        let known = async || is_known(cluster, sent).await.then_some(());
        wait_until("the queen to know the request", SOON, known).await?;
    }
    Ok(())
}

#[when("interactive requests come until somebody has to go")]
async fn push_out(world: &mut Rbee) -> Step {
    // Some wait in the worker.
    for _ in 0..MOST_IN_WORKER {
        send(world, "interactive")?;
        let Rbee { urgent, cluster, .. } = &mut *world;
        let cluster = cluster.as_ref().context("the scenario has no cluster")?;
        let sent = urgent.len();
        let ended =
            wait_until("the queen to know the request, or an answer", SOON, async || match urgent
                .try_join_next()
            {
                Some(ended) => Some(Some(ended)),
                None => is_known(cluster, sent).await.then_some(None),
            })
            .await?;
        if let Some(ended) = ended {
            let (priority, answer) = ended??;
            ensure!(priority == "batch", "of {priority} priority is the one that goes: {answer}");
            world.answers.push(answer);
            return Ok(());
        }
    }
    Err(anyhow!("all {} wait", world.urgent.len()).into())
}

#[then("every request that waits is answered")]
async fn all_answered(world: &mut Rbee) -> Step {
    ensure!(!world.urgent.is_empty(), "nobody waits");
    answered_in_order(world).await?;
    Ok(())
}

#[then("every interactive request is answered before any batch one")]
async fn interactive_first(world: &mut Rbee) -> Step {
    let order = answered_in_order(world).await?;
    ensure!(order.iter().any(|priority| priority == "batch"), "no batch one: {order:?}");
    let mut wanted = order.clone();
    wanted.sort_by_key(|priority| priority == "batch");
    ensure!(order == wanted, "they were answered in the order {order:?}");
    Ok(())
}

#[given(regex = r#"^(\d+) people wait for very long answers of the model "([^"]+)"$"#)]
fn crowd(world: &mut Rbee, people: usize, model: String) -> Step {
    let mut body = very_long();
    body["model"] = model.into();
    for _ in 0..people {
        let (api, body) = (world.api()?, body.clone());
        world.waiting.spawn(async move { api.post("/v1/chat/completions", &body).await });
    }
    Ok(())
}

/// Asks for a short answer, which is not waited for.
fn send(world: &mut Rbee, priority: &str) -> Result<()> {
    let (api, priority) = (world.api()?, priority.to_owned());
    let mut body = ask("What is the capital of Japan?");
    body["max_tokens"] = 8.into();
    world.urgent.spawn(async move {
        let headers = [("x-rbee-priority", priority.as_str())];
        let answer = api.post_with("/v1/chat/completions", &headers, &body).await?;
        Ok((priority, answer))
    });
    Ok(())
}

/// Whether so many requests, beside the stream that has the slot, wait in the queen or are in the worker.
async fn is_known(cluster: &Cluster, sent: usize) -> bool {
    let Ok(status) = cluster.status().await else { return false };
    let waiting = status["waiting"].as_u64();
    let in_flight = status["workers"][0]["in_flight"].as_u64();
    waiting.zip(in_flight).is_some_and(|(waiting, running)| waiting + running == sent as u64 + 1)
}

/// The priorities of all, who must be answered, in the order of their answers.
async fn answered_in_order(world: &mut Rbee) -> Result<Vec<String>> {
    let mut order = Vec::new();
    while let Some(ended) = world.urgent.join_next().await {
        let (priority, answer) = ended??;
        answer.expect_status(200)?;
        order.push(priority);
    }
    Ok(order)
}
