//! The stream of everything that changes.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use cucumber::{then, when};
use serde_json::Value;
use test_cluster::ask;

use super::{Rbee, Step};

/// So many events are looked at for the one that must come.
const MOST: usize = 500;

#[when("I follow the events")]
async fn follow(world: &mut Rbee) -> Step {
    world.events = Some(world.api()?.events("/v1/events", None).await?);
    Ok(())
}

#[then(regex = r"^the first event is a snapshot with (\d+) hive and (\d+) workers$")]
async fn snapshot(world: &mut Rbee, hives: usize, workers: usize) -> Step {
    let (name, all) = next(world).await?;
    ensure!(name == "snapshot", "it is {name}: {all}");
    let count = |what: &str| all[what].as_array().map(Vec::len);
    let counts = (count("hives"), count("workers"));
    ensure!(counts == (Some(hives), Some(workers)), "it tells {counts:?}: {all}");
    Ok(())
}

#[when(regex = r#"^I ask the model "([^"]+)" in vain$"#)]
async fn ask_in_vain(world: &mut Rbee, model: String) -> Step {
    let mut body = ask("Hi");
    body["model"] = model.into();
    let answer = world.api()?.post("/v1/chat/completions", &body).await?;
    world.answers.push(answer.expect_status(404)?);
    Ok(())
}

#[then(regex = r#"^an event tells of a worker that is "(\w+)"$"#)]
async fn worker_is(world: &mut Rbee, state: String) -> Step {
    Ok(wait_for(world, "worker", |told| told["state"] == *state).await?)
}

#[then("an event tells that a worker is gone")]
async fn worker_gone(world: &mut Rbee) -> Step {
    Ok(wait_for(world, "worker_gone", |_| true).await?)
}

#[then(regex = r#"^an event tells of a job "(\w+)" that is "(\w+)"$"#)]
async fn job_is(world: &mut Rbee, operation: String, state: String) -> Step {
    let is_it = |told: &Value| told["operation"] == *operation && told["state"] == *state;
    Ok(wait_for(world, "job", is_it).await?)
}

#[then(regex = r#"^an event tells of a decision "(\w+)" because of "(\w+)"$"#)]
async fn decision_is(world: &mut Rbee, kind: String, reason: String) -> Step {
    let is_it = |told: &Value| told["kind"] == *kind && told["reason"] == *reason;
    Ok(wait_for(world, "decision", is_it).await?)
}

#[then("the queen's figures have those of her hive, each family once")]
async fn figures_of_both(world: &mut Rbee) -> Step {
    let page = world.api()?.get("/metrics").await?.expect_status(200)?.text;
    for name in ["rbee_queen_open_requests 0", "rbee_hive_catalog_models 1", "# EOF"] {
        ensure!(page.lines().filter(|line| *line == name).count() == 1, "{name}: {page}");
    }
    ensure!(page.ends_with("# EOF\n"), "it does not end: {page}");
    let families: Vec<_> = page.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let different: BTreeSet<_> = families.iter().collect();
    ensure!(families.len() == different.len(), "a family is there twice: {page}");
    Ok(())
}

async fn next(world: &mut Rbee) -> Result<(String, Value)> {
    let events = world.events.as_mut().context("nobody follows the events")?;
    let event = events.next().await?.context("the stream of events has ended")?;
    let told = serde_json::from_str(&event.data)?;
    Ok((event.name, told))
}

async fn wait_for(world: &mut Rbee, wanted: &str, is_it: impl Fn(&Value) -> bool) -> Result<()> {
    let mut others = Vec::new();
    for _ in 0..MOST {
        let (name, told) = next(world).await?;
        if name == wanted && is_it(&told) {
            return Ok(());
        }
        others.push(format!("{name} {told}"));
    }
    bail!("no such {wanted} among {MOST} events, the last of them {:?}", others.last());
}
