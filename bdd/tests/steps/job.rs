//! Jobs and their streams.

use anyhow::{Context, Result};
use cucumber::{given, then, when};
use rbee_operations::{Infer, JobEvent, JobSummary, ModelPolicy, ModelPolicySet, Operation};
use test_cluster::{DEMO_ALIAS, JobRun, SseEvent, wait_until};
use worker_contract::Sampling;

use super::{IN_THE_END, Rbee, Step, mentions};

impl Rbee {
    /// Runs a job to its end and remembers it.
    pub(super) async fn run_job(&mut self, operation: &Operation) -> Step {
        let run = self.api()?.run_job(operation).await?;
        self.job = Some(run.job_id.clone());
        self.job_runs.push(run);
        Ok(())
    }
}

#[given("a job that has succeeded")]
async fn succeeded_job(world: &mut Rbee) -> Step {
    // One that only looks is not kept.
    let policy = ModelPolicy { max: Some(2), ..ModelPolicy::default() };
    let set = ModelPolicySet { model: "spare".parse()?, reset: false, policy };
    let run = world.api()?.run_job(&Operation::ModelPolicySet(set)).await?;
    ensure!(run.failure().is_none() && run.done, "the job did not succeed: {run:?}");
    world.job = Some(run.job_id);
    Ok(())
}

#[given("a job that writes a very long answer")]
async fn long_job(world: &mut Rbee) -> Step {
    start_writing(world, 900).await
}

#[given(regex = r"^a job that writes an answer of (\d+) tokens$")]
async fn writing_job(world: &mut Rbee, tokens: u32) -> Step {
    start_writing(world, tokens).await
}

#[when(regex = r#"^a job answers "([^"]+)"$"#)]
async fn answering_job(world: &mut Rbee, prompt: String) -> Step {
    world.run_job(&infer(&prompt, 32)?).await?;
    ensure!(!world.job_run()?.text().is_empty(), "the job wrote nothing");
    Ok(())
}

#[when("I cancel the job")]
async fn cancel(world: &mut Rbee) -> Step {
    world.api()?.cancel_job(world.job()?).await?;
    Ok(())
}

#[when("I follow the job")]
async fn follow(world: &mut Rbee) -> Step {
    follow_after(world, None).await
}

#[when(regex = r"^I follow the job from after its event (\d+)$")]
async fn follow_from(world: &mut Rbee, after: u64) -> Step {
    follow_after(world, Some(after)).await
}

#[when(regex = r"^I follow the job from after (?:its last event|the last event that I saw)$")]
async fn follow_from_last(world: &mut Rbee) -> Step {
    let last = world.job_run()?.events.last().context("the job had no event")?.0;
    follow_after(world, Some(last)).await
}

#[when(regex = r"^I read (\d+) of its events and lose the connection$")]
async fn read_some(world: &mut Rbee, count: usize) -> Step {
    let job_id = world.job()?.clone();
    let mut stream = world.api()?.job_events(&job_id, None).await?;
    let mut run = JobRun { job_id, events: Vec::new(), done: false };
    while run.events.len() < count {
        let event = stream.next().await?.context("the stream ended early")?;
        run.events.push(parse(&event)?);
    }
    world.job_runs.push(run);
    Ok(())
}

#[then(regex = r#"^the job fails(?: and its message mentions "([^"]*)")?$"#)]
fn job_fails(world: &mut Rbee, wanted: String) -> Step {
    let failure = failure(world)?;
    ensure!(failure.code.is_some(), "the failure has no code: {failure:?}");
    Ok(mentions(&failure.message, &wanted)?)
}

#[then(regex = r#"^the job fails and its message or hint mentions "([^"]*)"$"#)]
fn job_fails_with_hint(world: &mut Rbee, wanted: String) -> Step {
    let failure = failure(world)?;
    let hint = failure.hint.as_deref().unwrap_or_default();
    Ok(mentions(&format!("{} {hint}", failure.message), &wanted)?)
}

#[then(regex = r#"^the job is "(\w+)"$"#)]
async fn job_is(world: &mut Rbee, state: String) -> Step {
    let (api, job) = (world.api()?, world.job()?);
    wait_until(&format!("the job to be {state}"), IN_THE_END, async || {
        let summary = api.job(job).await.ok()?;
        (summary.state.as_str() == state).then_some(())
    })
    .await
    .with_context(|| format!("job {job}"))?;
    Ok(())
}

#[then(regex = r#"^the newest job is "(\w+)"$"#)]
async fn newest_job_is(world: &mut Rbee, state: String) -> Step {
    let listed: serde_json::Value = world.api()?.get("/v1/jobs").await?.json()?;
    let jobs: Vec<JobSummary> = serde_json::from_value(super::lists::items(&listed)?)?;
    let newest = jobs.into_iter().max_by(|a, b| a.created_at.cmp(&b.created_at));
    world.job = Some(newest.context("there is no job")?.job_id);
    job_is(world, state).await
}

