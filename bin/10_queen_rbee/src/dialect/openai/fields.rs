//! The fields of a body, taken out one by one: what is left at the end, nobody has understood.

use daemon_http::ApiError;
use serde_json::Value;

use super::Body;
use super::error::{
    Bound, missing, out_of_range, shown, too_long, unknown, unsupported, wrong_type,
};

/// About as many names as are looked for in a body.
const LOOKED_FOR: usize = 64;
/// More fields than any object of the API has.
const MAX_FIELDS: usize = 256;

/// The fields of a body, or of an object in it. A field that is `null` counts as left out.
#[derive(Debug)]
pub(super) struct Fields {
    /// Each with its name. A list, since most of what is looked for is not there, and to compare a few names
    /// costs less than to hash each that is looked for.
    left: Vec<(String, Value)>,
    /// Where the object is, such as `tools[0].function`; empty for the body itself.
    at: String,
    taken: Vec<&'static str>,
}

impl Fields {
    /// The fields of a body.
    pub(super) fn new(body: Body) -> Result<Self, ApiError> {
        let taken = Vec::with_capacity(LOOKED_FOR);
        Ok(Self { left: not_null(body, "")?, at: String::new(), taken })
    }

    /// The fields of a value that must be an object.
    pub(super) fn of(at: impl Into<String>, value: Value) -> Result<Self, ApiError> {
        let at = at.into();
        match value {
            Value::Object(body) => Ok(Self { left: not_null(body, &at)?, at, taken: Vec::new() }),
            other => Err(wrong_type(&at, "an object", &other)),
        }
    }

