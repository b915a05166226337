//! What a server of somebody else says beside the answer, in fields that rbee has no use for: they reach the
//! client as they came. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// The fields of an object.
pub type Fields = Map<String, Value>;

/// By which name the reason of an end is told.
pub const FINISH_REASON: &str = "finish_reason";
/// By which name the number of an entry is told.
const INDEX: &str = "index";
/// How many entries of a list one is looked for among, from the end: pieces come for the newest ones.
const MAX_SEARCHED: usize = 64;
/// By which name it is told what made an answer.
const SYSTEM_FINGERPRINT: &str = "system_fingerprint";

/// Fields of one object of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Aside {
    /// Of the answer itself, or of one of its chunks.
    Answer(Fields),
    /// Of `usage`.
    Usage(Fields),
    /// Of one of its choices.
    Choice {
        /// Which one.
        index: u32,
        /// Of the choice itself. A `finish_reason` here takes the place of ours.
        choice: Fields,
        /// Of its `message` or `delta`.
        message: Fields,
    },
}

impl Aside {
    /// Puts another one of the same object to it; gives that back where it is of another object.
    #[must_use]
    pub fn absorb(&mut self, more: Self) -> Option<Self> {
        match (self, more) {
            (Self::Answer(ours), Self::Answer(more)) | (Self::Usage(ours), Self::Usage(more)) => {
                ours.extend(more);
            }
            (
                Self::Choice { index, choice, message },
                Self::Choice { index: of, choice: more, message: piece },
            ) if *index == of => {
                accumulate(choice, more, Texts::Replace);
                accumulate(message, piece, Texts::Grow);
            }
            (_, more) => return Some(more),
        }
        None
    }
}

/// What was said beside an answer, and is not written yet.
#[derive(Debug, Default)]
pub(super) struct Asides {
    answer: Fields,
    usage: Fields,
    choices: BTreeMap<u32, Beside>,
}

/// What was said beside one choice.
#[derive(Debug, Default)]
struct Beside {
    choice: Fields,
    message: Fields,
}

impl Asides {
    /// Keeps what is said. Pieces of a message are put together as OpenAI's own clients do it.
    pub(super) fn add(&mut self, aside: Aside) {
        match aside {
            Aside::Answer(fields) => self.answer.extend(fields),
            Aside::Usage(fields) => self.usage.extend(fields),
            Aside::Choice { index, choice, message } => {
                let beside = self.choices.entry(index).or_default();
                accumulate(&mut beside.choice, choice, Texts::Replace);
                accumulate(&mut beside.message, message, Texts::Grow);
            }
        }
    }

    /// Whether there is nothing for a chunk of a choice.
    pub(super) fn is_empty_for(&self, index: u32) -> bool {
        self.answer.is_empty() && !self.choices.contains_key(&index)
    }

    /// What made the answer, where that was said.
    pub(super) fn take_fingerprint(&mut self) -> Option<String> {
        match self.answer.shift_remove(SYSTEM_FINGERPRINT) {
            Some(Value::String(name)) => Some(name),
            _ => None,
        }
    }

    /// A choice with what was said beside it. The reason of its end waits for its end.
    pub(super) fn with_choice(&mut self, index: u32, choice: &impl Serialize) -> Value {
        let mut choice = written(choice);
        let Some(mut beside) = self.choices.remove(&index) else { return choice };
        let Value::Object(object) = &mut choice else { return choice };
        if let Some(reason) = beside.choice.shift_remove(FINISH_REASON) {
            match object.get_mut(FINISH_REASON) {
                Some(ours) if !ours.is_null() => *ours = reason,
                _ => {
                    let kept = self.choices.entry(index).or_default();
                    kept.choice.insert(FINISH_REASON.into(), reason);
                }
            }
        }
        for name in ["delta", "message"] {
            if let Some(Value::Object(message)) = object.get_mut(name) {
                complete(message, std::mem::take(&mut beside.message));
            }
        }
        complete(object, beside.choice);
        choice
    }

    /// A whole answer with what was said beside it.
    pub(super) fn with_answer(&mut self, answer: &impl Serialize) -> Value {
        let mut answer = written(answer);
        let Value::Object(object) = &mut answer else { return answer };
        if let Some(Value::Array(choices)) = object.get_mut("choices") {
            for (index, choice) in (0..).zip(choices) {
                *choice = self.with_choice(index, choice);
            }
        }
        if let Some(usage) = object.get_mut("usage") {
            *usage = self.with_usage(usage);
        }
        if let Some(name) = self.take_fingerprint() {
            object.insert(SYSTEM_FINGERPRINT.into(), name.into());
        }
        complete(object, self.take_answer());
        answer
    }

    /// The usage with what was said beside it.
    pub(super) fn with_usage(&mut self, usage: &impl Serialize) -> Value {
        let mut usage = written(usage);
        if let Value::Object(object) = &mut usage {
            complete(object, std::mem::take(&mut self.usage));
        }
        usage
    }

