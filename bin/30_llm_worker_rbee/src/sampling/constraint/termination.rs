//! Whether a JSON schema has a text that ends.
//!
//! A schema that requires itself in itself has none, which the engine does not notice: it would
//! write until the answer's length is reached.

use serde_json::Value;

/// How many schemas are looked at before the question is left open. References are followed each
/// time that they come up.
const MAX_STEPS: usize = 100_000;

/// Whether a text that obeys `schema` can end. Only what is certain is denied: references within the
/// schema, required properties, required items, and the combinations of these are understood, and
/// all else can end.
pub(super) fn can_end(schema: &Value) -> bool {
    Search { root: schema, open: Vec::new(), steps: 0 }.can_end(schema)
}

struct Search<'a> {
    root: &'a Value,
    /// The references on the way here. A text that ends needs none of them inside itself: where it
    /// has one, the inner text could stand for the outer one.
    open: Vec<&'a str>,
    steps: usize,
}

impl<'a> Search<'a> {
    fn can_end(&mut self, schema: &'a Value) -> bool {
        self.steps += 1;
        let Some(schema) = schema.as_object().filter(|_| self.steps <= MAX_STEPS) else {
            return true;
        };
        let list = |key| schema.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let reference = schema.get("$ref").and_then(Value::as_str);
        if reference.is_some_and(|reference| !self.reference_can_end(reference)) {
            return false;
        }
        if !list("allOf").iter().all(|part| self.can_end(part)) {
            return false;
        }
        for key in ["anyOf", "oneOf"] {
            let options = list(key);
            if !options.is_empty() && !options.iter().any(|option| self.can_end(option)) {
                return false;
            }
        }
        // What may also be of another type can be that instead.
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => {
                let properties = schema.get("properties");
                let required = list("required").iter().filter_map(Value::as_str);
                required
                    .filter_map(|name| properties?.get(name))
                    .all(|property| self.can_end(property))
            }
            Some("array") => {
                let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
                let least = usize::try_from(least).unwrap_or(usize::MAX);
                let first = list("prefixItems");
                let rest = schema.get("items").filter(|_| least > first.len());
                first.iter().take(least).chain(rest).all(|item| self.can_end(item))
            }
            _ => true,
        }
    }

    fn reference_can_end(&mut self, reference: &'a str) -> bool {
        if self.open.contains(&reference) {
            return false;
        }
        // Elsewhere than in this schema, or not there: the engine's to refuse.
        let Some(target) = reference.strip_prefix('#').and_then(|path| self.root.pointer(path))
        else {
            return true;
        };
        self.open.push(reference);
        let can_end = self.can_end(target);
        self.open.pop();
        can_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_requires_itself_has_no_end() {
        let list = json!({
            "type": "object",
            "properties": {"next": {"$ref": "#"}},
            "required": ["next"],
        });
        let pair = json!({
            "$ref": "#/$defs/a",
            "$defs": {
                "a": {"type": "array", "items": {"$ref": "#/$defs/b"}, "minItems": 1},
                "b": {"allOf": [{"$ref": "#/$defs/a"}]},
            },
        });
        let options = json!({"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}, {}]}]});
        let first = json!({"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1});
        for schema in [list, pair, options, first] {
            assert!(!can_end(&schema), "{schema}");
        }
    }

    #[test]
    fn what_may_stop_has_an_end() {
        let optional = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});
        let or_null = json!({
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["next"],
        });
        let other_type = json!({
            "type": ["object", "null"],
            "properties": {"next": {"$ref": "#"}},
            "required": ["next"],
        });
        let twice = json!({
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/leaf"}, "b": {"$ref": "#/$defs/leaf"}},
            "required": ["a", "b", "undescribed"],
            "$defs": {"leaf": {"type": "integer"}},
        });
        let tree = json!({"type": "array", "items": {"$ref": "#"}});
        let elsewhere = json!({"$ref": "other.json"});
        for schema in [optional, or_null, other_type, twice, tree, elsewhere, json!(true)] {
            assert!(can_end(&schema), "{schema}");
        }
    }

    #[test]
    fn a_schema_that_would_take_forever_is_left_open() {
        let doubling: serde_json::Map<String, Value> = (0..60)
            .map(|n| {
                let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
                (format!("d{n}"), json!({"allOf": [next, next]}))
            })
            .collect();
        assert!(can_end(&json!({"$ref": "#/$defs/d0", "$defs": doubling})));
    }
}
