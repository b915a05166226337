//! The form that the text of an answer must have: in OpenAI's words, llama-server's and vLLM's.

use daemon_http::ApiError;
use serde_json::Value;
use worker_contract::OutputFormat;

use super::error::{conflict, invalid, missing, too_long, unsupported, wrong_type, wrong_value};
use super::fields::{Fields, is_empty};

/// How many texts there can be to choose from.
const MAX_CHOICES: usize = 1024;
/// What a grammar begins with that is Lark, where GBNF is expected otherwise, as in llama-server.
const LARK: &str = "%llguidance";

/// Makes a form out of a field's value; gets where the field is, for errors.
type Reader = fn(&str, Value) -> Result<OutputFormat, ApiError>;

/// The fields of a request that say a form.
const FIELDS: &[(&str, Reader)] = &[
    ("response_format", response_format),
    ("json_schema", json_schema),
    ("grammar", gbnf_or_lark),
    ("guided_json", json_schema),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("guided_grammar", lark),
    ("structured_outputs", structured_outputs),
];

/// What the `guided_` fields say, in one object: vLLM's newer way.
const STRUCTURED: &[(&str, Reader)] = &[
    ("json", json_schema),
    ("json_object", json_object),
    ("regex", regex),
    ("choice", choice),
    ("grammar", lark),
];

/// Takes all fields that say what form the answer must have; at most one of them may. Tells which one
/// it was.
pub(super) fn read_format(fields: &mut Fields) -> Result<(OutputFormat, Option<String>), ApiError> {
    Ok(match only_form(fields, FIELDS)? {
        Some((path, format)) => (format, Some(path)),
        None => (OutputFormat::Text, None),
    })
}

