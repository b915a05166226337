//! Questions with one answer.

use anyhow::{Context, Result};
use cucumber::{then, when};
use futures::future::try_join_all;
use serde_json::{Value, json};
use test_cluster::{Answer, DEMO_ALIAS, ask};

use super::{Rbee, Step};

#[when(regex = r#"^I ask "([^"]+)"$"#)]
async fn ask_once(world: &mut Rbee, prompt: String) -> Step {
    let answer = world.api()?.post("/v1/chat/completions", &ask(&prompt)).await?;
    world.answers.push(answer.expect_status(200)?);
    Ok(())
}

#[when(regex = r#"^I ask "([^"]+)" and expect no answer$"#)]
async fn ask_in_vain(world: &mut Rbee, prompt: String) -> Step {
    let answer = world.api()?.post("/v1/chat/completions", &ask(&prompt)).await?;
    world.answers.push(answer);
    Ok(())
}

#[when(regex = r#"^I ask the model "([^"]+)" "([^"]+)"( and expect no answer)?$"#)]
async fn ask_model(world: &mut Rbee, model: String, prompt: String, in_vain: String) -> Step {
    let mut body = ask(&prompt);
    body["model"] = model.into();
    let answer = world.api()?.post("/v1/chat/completions", &body).await?;
    world.answers.push(if in_vain.is_empty() { answer.expect_status(200)? } else { answer });
    Ok(())
}

#[when(regex = r#"^I ask "([^"]+)", for (\d+) tokens$"#)]
async fn ask_briefly(world: &mut Rbee, prompt: String, tokens: u32) -> Step {
    let mut body = ask(&prompt);
    body["max_tokens"] = tokens.into();
    let answer = world.api()?.post("/v1/chat/completions", &body).await?;
    world.answers.push(answer.expect_status(200)?);
    Ok(())
}

#[when(regex = r#"^(\d+) people ask "([^"]+)" at once$"#)]
async fn ask_together(world: &mut Rbee, people: usize, prompt: String) -> Step {
    let api = world.api()?;
    let body = ask(&prompt);
    let asked = (0..people).map(|_| api.post("/v1/chat/completions", &body));
    for answer in try_join_all(asked).await? {
        world.answers.push(answer.expect_status(200)?);
    }
    Ok(())
}

#[when(regex = r#"^I let the model continue "([^"]+)"(?: until "([^"]+)")?$"#)]
async fn complete(world: &mut Rbee, prompt: String, stop: String) -> Step {
    let mut body =
        json!({"model": DEMO_ALIAS, "prompt": prompt, "temperature": 0, "max_tokens": 16});
    if !stop.is_empty() {
        body["stop"] = json!([stop]);
    }
    let answer = world.api()?.post("/v1/completions", &body).await?;
    world.answers.push(answer.expect_status(200)?);
    Ok(())
}

#[then("the answer is some text")]
fn answer_is_text(world: &mut Rbee) -> Step {
    is_some_text(world.answer()?)
}

#[then(regex = r#"^the answer does not contain "([^"]+)"$"#)]
fn answer_lacks(world: &mut Rbee, unwanted: String) -> Step {
    let text = text(world.answer()?)?;
    ensure!(!text.contains(&unwanted), "{unwanted:?} is in {text:?}");
    Ok(())
}

#[then(regex = r"^each of the (\d+) answers is some text$")]
fn answers_are_text(world: &mut Rbee, count: usize) -> Step {
    ensure!(world.answers.len() == count, "{} answers came", world.answers.len());
    world.answers.iter().try_for_each(is_some_text)
}

/// What a small model says cannot be known; that it says something and ends in order can.
fn is_some_text(answer: &Answer) -> Step {
    ensure!(!text(answer)?.trim().is_empty(), "the answer is empty");
    let reason = answer.json()?["choices"][0]["finish_reason"].clone();
    ensure!(reason == "stop" || reason == "length", "the answer ended by {reason}");
    Ok(())
}

#[then(regex = r#"^the answer is from the model "([^"]+)"$"#)]
fn answer_is_from(world: &mut Rbee, model: String) -> Step {
    let answer = world.answer()?.json()?;
    ensure!(answer["model"] == model.as_str(), "the answer is from {}", answer["model"]);
    ensure!(answer["object"] == "chat.completion", "the answer is a {}", answer["object"]);
    Ok(())
}

#[then("its usage adds up")]
fn usage_adds_up(world: &mut Rbee) -> Step {
    let usage = match world.transcripts.last() {
        Some(transcript) => transcript.usage.clone().context("no chunk holds the usage")?,
        None => world.answer()?.json()?["usage"].clone(),
    };
    let count = |name: &str| usage[name].as_u64().with_context(|| format!("no {name}: {usage}"));
    let (prompt, completion) = (count("prompt_tokens")?, count("completion_tokens")?);
    ensure!(prompt > 0 && completion > 0, "something is free: {usage}");
    ensure!(prompt + completion == count("total_tokens")?, "it does not add up: {usage}");
    Ok(())
}

#[then(regex = r"^the answer has (\d+) tokens$")]
fn answer_has_tokens(world: &mut Rbee, tokens: u64) -> Step {
    let answer = world.answer()?.json()?;
    let (usage, choice) = (&answer["usage"], &answer["choices"][0]);
    ensure!(usage["completion_tokens"] == tokens, "the usage is {usage}");
    ensure!(choice["finish_reason"] == "length", "the answer is {choice}");
    Ok(())
}

#[then("both answers have the same text")]
fn same_text(world: &mut Rbee) -> Step {
    let whole = text(world.answer()?)?;
    let pieces = &world.transcript()?.text;
    ensure!(!whole.is_empty(), "the answer is empty");
    ensure!(whole == *pieces, "whole: {whole:?}, in pieces: {pieces:?}");
    Ok(())
}

/// The text of a chat completion or of a completion.
pub(super) fn text(answer: &Answer) -> Result<String> {
    let value = answer.json()?;
    let choice: &Value = &value["choices"][0];
    let text = choice["message"]["content"].as_str().or_else(|| choice["text"].as_str());
    text.map(str::to_owned).with_context(|| format!("no text in {answer}"))
}
