//! Calls on their way into a [`Delta`].

use std::sync::Arc;

use worker_contract::{Delta, ToolCallDelta};

use crate::text::tools::Offer;

/// Numbers the calls of one answer, gives them ids, and writes their parts.
#[derive(Debug)]
pub(super) struct CallWriter {
    offer: Arc<Offer>,
    ids: CallIds,
    begun: u32,
    /// Whether the call in progress is one more than may be reported.
    hidden: bool,
}

impl CallWriter {
    pub(super) fn new(offer: Arc<Offer>, ids: CallIds) -> Self {
        Self { offer, ids, begun: 0, hidden: false }
    }

    /// The functions that can be called.
    pub(super) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Whether a call was reported.
    pub(super) fn has_called(&self) -> bool {
        self.begun > 0
    }

    /// Begins a call. Where only one may be reported, further ones go nowhere.
    pub(super) fn begin(&mut self, name: &str, delta: &mut Delta) {
        self.hidden = !self.offer.parallel && self.begun > 0;
        if self.hidden {
            return;
        }
        delta.tool_calls.push(ToolCallDelta {
            index: self.begun,
            id: Some(self.ids.id(self.begun)),
            name: Some(name.to_owned()),
            arguments: String::new(),
        });
        self.begun += 1;
    }

    /// Adds to the arguments of the call that was begun last.
    pub(super) fn arguments(&mut self, text: &str, delta: &mut Delta) {
        if text.is_empty() || self.hidden {
            return;
        }
        let Some(index) = self.begun.checked_sub(1) else { return };
        match delta.tool_calls.last_mut().filter(|part| part.index == index) {
            Some(part) => part.arguments.push_str(text),
            None => delta.tool_calls.push(ToolCallDelta {
                index,
                arguments: text.to_owned(),
                ..ToolCallDelta::default()
            }),
        }
    }

    /// Adds one character to the arguments.
    pub(super) fn argument(&mut self, c: char, delta: &mut Delta) {
        self.arguments(c.encode_utf8(&mut [0; 4]), delta);
    }
}

/// Makes the ids of an answer's calls.
///
/// They follow from the request's id, the answer's number and the call's: an answer that is resumed
/// by another worker has the same ones.
#[derive(Debug, Clone)]
pub struct CallIds {
    key: u64,
    /// Mistral's templates refuse ids of any other length than 9.
    short: bool,
}

const ALPHABET: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

impl CallIds {
    /// The ids of the answer `choice` of a request.
    pub(in crate::text) fn new(request_id: &str, choice: u32, short: bool) -> Self {
        Self { key: fnv(fnv(FNV_OFFSET, request_id.as_bytes()), &choice.to_le_bytes()), short }
    }

    fn id(&self, index: u32) -> String {
        let key = fnv(self.key, &index.to_le_bytes());
        if self.short { letters(key, 9) } else { format!("call_{}", letters(key, 20)) }
    }
}

/// An id of nine letters and digits that follows from another one.
pub(in crate::text) fn nine_letters(id: &str) -> String {
    letters(fnv(FNV_OFFSET, id.as_bytes()), 9)
}

/// `count` letters and digits from a key, by the generator SplitMix64
/// (<https://prng.di.unimi.it/splitmix64.c>).
fn letters(key: u64, count: usize) -> String {
    let mut state = key;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let size = ALPHABET.len() as u64;
    let digit = |z: u64| usize::try_from(z % size).map_or('0', |at| char::from(ALPHABET[at]));
    (0..count).map(|_| digit(next())).collect()
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same in every build.
fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_request_choice_and_call_and_from_nothing_else() {
        let id = |request, choice, call| CallIds::new(request, choice, false).id(call);
        assert_eq!(id("req-1", 0, 0), id("req-1", 0, 0));
        let all = [id("req-1", 0, 0), id("req-1", 0, 1), id("req-1", 1, 0), id("req-2", 0, 0)];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 4, "{all:?}");
    }

    #[test]
    fn short_ids_are_nine_letters_and_digits() {
        let id = CallIds::new("req-1", 0, true).id(0);
        assert!(id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
    }
}
