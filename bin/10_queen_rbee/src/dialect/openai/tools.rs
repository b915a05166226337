//! The functions that a model may call, whether it must, and the calls that it made before.

use std::collections::HashSet;

use daemon_http::ApiError;
use serde_json::Value;
use worker_contract::{Tool, ToolCall, ToolChoice};

use super::error::{conflict, invalid, missing, unsupported, wrong_type, wrong_value};
use super::fields::{Fields, is_empty};

/// As many functions as OpenAI's API takes.
const MAX_TOOLS: usize = 128;
/// As many calls as one message can have.
const MAX_CALLS: usize = 128;
/// The longest name of a function: OpenAI's 64, and room for the prefixes of MCP clients.
const MAX_NAME: usize = 128;

/// What a request says about functions.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) list: Vec<Tool>,
    pub(super) choice: ToolChoice,
    pub(super) parallel: bool,
}

/// Takes the fields about functions.
pub(super) fn read_tools(fields: &mut Fields) -> Result<Tools, ApiError> {
    for (older, instead) in
        [("functions", "; use 'tools'"), ("function_call", "; use 'tool_choice'")]
    {
        let says_nothing = |value: &Value| is_empty(value) || *value == "none" || *value == "auto";
        fields.only(older, says_nothing, instead)?;
    }
    let mut tools = Vec::new();
    let mut names = HashSet::new();
    for (path, tool) in fields.array("tools", "objects", MAX_TOOLS)? {
        let tool = read_tool(&path, tool)?;
        if !names.insert(tool.name.clone()) {
            let why = format!("there is more than one function '{}'", tool.name);
            return Err(invalid(&format!("{path}.function.name"), &why));
        }
        tools.push(tool);
    }
    let choice = read_choice(fields, &mut tools)?;
    // Who names one function wants one call of it.
    let is_one = matches!(choice, ToolChoice::Named(_));
    let parallel = fields.choice("parallel_tool_calls")?.unwrap_or(!is_one);
    Ok(Tools { list: tools, choice, parallel })
}

/// The calls of an assistant's message.
pub(super) fn read_calls(message: &mut Fields) -> Result<Vec<ToolCall>, ApiError> {
    let calls = message.array("tool_calls", "objects", MAX_CALLS)?;
    calls.into_iter().map(|(path, call)| read_call(&path, call)).collect()
}

fn read_tool(path: &str, tool: Value) -> Result<Tool, ApiError> {
    let mut fields = Fields::of(path, tool)?;
    only_function(&mut fields)?;
    let inner = fields.required("function")?;
    let mut function = Fields::of(fields.path("function"), inner)?;
    let name = function.required_text("name")?;
    check_name(&function.path("name"), &name)?;
    let description = function.text("description")?;
    let strict = function.flag("strict")?;
    let parameters = function.object("parameters")?;
    function.finish()?;
    fields.finish()?;
    let parameters = (!parameters.is_empty()).then_some(Value::Object(parameters));
    Ok(Tool { name, description, parameters, strict })
}

fn read_call(path: &str, call: Value) -> Result<ToolCall, ApiError> {
    let mut fields = Fields::of(path, call)?;
    only_function(&mut fields)?;
    let id = fields.required_text("id")?;
    let inner = fields.required("function")?;
    let mut function = Fields::of(fields.path("function"), inner)?;
    let name = function.required_text("name")?;
    check_name(&function.path("name"), &name)?;
    let arguments = match function.required("arguments")? {
        Value::String(text) if text.trim().is_empty() => "{}".to_owned(),
        Value::String(text) => text,
        // Some clients send them parsed, and llama-server takes that.
        parsed @ Value::Object(_) => parsed.to_string(),
        other => return Err(wrong_type(&function.path("arguments"), "a string", &other)),
    };
    function.finish()?;
    // A call is sent back with its index, and with whatever else the server that made it said beside it.
    Ok(ToolCall { id, name, arguments })
}

/// Takes the type of a tool, of a call or of a choice, of which there is one.
fn only_function(fields: &mut Fields) -> Result<(), ApiError> {
    let path = fields.path("type");
    match fields.required_text("type")?.as_str() {
        "function" => Ok(()),
        "custom"
        | "web_search"
        | "web_search_preview"
        | "file_search"
        | "mcp"
        | "code_interpreter"
        | "computer_use_preview"
        | "image_generation"
        | "local_shell" => Err(unsupported(&path, " but as 'function'")),
        other => Err(wrong_value(&path, other, "'function'")),
    }
}

