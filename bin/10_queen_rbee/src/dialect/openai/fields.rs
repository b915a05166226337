//! The fields of a body, taken out one by one: what is left at the end, nobody has understood.

use daemon_http::ApiError;
use serde_json::Value;

use super::Body;
use super::error::{Bound, missing, out_of_range, unknown, unsupported, wrong_type};

/// The fields of a body. A field that is `null` counts as left out.
#[derive(Debug)]
pub(super) struct Fields {
    body: Body,
    taken: Vec<&'static str>,
}

impl Fields {
    pub(super) fn new(body: Body) -> Self {
        Self { body, taken: Vec::new() }
    }

    /// A field of any type.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.taken.push(name);
        self.body.remove(name).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub(super) fn required(&mut self, name: &'static str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| missing(name))
    }

    /// A text.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, name: &'static str) -> Result<String, ApiError> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    /// True or false.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong_type(name, "a boolean", &other)),
        }
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
            return Err(wrong_type(name, "a decimal", &value));
        };
        if number < min {
            return Err(out_of_range(name, false, Bound::Min(min), &number));
        }
        if number > max {
            return Err(out_of_range(name, false, Bound::Max(max), &number));
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
        number.map(Some).ok_or_else(|| wrong_type(name, "an integer", &value))
    }

    /// A whole number that is at least `min`; more than fits is the most that fits.
    pub(super) fn count(&mut self, name: &'static str, min: u32) -> Result<Option<u32>, ApiError> {
        let Some(number) = self.integer(name)? else { return Ok(None) };
        if number < i128::from(min) {
            return Err(out_of_range(name, true, Bound::Min(f64::from(min)), &number));
        }
        Ok(Some(u32::try_from(number).unwrap_or(u32::MAX)))
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
            Some(value) if !asks_for_nothing(&value) => Err(unsupported(name, instead)),
            _ => Ok(()),
        }
    }

    /// Refuses what was not taken.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.body.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(unknown(name, &self.taken)),
            None => Ok(()),
        }
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
