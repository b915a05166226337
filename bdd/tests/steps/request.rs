//! Requests byte by byte, and what is wrong with them.

use anyhow::{Context, Result};
use cucumber::gherkin::Step as GherkinStep;
use cucumber::{then, when};
use serde_json::Value;
use test_cluster::{Answer, ask};

use super::table::{Row, no_complaints, rows};
use super::{Rbee, Step, mentions};

#[when(regex = r#"^I (get|delete|post to) "([^"]+)"$"#)]
async fn request(world: &mut Rbee, method: String, path: String) -> Step {
    let api = world.api()?;
    let answer = match method.as_str() {
        "get" => api.get(&path).await?,
        "delete" => api.delete(&path).await?,
        _ => api.post_bytes(&path, Vec::new()).await?,
    };
    world.answers.push(answer);
    Ok(())
}

#[when(regex = r#"^I get "([^"]+)" with the request id "([^"]+)"$"#)]
async fn request_with_id(world: &mut Rbee, path: String, id: String) -> Step {
    let answer = world.api()?.get_with(&path, &[("x-request-id", &id)]).await?;
    world.answers.push(answer);
    Ok(())
}

#[when(regex = r#"^I post (\d+) megabytes to "([^"]+)"$"#)]
async fn post_megabytes(world: &mut Rbee, megabytes: usize, path: String) -> Step {
    let body = serde_json::to_vec(&ask(&"bee ".repeat(megabytes * 250_000)))?;
    world.answers.push(world.api()?.post_bytes(&path, body).await?);
    Ok(())
}

#[when(regex = r#"^I post JSON that is nested (\d+) times to "([^"]+)"$"#)]
async fn post_nested(world: &mut Rbee, times: usize, path: String) -> Step {
    world.answers.push(world.api()?.post_bytes(&path, b"[".repeat(times)).await?);
    Ok(())
}

#[when(regex = r"^I ask a prompt that is longer than the context, (whole|in pieces)$")]
async fn too_long(world: &mut Rbee, how: String) -> Step {
    let mut body = ask(&"bee ".repeat(20_000));
    body["stream"] = Value::Bool(how == "in pieces");
    world.answers.push(world.api()?.post("/v1/chat/completions", &body).await?);
    Ok(())
}

#[then(regex = r#"^each of these bodies for "([^"]+)" is refused:$"#)]
async fn bodies_refused(world: &mut Rbee, path: String, step: &GherkinStep) -> Step {
    let api = world.api()?;
    let mut complaints = Vec::new();
    for row in rows(step)? {
        let answer = api.post_bytes(&path, row.get("body").as_bytes().to_vec()).await?;
        if let Err(complaint) = refused_as(&answer, &row) {
            complaints.push(format!("{}: {complaint:#}; {answer}", row.get("because")));
        }
    }
    Ok(no_complaints(&complaints)?)
}

#[then(regex = r"^the status is (\d+)$")]
fn status_is(world: &mut Rbee, status: u16) -> Step {
    world.answer()?.clone().expect_status(status)?;
    Ok(())
}

#[then("the answer says when to come again")]
fn retry_after(world: &mut Rbee) -> Step {
    let told = world.answer()?.headers.get("retry-after").context("there is no Retry-After")?;
    let seconds: u64 = told.to_str()?.parse()?;
    ensure!((1..=600).contains(&seconds), "it says {seconds} s");
    Ok(())
}

#[then(regex = r"^the status is one of (\d+), (\d+), (\d+)$")]
fn status_of(world: &mut Rbee, a: u16, b: u16, c: u16) -> Step {
    let answer = world.answer()?;
    ensure!([a, b, c].contains(&answer.status), "{answer}");
    Ok(())
}

#[then("the answer is an error object")]
fn error_object(world: &mut Rbee) -> Step {
    let error = world.answer()?.error()?;
    ensure!(!error.message.is_empty(), "the error says nothing");
    Ok(())
}

#[then(regex = r#"^the error code is "([^"]+)"$"#)]
fn error_code(world: &mut Rbee, code: String) -> Step {
    let error = world.answer()?.error()?;
    ensure!(error.code.as_deref() == Some(&code), "{error:?}");
    Ok(())
}

#[then(regex = r#"^the error mentions "([^"]+)"$"#)]
fn error_mentions(world: &mut Rbee, wanted: String) -> Step {
    let error = world.answer()?.error()?;
    let hint = error.hint.as_deref().unwrap_or_default();
    Ok(mentions(&format!("{} {hint}", error.message), &wanted)?)
}

#[then("the error tells the length of the prompt and that of the context")]
async fn both_lengths(world: &mut Rbee) -> Step {
    let workers = world.cluster()?.workers().await?;
    let context = workers[0]["model"]["context_length"].as_u64().context("no context length")?;
    let message = world.answer()?.error()?.message;
    let digits = |c: char| !c.is_ascii_digit();
    let numbers: Vec<u64> = message.split(digits).filter_map(|word| word.parse().ok()).collect();
    ensure!(numbers.contains(&context), "the context's {context} is missing: {message}");
    ensure!(numbers.iter().any(|n| *n >= 20_000), "the prompt's length is missing: {message}");
    Ok(())
}

#[then(regex = r#"^the answer has (?:the request id "([^"]+)"|a request id)$"#)]
fn request_id(world: &mut Rbee, wanted: String) -> Step {
    let headers = &world.answer()?.headers;
    let id = headers.get("x-request-id").context("there is no x-request-id")?.to_str()?;
    ensure!(!id.is_empty() && (wanted.is_empty() || id == wanted), "it is {id:?}");
    Ok(())
}

fn refused_as(answer: &Answer, row: &Row) -> Result<()> {
    ensure!(row.get("status") == answer.status.to_string(), "expected {}", row.get("status"));
    let error = answer.error()?;
    let wanted = |column: &str, told: Option<&str>| -> Result<()> {
        let wanted = row.get(column);
        ensure!(wanted.is_empty() || told == Some(wanted), "the {column} is not {wanted:?}");
        Ok(())
    };
    wanted("code", error.code.as_deref())?;
    wanted("param", error.param.as_deref())?;
    let hint = error.hint.as_deref().unwrap_or_default();
    let param = error.param.as_deref().unwrap_or_default();
    mentions(&format!("{} {hint} {param}", error.message), row.get("mentions"))
}
