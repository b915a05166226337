//! The functions that a request offers, and whether they can be offered.

use serde_json::{Map, Value, json};
use worker_contract::{Chat, Tool, ToolChoice};

/// The most functions of a request.
const MOST_TOOLS: usize = 128;
/// The longest name of a function, in bytes.
const LONGEST_NAME: usize = 64;
/// The most bytes that the schemas of all functions have together, as JSON.
const MOST_SCHEMA_BYTES: usize = 256 * 1024;

/// The functions that an answer may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    tools: Vec<Tool>,
    /// Whether it may call several.
    pub parallel: bool,
    /// Whether it must call one, and can do nothing else.
    pub must_call: bool,
}

/// A conversation asks for something that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {reason}")]
pub struct InvalidChat {
    /// The field at fault, such as `tools[2].name`.
    pub param: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl InvalidChat {
    pub(super) fn new(param: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { param: param.into(), reason: reason.into() }
    }
}

impl Offer {
    /// The functions that a conversation offers; `None` where there are none or none may be called.
    pub fn of(chat: &Chat) -> Result<Option<Self>, InvalidChat> {
        check(&chat.tools)?;
        let (wanted, must_call) = match &chat.tool_choice {
            ToolChoice::None => return Ok(None),
            ToolChoice::Auto => (None, false),
            ToolChoice::Required if chat.tools.is_empty() => {
                let reason = "`required` needs at least one function in `tools`";
                return Err(InvalidChat::new("tool_choice", reason));
            }
            ToolChoice::Required => (None, true),
            ToolChoice::Named(name) => (Some(name), true),
        };
        let tools: Vec<_> = chat
            .tools
            .iter()
            .filter(|tool| wanted.is_none_or(|name| tool.name == *name))
            .cloned()
            .collect();
        if let Some(name) = wanted.filter(|_| tools.is_empty()) {
            let reason = format!("there is no function {:?} in `tools`", shortened(name));
            return Err(InvalidChat::new("tool_choice", reason));
        }
        if tools.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { tools, parallel: chat.parallel_tool_calls, must_call }))
    }

    /// The functions.
    #[must_use]
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// Whether a function of this name is offered.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.name == name)
    }

    /// The functions as chat templates expect them: in OpenAI's form.
    #[must_use]
    pub fn as_json(&self) -> Value {
        self.tools.iter().map(tool_json).collect()
    }

    /// The schema of an argument, where the function is offered and says what it is.
    #[must_use]
    pub fn argument_schema(&self, function: &str, argument: &str) -> Option<&Value> {
        let tool = self.tools.iter().find(|tool| tool.name == function)?;
        tool.parameters.as_ref()?.get("properties")?.get(argument)
    }
}

/// The schema of a function's arguments; that of no arguments where it has none.
pub(super) fn parameters(tool: &Tool) -> Value {
    tool.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}))
}

fn tool_json(tool: &Tool) -> Value {
    let mut function = Map::new();
    function.insert("name".to_owned(), json!(tool.name));
    if let Some(description) = &tool.description {
        function.insert("description".to_owned(), json!(description));
    }
    function.insert("parameters".to_owned(), parameters(tool));
    json!({"type": "function", "function": function})
}

fn check(tools: &[Tool]) -> Result<(), InvalidChat> {
    if tools.len() > MOST_TOOLS {
        let reason = format!("{} functions are too many: at most {MOST_TOOLS}", tools.len());
        return Err(InvalidChat::new("tools", reason));
    }
    let mut names = std::collections::BTreeSet::new();
    let mut bytes = 0;
    for (index, tool) in tools.iter().enumerate() {
        let is_letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if tool.name.is_empty()
            || tool.name.len() > LONGEST_NAME
            || !tool.name.bytes().all(is_letter)
        {
            let reason = format!(
                "{:?} is no name of a function: 1 to {LONGEST_NAME} letters, digits, `_` and `-`",
                shortened(&tool.name)
            );
            return Err(InvalidChat::new(format!("tools[{index}].name"), reason));
        }
        if !names.insert(&tool.name) {
            let reason = format!("{:?} is there twice", tool.name);
            return Err(InvalidChat::new(format!("tools[{index}].name"), reason));
        }
        let Some(schema) = &tool.parameters else { continue };
        let kind = schema.get("type").map_or(Some("object"), Value::as_str);
        if !schema.is_object() || kind != Some("object") {
            let reason = "arguments are an object: a schema with \"type\": \"object\" is needed";
            return Err(InvalidChat::new(format!("tools[{index}].parameters"), reason));
        }
        bytes += schema.to_string().len();
    }
    if bytes > MOST_SCHEMA_BYTES {
        let reason = format!(
            "the schemas have {bytes} bytes: at most {MOST_SCHEMA_BYTES} for all functions"
        );
        return Err(InvalidChat::new("tools", reason));
    }
    Ok(())
}

/// A text from outside, as much of it as an error should repeat.
fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_NAME).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::text) fn tool(name: &str, parameters: Value) -> Tool {
        Tool {
            name: name.to_owned(),
            description: Some(format!("Does {name}.")),
            parameters: Some(parameters),
            strict: false,
        }
    }

    fn chat(tools: Vec<Tool>, tool_choice: ToolChoice) -> Chat {
        Chat { tools, tool_choice, ..Chat::from(Vec::new()) }
    }

    #[test]
    fn the_choice_narrows_what_is_offered() {
        let tools = || vec![tool("a", json!({})), tool("b", json!({}))];
        let offered = |choice| Offer::of(&chat(tools(), choice)).unwrap();
        let names = |offer: Offer| -> Vec<String> {
            offer.tools.iter().map(|tool| tool.name.clone()).collect()
        };
        assert_eq!(offered(ToolChoice::None), None);
        assert_eq!(offered(ToolChoice::Auto).map(names), Some(vec!["a".into(), "b".into()]));
        let only_b = offered(ToolChoice::Named("b".into())).unwrap();
        assert!(only_b.must_call);
        assert_eq!(names(only_b), ["b"]);
    }

    #[test]
    fn what_cannot_be_offered_is_refused_by_its_field() {
        let object = json!({"type": "object"});
        let big = json!({"type": "object", "description": "x".repeat(MOST_SCHEMA_BYTES)});
        let many = (0..129).map(|n| tool(&format!("f{n}"), object.clone())).collect();
        let cases = [
            (vec![tool("a b", object.clone())], ToolChoice::Auto, "tools[0].name"),
            (vec![tool("", object.clone())], ToolChoice::Auto, "tools[0].name"),
            (vec![tool(&"x".repeat(65), object.clone())], ToolChoice::Auto, "tools[0].name"),
            (
                vec![tool("a", object.clone()), tool("a", object.clone())],
                ToolChoice::Auto,
                "tools[1].name",
            ),
            (vec![tool("a", json!({"type": "string"}))], ToolChoice::Auto, "tools[0].parameters"),
            (vec![tool("a", json!(true))], ToolChoice::Auto, "tools[0].parameters"),
            (vec![tool("a", big)], ToolChoice::Auto, "tools"),
            (many, ToolChoice::Auto, "tools"),
            (vec![], ToolChoice::Required, "tool_choice"),
            (vec![tool("a", object)], ToolChoice::Named("b".into()), "tool_choice"),
        ];
        for (tools, choice, param) in cases {
            assert_eq!(Offer::of(&chat(tools, choice)).unwrap_err().param, param);
        }
    }
}
