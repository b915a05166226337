//! What was computed before, as the usage tells it.

use anyhow::{Context as _, Result};
use cucumber::{then, when};
use futures::future::try_join_all;
use serde_json::{Value, json};
use test_cluster::DEMO_ALIAS;

use super::chat::text;
use super::{Rbee, Step};

/// Instructions of some hundred tokens.
fn instructions() -> String {
    "You are a patient teacher. Answer briefly, kindly and in plain words. ".repeat(20)
}

fn body(messages: &[Value]) -> Value {
    json!({"model": DEMO_ALIAS, "messages": messages, "max_tokens": 8, "temperature": 0})
}

fn conversation(question: &str) -> Vec<Value> {
    vec![
        json!({"role": "system", "content": instructions()}),
        json!({"role": "user", "content": question}),
    ]
}

#[when(regex = "^I ask (?:a|the same) long question(?: again)?$")]
async fn ask_long(world: &mut Rbee) -> Step {
    let body = body(&conversation("What is a harbour?"));
    let answer = world.api()?.post("/v1/chat/completions", &body).await?;
    world.answers.push(answer.expect_status(200)?);
    Ok(())
}

#[when("I go on with the conversation")]
async fn go_on(world: &mut Rbee) -> Step {
    let mut messages = conversation("What is a harbour?");
    messages.push(json!({"role": "assistant", "content": text(world.answer()?)?}));
    messages.push(json!({"role": "user", "content": "And a pier?"}));
    let answer = world.api()?.post("/v1/chat/completions", &body(&messages)).await?;
    world.answers.push(answer.expect_status(200)?);
    Ok(())
}

#[when(regex = r"^(\d+) people with the same long instructions ask at once$")]
async fn ask_alike(world: &mut Rbee, people: usize) -> Step {
    let api = world.api()?;
    let bodies: Vec<Value> =
        (0..people).map(|n| body(&conversation(&format!("What is the number {n}?")))).collect();
    let asked = bodies.iter().map(|body| api.post("/v1/chat/completions", body));
    for answer in try_join_all(asked).await? {
        world.answers.push(answer.expect_status(200)?);
    }
    Ok(())
}

/// A request whose answer is to depend on nothing else.
fn deterministic() -> Value {
    json!({
        "model": DEMO_ALIAS,
        "messages": [{"role": "user", "content": "Tell me about the sea."}],
        "seed": 7,
        "max_tokens": 40,
        "deterministic": true,
    })
}

#[when("I ask for a deterministic answer")]
async fn ask_deterministic(world: &mut Rbee) -> Step {
    let answer = world.api()?.post("/v1/chat/completions", &deterministic()).await?;
    world.answers.push(answer.expect_status(200)?);
    Ok(())
}

#[when("I ask for a deterministic answer in vain")]
async fn ask_deterministic_in_vain(world: &mut Rbee) -> Step {
    let answer = world.api()?.post("/v1/chat/completions", &deterministic()).await?;
    world.answers.push(answer);
    Ok(())
}

#[when(
    regex = r"^(\d+) people with the same long instructions ask at once, beside one who wants that answer again$"
)]
async fn ask_beside_others(world: &mut Rbee, people: usize) -> Step {
    let api = world.api()?;
    let others = (0..people).map(|n| body(&conversation(&format!("What is the number {n}?"))));
    let bodies: Vec<Value> = others.chain([deterministic()]).collect();
    let asked = bodies.iter().map(|body| api.post("/v1/chat/completions", body));
    let last = try_join_all(asked).await?.pop().context("nobody asked")?;
    world.answers.push(last.expect_status(200)?);
    Ok(())
}

#[then("both deterministic answers have the same text")]
fn same_answer(world: &mut Rbee) -> Step {
    let texts = world.answers.iter().map(text).collect::<Result<Vec<_>>>()?;
    ensure!(texts.len() == 2 && !texts[0].is_empty(), "{texts:?}");
    ensure!(texts[0] == texts[1], "{texts:?}");
    Ok(())
}

#[then("little of the prompt was known")]
fn little_known(world: &mut Rbee) -> Step {
    let (prompt, cached) = counts(world, 0)?;
    ensure!(cached * 4 < prompt, "{cached} of {prompt} tokens were known");
    Ok(())
}

#[then("all of the prompt but its end was known")]
fn all_known(world: &mut Rbee) -> Step {
    let (prompt, cached) = counts(world, 0)?;
    ensure!(cached + 1 == prompt, "{cached} of {prompt} tokens were known");
    Ok(())
}

#[then("all of the first prompt was known")]
fn first_known(world: &mut Rbee) -> Step {
    let ((first, _), (_, cached)) = (counts(world, 1)?, counts(world, 0)?);
    ensure!(cached >= first, "{cached} tokens were known, and the first prompt had {first}");
    Ok(())
}

#[then("all but one had the instructions computed for them")]
fn most_known(world: &mut Rbee) -> Step {
    let all = (0..world.answers.len()).map(|back| counts(world, back));
    let all: Vec<_> = all.collect::<Result<_>>()?;
    let shared = all.iter().filter(|(prompt, cached)| cached * 2 > *prompt).count();
    ensure!(shared + 1 >= all.len(), "(prompt, known): {all:?}");
    Ok(())
}

/// The tokens of the prompt, and those of them that were known: of the answer so many before the last.
fn counts(world: &Rbee, back: usize) -> Result<(u64, u64)> {
    let answer = world.answers.iter().rev().nth(back).context("there is no such answer")?;
    let usage = answer.json()?["usage"].clone();
    let prompt = usage["prompt_tokens"].as_u64();
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
    prompt.zip(cached).with_context(|| format!("no counts in {usage}"))
}
