//! The operator's own rules.

use anyhow::{Context, Result};
use cucumber::gherkin::Step as GherkinStep;
use cucumber::{then, when};
use test_cluster::{Answer, ask, wait_until};

use super::{Rbee, SOON, Step};

#[when("I write the rules")]
fn write_rules(world: &mut Rbee, step: &GherkinStep) -> Step {
    let rules = step.docstring.clone().context("the step has no rules")?;
    Ok(write(world, &rules)?)
}

#[when("I write rules that avoid the worker of the last answer")]
async fn avoid_worker(world: &mut Rbee) -> Step {
    let answer = question(world).await?.expect_status(200)?;
    let avoided = worker_of(&answer)?;
    world.answers.push(answer);
    let rules = format!(
        "fn score(request, worker) {{ if worker.id == \"{avoided}\" {{ 60000 }} else {{ 0 }} }}"
    );
    write(world, &rules)?;
    let is_followed = async || {
        let answer = question(world).await.ok()?;
        (worker_of(&answer).ok()? != avoided).then_some(())
    };
    Ok(wait_until("the rules to be followed", SOON, is_followed).await?)
}

#[then(regex = r"^the next (\d+) answers come from the other worker$")]
async fn other_worker(world: &mut Rbee, count: usize) -> Step {
    let avoided = worker_of(world.answer()?)?;
    for _ in 0..count {
        let answer = question(world).await?.expect_status(200)?;
        ensure!(worker_of(&answer)? != avoided, "{avoided} answered");
    }
    Ok(())
}

#[when("I remove the rules")]
fn remove_rules(world: &mut Rbee) -> Step {
    std::fs::remove_file(world.cluster()?.home().path().join("scheduler.rhai"))?;
    Ok(())
}

#[then(regex = r#"^soon a question is refused with (\d+) "(\w+)"$"#)]
async fn soon_refused(world: &mut Rbee, status: u16, code: String) -> Step {
    let is_refused = async || {
        let answer = question(world).await.ok()?;
        let is_it = answer.status == status
            && answer.error().is_ok_and(|error| error.code.as_deref() == Some(code.as_str()));
        is_it.then_some(answer)
    };
    let refused = wait_until("a question that is refused", SOON, is_refused).await?;
    world.answers.push(refused);
    Ok(())
}

/// They may refuse for ever, and clients would wait as long as they are told to, again and again.
#[then("the last refusal names no time to come again")]
fn says_no_time(world: &mut Rbee) -> Step {
    let told = world.answer()?.headers.get("retry-after");
    ensure!(told.is_none(), "there is Retry-After: {told:?}");
    Ok(())
}

#[then("soon a question is answered")]
async fn soon_answered(world: &mut Rbee) -> Step {
    let is_answered = async || {
        let answer = question(world).await.ok()?;
        (answer.status == 200).then_some(())
    };
    Ok(wait_until("a question that is answered", SOON, is_answered).await?)
}

#[then("soon the queen counts a failure of the rules")]
async fn counts_failure(world: &mut Rbee) -> Step {
    let (mut answers, mut failed) = (Vec::new(), None);
    let counted = async || {
        match question(world).await {
            Ok(answer) => answers.push(answer),
            Err(error) => failed = Some(error),
        }
        let figures = world.api().ok()?.get("/metrics").await.ok()?;
        let line =
            figures.text.lines().find(|line| line.starts_with("rbee_queen_rule_failures_total"))?;
        let count: f64 = line.rsplit(' ').next()?.parse().ok()?;
        (count >= 1.0).then_some(())
    };
    wait_until("a failure of the rules in the metrics", SOON, counted).await?;
    if let Some(error) = failed {
        return Err(error.context("a question meanwhile was not answered").into());
    }
    world.answers.extend(answers);
    Ok(())
}

#[then("each question meanwhile was answered")]
fn all_answered(world: &mut Rbee) -> Step {
    ensure!(!world.answers.is_empty(), "nothing was asked");
    for answer in &world.answers {
        answer.clone().expect_status(200)?;
    }
    Ok(())
}

fn write(world: &Rbee, rules: &str) -> Result<()> {
    Ok(std::fs::write(world.cluster()?.home().path().join("scheduler.rhai"), rules)?)
}

async fn question(world: &Rbee) -> Result<Answer> {
    let mut body = ask("What is the capital of Japan?");
    body["max_tokens"] = 4.into();
    world.api()?.post("/v1/chat/completions", &body).await
}

fn worker_of(answer: &Answer) -> Result<String> {
    let worker = answer.headers.get("x-rbee-worker").context("no worker is named")?;
    Ok(worker.to_str()?.to_owned())
}
