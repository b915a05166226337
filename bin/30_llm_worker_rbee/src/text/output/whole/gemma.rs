//! Gemma 4's calls: `call:f{key:<|"|>text<|"|>,n:5,list:[…],object:{…},flag:true}`.
//!
//! It is JSON but for two things: keys are bare, and a string stands between two tokens, with nothing
//! in it escaped.

use serde_json::{Map, Value};

use super::{Call, value};
use crate::text::tools::Offer;

/// The token at both ends of a string.
const QUOTE: &str = "<|\"|>";

/// How deep values may be in each other, as in `serde_json`.
const DEEPEST: usize = 128;

/// Reads one call.
pub(super) fn read(text: &str, offer: &Offer) -> Option<Call> {
    let (name, rest) = text.trim_start().strip_prefix("call:")?.split_once('{')?;
    let name = name.trim();
    let mut reader = Reader { rest, depth: 0 };
    let arguments = reader.object(|key| offer.argument_schema(name, key))?;
    reader.rest.trim().is_empty().then(|| Call { name: name.to_owned(), arguments })
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// Takes a text, and space in front of it; `false` where something else comes.
    fn take(&mut self, wanted: &str) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// The text up to another one, which is taken as well.
    fn until(&mut self, end: &str) -> Option<&'a str> {
        let (text, rest) = self.rest.split_once(end)?;
        self.rest = rest;
        Some(text)
    }

    /// The rest of an object whose `{` was taken.
    fn object<'s>(
        &mut self,
        schema: impl Fn(&str) -> Option<&'s Value>,
    ) -> Option<Map<String, Value>> {
        let mut object = Map::new();
        while !self.take("}") {
            let key = if self.take(QUOTE) {
                let key = self.until(QUOTE)?;
                self.take(":").then_some(key)?
            } else {
                let key = self.until(":")?.trim();
                (!key.is_empty() && !key.contains(['{', '}', '[', ']', ',', '<'])).then_some(key)?
            };
            let value = self.value(schema(key))?;
            object.insert(key.to_owned(), value);
            self.separator("}")?;
        }
        Some(object)
    }

    /// The rest of an array whose `[` was taken.
    fn array(&mut self, schema: Option<&Value>) -> Option<Vec<Value>> {
        let mut array = Vec::new();
        while !self.take("]") {
            array.push(self.value(schema)?);
            self.separator("]")?;
        }
        Some(array)
    }

    /// What stands behind an element: a comma, or the end, which is left.
    fn separator(&mut self, end: &str) -> Option<()> {
        (self.take(",") || self.rest.starts_with(end)).then_some(())
    }

    fn value(&mut self, schema: Option<&Value>) -> Option<Value> {
        if self.take(QUOTE) {
            return self.until(QUOTE).map(|text| Value::String(text.to_owned()));
        }
        let is_object = self.take("{");
        if is_object || self.take("[") {
            self.depth += 1;
            if self.depth >= DEEPEST {
                return None;
            }
            let within = |word| schema.and_then(|schema| schema.get(word));
            let value = if is_object {
                let properties = within("properties");
                Value::Object(self.object(|key| properties.and_then(|all| all.get(key)))?)
            } else {
                Value::Array(self.array(within("items"))?)
            };
            self.depth -= 1;
            return Some(value);
        }
        let end = self.rest.find([',', '}', ']'])?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let text = text.trim_end();
        (!text.is_empty() && !text.contains('<')).then(|| value::from_text(text, schema))
    }
}
