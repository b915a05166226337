//! What a JSON schema may be, before anything is made of it.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::termination::can_end;

/// The longest regular expression, in bytes; also all those of one schema together. The engine's time
/// for a token can grow with the square of it.
pub(super) const MAX_REGEX_BYTES: usize = 16 * 1024;

/// The largest schema, in bytes as JSON without white space.
const MAX_BYTES: usize = 256 * 1024;

/// The deepest nesting of a schema's objects and arrays.
const MAX_DEPTH: usize = 64;

/// The most schemas in a schema: as many as OpenAI allows properties. The engine's time for a token
/// can grow with the square of it.
const MAX_PARTS: usize = 5000;

/// The most optional properties of one object. Each of them may come next, which the engine follows
/// at once, in four ways each; `factory::LIMITS` bounds these.
const MAX_OPTIONAL: usize = 900;

/// The white space that a model may put between the parts of a JSON text. As in llama.cpp's
/// `SPACE_RULE` (`common/json-schema-to-grammar.cpp`) it is bounded: small models otherwise write
/// line ends until the answer's length is reached.
const WHITE_SPACE: &str = r" |\n{1,2}[ \t]{0,20}";

/// llguidance's own key for options, in the schema itself.
const OPTIONS: &str = "x-guidance";

/// Why a schema is not followed, as far as can be seen without making a grammar of it.
pub(super) fn objection(schema: &Value) -> Option<String> {
    // First of all: what follows descends into it.
    if deeper_than(schema, MAX_DEPTH) {
        return Some(format!("it is nested more than {MAX_DEPTH} levels deep"));
    }
    if serde_json::to_writer(Room(MAX_BYTES), schema).is_err() {
        return Some(format!("it has more than {MAX_BYTES} bytes"));
    }
    if !schema.is_object() && !schema.is_boolean() {
        return Some("it is neither an object nor a boolean".to_owned());
    }
    let (mut parts, mut most_optional, mut pattern_bytes) = (0, 0, 0);
    visit(schema, &mut |value| match value {
        Value::Object(members) => {
            parts += 1;
            most_optional = most_optional.max(optional_properties(members));
            pattern_bytes += patterns(members).map(str::len).sum::<usize>();
        }
        Value::Bool(_) => parts += 1,
        _ => {}
    });
    if parts > MAX_PARTS {
        return Some(format!("it has more than {MAX_PARTS} schemas in it"));
    }
    if pattern_bytes > MAX_REGEX_BYTES {
        return Some(format!("its patterns have more than {MAX_REGEX_BYTES} bytes"));
    }
    if most_optional > MAX_OPTIONAL {
        return Some(format!(
            "an object of it has {most_optional} optional properties: {MAX_OPTIONAL} can be followed"
        ));
    }
    (!can_end(schema))
        .then(|| "no text can satisfy it: it contains itself without an end".to_owned())
}

/// The schema with the white space that is allowed, unless it says so itself.
pub(super) fn with_white_space(schema: &Value) -> Value {
    let mut schema = match schema {
        // Any JSON text: an object, so that it has room for the option.
        Value::Bool(true) => Value::Object(Map::new()),
        other => other.clone(),
    };
    if let Some(object) = schema.as_object_mut().filter(|object| !object.contains_key(OPTIONS)) {
        object.insert(OPTIONS.to_owned(), json!({ "whitespace_pattern": WHITE_SPACE }));
    }
    schema
}

fn optional_properties(members: &Map<String, Value>) -> usize {
    let Some(properties) = members.get("properties").and_then(Value::as_object) else { return 0 };
    let required = members.get("required").and_then(Value::as_array).map_or(0, Vec::len);
    properties.len().saturating_sub(required)
}

/// The regular expressions in the keywords of one schema.
fn patterns(members: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let values = ["pattern", "whitespace_pattern"].into_iter();
    let names = members.get("patternProperties").and_then(Value::as_object);
    let names = names.into_iter().flat_map(Map::keys).map(String::as_str);
    values.filter_map(move |key| members.get(key)?.as_str()).chain(names)
}

/// Whether arrays and objects are nested more than `levels` deep.
fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) => {
            levels == 0 || inner(value).any(|value| deeper_than(value, levels - 1))
        }
        _ => false,
    }
}

/// Calls `look` with a value and all that is in it.
fn visit(value: &Value, look: &mut impl FnMut(&Value)) {
    look(value);
    inner(value).for_each(|value| visit(value, look));
}

/// What an array or object consists of.
fn inner(value: &Value) -> impl Iterator<Item = &Value> {
    let items = value.as_array().into_iter().flatten();
    items.chain(value.as_object().into_iter().flat_map(Map::values))
}

/// Takes a number of bytes and no more, and keeps none.
struct Room(usize);

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_depth_number_and_kind_are_bounded() {
        let refused = |schema: &Value| objection(schema).unwrap_or_default();
        let nested = |levels| (0..levels).fold(json!({}), |inner, _| json!({"not": inner}));
        assert_eq!(refused(&nested(MAX_DEPTH - 1)), "");
        assert!(refused(&nested(MAX_DEPTH)).contains("deep"));
        let long = |length| json!({"const": "x".repeat(length)});
        assert_eq!(refused(&long(MAX_BYTES - 100)), "");
        assert!(refused(&long(MAX_BYTES)).contains("bytes"));
        let properties = |count| -> Map<String, Value> {
            (0..count).map(|n| (format!("p{n}"), json!(true))).collect()
        };
        let names = |count| properties(count).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let object = |count, required| json!({"type": "object", "properties": properties(count), "required": names(required)});
        assert_eq!(refused(&object(4000, 3200)), "");
        assert!(refused(&object(4000, 3000)).contains("1000 optional"));
        assert!(refused(&object(5000, 5000)).contains("schemas"));
        assert_eq!(refused(&json!({"enum": vec!["x"; 10_000]})), "");
        let half = "x".repeat(MAX_REGEX_BYTES / 2);
        let pattern = |more: &str| {
            let names =
                Value::Object([(half.clone(), json!({"pattern": more}))].into_iter().collect());
            json!({"pattern": half, "patternProperties": names, "x-guidance": {}})
        };
        assert_eq!(refused(&pattern("")), "");
        assert!(refused(&pattern("y")).contains("patterns"));
        assert!(refused(&json!([1])).contains("object"));
        assert_eq!(refused(&json!(true)), "");
        let endless = json!({"type": "array", "minItems": 1, "items": {"$ref": "#"}});
        assert!(refused(&endless).contains("itself"));
    }

    #[test]
    fn the_schemas_own_options_are_kept() {
        let own = json!({"type": "object", "x-guidance": {"whitespace_flexible": false}});
        assert_eq!(with_white_space(&own), own);
        let plain = json!({"type": "object"});
        assert_eq!(with_white_space(&plain)[OPTIONS]["whitespace_pattern"], WHITE_SPACE);
        assert_eq!(with_white_space(&json!(false)), json!(false));
    }
}
