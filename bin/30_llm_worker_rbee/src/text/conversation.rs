//! A conversation in the form that the model's template can show.
//!
//! What a template has no words for is put into words that it has: functions and how to call them
//! into the system's instructions, calls into the assistant's text, results into the user's, and the
//! system's instructions into the user's first message.

use serde_json::{Map, Value, json};
use worker_contract::{ChatMessage, Role, ToolCall};

use super::abilities::{Abilities, CallForm};
use super::family::{CallSyntax, Family};
use super::output::{Syntax, nine_letters};
use super::tools::Offer;

/// A message on its way to the template.
#[derive(Debug, Clone)]
struct Turn {
    role: Role,
    content: String,
    name: Option<String>,
    reasoning: Option<String>,
    calls: Vec<ToolCall>,
    call_id: Option<String>,
    /// Whether it stands for results of calls.
    is_result: bool,
}

impl From<&ChatMessage> for Turn {
    fn from(message: &ChatMessage) -> Self {
        Self {
            role: message.role,
            content: message.content.clone(),
            name: message.name.clone(),
            reasoning: message.reasoning.clone(),
            calls: message.tool_calls.clone(),
            call_id: message.tool_call_id.clone(),
            is_result: false,
        }
    }
}

impl Turn {
    fn new(role: Role, content: String) -> Self {
        (&ChatMessage::text(role, content)).into()
    }
}

/// The messages for a template. `told`: the functions, where the template does not show them.
pub(super) fn for_template(
    messages: &[ChatMessage],
    told: Option<&Offer>,
    family: &Family,
    abilities: Abilities,
) -> Value {
    let mut turns: Vec<Turn> = messages.iter().map(Turn::from).collect();
    if let Some(offer) = told {
        let instructions = instructions(offer, family);
        match turns.first_mut().filter(|turn| turn.role == Role::System) {
            Some(system) if system.content.is_empty() => system.content = instructions,
            Some(system) => system.content = format!("{}\n\n{instructions}", system.content),
            None => turns.insert(0, Turn::new(Role::System, instructions)),
        }
    }
    if abilities.calls.is_none() {
        turns.iter_mut().for_each(calls_as_text);
    } else if !abilities.several_calls {
        turns = one_call_a_message(turns);
    }
    name_results(&mut turns);
    if !abilities.results {
        turns = results_as_text(turns);
    }
    if !abilities.system {
        turns = system_as_text(turns);
    }
    let form = abilities.calls.unwrap_or(CallForm { null_content: false, object_arguments: false });
    turns.iter().map(|turn| turn_json(turn, form, family)).collect()
}

/// How to call, in words, for a model whose template does not say it.
fn instructions(offer: &Offer, family: &Family) -> String {
    let syntax = match family.calls {
        CallSyntax::Marked(syntax) => syntax,
        CallSyntax::Harmony | CallSyntax::Whole(_) => Syntax::Hermes,
    };
    let several = if offer.parallel { "one or more functions" } else { "one function" };
    let tools = offer.as_json();
    let lines: Vec<_> = tools.as_array().into_iter().flatten().map(Value::to_string).collect();
    format!(
        "You can call {several} to help with the request. These are the functions, each with the \
         JSON schema of its arguments:\n<tools>\n{}\n</tools>\n\nTo call a function, write exactly \
         this, with its name and its arguments as a JSON object:\n{}",
        lines.join("\n"),
        call_text("NAME", "ARGUMENTS", syntax),
    )
}

/// A call as a model writes it.
fn call_text(name: &str, arguments: &str, syntax: Syntax) -> String {
    let name_json = json!(name);
    match syntax {
        Syntax::Hermes => {
            let call = format!("{{\"name\": {name_json}, \"arguments\": {arguments}}}");
            format!("<tool_call>\n{call}\n</tool_call>")
        }
        Syntax::Llama => format!("{{\"name\": {name_json}, \"parameters\": {arguments}}}"),
        Syntax::Mistral => {
            format!("[TOOL_CALLS][{{\"name\": {name_json}, \"arguments\": {arguments}}}]")
        }
        Syntax::Array => format!("[{{\"name\": {name_json}, \"arguments\": {arguments}}}]"),
        Syntax::DeepSeek => format!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}\
             <｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
    }
}

fn calls_as_text(turn: &mut Turn) {
    for call in std::mem::take(&mut turn.calls) {
        if !turn.content.is_empty() {
            turn.content.push('\n');
        }
        turn.content.push_str(&call_text(&call.name, arguments(&call), Syntax::Hermes));
    }
}

