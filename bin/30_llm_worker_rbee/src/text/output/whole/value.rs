//! Values that are written as plain text: the function's schema tells what they are.

use serde_json::Value;

/// The value that a text stands for.
///
/// It is one of the kinds that the schema declares. A text that is none of them stays a text, and so
/// does every text where a string is all that may be. Without a declared kind, JSON is what it looks
/// like. A string is never in quotation marks: those that are there are part of it.
pub(super) fn from_text(text: &str, schema: Option<&Value>) -> Value {
    let kinds = schema.map(kinds).unwrap_or_default();
    let fits = |value: &Value| {
        !value.is_string() && (kinds.is_empty() || kinds.iter().any(|kind| is_a(value, kind)))
    };
    literal(text.trim()).filter(fits).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// JSON, or one of Python's words that models write for it.
fn literal(text: &str) -> Option<Value> {
    match text {
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        "None" => Some(Value::Null),
        _ => serde_json::from_str(text).ok(),
    }
}

/// The kinds that a schema declares; none where it allows something without saying its kind.
fn kinds(schema: &Value) -> Vec<&str> {
    if let Some(declared) = declared(schema) {
        return declared;
    }
    let branches = ["anyOf", "oneOf"].iter().find_map(|word| schema.get(word)?.as_array());
    if let Some(branches) = branches {
        let each: Option<Vec<_>> = branches.iter().map(declared).collect();
        return each.unwrap_or_default().concat();
    }
    let values = schema.get("enum").and_then(Value::as_array);
    values.into_iter().flatten().chain(schema.get("const")).map(kind).collect()
}

fn declared(schema: &Value) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Value::String(kind) => Some(vec![kind]),
        Value::Array(kinds) => kinds.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a value is of a kind of JSON Schema, where 1.0 is an integer.
fn is_a(value: &Value, wanted: &str) -> bool {
    match wanted {
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => kind(value) == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_text_is_what_its_schema_says_or_stays_a_text() {
        let cases = [
            (json!({"type": "string"}), "5", json!("5")),
            (json!({"type": "string"}), "\"5\"", json!("\"5\"")),
            (json!({"type": "string"}), " [1] \n", json!(" [1] \n")),
            (json!({"type": "integer"}), " 5\n", json!(5)),
            (json!({"type": "integer"}), "9007199254740993", json!(9_007_199_254_740_993_i64)),
            (json!({"type": "integer"}), "5.5", json!("5.5")),
            (json!({"type": "integer"}), "five", json!("five")),
            (json!({"type": "number"}), "5", json!(5)),
            (json!({"type": "number"}), "-0.5e1", json!(-5.0)),
            (json!({"type": "number"}), "true", json!("true")),
            (json!({"type": "boolean"}), "True", json!(true)),
            (json!({"type": "boolean"}), "1", json!("1")),
            (json!({"type": "null"}), "None", json!(null)),
            (json!({"type": "array"}), "[1, {\"b\": \"x\"}]", json!([1, {"b": "x"}])),
            (json!({"type": "array"}), "{}", json!("{}")),
            (json!({"type": "object"}), "{\"b\": [], \"a\": 1}", json!({"b": [], "a": 1})),
            (json!({"type": "object"}), "{\"b\": ", json!("{\"b\": ")),
            (json!({"type": ["string", "null"]}), "null", json!(null)),
            (json!({"type": ["string", "null"]}), "7", json!("7")),
            (json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), "7", json!(7)),
            (json!({"oneOf": [{"type": "string"}, {"type": "null"}]}), "7", json!("7")),
            (json!({"anyOf": [{"$ref": "#/x"}, {"type": "string"}]}), "[7]", json!([7])),
            (json!({"enum": ["1", "2"]}), "1", json!("1")),
            (json!({"enum": [1, 2]}), "1", json!(1)),
            (json!({"const": "true"}), "true", json!("true")),
            (json!({}), "[7]", json!([7])),
            (json!({}), "seven", json!("seven")),
            (json!({"type": 7}), "7", json!(7)),
            (json!(true), "7", json!(7)),
        ];
        for (schema, text, value) in cases {
            assert_eq!(from_text(text, Some(&schema)), value, "{text} by {schema}");
        }
        assert_eq!(from_text("7", None), json!(7));
        let deep = "[".repeat(100_000);
        assert_eq!(from_text(&deep, None), json!(deep));
    }
}