fn only_form(
    fields: &mut Fields,
    readers: &[(&'static str, Reader)],
) -> Result<Option<(String, OutputFormat)>, ApiError> {
    let mut found: Option<(String, OutputFormat)> = None;
    for (name, read) in readers {
        // An object that is empty is a schema that everything obeys.
        let says_something = |value: &Value| value.is_object() || !is_empty(value);
        let Some(value) = fields.take(name).filter(says_something) else { continue };
        let path = fields.path(name);
        let format = read(&path, value)?;
        if format.is_text() {
            continue;
        }
        if let Some((first, _)) = found {
            return Err(both(&first, &path));
        }
        found = Some((path, format));
    }
    Ok(found)
}

fn both(first: &str, second: &str) -> ApiError {
    let message = format!("'{first}' and '{second}' both say what the answer must be; send one.");
    conflict(second, message)
}

/// OpenAI's field; a schema right beside the type is llama-server's way to say it.
fn response_format(path: &str, value: Value) -> Result<OutputFormat, ApiError> {
    let mut fields = Fields::of(path, value)?;
    let kind = fields.required_text("type")?;
    let named = match kind.as_str() {
        "json_schema" => fields.take("json_schema"),
        _ => None,
    };
    let bare = match kind.as_str() {
        "json_schema" | "json_object" => fields.take("schema"),
        _ => None,
    };
    let (named_path, bare_path) = (fields.path("json_schema"), fields.path("schema"));
    let format = match (kind.as_str(), named, bare) {
        ("text", ..) => OutputFormat::Text,
        ("json_object", _, None) => OutputFormat::JsonObject,
        ("json_schema", Some(_), Some(_)) => return Err(both(&named_path, &bare_path)),
        ("json_schema", Some(named), None) => named_schema(&named_path, named)?,
        ("json_schema" | "json_object", _, Some(schema)) => json_schema(&bare_path, schema)?,
        ("json_schema", None, None) => return Err(missing(&named_path)),
        (other, ..) => {
            let supported = "'text', 'json_object' and 'json_schema'";
            return Err(wrong_value(&fields.path("type"), other, supported));
        }
    };
    fields.finish()?;
    Ok(format)
}

/// A schema with its name. The grammar holds the model to it, whether it is `strict` or not.
fn named_schema(path: &str, value: Value) -> Result<OutputFormat, ApiError> {
    let mut fields = Fields::of(path, value)?;
    fields.harmless(&["name", "description"]);
    fields.flag("strict")?;
    let schema = fields.required("schema")?;
    let at = fields.path("schema");
    fields.finish()?;
    json_schema(&at, schema)
}

/// A schema: an object, or the text of one.
fn json_schema(path: &str, value: Value) -> Result<OutputFormat, ApiError> {
    let schema = match value {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| invalid(path, &format!("its text is no JSON: {error}")))?,
        other => other,
    };
    match schema {
        Value::Object(_) => Ok(OutputFormat::JsonSchema { schema }),
        other => Err(wrong_type(path, "an object, the JSON schema", &other)),
    }
}

fn json_object(path: &str, value: Value) -> Result<OutputFormat, ApiError> {
    match value {
        Value::Bool(true) => Ok(OutputFormat::JsonObject),
        other => Err(wrong_type(path, "a boolean", &other)),
    }
}

fn regex(path: &str, value: Value) -> Result<OutputFormat, ApiError> {
    text(path, value).map(|pattern| OutputFormat::Regex { pattern })
}

/// One of some texts: an expression with a branch for each.
fn choice(path: &str, value: Value) -> Result<OutputFormat, ApiError> {
    let Value::Array(texts) = value else {
        return Err(wrong_type(path, "an array of strings", &value));
    };
    if texts.len() > MAX_CHOICES {
        return Err(too_long(path, MAX_CHOICES, texts.len()));
    }
    let mut pattern = String::new();
    for (index, item) in texts.into_iter().enumerate() {
        let text = text(&format!("{path}[{index}]"), item)?;
        pattern.push(if index == 0 { '(' } else { '|' });
        regex_syntax::escape_into(&text, &mut pattern);
    }
    pattern.push(')');
    Ok(OutputFormat::Regex { pattern })
}

/// llama-server's field: GBNF, which is not served, or Lark, if it says so.
fn gbnf_or_lark(path: &str, value: Value) -> Result<OutputFormat, ApiError> {
    match text(path, value)? {
        grammar if grammar.trim_start().starts_with(LARK) => Ok(OutputFormat::Lark { grammar }),
        _ => {
            let instead = format!(" in GBNF; write it in Lark, and begin it with '{LARK} {{}}'");
            Err(unsupported(path, &instead))
        }
    }
}

/// vLLM's fields: Lark, or GBNF, which is known by its sign.
fn lark(path: &str, value: Value) -> Result<OutputFormat, ApiError> {
    let grammar = text(path, value)?;
    if grammar.contains("::=") {
        return Err(unsupported(path, " in GBNF; write it in Lark"));
    }
    Ok(OutputFormat::Lark { grammar })
}

fn structured_outputs(path: &str, value: Value) -> Result<OutputFormat, ApiError> {
    let mut fields = Fields::of(path, value)?;
    let format = only_form(&mut fields, STRUCTURED)?;
    fields.finish()?;
    Ok(format.map_or(OutputFormat::Text, |(_, format)| format))
}

fn text(path: &str, value: Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong_type(path, "a string", &other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_say_a_form_is_understood() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let json_schema = || OutputFormat::JsonSchema { schema: schema.clone() };
        let regex = |pattern: &str| OutputFormat::Regex { pattern: pattern.into() };
        let lark = |grammar: &str| OutputFormat::Lark { grammar: grammar.into() };
        let strict = json!({"name": "n", "description": "d", "schema": schema, "strict": true});
        let marked = "%llguidance {}\nstart: \"a\"";
        for (fields, format) in [
            (json!({}), OutputFormat::Text),
            (
                json!({"response_format": null, "grammar": "", "guided_choice": []}),
                OutputFormat::Text,
            ),
            (json!({"response_format": {"type": "text"}}), OutputFormat::Text),
            (json!({"response_format": {"type": "json_object"}}), OutputFormat::JsonObject),
            (json!({"response_format": {"type": "json_object", "schema": schema}}), json_schema()),
            (json!({"response_format": {"type": "json_schema", "schema": schema}}), json_schema()),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": strict}}),
                json_schema(),
            ),
            (json!({"response_format": {"type": "text"}, "json_schema": schema}), json_schema()),
            (json!({"json_schema": {}}), OutputFormat::JsonSchema { schema: json!({}) }),
            (json!({"guided_json": schema}), json_schema()),
            (json!({"guided_json": schema.to_string()}), json_schema()),
            (json!({"guided_regex": "[a-z]+"}), regex("[a-z]+")),
            (
                json!({"guided_choice": ["yes", "no (maybe)", "1+1"]}),
                regex(r"(yes|no \(maybe\)|1\+1)"),
            ),
            (json!({"guided_grammar": "start: \"a\""}), lark("start: \"a\"")),
            (json!({"grammar": marked}), lark(marked)),
            (json!({"structured_outputs": {"json": schema}}), json_schema()),
            (json!({"structured_outputs": {"json_object": true}}), OutputFormat::JsonObject),
            (json!({"structured_outputs": {"regex": "a"}}), regex("a")),
            (json!({"structured_outputs": {"choice": ["a"]}}), regex("(a)")),
        ] {
            let (read, rest) = read(&fields);
            assert_eq!(read.unwrap(), format, "{fields}");
            assert!(rest.finish().is_ok(), "{fields}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_form_is_named() {
        let format = |inner: Value| json!({"response_format": inner});
        for (fields, code, param) in [
            (format(json!("json")), "invalid_type", "response_format"),
            (format(json!({})), "missing_required_parameter", "response_format.type"),
            (format(json!({"type": "xml"})), "invalid_value", "response_format.type"),
            (
                format(json!({"type": "text", "schema": {}})),
                "unknown_parameter",
                "response_format.schema",
            ),
            (
                format(json!({"type": "json_schema"})),
                "missing_required_parameter",
                "response_format.json_schema",
            ),
            (
                format(json!({"type": "json_schema", "json_schema": {"name": "x"}})),
                "missing_required_parameter",
                "response_format.json_schema.schema",
            ),
            (
                format(json!({"type": "json_schema", "json_schema": {"name": "x", "schema": 5}})),
                "invalid_type",
                "response_format.json_schema.schema",
            ),
            (
                format(json!({"type": "json_schema", "json_schema": {"shcema": {}, "schema": {}}})),
                "unknown_parameter",
                "response_format.json_schema.shcema",
            ),
            (
                json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}),
                "invalid_parameter_combination",
                "guided_regex",
            ),
            (json!({"json_schema": "{"}), "invalid_value", "json_schema"),
            (json!({"json_schema": "5"}), "invalid_type", "json_schema"),
            (json!({"guided_regex": 5}), "invalid_type", "guided_regex"),
            (json!({"guided_choice": ["a", 5]}), "invalid_type", "guided_choice[1]"),
            (json!({"guided_choice": vec!["a"; 1025]}), "array_above_max_length", "guided_choice"),
            (
                json!({"guided_grammar": "root ::= \"a\""}),
                "unsupported_parameter",
                "guided_grammar",
            ),
            (json!({"grammar": "root ::= \"a\""}), "unsupported_parameter", "grammar"),
            (
                json!({"structured_outputs": {"xml": 1}}),
                "unknown_parameter",
                "structured_outputs.xml",
            ),
        ] {
            let (read, _) = read(&fields);
            let error = read.expect_err(&fields.to_string());
            assert_eq!(error.detail.code.as_deref(), Some(code), "{fields}: {error}");
            assert_eq!(error.detail.param.as_deref(), Some(param), "{fields}: {error}");
        }
    }

    fn read(fields: &Value) -> (Result<OutputFormat, ApiError>, Fields) {
        let mut fields = Fields::new(fields.as_object().unwrap().clone()).unwrap();
        (read_format(&mut fields).map(|(format, _)| format), fields)
    }
}