#[then(regex = r#"^the job's stream ends with a "(\w+)" event and \[DONE\]$"#)]
async fn stream_ends_with(world: &mut Rbee, event: String) -> Step {
    follow_after(world, None).await?;
    let run = world.job_run()?;
    let (_, last) = run.events.last().context("the job had no event")?;
    ensure!(last.event == event && run.done, "it ends with {last:?}, [DONE]: {}", run.done);
    Ok(())
}

#[then(regex = r#"^the job's stream ends with the error "(\w+)" and \[DONE\]$"#)]
async fn stream_ends_with_error(world: &mut Rbee, code: String) -> Step {
    follow_after(world, None).await?;
    let failure = failure(world)?;
    ensure!(failure.code.as_deref() == Some(&code), "it ends with {failure:?}");
    Ok(())
}

#[then("the stream ended with [DONE]")]
fn stream_done(world: &mut Rbee) -> Step {
    ensure!(world.job_run()?.done, "there is no [DONE]");
    Ok(())
}

#[then("both times I saw the same events")]
fn same_events(world: &mut Rbee) -> Step {
    let [.., first, second] = world.job_runs.as_slice() else {
        return Err(anyhow::anyhow!("the job was not followed twice").into());
    };
    ensure!(!first.events.is_empty() && first.done && second.done, "a stream is incomplete");
    ensure!(first.events == second.events, "{first:#?} and {second:#?}");
    Ok(())
}

#[then("the events are numbered from 1 without a gap")]
fn numbered(world: &mut Rbee) -> Step {
    Ok(gapless(&world.job_run()?.events)?)
}

#[then("all events together are numbered from 1 without a gap")]
fn numbered_together(world: &mut Rbee) -> Step {
    let all: Vec<_> = world.job_runs.iter().flat_map(|run| run.events.clone()).collect();
    ensure!(all.len() > 11, "only {} events came", all.len());
    Ok(gapless(&all)?)
}

#[then("I saw the same events without the first")]
fn without_first(world: &mut Rbee) -> Step {
    let [.., all, rest] = world.job_runs.as_slice() else {
        return Err(anyhow::anyhow!("the job was not followed twice").into());
    };
    ensure!(rest.done && rest.events == all.events[1..], "{:?}", rest.events);
    Ok(())
}

#[then("I saw only [DONE]")]
fn only_done(world: &mut Rbee) -> Step {
    let run = world.job_run()?;
    ensure!(run.done && run.events.is_empty(), "{run:?}");
    Ok(())
}

async fn follow_after(world: &mut Rbee, after: Option<u64>) -> Step {
    let run = world.api()?.follow(world.job()?, after).await?;
    world.job_runs.push(run);
    Ok(())
}

/// Starts an `Infer` job and waits for its first words.
async fn start_writing(world: &mut Rbee, tokens: u32) -> Step {
    let api = world.api()?;
    let job = api.submit(&infer("Write a very long story about a bee.", tokens)?).await?;
    let mut stream = api.job_events(&job, None).await?;
    loop {
        let event = stream.next().await?.context("the job ended without a word")?;
        let (_, event) = parse(&event)?;
        ensure!(event.event != "error", "the job failed: {event:?}");
        if event.event == "token" {
            break;
        }
    }
    world.job = Some(job);
    Ok(())
}

fn infer(prompt: &str, tokens: u32) -> Result<Operation> {
    let sampling = Sampling {
        temperature: Some(0.0),
        max_tokens: Some(tokens),
        ignore_eos: true,
        ..Sampling::default()
    };
    let (model, prompt) = (DEMO_ALIAS.parse()?, prompt.to_owned());
    Ok(Operation::Infer(Box::new(Infer { model, prompt, system: None, sampling })))
}

fn parse(event: &SseEvent) -> Result<(u64, JobEvent)> {
    let id = event.id.context("the event has no id")?;
    let parsed = serde_json::from_str(&event.data);
    Ok((id, parsed.with_context(|| format!("not a job event: {}", event.data))?))
}

fn failure(world: &Rbee) -> Result<&JobEvent> {
    let run = world.job_run()?;
    ensure!(run.done, "the stream ended without [DONE]");
    run.failure().with_context(|| format!("the job did not fail: {run:?}"))
}

fn gapless(events: &[(u64, JobEvent)]) -> Result<()> {
    let ids: Vec<u64> = events.iter().map(|(id, _)| *id).collect();
    let wanted: Vec<u64> = (1..).take(ids.len()).collect();
    ensure!(!ids.is_empty() && ids == wanted, "the ids are {ids:?}");
    Ok(())
}
