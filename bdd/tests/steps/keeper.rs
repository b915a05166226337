//! Commands, as a person types them.

use anyhow::{Context, Result, anyhow};
use cucumber::gherkin::Step as GherkinStep;
use cucumber::{given, then, when};
use serde_json::Value;
use test_cluster::{DEMO_ALIAS, KeeperRun, RunningKeeper, demo_model};

use super::chat::text;
use super::table::{no_complaints, rows};
use super::{Rbee, Step, mentions};

#[when(regex = r#"^I run "rbee-keeper ([^"]+)"$"#)]
async fn run(world: &mut Rbee, line: String) -> Step {
    let arguments = words(world, &line)?;
    let run = world.cluster()?.keeper(arguments).await?;
    world.keeper_runs.push(run);
    Ok(())
}

#[when(regex = r#"^I run "rbee-keeper ([^"]+)" twice at once$"#)]
async fn run_twice(world: &mut Rbee, line: String) -> Step {
    let arguments = words(world, &line)?;
    let cluster = world.cluster()?;
    let (first, second) = tokio::join!(cluster.keeper(&arguments), cluster.keeper(&arguments));
    world.keeper_runs.extend([first?, second?]);
    Ok(())
}

#[when(regex = r#"^I start "([\w-]+)" by hand with "(\w+)=([^"]+)"$"#)]
async fn start_by_hand(world: &mut Rbee, name: String, variable: String, value: String) -> Step {
    let mut command = world.cluster()?.command(&name);
    command.env(variable, value);
    let run = RunningKeeper::start(command)?.finish().await?;
    world.keeper_runs.push(run);
    Ok(())
}

#[given(regex = r#"^"rbee-keeper ([^"]+)" is writing$"#)]
async fn is_writing(world: &mut Rbee, line: String) -> Step {
    let arguments = words(world, &line)?;
    let mut running = world.cluster()?.start_keeper(arguments)?;
    running.wait_for_output().await?;
    world.running_keeper = Some(running);
    Ok(())
}

#[when("I press Ctrl-C")]
async fn press_ctrl_c(world: &mut Rbee) -> Step {
    let running = world.running_keeper.take().context("no command is running")?;
    running.interrupt();
    world.keeper_runs.push(running.finish().await?);
    Ok(())
}

#[then("it succeeds")]
fn succeeds(world: &mut Rbee) -> Step {
    world.keeper_run()?.clone().expect_success()?;
    Ok(())
}

#[then("it fails")]
fn fails(world: &mut Rbee) -> Step {
    let run = world.keeper_run()?;
    ensure!(run.code.is_some_and(|code| code != 0), "it did not fail: {run}");
    Ok(())
}

#[then("both succeed")]
fn both_succeed(world: &mut Rbee) -> Step {
    ensure!(world.keeper_runs.len() == 2, "{} commands ran", world.keeper_runs.len());
    for run in &world.keeper_runs {
        run.clone().expect_success()?;
    }
    Ok(())
}

#[then(regex = r"^it exits with (\d+)$")]
fn exits_with(world: &mut Rbee, code: i32) -> Step {
    let run = world.keeper_run()?;
    ensure!(run.code == Some(code), "{run}");
    Ok(())
}

#[then(regex = r#"^its (stdout|stderr) mentions "([^"]+)"$"#)]
fn says(world: &mut Rbee, stream: String, wanted: String) -> Step {
    let wanted = filled(world, &wanted)?;
    let run = world.keeper_run()?;
    Ok(mentions(if stream == "stdout" { &run.stdout } else { &run.stderr }, &wanted)?)
}

#[then(regex = r"^its stdout is a JSON array(?: of (\d+))?$")]
fn is_array(world: &mut Rbee, length: String) -> Step {
    let run = world.keeper_run()?.clone().expect_success()?;
    let found = run.json()?.as_array().with_context(|| format!("no array: {run}"))?.len();
    ensure!(length.is_empty() || found.to_string() == length, "it has {found}: {run}");
    Ok(())
}