/// Names go into grammars and prompts: no blanks, quotes or brackets.
fn check_name(path: &str, name: &str) -> Result<(), ApiError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_plain) {
        return Ok(());
    }
    let why = format!("a name has 1 to {MAX_NAME} letters, digits and characters of '_-.:/'");
    Err(invalid(path, &why))
}

/// Whether a function must be called. A choice among some of the functions leaves only those.
fn read_choice(fields: &mut Fields, tools: &mut Vec<Tool>) -> Result<ToolChoice, ApiError> {
    const PARAM: &str = "tool_choice";
    let choice = match fields.take(PARAM) {
        None => return Ok(ToolChoice::Auto),
        Some(Value::String(word)) => mode(PARAM, &word, true)?,
        Some(choice @ Value::Object(_)) if choice["type"] == "allowed_tools" => {
            allowed(&mut Fields::of(PARAM, choice)?, tools)?
        }
        Some(choice @ Value::Object(_)) => ToolChoice::Named(function_name(PARAM, choice)?),
        Some(other) => return Err(wrong_type(PARAM, "a string or an object", &other)),
    };
    match &choice {
        ToolChoice::Required if tools.is_empty() => {
            Err(conflict(PARAM, "'tool_choice' can demand a call only where there are 'tools'."))
        }
        ToolChoice::Named(name) if tools.iter().all(|tool| tool.name != *name) => {
            Err(invalid(PARAM, &format!("the function '{name}' is not among 'tools'")))
        }
        _ => Ok(choice),
    }
}

fn mode(path: &str, word: &str, may_be_none: bool) -> Result<ToolChoice, ApiError> {
    match word {
        "auto" => Ok(ToolChoice::Auto),
        "required" => Ok(ToolChoice::Required),
        "none" if may_be_none => Ok(ToolChoice::None),
        other if may_be_none => Err(wrong_value(path, other, "'none', 'auto' and 'required'")),
        other => Err(wrong_value(path, other, "'auto' and 'required'")),
    }
}

/// `{"type": "allowed_tools", "allowed_tools": {"mode": …, "tools": […]}}`
fn allowed(fields: &mut Fields, tools: &mut Vec<Tool>) -> Result<ToolChoice, ApiError> {
    let inner = fields.required("allowed_tools")?;
    let mut inner = Fields::of(fields.path("allowed_tools"), inner)?;
    let path = inner.path("mode");
    let choice = mode(&path, &inner.required_text("mode")?, false)?;
    let mut names = HashSet::new();
    let path = inner.path("tools");
    for (path, tool) in inner.array("tools", "objects", MAX_TOOLS)? {
        let name = function_name(&path, tool)?;
        if tools.iter().all(|tool| tool.name != name) {
            return Err(invalid(&path, &format!("the function '{name}' is not among 'tools'")));
        }
        names.insert(name);
    }
    if names.is_empty() {
        return Err(missing(&path));
    }
    inner.finish()?;
    tools.retain(|tool| names.contains(&tool.name));
    Ok(choice)
}

