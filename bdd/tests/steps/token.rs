//! Tokens.

use anyhow::{Context, Result};
use cucumber::gherkin::Step as GherkinStep;
use cucumber::{given, then, when};
use test_cluster::{Answer, Api};

use super::table::no_complaints;
use super::{Rbee, Step};

#[given("I have created a token")]
async fn create_token(world: &mut Rbee) -> Step {
    let run = world.cluster()?.keeper(["token", "create", "--name", "laptop"]).await?;
    let secret = run.expect_success()?.stdout.trim().to_owned();
    ensure!(secret.starts_with("rbee_") && secret.len() == 48, "stdout is not the token alone");
    world.secret = Some(secret);
    Ok(())
}

#[when("I use the token")]
fn use_token(world: &mut Rbee) -> Step {
    let secret = world.secret.clone();
    world.cluster_mut()?.use_token(secret);
    Ok(())
}

#[then("these routes answer 401 without the token, and with a wrong one:")]
async fn routes_demand_it(world: &mut Rbee, step: &GherkinStep) -> Step {
    let base = world.api()?.base().to_owned();
    let wrong = format!("rbee_{}", "A".repeat(43));
    let mut complaints = Vec::new();
    for row in &step.table.as_ref().context("the step has no table")?.rows {
        let [method, path] = row.as_slice() else { continue };
        for token in [None, Some(wrong.as_str()), Some("x")] {
            let answer = request(&Api::new(&base, token)?, method, path).await?;
            if answer.status != 401 || answer.error().is_err() {
                complaints.push(format!("{method} {path} with {token:?}: {answer}"));
            }
        }
    }
    Ok(no_complaints(&complaints)?)
}

#[then(regex = r#"^"([^"]+)" answers (\d+) (with|without) the token$"#)]
async fn route_answers(world: &mut Rbee, path: String, status: u16, with: String) -> Step {
    let secret = world.secret.as_deref().filter(|_| with == "with");
    Api::new(world.api()?.base(), secret)?.get(&path).await?.expect_status(status)?;
    Ok(())
}

#[then("the worker demands a token of its own")]
async fn worker_demands_it(world: &mut Rbee) -> Step {
    let workers = world.cluster()?.workers().await?;
    let address = workers.first().and_then(|worker| worker["address"].as_str());
    let address = address.context("the queen lists no worker")?;
    for token in [None, Some("x"), world.secret.as_deref()] {
        let answer = Api::new(address, token)?.post_bytes("/v1/inference", Vec::new()).await?;
        answer.expect_status(401)?;
    }
    Ok(())
}

async fn request(api: &Api, method: &str, path: &str) -> Result<Answer> {
    match method {
        "GET" => api.get(path).await,
        _ => api.post_bytes(path, b"{}".to_vec()).await,
    }
}
