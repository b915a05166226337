//! Calls of functions as servers tell them, brought into the one order that rbee has: each call begins
//! with id and name, and the calls of an answer are numbered from 0. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use worker_contract::ToolCallDelta;

use super::chunk::beside;
use crate::dialect::openai::Fields;

/// The most calls of one answer.
const MAX_CALLS: usize = 256;

/// A piece of a call.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CallPiece {
    index: Option<u32>,
    #[serde(deserialize_with = "id")]
    id: Option<String>,
    function: Option<Function>,
    #[serde(flatten)]
    rest: Fields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    name: Option<String>,
    #[serde(deserialize_with = "arguments")]
    arguments: Option<String>,
}

/// An id, which some number.
fn id<'de, D: Deserializer<'de>>(told: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(told)? {
        Value::String(id) => Some(id),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    })
}

/// Arguments, which some send parsed.
fn arguments<'de, D: Deserializer<'de>>(told: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(told)? {
        Value::String(text) => Some(text),
        Value::Null => None,
        parsed => Some(parsed.to_string()),
    })
}

/// The calls of one answer.
#[derive(Debug, Default)]
pub(super) struct Calls {
    begun: Vec<Begun>,
    /// What came of calls before their names, without which there is no call.
    unnamed: Vec<Part>,
}

#[derive(Debug)]
struct Begun {
    number: Number,
    /// As the server told it.
    id: Option<String>,
    name: String,
    arguments: Nesting,
    /// Whether the list that is taken has a piece of it with its name.
    is_named_here: bool,
}

/// How far the arguments of a call have come. It is counted as they come, since they may come byte by byte.
#[derive(Debug, Default)]
struct Nesting {
    /// How many objects and lists are open.
    depth: usize,
    /// Whether a text is open,
    is_text: bool,
    /// and its next byte is escaped.
    is_escaped: bool,
    /// Whether anything has come that is not blank.
    has_begun: bool,
}

/// What a piece says; what is empty is not said.
#[derive(Debug)]
struct Part {
    number: Number,
    id: Option<String>,
    name: Option<String>,
    arguments: String,
    /// What is said beside it.
    rest: Fields,
}

/// The number of a call at the server.
#[derive(Debug, PartialEq, Eq)]
enum Number {
    /// Some servers leave it at 0 for all.
    Told(u32),
    /// Its place in the list that it came in, where none is told.
    Place(usize),
}

impl Calls {
    /// Takes a list of pieces, and what is said beside each call, in OpenAI's form, too; `None` if there are too
    /// many calls.
    pub(super) fn take(
        &mut self,
        list: Vec<CallPiece>,
    ) -> Option<(Vec<ToolCallDelta>, Vec<Value>)> {
        self.begun.iter_mut().for_each(|begun| begun.is_named_here = false);
        let mut said = BTreeMap::<u32, Fields>::new();
        let mut taken = Vec::with_capacity(list.len());
        for (place, piece) in list.into_iter().enumerate() {
            let part = self.take_part(Part::of(piece, place));
            if self.begun.len() + self.unnamed.len() > MAX_CALLS {
                return None;
            }
            let Some((call, rest)) = part else { continue };
            if !rest.is_empty() {
                said.entry(call.index).or_default().extend(rest);
            }
            taken.push(call);
        }
        let numbered = said.into_iter().map(|(index, mut fields)| {
            fields.insert("index".into(), index.into());
            Value::Object(fields)
        });
        Some((taken, numbered.collect()))
    }

    /// Whether arguments have come of a call that has no name.
    pub(super) fn lacks_a_name(&self) -> bool {
        self.unnamed.iter().any(|part| !part.arguments.is_empty())
    }

