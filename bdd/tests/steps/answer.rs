//! Answers of a kind that was asked for: JSON, calls of functions, several of them.

use anyhow::{Context, Result};
use cucumber::{then, when};
use serde_json::{Value, json};
use test_cluster::{DEMO_ALIAS, Transcript, ask};

use super::{Rbee, Step};

/// More tokens than what is demanded here can have.
const ENOUGH: u32 = 200;

#[when(
    regex = r#"^I ask "([^"]+)" for JSON with a "([^"]+)" and a number of "([^"]+)", (whole|in pieces)$"#
)]
async fn ask_for_json(
    world: &mut Rbee,
    prompt: String,
    text: String,
    number: String,
    how: String,
) -> Step {
    let schema = json!({
        "type": "object",
        "properties": {
            &text: {"type": "string", "maxLength": 12},
            &number: {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": [text, number],
        "additionalProperties": false,
    });
    let mut body = ask(&prompt);
    body["max_tokens"] = ENOUGH.into();
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "it", "strict": true, "schema": schema}});
    if how == "whole" {
        let answer = world.api()?.post("/v1/chat/completions", &body).await?;
        world.answers.push(answer.expect_status(200)?);
    } else {
        let mut transcript = Transcript::default();
        world.api()?.chat_stream(&body).await?.read_rest(&mut transcript).await?;
        world.transcripts.push(transcript);
    }
    Ok(())
}

#[then(regex = r#"^the answer is JSON with a "([^"]+)" and a number of "([^"]+)"$"#)]
fn answer_is_json(world: &mut Rbee, text: String, number: String) -> Step {
    let said = match world.transcripts.last() {
        Some(transcript) => transcript.text.clone(),
        None => super::chat::text(world.answer()?)?,
    };
    let value: Value = serde_json::from_str(&said).with_context(|| format!("no JSON: {said:?}"))?;
    ensure!(value[&text].is_string() && value[&number].is_u64(), "the answer is {value}");
    ensure!(value.as_object().is_some_and(|fields| fields.len() == 2), "the answer is {value}");
    Ok(())
}

#[when(regex = r#"^I ask "([^"]+)" and demand a call of "([^"]+)" with a "([^"]+)"$"#)]
async fn demand_call(world: &mut Rbee, prompt: String, name: String, argument: String) -> Step {
    let mut body = ask(&prompt);
    body["max_tokens"] = ENOUGH.into();
    body["tools"] = json!([function(&name, &argument)]);
    body["tool_choice"] = json!({"type": "function", "function": {"name": name}});
    body["parallel_tool_calls"] = false.into();
    let answer = world.api()?.post("/v1/chat/completions", &body).await?;
    world.answers.push(answer.expect_status(200)?);
    Ok(())
}

#[then(regex = r#"^the answer is a call of "([^"]+)" with a "([^"]+)"$"#)]
fn answer_is_call(world: &mut Rbee, name: String, argument: String) -> Step {
    let choice = world.answer()?.json()?["choices"][0].clone();
    ensure!(choice["finish_reason"] == "tool_calls", "the answer is {choice}");
    let call = &choice["message"]["tool_calls"][0];
    ensure!(call["function"]["name"] == name.as_str(), "the call is {call}");
    let arguments = call["function"]["arguments"].as_str().context("no arguments")?;
    let arguments: Value = serde_json::from_str(arguments)?;
    ensure!(arguments[&argument].is_string(), "the arguments are {arguments}");
    Ok(())
}

#[when(regex = r#"^I tell it the result "([^"]+)"$"#)]
async fn tell_result(world: &mut Rbee, result: String) -> Step {
    let message = world.answer()?.json()?["choices"][0]["message"].clone();
    let id = message["tool_calls"][0]["id"].clone();
    let mut body = ask("What is the weather?");
    let messages = body["messages"].as_array_mut().context("a question has messages")?;
    messages.extend([message, json!({"role": "tool", "tool_call_id": id, "content": result})]);
    let answer = world.api()?.post("/v1/chat/completions", &body).await?;
    world.answers.push(answer.expect_status(200)?);
    Ok(())
}

#[when(regex = r#"^I ask "([^"]+)", for (\d+) answers$"#)]
async fn ask_for_several(world: &mut Rbee, prompt: String, answers: u32) -> Step {
    let mut body = ask(&prompt);
    for n in [1, answers] {
        body["n"] = n.into();
        let answer = world.api()?.post("/v1/chat/completions", &body).await?;
        world.answers.push(answer.expect_status(200)?);
    }
    Ok(())
}

#[then(regex = r"^(\d+) answers came, and the prompt was counted once$")]
fn several_came(world: &mut Rbee, answers: usize) -> Step {
    let asked: Vec<Value> =
        world.answers.iter().map(test_cluster::Answer::json).collect::<Result<_>>()?;
    let [one, several] = asked.as_slice() else {
        return Err(anyhow::anyhow!("{} requests were answered", asked.len()).into());
    };
    let choices = several["choices"].as_array().context("no choices")?;
    ensure!(choices.len() == answers, "{} answers came", choices.len());
    for (index, choice) in choices.iter().enumerate() {
        ensure!(choice["index"] == index, "the answers are in disorder: {several}");
        let text = choice["message"]["content"].as_str().context("no text")?;
        ensure!(!text.is_empty(), "answer {index} is empty");
    }
    let prompt = |answer: &Value| answer["usage"]["prompt_tokens"].clone();
    ensure!(prompt(one) == prompt(several), "{} and {}", one["usage"], several["usage"]);
    Ok(())
}

#[when(regex = r#"^I ask the chat model for the vector of "([^"]+)"$"#)]
async fn ask_for_vector(world: &mut Rbee, text: String) -> Step {
    let body = json!({"model": DEMO_ALIAS, "input": text});
    let answer = world.api()?.post("/v1/embeddings", &body).await?;
    world.answers.push(answer);
    Ok(())
}

#[then("the error names the model")]
fn error_names_model(world: &mut Rbee) -> Step {
    let error = world.answer()?.error()?;
    ensure!(error.message.contains(DEMO_ALIAS), "the error is {error:?}");
    Ok(())
}

fn function(name: &str, argument: &str) -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {argument: {"type": "string", "maxLength": 20}},
        "required": [argument],
        "additionalProperties": false,
    });
    json!({"type": "function", "function": {"name": name, "parameters": parameters, "strict": true}})
}
