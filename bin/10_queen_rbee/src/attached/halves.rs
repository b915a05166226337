//! Characters that a server has cut in two: who counts a text in UTF-16 can end a piece of it after the first
//! half of one, which JSON can only tell as an escape of its own. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use serde_json::Value;

use super::chunk::Chunk;
use super::logprobs;

/// The first halves, and the second ones.
const FIRST: std::ops::Range<u16> = 0xD800..0xDC00;
const SECOND: std::ops::Range<u16> = 0xDC00..0xE000;
/// As many private characters, which stand for halves while JSON is read: no text has halves.
const STANDS_FOR_HALVES: u32 = 0x0010_F800;
/// How long an escape of a half is, as in `\ud83c`.
const ESCAPE: usize = 6;
/// The most halves that wait at once.
const MOST: usize = 256;

/// The first halves whose second ones are to come with the next piece, each by the hash of where it stood. One that
/// waits in vain is left out.
#[derive(Debug, Default)]
pub(super) struct Halves(BTreeMap<u64, u16>);

impl Halves {
    /// Reads a chunk, or a whole answer; `None` if it is neither. Halves that meet are one character again, others
    /// become U+FFFD, and so does what is no UTF-8.
    pub(super) fn read(&mut self, written: &[u8]) -> Option<Chunk> {
        let has_none = self.0.is_empty();
        if has_none && let Ok(chunk) = serde_json::from_slice(written) {
            return Some(chunk);
        }
        let finite = logprobs::finite(written).map_or(Cow::Borrowed(written), Cow::Owned);
        if has_none && let Ok(chunk) = serde_json::from_slice(&finite) {
            return Some(chunk);
        }
        let mut chunk = serde_json::from_str(&marked(&finite)).ok()?;
        self.join(&mut chunk, 0, false);
        serde_json::from_value(chunk).ok()
    }

