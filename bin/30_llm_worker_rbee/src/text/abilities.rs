//! What a chat template can show, found out by trying it.

use serde_json::{Value, json};

/// What a template can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Functions that are offered.
    pub(super) tools: bool,
    /// Calls that the assistant made.
    pub(super) calls: Option<CallForm>,
    /// Several calls in one message.
    pub(super) several_calls: bool,
    /// Results of calls.
    pub(super) results: bool,
    /// Instructions of the system.
    pub(super) system: bool,
}

/// The form in which a template wants calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallForm {
    /// Whether a message without text has `null` for content, not an empty text.
    pub(super) null_content: bool,
    /// Whether arguments are an object, not a text.
    pub(super) object_arguments: bool,
}

const ARGUMENTS: &str = r#"{"rbee_key": "rbee_value"}"#;

impl Abilities {
    /// Tries a template. `render` gives its output for messages and tools, or `None` where it
    /// refuses them; `objects_first`: the model does not write arguments as JSON.
    pub(super) fn probe(
        render: impl Fn(&Value, Option<&Value>) -> Option<String>,
        objects_first: bool,
    ) -> Self {
        let user = json!({"role": "user", "content": "rbee_user"});
        let shows = |messages: Value, tools: Option<&Value>, needles: &[&str]| {
            let output = render(&messages, tools);
            output.is_some_and(|output| needles.iter().all(|needle| output.contains(needle)))
        };
        let system = json!({"role": "system", "content": "rbee_system"});
        let tools = json!([{"type": "function", "function": {
            "name": "rbee_tool",
            "description": "rbee_description",
            "parameters": {"type": "object", "properties": {"rbee_key": {
                "type": "string", "description": "rbee_value"}}, "required": ["rbee_key"]},
        }}]);
        let calls = call_form(&render, &user, objects_first);
        let call = |form, id: &str, name: &str| json!({"role": "assistant", "content": content(form), "tool_calls": [tool_call(form, id, name)]});
        let result = |id: &str, content: &str| json!({"role": "tool", "tool_call_id": id, "name": "rbee_call", "content": content});
        let results = calls.is_some_and(|form| {
            let messages = json!([
                user,
                call(form, "rbeecall1", "rbee_call"),
                result("rbeecall1", "rbee_result")
            ]);
            shows(messages, Some(&tools), &["rbee_result"])
        });
        let several_calls = calls.is_some_and(|form| {
            let mut both = call(form, "rbeecall1", "rbee_first");
            if let Some(calls) = both["tool_calls"].as_array_mut() {
                calls.push(tool_call(form, "rbeecall2", "rbee_second"));
            }
            let messages =
                json!([user, both, result("rbeecall1", "rbee_1"), result("rbeecall2", "rbee_2")]);
            shows(messages, Some(&tools), &["rbee_first", "rbee_second"])
        });
        Self {
            tools: shows(json!([user]), Some(&tools), &["rbee_tool"])
                || shows(json!([system, user]), Some(&tools), &["rbee_tool"]),
            calls,
            several_calls,
            results,
            // Where not even this is shown, the template wants something that is not known here: it
            // shall say so itself.
            system: shows(json!([system, user]), None, &["rbee_system"])
                || !shows(json!([user]), None, &["rbee_user"]),
        }
    }
}

/// The form of calls that shows them best: arguments as they are, else at least all of their parts.
fn call_form(
    render: &impl Fn(&Value, Option<&Value>) -> Option<String>,
    user: &Value,
    objects_first: bool,
) -> Option<CallForm> {
    let forms = [false, true].into_iter().flat_map(|null_content| {
        [objects_first, !objects_first]
            .map(|object_arguments| CallForm { null_content, object_arguments })
    });
    let outputs: Vec<_> = forms
        .filter_map(|form| {
            let call = json!({
                "role": "assistant",
                "content": content(form),
                "tool_calls": [tool_call(form, "rbeecall1", "rbee_call")],
            });
            let result = json!({
                "role": "tool", "tool_call_id": "rbeecall1", "name": "rbee_call", "content": "x"});
            let output = render(&json!([user, call, result]), None)
                .or_else(|| render(&json!([user, call]), None))?;
            output.contains("rbee_call").then_some((form, output))
        })
        .collect();
    let verbatim = |(_, output): &&(CallForm, String)| objects_first || output.contains(ARGUMENTS);
    let in_parts = |(_, output): &&(CallForm, String)| {
        output.contains("rbee_key")
            && output.contains("rbee_value")
            && !output.contains("\\\"rbee_key")
    };
    let best = outputs.iter().filter(in_parts).find(verbatim);
    best.or_else(|| outputs.iter().find(in_parts)).map(|(form, _)| *form)
}

fn content(form: CallForm) -> Value {
    if form.null_content { Value::Null } else { json!("") }
}

fn tool_call(form: CallForm, id: &str, name: &str) -> Value {
    let arguments =
        if form.object_arguments { json!({"rbee_key": "rbee_value"}) } else { json!(ARGUMENTS) };
    json!({"type": "function", "id": id, "function": {"name": name, "arguments": arguments}})
}