    /// What was said beside the answer itself.
    pub(super) fn take_answer(&mut self) -> Fields {
        std::mem::take(&mut self.answer)
    }
}

/// Adds to an object what it does not have, or has nothing in.
fn complete(object: &mut Fields, more: Fields) {
    for (name, value) in more {
        match (object.get_mut(&name), value) {
            (Some(Value::Object(ours)), Value::Object(theirs)) => complete(ours, theirs),
            (Some(ours), theirs) if ours.is_null() => *ours = theirs,
            (Some(Value::Array(ours)), Value::Array(theirs)) => complete_entries(ours, theirs),
            (Some(_), _) => {}
            (None, value) => {
                object.insert(name, value);
            }
        }
    }
}

/// Adds to entries what was said beside those of the same number: the calls of a message. In a whole answer
/// their places are their numbers.
fn complete_entries(ours: &mut Vec<Value>, theirs: Vec<Value>) {
    for entry in theirs {
        let Some(wanted) = number(&entry) else { continue };
        let mut numbered = (0..).zip(ours.iter_mut());
        let known = numbered.find(|(place, known)| number(known).unwrap_or(*place) == wanted);
        match (known, entry) {
            (Some((_, Value::Object(known))), Value::Object(mut entry)) => {
                entry.shift_remove(INDEX);
                complete(known, entry);
            }
            (_, entry) => ours.push(entry),
        }
    }
}

/// What becomes of a text that is said again.
#[derive(Clone, Copy)]
enum Texts {
    /// It is the next piece: so it is in a message.
    Grow,
    /// It is said anew with each chunk: so it is in a choice.
    Replace,
}

/// Adds what is said to what there is: lists grow, entries of a list that have an `index` are put together, what
/// names or numbers something is replaced, and texts are what `texts` says. Of a message it is
/// `accumulate_delta` of `openai-python`.
fn accumulate(known: &mut Fields, said: Fields, texts: Texts) {
    for (name, value) in said {
        let is_name = matches!(name.as_str(), INDEX | "type" | "id" | FINISH_REASON);
        let grows = matches!(texts, Texts::Grow) && !is_name;
        match (known.get_mut(&name), value) {
            (Some(Value::String(text)), Value::String(more)) if grows => text.push_str(&more),
            (Some(Value::Array(list)), Value::Array(more)) => {
                for entry in more {
                    add_entry(list, entry, texts);
                }
            }
            (Some(Value::Object(ours)), Value::Object(more)) => accumulate(ours, more, texts),
            (_, value) => {
                known.insert(name, value);
            }
        }
    }
}

fn add_entry(list: &mut Vec<Value>, entry: Value, texts: Texts) {
    // Long lists, such as those of token ids, have no numbers, and are not searched.
    let newest = list.len().saturating_sub(MAX_SEARCHED);
    let known = number(&entry).and_then(|wanted| {
        list.iter_mut().skip(newest).find(|known| number(known) == Some(wanted))
    });
    match (known, entry) {
        (Some(Value::Object(known)), Value::Object(entry)) => accumulate(known, entry, texts),
        (_, entry) => list.push(entry),
    }
}

/// The number of an entry of a list, where it has one.
fn number(entry: &Value) -> Option<u64> {
    entry.get(INDEX).and_then(Value::as_u64)
}