    /// Joins the halves of all texts in a value. Those of a `delta`, or in a `text`, go on in the next chunk.
    fn join(&mut self, value: &mut Value, place: u64, goes_on: bool) {
        match value {
            Value::String(text) => *text = self.joined(text, place, goes_on),
            Value::Array(entries) => {
                for (position, entry) in (0..).zip(entries) {
                    let number = entry.get("index").and_then(Value::as_u64).unwrap_or(position);
                    self.join(entry, within(place, number), goes_on);
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let goes_on = goes_on || matches!(name.as_str(), "delta" | "text");
                    self.join(value, within(place, name), goes_on);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn joined(&mut self, text: &str, place: u64, goes_on: bool) -> String {
        if text.is_empty() {
            return String::new();
        }
        let mut units: Vec<u16> = self.0.remove(&place).into_iter().collect();
        for character in text.chars() {
            match half(character) {
                Some(half) => units.push(half),
                None => units.extend_from_slice(character.encode_utf16(&mut [0; 2])),
            }
        }
        let may_wait = goes_on && self.0.len() < MOST;
        if may_wait && let Some(first) = units.pop_if(|unit| FIRST.contains(unit)) {
            self.0.insert(place, first);
        }
        String::from_utf16_lossy(&units)
    }
}

/// The place a step further inside another one.
fn within(place: u64, step: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (place, step).hash(&mut hasher);
    hasher.finish()
}

/// JSON in which a character stands for each half that stood alone.
fn marked(written: &[u8]) -> String {
    let written = String::from_utf8_lossy(written);
    let (mut marked, mut rest) = (String::with_capacity(written.len()), &*written);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        marked.push_str(before);
        let second = escape.get(ESCAPE..).and_then(escaped);
        let (length, stands_in) = match escaped(escape) {
            Some(first)
                if FIRST.contains(&first) && second.is_some_and(|it| SECOND.contains(&it)) =>
            {
                (2 * ESCAPE, None)
            }
            Some(unit) => (ESCAPE, mark(unit)),
            None => (escape.char_indices().nth(2).map_or(escape.len(), |(end, _)| end), None),
        };
        let (escape, after) = escape.split_at(length);
        match stands_in {
            Some(character) => marked.push(character),
            None => marked.push_str(escape),
        }
        rest = after;
    }
    marked.push_str(rest);
    marked
}

/// The unit of UTF-16 that a text begins with, as an escape.
fn escaped(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..ESCAPE - 2)?, 16).ok()
}

/// The character that stands for a half.
fn mark(unit: u16) -> Option<char> {
    let number = (FIRST.start..SECOND.end).contains(&unit).then(|| unit - FIRST.start)?;
    char::from_u32(STANDS_FOR_HALVES + u32::from(number))
}

/// The half that a character stands for.
fn half(character: char) -> Option<u16> {
    let number = u32::from(character).checked_sub(STANDS_FOR_HALVES)?;
    u16::try_from(number).ok()?.checked_add(FIRST.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_character_meet_in_the_next_piece_of_their_text() {
        let halves = [r"a\ud83c", r"\udf89b"];
        for (first, second, expected) in [
            (halves[0], halves[1], ["a", "🎉b"]),
            (r"\ud83c\udf89", r"\ud83c", ["🎉", ""]),
            (r"\udf89\ud83c\ud83c", "b", ["\u{fffd}\u{fffd}", "\u{fffd}b"]),
            (r"\\ud83c\n", r"\\\ud83c\u00e9", ["\\ud83c\n", "\\\u{fffd}é"]),
        ] {
            let mut read = Halves::default();
            let told = [first, "", second].map(|text| said(&mut read, 0, text.as_bytes()));
            let [one, _, two] = &told;
            assert_eq!([one, two], expected, "{first} {second}");
        }
        let mut read = Halves::default();
        assert_eq!(said(&mut read, 0, halves[0].as_bytes()), "a");
        assert_eq!(said(&mut read, 1, halves[1].as_bytes()), "\u{fffd}b", "of another answer");
        assert_eq!(said(&mut read, 0, halves[1].as_bytes()), "🎉b");
    }

    #[test]
    fn what_is_no_character_takes_nothing_else_away() {
        let mut read = Halves::default();
        assert_eq!(said(&mut read, 0, b"a\xf0\x9f"), "a\u{fffd}");
        assert_eq!(said(&mut read, 0, b"\x8e\x89b"), "\u{fffd}\u{fffd}b");
        assert_eq!(said(&mut read, 0, "c\u{10f8ff}".as_bytes()), "c\u{10f8ff}", "it is private");
        for bad in [r"\ud83", r"\u", "\\", "\n"] {
            assert!(read.read(chunk(0, bad.as_bytes()).as_slice()).is_none(), "{bad}");
        }
    }

    #[test]
    fn no_more_halves_wait_than_a_few_wherever_they_stood() {
        let fields = |text: &str| {
            let named: Vec<_> = (100..400).map(|it| format!(r#""x{it}":"{text}""#)).collect();
            format!(r#"{{"choices":[{{"index":0,"delta":{{{}}}}}]}}"#, named.join(","))
        };
        let mut read = Halves::default();
        read.read(fields(r"\ud83c").as_bytes()).unwrap();
        assert_eq!(read.0.len(), MOST);
        let chunk = read.read(fields(r"\udf89").as_bytes()).unwrap();
        assert!(read.0.is_empty());
        let mut choices = chunk.choices.unwrap();
        let rest = choices.remove(0).delta.unwrap().rest;
        assert_eq!((&rest["x100"], &rest["x399"]), (&"🎉".into(), &"\u{fffd}".into()));
    }

    /// What is said in a chunk of an answer.
    fn said(halves: &mut Halves, index: u32, text: &[u8]) -> String {
        let read = halves.read(&chunk(index, text)).unwrap();
        let mut choices = read.choices.unwrap();
        choices[0].delta.as_mut().unwrap().take_words().0
    }

    fn chunk(index: u32, text: &[u8]) -> Vec<u8> {
        let head = format!(r#"{{"choices":[{{"index":{index},"delta":{{"content":""#);
        [head.as_bytes(), text, br#""}}]}"#].concat()
    }
}