/// Calls of one message as several messages, each followed by its result.
fn one_call_a_message(turns: Vec<Turn>) -> Vec<Turn> {
    let mut out: Vec<Turn> = Vec::with_capacity(turns.len());
    let mut rest = turns.into_iter().peekable();
    while let Some(mut turn) = rest.next() {
        if turn.calls.len() < 2 {
            out.push(turn);
            continue;
        }
        let mut results = Vec::new();
        while let Some(result) = rest.next_if(|next| next.role == Role::Tool) {
            results.push(result);
        }
        for call in std::mem::take(&mut turn.calls) {
            let mine = results.iter().position(|result| result.call_id.as_ref() == Some(&call.id));
            out.push(Turn { calls: vec![call], ..turn.clone() });
            out.extend(mine.map(|at| results.remove(at)));
            turn.content.clear();
            turn.reasoning = None;
        }
        out.extend(results);
    }
    out
}

/// Results that do not say so themselves get the name of the function that they are of.
fn name_results(turns: &mut [Turn]) {
    let mut names = std::collections::HashMap::new();
    for turn in turns {
        for call in &turn.calls {
            names.insert(call.id.clone(), call.name.clone());
        }
        if turn.role == Role::Tool && turn.name.is_none() {
            turn.name = turn.call_id.as_ref().and_then(|id| names.get(id)).cloned();
        }
    }
}

/// Results as the user's words. Those in a row are one message, with what the user says then: many
/// templates want the speakers to take turns.
fn results_as_text(turns: Vec<Turn>) -> Vec<Turn> {
    let mut out: Vec<Turn> = Vec::with_capacity(turns.len());
    for turn in turns {
        let is_result = turn.role == Role::Tool;
        let text = if is_result {
            format!("<tool_response>\n{}\n</tool_response>", turn.content)
        } else {
            turn.content.clone()
        };
        match out.last_mut().filter(|last| last.is_result) {
            Some(last) if is_result => last.content = format!("{}\n{text}", last.content),
            Some(last) if turn.role == Role::User => {
                last.content = format!("{}\n\n{text}", last.content);
            }
            _ if is_result => out.push(Turn { is_result, ..Turn::new(Role::User, text) }),
            _ => out.push(turn),
        }
    }
    out
}

/// The system's words in front of the user's next ones.
fn system_as_text(turns: Vec<Turn>) -> Vec<Turn> {
    let mut out: Vec<Turn> = Vec::with_capacity(turns.len());
    let mut words: Vec<String> = Vec::new();
    for mut turn in turns {
        match turn.role {
            Role::System => words.push(turn.content),
            Role::User => {
                words.push(std::mem::take(&mut turn.content));
                turn.content = words.join("\n\n");
                words.clear();
                out.push(turn);
            }
            Role::Assistant | Role::Tool => out.push(turn),
        }
    }
    if !words.is_empty() {
        out.push(Turn::new(Role::User, words.join("\n\n")));
    }
    out
}

fn turn_json(turn: &Turn, form: CallForm, family: &Family) -> Value {
    let mut json = Map::new();
    let mut put = |key: &str, value: Value| json.insert(key.to_owned(), value);
    put("role", json!(turn.role));
    let is_null = form.null_content && turn.content.is_empty() && !turn.calls.is_empty();
    put("content", if is_null { Value::Null } else { json!(turn.content) });
    if let Some(name) = &turn.name {
        put("name", json!(name));
    }
    if let Some(reasoning) = &turn.reasoning {
        put("reasoning_content", json!(reasoning));
        // The name that gpt-oss's template has for it, which it wants instead of content.
        if family.calls == CallSyntax::Harmony && turn.content.is_empty() {
            put("thinking", json!(reasoning));
        }
    }
    if !turn.calls.is_empty() {
        let calls: Vec<_> = turn.calls.iter().map(|call| call_json(call, form, family)).collect();
        put("tool_calls", Value::Array(calls));
    }
    if let Some(id) = &turn.call_id {
        put("tool_call_id", json!(id_for(id, family)));
    }
    Value::Object(json)
}

fn call_json(call: &ToolCall, form: CallForm, family: &Family) -> Value {
    let text = arguments(call);
    let object = form.object_arguments.then(|| serde_json::from_str(text).ok()).flatten();
    let arguments: Value = object.unwrap_or_else(|| json!(text));
    json!({
        "type": "function",
        "id": id_for(&call.id, family),
        "function": {"name": call.name, "arguments": arguments},
    })
}

/// A call's arguments; none are an empty object.
fn arguments(call: &ToolCall) -> &str {
    if call.arguments.trim().is_empty() { "{}" } else { &call.arguments }
}

/// Mistral's templates refuse ids that are not nine letters and digits.
fn id_for(id: &str, family: &Family) -> String {
    let fits = id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if family.wants_short_ids() && !fits { nine_letters(id) } else { id.to_owned() }
}
