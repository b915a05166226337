//! Calls whose arguments stand between tags, as plain text. Nothing in it is escaped: the models'
//! templates write an argument as it is, and so do the models.

use serde_json::Map;

use super::{Call, value};
use crate::text::tools::Offer;

/// The tags of a format. Those that begin something go on with its name and `>`.
pub(super) struct Tags {
    call: &'static str,
    call_end: &'static str,
    argument: &'static str,
    argument_end: &'static str,
}

/// `<function=f>`, and in it `<parameter=p>` with its value on lines of its own.
pub(super) const QWEN: Tags = Tags {
    call: "<function=",
    call_end: "</function>",
    argument: "<parameter=",
    argument_end: "</parameter>",
};

/// `<invoke name="f">`, and in it `<parameter name="p">`.
pub(super) const MINIMAX: Tags = Tags {
    call: "<invoke name=",
    call_end: "</invoke>",
    argument: "<parameter name=",
    argument_end: "</parameter>",
};

/// Reads one call or more.
pub(super) fn read(tags: &Tags, text: &str, offer: &Offer) -> Option<Vec<Call>> {
    let mut rest = text.trim_start();
    let mut calls = Vec::new();
    while !rest.is_empty() {
        let (name, inner) = named(rest, tags.call)?;
        let mut inner = inner.trim_start();
        let mut arguments = Map::new();
        while !inner.starts_with(tags.call_end) {
            let (key, after) = named(inner, tags.argument)?;
            let goes_on =
                |next: &str| next.starts_with(tags.argument) || next.starts_with(tags.call_end);
            let (text, after) = until(after, tags.argument_end, goes_on)?;
            let schema = offer.argument_schema(name, key);
            arguments.insert(key.to_owned(), value::from_text(without_lines(text), schema));
            inner = after;
        }
        calls.push(Call { name: name.to_owned(), arguments });
        rest = inner[tags.call_end.len()..].trim_start();
    }
    Some(calls)
}

/// Reads a call of GLM's: the name, then `<arg_key>k</arg_key><arg_value>v</arg_value>` for each
/// argument, with or without lines between them.
pub(super) fn read_glm(text: &str, offer: &Offer) -> Option<Call> {
    let (name, mut rest) = text.split_at(text.find("<arg_key>").unwrap_or(text.len()));
    let name = name.trim();
    let mut arguments = Map::new();
    while !rest.is_empty() {
        let (key, after) = rest.strip_prefix("<arg_key>")?.split_once("</arg_key>")?;
        let after = after.trim_start().strip_prefix("<arg_value>")?;
        let goes_on = |next: &str| next.is_empty() || next.starts_with("<arg_key>");
        let (text, after) = until(after, "</arg_value>", goes_on)?;
        let key = key.trim();
        let schema = offer.argument_schema(name, key);
        arguments.insert(key.to_owned(), value::from_text(text, schema));
        rest = after;
    }
    Some(Call { name: name.to_owned(), arguments })
}

/// The name in a tag, and what follows the tag.
fn named<'a>(text: &'a str, tag: &str) -> Option<(&'a str, &'a str)> {
    let (name, rest) = text.strip_prefix(tag)?.split_once('>')?;
    let name = name.trim().trim_matches(['"', '\'']);
    (!name.is_empty()).then_some((name, rest))
}

/// The text up to a tag, and what follows the tag.
///
/// A value can have the tag in it, such as a file of XML: the tag counts only where the format goes
/// on behind it.
fn until<'a>(
    text: &'a str,
    tag: &str,
    goes_on: impl Fn(&str) -> bool,
) -> Option<(&'a str, &'a str)> {
    text.match_indices(tag)
        .map(|(at, tag)| (&text[..at], text[at + tag.len()..].trim_start()))
        .find(|(_, next)| goes_on(next))
}

/// A value without the ends of lines that the format puts around it.
fn without_lines(text: &str) -> &str {
    let text = text.strip_prefix('\n').unwrap_or(text);
    text.strip_suffix('\n').unwrap_or(text)
}