#[then(regex = r#"^its JSON has the field "(\w+)"(?: with "([^"]+)")?$"#)]
fn has_field(world: &mut Rbee, field: String, wanted: String) -> Step {
    let wanted = filled(world, &wanted)?;
    let run = world.keeper_run()?.clone().expect_success()?;
    let value = run.json()?;
    let found = value.get(&field).with_context(|| format!("no {field}: {run}"))?;
    ensure!(wanted.is_empty() || *found == wanted.as_str(), "{field} is {found}");
    if let (None, Ok(worker)) = (&world.worker, serde_json::from_value(value)) {
        world.worker = Some(worker);
    }
    Ok(())
}

#[then("its stdout is some text")]
fn stdout_is_text(world: &mut Rbee) -> Step {
    ensure!(!world.keeper_run()?.stdout.trim().is_empty(), "its stdout is empty");
    Ok(())
}

#[then("its stdout is the text that the API gives")]
async fn same_as_api(world: &mut Rbee) -> Step {
    let body = serde_json::json!({
        "model": DEMO_ALIAS,
        "messages": [{"role": "user", "content": "What is the capital of Japan?"}],
        "temperature": 0,
        "max_tokens": 32,
    });
    let answer = world.api()?.post("/v1/chat/completions", &body).await?.expect_status(200)?;
    let (printed, wanted) = (&world.keeper_run()?.stdout, text(&answer)?);
    ensure!(printed.trim_end() == wanted.trim_end(), "printed {printed:?}, the API has {wanted:?}");
    Ok(())
}

#[then("these commands print JSON arrays:")]
async fn print_arrays(world: &mut Rbee, step: &GherkinStep) -> Step {
    let mut complaints = Vec::new();
    for row in rows(step)? {
        let run = run_row(world, row.get("command")).await?;
        if let Err(complaint) = is_array_with(&run, row.get("length"), row.get("fields")) {
            complaints.push(format!("{}: {complaint:#}\n{run}", row.get("command")));
        }
    }
    Ok(no_complaints(&complaints)?)
}

#[then("these commands fail:")]
async fn commands_fail(world: &mut Rbee, step: &GherkinStep) -> Step {
    let mut complaints = Vec::new();
    for row in rows(step)? {
        let run = run_row(world, row.get("command")).await?;
        let code = run.code.map(|code| code.to_string()).unwrap_or_default();
        let told = mentions(&run.stderr, row.get("mentions"));
        if code != row.get("code") || told.is_err() || !run.stdout.is_empty() {
            complaints.push(format!("{}: {run}", row.get("command")));
        }
    }
    Ok(no_complaints(&complaints)?)
}

fn is_array_with(run: &KeeperRun, length: &str, fields: &str) -> Result<()> {
    ensure!(run.code == Some(0), "it failed");
    let value = run.json()?;
    let items = value.as_array().context("it is no array")?;
    ensure!(items.len().to_string() == length, "it has {} items", items.len());
    let first = items.first().unwrap_or(&Value::Null);
    for field in fields.split_whitespace() {
        ensure!(first.get(field).is_some(), "{field} is missing");
    }
    Ok(())
}

async fn run_row(world: &Rbee, command: &str) -> Result<KeeperRun> {
    let line = command.strip_prefix("rbee-keeper ").context("only the keeper's commands")?;
    world.cluster()?.keeper(words(world, line)?).await
}

/// The words of a command line: single quotes keep blanks, and names with `$` are filled in.
fn words(world: &Rbee, line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words.iter().map(|word| filled(world, word)).collect()
}

/// Fills in what only the scenario knows.
fn filled(world: &Rbee, text: &str) -> Result<String> {
    let mut text = text.to_owned();
    if text.contains("$MODEL") {
        text = text.replace("$MODEL", demo_model()?.to_str().context("a plain path")?);
    }
    if text.contains("$WORKER") {
        text = text.replace("$WORKER", world.worker()?.worker_id.as_str());
    }
    if text.contains("$JOB") {
        text = text.replace("$JOB", world.job()?.as_str());
    }
    if text.contains("$PORT") {
        let port = world.port.as_ref().ok_or_else(|| anyhow!("no port is held"))?;
        text = text.replace("$PORT", &port.local_addr()?.port().to_string());
    }
    if text.contains("$SERVER") {
        let server = world.server.as_ref().context("nobody else has a server")?;
        text = text.replace("$SERVER", server.api()?.base());
    }
    Ok(text)
}