    /// A field's name in errors.
    pub(super) fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// A field of any type.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.taken.push(name);
        let place = self.left.iter().position(|(field, _)| field == name)?;
        Some(self.left.swap_remove(place).1)
    }

    /// A field that must be there.
    pub(super) fn required(&mut self, name: &'static str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| missing(&self.path(name)))
    }

    /// A text.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(&self.path(name), "a string", &other)),
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, name: &'static str) -> Result<String, ApiError> {
        self.text(name)?.ok_or_else(|| missing(&self.path(name)))
    }

    /// True or false; false if it is left out.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, ApiError> {
        Ok(self.choice(name)?.unwrap_or(false))
    }

    /// True, false or left out.
    pub(super) fn choice(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong_type(&self.path(name), "a boolean", &other)),
        }
    }

    /// An object; empty if it is left out.
    pub(super) fn object(&mut self, name: &'static str) -> Result<Body, ApiError> {
        match self.take(name) {
            None => Ok(Body::new()),
            Some(Value::Object(entries)) => Ok(entries),
            Some(other) => Err(wrong_type(&self.path(name), "an object", &other)),
        }
    }

    /// An array of at most `max` items, each with its name in errors; empty if it is left out.
    pub(super) fn array(
        &mut self,
        name: &'static str,
        of: &str,
        max: usize,
    ) -> Result<Vec<(String, Value)>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let path = self.path(name);
        match value {
            Value::Array(items) if items.len() > max => Err(too_long(&path, max, items.len())),
            Value::Array(items) => {
                let named = |(index, item)| (format!("{path}[{index}]"), item);
                Ok(items.into_iter().enumerate().map(named).collect())
            }
            other => Err(wrong_type(&path, &format!("an array of {of}"), &other)),
        }
    }

    /// An array of texts.
    pub(super) fn texts(
        &mut self,
        name: &'static str,
        max: usize,
    ) -> Result<Vec<String>, ApiError> {
        let items = self.array(name, "strings", max)?;
        let read = |(path, item): (String, Value)| match item {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(&path, "a string", &other)),
        };
        items.into_iter().map(read).collect()
    }

    /// A number of a range.
    pub(super) fn decimal(
        &mut self,
        name: &'static str,
        min: f64,
        max: f64,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Some(number) = value.as_f64() else {
            return Err(wrong_type(&self.path(name), "a decimal", &value));
        };
        if number < min {
            return Err(out_of_range(&self.path(name), false, Bound::Min(min), &number));
        }
        if number > max {
            return Err(out_of_range(&self.path(name), false, Bound::Max(max), &number));
        }
        #[expect(clippy::cast_possible_truncation, reason = "samplers count in f32")]
        Ok(Some(number as f32))
    }

    /// A whole number.
    pub(super) fn integer(&mut self, name: &'static str) -> Result<Option<i128>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
        // 10.0 is what some clients make of 10.
        let whole = || value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15);
        #[expect(clippy::cast_possible_truncation, reason = "it was found to be whole and small")]
        let number = number.or_else(|| whole().map(|n| n as i128));
        number.map(Some).ok_or_else(|| wrong_type(&self.path(name), "an integer", &value))
    }

    /// A whole number that is at least `min`; more than fits is the most that fits.
    pub(super) fn count(&mut self, name: &'static str, min: u32) -> Result<Option<u32>, ApiError> {
        let Some(number) = self.integer(name)? else { return Ok(None) };
        if number < i128::from(min) {
            return Err(out_of_range(&self.path(name), true, Bound::Min(f64::from(min)), &number));
        }
        Ok(Some(u32::try_from(number).unwrap_or(u32::MAX)))
    }

    /// A whole number from `min` to `max`.
    pub(super) fn count_to(
        &mut self,
        name: &'static str,
        min: u32,
        max: u32,
    ) -> Result<Option<u32>, ApiError> {
        let count = self.count(name, min)?;
        match count.filter(|count| *count > max) {
            Some(count) => {
                Err(out_of_range(&self.path(name), true, Bound::Max(f64::from(max)), &count))
            }
            None => Ok(count),
        }
    }

    /// Fields that change nothing about the answer.
    pub(super) fn harmless(&mut self, names: &[&'static str]) {
        for name in names {
            self.take(name);
        }
    }

    /// Fields that are not served: only a value that asks for nothing is accepted.
    pub(super) fn only(
        &mut self,
        name: &'static str,
        asks_for_nothing: impl Fn(&Value) -> bool,
        instead: &str,
    ) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !asks_for_nothing(&value) => Err(unsupported(&self.path(name), instead)),
            _ => Ok(()),
        }
    }

    /// Refuses what was not taken.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.left.first() {
            Some((name, _)) => Err(unknown(&self.path(&shown(name)), name, &self.taken)),
            None => Ok(()),
        }
    }

    /// Refuses what was not taken and says something: some clients send each message with the fields of all.
    pub(super) fn finish_sent_back(self) -> Result<(), ApiError> {
        match self.left.iter().find(|(_, value)| !is_empty(value)) {
            Some((name, _)) => Err(unsupported(&self.path(&shown(name)), "")),
            None => Ok(()),
        }
    }
}

/// Those that are not `null`.
fn not_null(body: Body, at: &str) -> Result<Vec<(String, Value)>, ApiError> {
    let left: Vec<_> = body.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if left.len() > MAX_FIELDS {
        let name = if at.is_empty() { "the body" } else { at };
        let message = format!("{name} has {} fields, more than {MAX_FIELDS}", left.len());
        let refused = ApiError::bad_request("invalid_value", message);
        return Err(if at.is_empty() { refused } else { refused.param(at) });
    }
    Ok(left)
}

/// The same thing under two names: one of them, or both with the same value.
pub(super) fn one_of<T: PartialEq>(
    first: (&str, Option<T>),
    second: (&str, Option<T>),
) -> Result<Option<T>, ApiError> {
    match (first.1, second.1) {
        (Some(a), Some(b)) if a != b => {
            let message =
                format!("'{}' and '{}' say different things; send one.", first.0, second.0);
            Err(ApiError::bad_request("invalid_parameter_combination", message).param(first.0))
        }
        (a, b) => Ok(b.or(a)),
    }
}

/// No list entry, no map entry, no text, false.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Null => true,
        Value::Number(_) => false,
    }
}