/// The name in `{"type": "function", "function": {"name": …}}`.
fn function_name(path: &str, value: Value) -> Result<String, ApiError> {
    let mut fields = Fields::of(path, value)?;
    only_function(&mut fields)?;
    let inner = fields.required("function")?;
    let mut function = Fields::of(fields.path("function"), inner)?;
    let name = function.required_text("name")?;
    function.finish()?;
    fields.finish()?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn functions_arrive_with_their_schemas() {
        let read = read(json!({"tools": [
            {"type": "function", "function": {
                "name": "weather", "description": "Looks outside.", "strict": true,
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            }},
            {"type": "function", "function": {"name": "mcp:now", "parameters": {}}},
        ], "parallel_tool_calls": false}))
        .unwrap();
        let weather = Tool {
            name: "weather".into(),
            description: Some("Looks outside.".into()),
            parameters: Some(json!({"type": "object", "properties": {"city": {"type": "string"}}})),
            strict: true,
        };
        let now = Tool { name: "mcp:now".into(), ..tool() };
        assert_eq!(read.list, [weather, now]);
        assert_eq!((read.choice, read.parallel), (ToolChoice::Auto, false));
    }

    #[test]
    fn every_way_to_demand_a_call_is_understood() {
        let named = json!({"type": "function", "function": {"name": "b"}});
        let allowed = |mode: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}});
        for (choice, expected, left) in [
            (json!(null), ToolChoice::Auto, 2),
            (json!("auto"), ToolChoice::Auto, 2),
            (json!("none"), ToolChoice::None, 2),
            (json!("required"), ToolChoice::Required, 2),
            (named.clone(), ToolChoice::Named("b".into()), 2),
            (allowed("auto"), ToolChoice::Auto, 1),
            (allowed("required"), ToolChoice::Required, 1),
        ] {
            let read = read(two(&json!({"tool_choice": choice}))).unwrap();
            let is_one = matches!(expected, ToolChoice::Named(_));
            assert_eq!((read.choice, read.list.len()), (expected, left), "{choice}");
            assert_eq!(read.parallel, !is_one, "{choice}");
        }
        assert!(read(json!({"tool_choice": "none", "tools": []})).is_ok());
    }

    #[test]
    fn what_is_wrong_with_functions_is_named() {
        let function = |inner: Value| json!({"tools": [{"type": "function", "function": inner}]});
        let choice = |choice: Value| two(&json!({"tool_choice": choice}));
        let named = |name: &str| json!({"type": "function", "function": {"name": name}});
        for (fields, code, param) in [
            (json!({"tools": {}}), "invalid_type", "tools"),
            (json!({"tools": [5]}), "invalid_type", "tools[0]"),
            (json!({"tools": vec![json!({}); 129]}), "array_above_max_length", "tools"),
            (json!({"tools": [{}]}), "missing_required_parameter", "tools[0].type"),
            (json!({"tools": [{"type": "web_search"}]}), "unsupported_parameter", "tools[0].type"),
            (json!({"tools": [{"type": "gadget"}]}), "invalid_value", "tools[0].type"),
            (
                json!({"tools": [{"type": "function"}]}),
                "missing_required_parameter",
                "tools[0].function",
            ),
            (function(json!({})), "missing_required_parameter", "tools[0].function.name"),
            (function(json!({"name": "a b"})), "invalid_value", "tools[0].function.name"),
            (function(json!({"name": ""})), "invalid_value", "tools[0].function.name"),
            (function(json!({"name": "x".repeat(129)})), "invalid_value", "tools[0].function.name"),
            (
                function(json!({"name": "a", "parameters": "{}"})),
                "invalid_type",
                "tools[0].function.parameters",
            ),
            (
                function(json!({"name": "a", "strcit": true})),
                "unknown_parameter",
                "tools[0].function.strcit",
            ),
            (
                two(&json!({"tools": [named("a"), named("a")]})),
                "invalid_value",
                "tools[1].function.name",
            ),
            (json!({"functions": [{"name": "a"}]}), "unsupported_parameter", "functions"),
            (json!({"function_call": {"name": "a"}}), "unsupported_parameter", "function_call"),
            (json!({"tool_choice": "required"}), "invalid_parameter_combination", "tool_choice"),
            (choice(json!("maybe")), "invalid_value", "tool_choice"),
            (choice(json!(5)), "invalid_type", "tool_choice"),
            (choice(named("c")), "invalid_value", "tool_choice"),
            (
                choice(json!({"type": "custom", "custom": {"name": "a"}})),
                "unsupported_parameter",
                "tool_choice.type",
            ),
            (
                choice(
                    json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("c")]}}),
                ),
                "invalid_value",
                "tool_choice.allowed_tools.tools[0]",
            ),
            (
                choice(
                    json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}),
                ),
                "missing_required_parameter",
                "tool_choice.allowed_tools.tools",
            ),
            (
                choice(
                    json!({"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": [named("a")]}}),
                ),
                "invalid_value",
                "tool_choice.allowed_tools.mode",
            ),
            (json!({"parallel_tool_calls": "no"}), "invalid_type", "parallel_tool_calls"),
        ] {
            let error = read(fields.clone()).expect_err(&fields.to_string());
            assert_eq!(error.detail.code.as_deref(), Some(code), "{fields}: {error}");
            assert_eq!(error.detail.param.as_deref(), Some(param), "{fields}: {error}");
        }
    }

    fn tool() -> Tool {
        Tool { name: String::new(), description: None, parameters: None, strict: false }
    }

    /// The functions `a` and `b`, and some more fields.
    fn two(more: &Value) -> Value {
        let function = |name: &str| json!({"type": "function", "function": {"name": name}});
        let mut fields = json!({"tools": [function("a"), function("b")]});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    }

    fn read(fields: Value) -> Result<Tools, ApiError> {
        let Value::Object(fields) = fields else { panic!("an object") };
        let mut fields = Fields::new(fields)?;
        let tools = read_tools(&mut fields)?;
        fields.finish().map(|()| tools)
    }
}
