//! How likely the tokens of an answer were, in the two forms that OpenAI's API has for it.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use worker_contract::{TokenLogprob, TokenLogprobs};

/// `logprobs` of a choice.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Logprobs<'a> {
    /// Of a chat completion.
    Chat { content: Entries<'a>, refusal: () },
    /// Of a completion.
    Legacy(Legacy<'a>),
}

impl<'a> Logprobs<'a> {
    pub(super) fn chat(entries: &'a [TokenLogprobs]) -> Self {
        Self::Chat { content: Entries(entries), refusal: () }
    }

    /// `offset` is how many characters of the answer stand before the first entry.
    pub(super) fn legacy(entries: &'a [TokenLogprobs], offset: usize) -> Self {
        Self::Legacy(Legacy {
            tokens: Tokens(entries),
            token_logprobs: Chosen(entries),
            top_logprobs: Alternatives(entries),
            text_offset: Offsets(entries, offset),
        })
    }
}

/// How many characters the tokens add to a text. One that begins in a token counts there.
pub(super) fn characters(entries: &[TokenLogprobs]) -> usize {
    entries.iter().map(|entry| characters_of(&entry.chosen)).sum()
}

fn characters_of(token: &TokenLogprob) -> usize {
    let begins_one = |byte: &&u8| **byte & 0b1100_0000 != 0b1000_0000;
    token.bytes.iter().filter(begins_one).count()
}

#[derive(Debug)]
pub(super) struct Entries<'a>(&'a [TokenLogprobs]);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.0.iter().map(|entry| Entry {
                token: Likely::of(&entry.chosen),
                top_logprobs: Top(&entry.top),
            }),
        )
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    token: Likely<'a>,
    top_logprobs: Top<'a>,
}

struct Top<'a>(&'a [TokenLogprob]);

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Likely::of))
    }
}

#[derive(Serialize)]
struct Likely<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

impl<'a> Likely<'a> {
    fn of(token: &'a TokenLogprob) -> Self {
        let TokenLogprob { logprob, bytes, .. } = token;
        Self { token: shown(bytes), logprob: *logprob, bytes }
    }
}

/// A token's text. One that is not whole characters is shown by its bytes, as OpenAI does, so that
/// no two tokens look the same for that.
fn shown(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            // Writing into a `String` cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        })),
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Legacy<'a> {
    tokens: Tokens<'a>,
    token_logprobs: Chosen<'a>,
    top_logprobs: Alternatives<'a>,
    text_offset: Offsets<'a>,
}

#[derive(Debug)]
struct Tokens<'a>(&'a [TokenLogprobs]);

impl Serialize for Tokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|entry| shown(&entry.chosen.bytes)))
    }
}

#[derive(Debug)]
struct Chosen<'a>(&'a [TokenLogprobs]);

impl Serialize for Chosen<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|entry| entry.chosen.logprob))
    }
}

#[derive(Debug)]
struct Alternatives<'a>(&'a [TokenLogprobs]);

impl Serialize for Alternatives<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ByToken))
    }
}

/// The likeliest tokens by their texts, and always the chosen one.
struct ByToken<'a>(&'a TokenLogprobs);

impl Serialize for ByToken<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TokenLogprobs { chosen, top } = self.0;
        let mut map = serializer.serialize_map(None)?;
        for (index, token) in top.iter().enumerate() {
            // Different tokens can have one text, but not one key: the likeliest has it.
            if top[..index].iter().all(|other| other.bytes != token.bytes) {
                map.serialize_entry(&shown(&token.bytes), &token.logprob)?;
            }
        }
        if top.iter().all(|other| other.bytes != chosen.bytes) {
            map.serialize_entry(&shown(&chosen.bytes), &chosen.logprob)?;
        }
        map.end()
    }
}

/// Where each token begins, in characters of the answer.
#[derive(Debug)]
struct Offsets<'a>(&'a [TokenLogprobs], usize);

impl Serialize for Offsets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut offset = self.1;
        let mut offsets = serializer.serialize_seq(Some(self.0.len()))?;
        for entry in self.0 {
            offsets.serialize_element(&offset)?;
            offset += characters_of(&entry.chosen);
        }
        offsets.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_tells_each_token_with_its_bytes_and_the_likeliest() {
        let entries = entries();
        insta::assert_json_snapshot!(Logprobs::chat(&entries[..2]), @r#"
        {
          "content": [
            {
              "token": "ab",
              "logprob": -0.25,
              "bytes": [
                97,
                98
              ],
              "top_logprobs": [
                {
                  "token": "ab",
                  "logprob": -0.25,
                  "bytes": [
                    97,
                    98
                  ]
                },
                {
                  "token": "x",
                  "logprob": -2.0,
                  "bytes": [
                    120
                  ]
                }
              ]
            },
            {
              "token": "bytes:\\xf0\\x9f",
              "logprob": -0.5,
              "bytes": [
                240,
                159
              ],
              "top_logprobs": []
            }
          ],
          "refusal": null
        }
        "#);
    }

    #[test]
    fn a_completion_tells_them_in_columns_and_the_chosen_one_among_the_likeliest() {
        let entries = entries();
        insta::assert_json_snapshot!(Logprobs::legacy(&entries, 10), @r#"
        {
          "tokens": [
            "ab",
            "bytes:\\xf0\\x9f",
            "bytes:\\x90\\x9d",
            "c"
          ],
          "token_logprobs": [
            -0.25,
            -0.5,
            -0.5,
            0.0
          ],
          "top_logprobs": [
            {
              "ab": -0.25,
              "x": -2.0
            },
            {
              "bytes:\\xf0\\x9f": -0.5
            },
            {
              "y": -0.125,
              "bytes:\\x90\\x9d": -0.5
            },
            {
              "c": 0.0
            }
          ],
          "text_offset": [
            10,
            12,
            13,
            13
          ]
        }
        "#);
        assert_eq!(characters(&entries), 4, "a, b, 🐝, c");
    }

    fn entries() -> Vec<TokenLogprobs> {
        let token =
            |bytes: &[u8], logprob: f32| TokenLogprob { token: 7, logprob, bytes: bytes.to_vec() };
        let entry = |chosen, top| TokenLogprobs { chosen, top };
        let bee = "🐝".as_bytes();
        vec![
            entry(token(b"ab", -0.25), vec![token(b"ab", -0.25), token(b"x", -2.0)]),
            entry(token(&bee[..2], -0.5), Vec::new()),
            entry(token(&bee[2..], -0.5), vec![token(b"y", -0.125), token(b"y", -3.0)]),
            entry(token(b"c", 0.0), Vec::new()),
        ]
    }
}
