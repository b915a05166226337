//! Arguments that are passed on to another program.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, SeqAccess, Visitor};

/// The most arguments of a list.
const MOST: usize = 64;

/// The longest argument, in bytes.
const LONGEST: usize = 4096;

/// Reads a list of arguments; from the environment, words between spaces.
pub(crate) fn arguments<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    deserializer.deserialize_any(Arguments)
}

struct Arguments;

impl<'de> Visitor<'de> for Arguments {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST} arguments, each of 1 to {LONGEST} bytes without NUL")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<String>, E> {
        checked(text.split_whitespace().map(str::to_owned).collect())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        checked(list)
    }
}

fn checked<E: Error>(list: Vec<String>) -> Result<Vec<String>, E> {
    let is_bad = |item: &String| item.is_empty() || item.len() > LONGEST || item.contains('\0');
    if list.len() > MOST || list.iter().any(is_bad) {
        return Err(E::invalid_length(list.len(), &Arguments));
    }
    Ok(list)
}