fn written(value: &impl Serialize) -> Value {
    // None of the types of an answer can fail: they are text and numbers, with texts as keys.
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_beside_a_choice_is_added_once_and_never_in_the_place_of_ours() {
        let mut asides = Asides::default();
        asides.add(choice(json!({"stop_reason": 7, "index": 9}), json!({"content": "theirs"})));
        let step = |text: &str| json!({"index": 0, "type": "text", "text": text});
        asides.add(choice(
            json!({"token_ids": [1]}),
            json!({"details": [step("a")], "thought": "Hm"}),
        ));
        asides.add(choice(
            json!({"token_ids": [2]}),
            json!({"details": [step("b")], "thought": ", yes"}),
        ));
        let ours = json!({"index": 0, "delta": {"content": "ours"}});
        let expected = json!({
            "index": 0,
            "delta": {"content": "ours", "details": [step("ab")], "thought": "Hm, yes"},
            "stop_reason": 7,
            "token_ids": [1, 2],
        });
        assert_eq!(asides.with_choice(0, &ours), expected);
        assert!(asides.is_empty_for(0));
        assert_eq!(asides.with_choice(0, &ours), ours);
    }

    #[test]
    fn a_text_beside_a_choice_that_is_said_again_is_said_once() {
        let filter = |result: &str| json!({"provider": "p", "filter": {"hate": {"result": result}}, "ids": [1]});
        let mut asides = Asides::default();
        asides.add(choice(filter("safe"), json!({})));
        let mut more = choice(filter("safe"), json!({}));
        assert_eq!(more.absorb(choice(filter("bad"), json!({}))), None);
        asides.add(more);
        let expected = json!({
            "index": 0, "provider": "p", "filter": {"hate": {"result": "bad"}}, "ids": [1, 1, 1],
        });
        assert_eq!(asides.with_choice(0, &json!({"index": 0})), expected);
    }

    #[test]
    fn what_is_said_beside_a_call_is_told_with_it() {
        let said = || choice(json!({}), json!({"tool_calls": [{"index": 1, "extra": "e"}]}));
        let with = |content: Value| {
            let mut asides = Asides::default();
            asides.add(said());
            asides.with_choice(0, &content)
        };
        let (a, b) = (json!({"index": 0, "id": "a"}), json!({"index": 1, "id": "b"}));
        let told = json!({"index": 1, "id": "b", "extra": "e"});
        let of = |calls: &[&Value]| json!({"delta": {"tool_calls": calls}});
        assert_eq!(with(of(&[&a, &b])), of(&[&a, &told]));
        assert_eq!(with(of(&[&a])), of(&[&a, &json!({"index": 1, "extra": "e"})]));
        let whole = |b: Value| json!({"message": {"tool_calls": [{"id": "a"}, b]}});
        assert_eq!(with(whole(json!({"id": "b"}))), whole(json!({"id": "b", "extra": "e"})));
    }

    #[test]
    fn of_a_long_list_only_the_newest_entries_are_put_together() {
        let entries = |numbers: std::ops::Range<u64>| {
            let entries: Vec<_> = numbers.map(|n| json!({"index": n, "t": "a"})).collect();
            choice(json!({}), json!({"x": entries}))
        };
        let mut asides = Asides::default();
        for numbers in [0..100, 99..100, 0..1] {
            asides.add(entries(numbers));
        }
        let told = asides.with_choice(0, &json!({"delta": {}}));
        let told = told["delta"]["x"].as_array().unwrap();
        assert_eq!((told.len(), &told[99]["t"]), (101, &json!("aa")));
    }

    #[test]
    fn what_is_said_of_one_object_is_put_together_and_never_with_that_of_another() {
        let of = |index, message: Value| Aside::Choice {
            index,
            choice: Fields::new(),
            message: fields(message),
        };
        let answer = |value: Value| Aside::Answer(fields(value));
        let usage = |value: Value| Aside::Usage(fields(value));
        for (ours, more, expected) in [
            (of(0, json!({"t": "a"})), of(0, json!({"t": "b"})), Some(of(0, json!({"t": "ab"})))),
            (of(0, json!({"t": "a"})), of(1, json!({"t": "b"})), None),
            (
                answer(json!({"a": 1})),
                answer(json!({"b": 2})),
                Some(answer(json!({"a": 1, "b": 2}))),
            ),
            (usage(json!({"a": 1})), usage(json!({"a": 2})), Some(usage(json!({"a": 2})))),
            (usage(json!({"a": 1})), answer(json!({"a": 2})), None),
        ] {
            let (mut found, other) = (ours.clone(), more.clone());
            let left = found.absorb(other);
            assert_eq!(left, expected.is_none().then_some(more));
            assert_eq!(found, expected.unwrap_or(ours));
        }
    }

    #[test]
    fn what_is_said_takes_the_place_of_nothing() {
        let mut asides = Asides::default();
        let (entry, said) = (json!([{"token": "no"}]), json!({"refusal": "no", "content": "b"}));
        asides.add(choice(json!({"logprobs": {"refusal": entry}}), said));
        let message = |refusal: Value| json!({"content": "a", "refusal": refusal});
        let ours = json!({"message": message(json!(null)), "logprobs": null});
        let expected = json!({"message": message(json!("no")), "logprobs": {"refusal": entry}});
        assert_eq!(asides.with_choice(0, &ours), expected);
    }

    #[test]
    fn a_reason_that_rbee_does_not_know_is_told_at_the_end_in_the_place_of_ours() {
        let mut asides = Asides::default();
        asides.add(choice(json!({"finish_reason": "content_filter"}), json!({})));
        let going_on = json!({"index": 0, "finish_reason": null});
        assert_eq!(asides.with_choice(0, &going_on), going_on);
        let ended = asides.with_choice(0, &json!({"index": 0, "finish_reason": "stop"}));
        assert_eq!(ended, json!({"index": 0, "finish_reason": "content_filter"}));
    }

    #[test]
    fn details_of_the_usage_are_put_together_with_ours() {
        let mut asides = Asides::default();
        asides.add(Aside::Usage(fields(json!({
            "prompt_tokens": 99, "cost": 0.5, "prompt_tokens_details": {"audio_tokens": 2},
        }))));
        let ours = json!({"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}});
        let expected = json!({
            "prompt_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 2},
            "cost": 0.5,
        });
        assert_eq!(asides.with_usage(&ours), expected);
    }

    fn choice(choice: Value, message: Value) -> Aside {
        Aside::Choice { index: 0, choice: fields(choice), message: fields(message) }
    }

    fn fields(value: Value) -> Fields {
        let Value::Object(fields) = value else { panic!("{value}") };
        fields
    }
}