    /// What there is to tell of a call; `None` while it has no name.
    fn take_part(&mut self, part: Part) -> Option<(ToolCallDelta, Fields)> {
        let known = self.begun.iter().rposition(|begun| begun.number == part.number);
        if let Some(at) = known
            && let Some(begun) = self.begun.get_mut(at)
            && !begun.is_followed_by(&part)
        {
            let index = u32::try_from(at).ok()?;
            let Part { name, arguments, rest, .. } = part;
            begun.is_named_here |= name.is_some();
            begun.arguments.takes(&arguments);
            return Some((ToolCallDelta { index, id: None, name: None, arguments }, rest));
        }
        let mut part = self.with_what_came_before(part);
        let Some(name) = part.name.take() else {
            self.unnamed.push(part);
            return None;
        };
        let index = u32::try_from(self.begun.len()).ok()?;
        let Part { number, id, arguments, rest, .. } = part;
        let mut nesting = Nesting::default();
        nesting.takes(&arguments);
        self.begun.push(Begun {
            number,
            id: id.clone(),
            name: name.clone(),
            arguments: nesting,
            is_named_here: true,
        });
        let id = id.unwrap_or_else(|| format!("call_{}", uuid::Uuid::new_v4().simple()));
        Some((ToolCallDelta { index, id: Some(id), name: Some(name), arguments }, rest))
    }

    /// A piece together with those of the same call that came before its name.
    fn with_what_came_before(&mut self, part: Part) -> Part {
        let before = self.unnamed.iter().position(|before| before.number == part.number);
        let Some(before) = before else { return part };
        let Part { number, id, mut arguments, mut rest, .. } = self.unnamed.remove(before);
        rest.extend(part.rest);
        arguments.push_str(&part.arguments);
        Part { number, id: part.id.or(id), name: part.name, arguments, rest }
    }
}

impl Part {
    /// A piece at a place of a list.
    fn of(piece: CallPiece, place: usize) -> Self {
        let CallPiece { index, id, function, rest } = piece;
        let Function { name, arguments } = function.unwrap_or_default();
        let told = |text: &String| !text.is_empty();
        Self {
            number: index.map_or(Number::Place(place), Number::Told),
            id: id.filter(told),
            name: name.filter(told),
            arguments: arguments.unwrap_or_default(),
            rest: beside(rest, &["type"]),
        }
    }
}

impl Begun {
    /// Whether a piece with its number begins another call: only a name can, since some servers make a new id
    /// for each piece, and others tell id and name with each. One without an id does where its name is in the
    /// list for a second time, or the arguments begin once more, unless those before are half.
    fn is_followed_by(&self, part: &Part) -> bool {
        let Some(name) = &part.name else { return false };
        if *name != self.name {
            return true;
        }
        match (&self.id, &part.id) {
            (Some(ours), Some(theirs)) => ours != theirs,
            _ if self.arguments.is_half() => false,
            _ => {
                let begins_again = begins_arguments(&part.arguments) && self.arguments.has_begun;
                self.is_named_here || begins_again
            }
        }
    }
}

impl Nesting {
    /// Takes what comes next in.
    fn takes(&mut self, piece: &str) {
        for byte in piece.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.is_text => self.is_escaped = true,
                b'"' => self.is_text = !self.is_text,
                _ if self.is_text => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        self.has_begun |= !piece.trim().is_empty();
    }

    /// Whether something is open in them.
    fn is_half(&self) -> bool {
        self.is_text || self.depth > 0
    }
}

