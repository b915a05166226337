//! Calls of functions as servers tell them, brought into the one order that rbee has: each call begins
//! with id and name, and the calls of an answer are numbered from 0. Pure.

use serde::Deserialize;
use worker_contract::ToolCallDelta;

/// The most calls of one answer.
const MAX_CALLS: usize = 256;

/// A piece of a call.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CallPiece {
    index: Option<u32>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

/// The calls of one answer.
#[derive(Debug, Default)]
pub(super) struct Calls {
    begun: Vec<Begun>,
}

#[derive(Debug)]
struct Begun {
    /// Its number at the server, which some servers leave at 0 for all.
    index: Option<u32>,
    id: String,
}

impl Calls {
    /// Takes a piece; `None` if it can belong to no call.
    pub(super) fn take(&mut self, piece: CallPiece) -> Option<ToolCallDelta> {
        let CallPiece { index, id, function } = piece;
        let id = id.filter(|id| !id.is_empty());
        let Function { name, arguments } = function.unwrap_or_default();
        let arguments = arguments.unwrap_or_default();
        let is_it = |begun: &Begun| begun.index == index;
        let known = self.begun.iter().rposition(is_it).filter(|at| {
            // The same number with another id is another call.
            id.as_ref().is_none_or(|id| self.begun.get(*at).is_some_and(|begun| begun.id == *id))
        });
        if let Some(known) = known {
            let index = u32::try_from(known).ok()?;
            return Some(ToolCallDelta { index, id: None, name: None, arguments });
        }
        let name = name.filter(|name| !name.is_empty())?;
        if self.begun.len() >= MAX_CALLS {
            return None;
        }
        let number = u32::try_from(self.begun.len()).ok()?;
        let id = id.unwrap_or_else(|| format!("call_{}", uuid::Uuid::new_v4().simple()));
        self.begun.push(Begun { index, id: id.clone() });
        Some(ToolCallDelta { index: number, id: Some(id), name: Some(name), arguments })
    }
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
        ];
        for pieces in rows {
            let (mut calls, mut told) = (Calls::default(), vec![String::new(); 2]);
            for piece in pieces {
                let delta = calls.take(serde_json::from_value(piece).unwrap()).unwrap();
                let call = &mut told[delta.index as usize];
                let head = [delta.id, delta.name].into_iter().flatten().collect::<String>();
                *call = format!("{call}{head}{}", delta.arguments);
            }
            assert_eq!(told, ["af{}", "bg{}"]);
        }
    }

    #[test]
    fn a_call_without_an_id_gets_one_and_one_without_a_name_is_none() {
        let mut calls = Calls::default();
        let piece = |value| serde_json::from_value::<CallPiece>(value).unwrap();
        assert_eq!(calls.take(piece(json!({"index": 0, "id": "a"}))), None);
        let begun = calls.take(piece(json!({"function": {"name": "f"}}))).unwrap();
        assert!(begun.id.unwrap().starts_with("call_"));
    }
}