/// Whether a text is the beginning of arguments: no space behind others.
fn begins_arguments(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_are_told_apart_however_a_server_numbers_them() {
        let rows = [
            // As OpenAI does it, in pieces.
            vec![
                json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}),
                json!({"index": 0, "function": {"arguments": "{"}}),
                json!({"index": 0, "function": {"arguments": "}"}}),
                json!({"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}),
            ],
            // Id and name again in each piece.
            vec![
                json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}),
                json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "}"}}),
                json!({"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}),
            ],
            // With nothing in a piece, and without a number.
            vec![
                json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}),
                json!({"index": 0, "function": null}),
                json!({"index": null, "id": "b", "function": {"name": "g", "arguments": "{}"}}),
            ],
            // All of them numbered 0.
            vec![
                json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}),
                json!({"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}}),
            ],
            // A new id for each piece.
            vec![
                json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}),
                json!({"index": 0, "id": "x", "function": {"name": null, "arguments": "{"}}),
                json!({"index": 0, "id": "y", "function": {"name": "", "arguments": "}"}}),
                json!({"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}),
            ],
        ];
        for pieces in rows {
            assert_eq!(told(pieces.into_iter().map(|piece| vec![piece])), ["af{}", "bg{}"]);
        }
    }

    #[test]
    fn calls_without_ids_are_told_apart_by_their_names_and_places() {
        let call = |index: Option<u32>, name: Option<&str>, arguments: &str| json!({"index": index, "function": {"name": name, "arguments": arguments}});
        for lists in [
            vec![vec![call(Some(0), Some("f"), "{}")], vec![call(Some(0), Some("g"), "{}")]],
            vec![vec![call(None, Some("f"), "{}")], vec![call(None, Some("g"), "{}")]],
            vec![vec![call(None, Some("f"), "{}"), call(None, Some("g"), "{}")]],
            vec![
                vec![call(None, Some("f"), "{"), call(None, Some("g"), "{")],
                vec![call(None, None, "}"), call(None, None, "}")],
            ],
            // The name again in each piece.
            vec![
                vec![call(Some(0), Some("f"), "{")],
                vec![call(Some(0), Some("f"), "}")],
                vec![call(Some(1), Some("g"), "{}")],
            ],
        ] {
            assert_eq!(told(lists.clone()), ["f{}", "g{}"], "{lists:?}");
        }
        let twice = vec![call(None, Some("f"), "{}"), call(None, Some("f"), "{}")];
        assert_eq!(told([twice]).len(), 2, "one function can be called twice");
    }

    #[test]
    fn two_calls_of_one_function_without_ids_are_two() {
        let call = |id: Option<&str>, arguments: &str| json!({"index": 0, "id": id, "function": {"name": "f", "arguments": arguments}});
        let (one, two) = (r#"{"a":1}"#, r#"{"a":2}"#);
        let both = [format!("f{one}"), format!("f{two}")];
        let spaced = [format!("f{one} \n")];
        for (lists, expected) in [
            (vec![vec![call(Some(""), one), call(Some(""), two)]], &both[..]),
            (vec![vec![call(None, one)], vec![call(None, two)]], &both[..]),
            (
                vec![vec![call(None, r#"{"a":"#)], vec![call(None, "1}")], vec![call(None, two)]],
                &both[..],
            ),
            (vec![vec![call(None, one)], vec![call(None, " \n")]], &spaced[..]),
            (vec![vec![call(None, one)], vec![call(None, "")]], &both[..1]),
        ] {
            assert_eq!(told(lists.clone()), expected, "{lists:?}");
        }
        let same = vec![vec![call(Some("a"), "{"), call(Some("a"), "}")]];
        assert_eq!(told(same), ["af{}"], "its id says that it is one");
    }

    #[test]
    fn a_name_that_is_told_again_with_each_piece_of_one_list_begins_no_other_call() {
        let call = |id: Option<&str>, arguments: &str| json!({"index": 0, "id": id, "function": {"name": "f", "arguments": arguments}});
        for pieces in [
            &[r#"{"a""#, ":1}"][..],
            &[r#"{"a":"}"#, r"{\", r#""{"#, r#""}"#],
            &[r#"{"a":["#, "{", "}", "]}"],
        ] {
            let ids = [Some("a")].into_iter().chain(std::iter::repeat(None));
            let list: Vec<_> = ids.zip(pieces).map(|(id, piece)| call(id, piece)).collect();
            assert_eq!(told([list]), [format!("af{}", pieces.concat())]);
        }
    }

    #[test]
    fn an_id_may_be_a_number_and_arguments_an_object() {
        let piece = json!({"id": 5, "function": {"name": "f", "arguments": {"x": 1}}});
        assert_eq!(told([vec![piece]]), [r#"5f{"x":1}"#]);
    }

    #[test]
    fn what_is_said_beside_a_call_has_its_number_here() {
        let mut calls = Calls::default();
        let function = json!({"name": "f", "arguments": "{}"});
        let first = json!({"index": 5, "id": "a", "type": "function", "function": function});
        let second = json!({"index": 6, "id": "b", "function": function, "extra_content": {"s": 1}, "x": null});
        let list = serde_json::from_value(json!([first, second])).unwrap();
        let (taken, said) = calls.take(list).unwrap();
        assert_eq!(taken.len(), 2);
        assert_eq!(said, [json!({"extra_content": {"s": 1}, "index": 1})]);
    }

    /// Each call with its id, unless that was made here, its name and its arguments.
    fn told(lists: impl IntoIterator<Item = Vec<Value>>) -> Vec<String> {
        let (mut calls, mut told) = (Calls::default(), Vec::<String>::new());
        for list in lists {
            let list = serde_json::from_value(list.into()).unwrap();
            for delta in calls.take(list).unwrap().0 {
                let id = delta.id.filter(|id| !id.starts_with("call_"));
                let pieces = [id, delta.name, Some(delta.arguments)];
                let piece: String = pieces.into_iter().flatten().collect();
                match told.get_mut(delta.index as usize) {
                    Some(call) => call.push_str(&piece),
                    None => told.push(piece),
                }
            }
        }
        told
    }

    #[test]
    fn a_call_without_an_id_gets_one() {
        let mut calls = Calls::default();
        let list = serde_json::from_value(json!([{"function": {"name": "f"}}])).unwrap();
        let (begun, _) = calls.take(list).unwrap();
        assert!(begun[0].id.as_ref().unwrap().starts_with("call_"));
    }

    #[test]
    fn a_call_begins_when_its_name_comes_and_without_one_it_is_none() {
        let call = |id: Value, name: Value, arguments: &str| json!({"index": 0, "id": id, "function": {"name": name, "arguments": arguments}});
        let (none, empty) = (json!(null), json!(""));
        for (pieces, expected) in [
            (
                vec![call(json!("a"), none.clone(), ""), call(none.clone(), json!("f"), "{}")],
                "af{}",
            ),
            (vec![call(json!("a"), empty.clone(), ""), call(json!("a"), json!("f"), "{}")], "af{}"),
            (vec![call(json!("a"), none.clone(), "{"), call(json!("b"), json!("f"), "}")], "bf{}"),
            (
                vec![
                    json!({"index": 0, "id": "a"}),
                    call(none.clone(), json!("f"), "{"),
                    call(none, empty.clone(), "}"),
                ],
                "af{}",
            ),
        ] {
            assert_eq!(
                told(pieces.iter().map(|piece| vec![piece.clone()])),
                [expected],
                "{pieces:?}"
            );
        }
        assert!(told([vec![call(empty.clone(), empty, "")]]).is_empty());
        let mut calls = Calls::default();
        let mut take = |piece: Value| calls.take(serde_json::from_value(json!([piece])).unwrap());
        let said = take(json!({"index": 3, "id": "a", "extra": 1})).unwrap();
        assert_eq!(said, (vec![], vec![]), "what is said beside it waits, too");
        let (_, said) = take(json!({"index": 3, "function": {"name": "f"}})).unwrap();
        assert_eq!(said, [json!({"extra": 1, "index": 0})]);
        let many = (0..=256).map(|number| json!({"index": number, "id": "a"}));
        let many = serde_json::from_value(many.collect()).unwrap();
        assert_eq!(Calls::default().take(many), None, "too many");
    }
}
