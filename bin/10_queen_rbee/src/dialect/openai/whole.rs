//! A whole answer, put together from its parts.

use serde::Serialize;
use serde_json::Value;
use worker_contract::{Delta, FinishReason, TokenLogprobs};

use super::answer::{Call, Choice, Content, FINGERPRINT, Head, Kind, Message};
use super::aside::{Aside, Asides};
use super::logprobs::Logprobs;
use super::usage::Usage;

/// What has come of an answer, each of its choices by itself.
#[derive(Debug)]
pub struct Assembly {
    choices: Vec<Assembled>,
    /// What was said beside it.
    asides: Option<Box<Asides>>,
}

#[derive(Debug, Default)]
struct Assembled {
    text: String,
    reasoning: String,
    calls: Vec<Call>,
    logprobs: Vec<TokenLogprobs>,
    finish_reason: Option<FinishReason>,
}

impl Assembly {
    /// Nothing has come of `n` choices.
    #[must_use]
    pub fn new(n: u32) -> Self {
        let choices = std::iter::repeat_with(Assembled::default).take(n as usize).collect();
        Self { choices, asides: None }
    }

    /// Adds what is said beside the answer.
    pub fn aside(&mut self, aside: Aside) {
        self.asides.get_or_insert_default().add(aside);
    }

    /// Adds a part. The relay lets no part through that belongs to no choice or to no call.
    pub fn add(&mut self, mut delta: Delta) {
        let Some(choice) = self.choices.get_mut(delta.index as usize) else { return };
        choice.text.push_str(&delta.text);
        choice.reasoning.push_str(&delta.reasoning);
        choice.logprobs.append(&mut delta.logprobs);
        for piece in delta.tool_calls {
            match choice.calls.get_mut(piece.index as usize) {
                Some(call) => call.push(&piece.arguments),
                None => choice.calls.push(Call::begin(piece)),
            }
        }
    }

    /// One of several choices is complete.
    pub fn end(&mut self, index: u32, reason: FinishReason) {
        if let Some(choice) = self.choices.get_mut(index as usize) {
            choice.finish_reason = Some(reason);
        }
    }

    /// The whole answer; `reason` is that of a choice that is alone.
    #[must_use]
    pub fn answer<'a>(
        &'a mut self,
        kind: Kind,
        head: &'a Head,
        reason: FinishReason,
        usage: worker_contract::Usage,
    ) -> impl Serialize + use<'a> {
        let choices = (0..).zip(&self.choices);
        let whole = Whole {
            id: &head.id,
            object: match kind {
                Kind::Chat => "chat.completion",
                Kind::Completion => "text_completion",
            },
            created: head.created,
            model: &head.model,
            system_fingerprint: FINGERPRINT,
            choices: choices.map(|(index, choice)| choice.written(index, kind, reason)).collect(),
            usage: usage.into(),
        };
        match &mut self.asides {
            None => Answer::Ours(whole),
            Some(asides) => Answer::Completed(asides.with_answer(&whole)),
        }
    }
}

/// An answer as it is written.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Ours(Whole<'a>),
    /// With what was said beside it.
    Completed(Value),
}

impl Assembled {
    fn written(&self, index: u32, kind: Kind, reason: FinishReason) -> Choice<'_> {
        let Self { text, reasoning, calls, logprobs, finish_reason } = self;
        let is_told = !logprobs.is_empty();
        let says_nothing = text.is_empty() && !calls.is_empty();
        let (content, logprobs) = match kind {
            Kind::Chat => {
                let message = Message {
                    role: "assistant",
                    reasoning_content: reasoning,
                    content: (!says_nothing).then_some(text),
                    refusal: (),
                    tool_calls: calls,
                };
                (Content::Message(message), is_told.then(|| Logprobs::chat(logprobs)))
            }
            Kind::Completion => {
                (Content::Text(text), is_told.then(|| Logprobs::legacy(logprobs, 0)))
            }
        };
        let finish_reason = Some(finish_reason.unwrap_or(reason).as_str());
        Choice { index, content, logprobs, finish_reason }
    }
}

#[derive(Serialize)]
struct Whole<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<Choice<'a>>,
    usage: Usage,
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use worker_contract::{TokenLogprob, ToolCallDelta};

    use super::*;

    #[test]
    fn a_whole_chat_answer_is_as_the_api_reference_shows_it() {
        insta::assert_json_snapshot!(answer(Kind::Chat, 1, [text(0, "H"), text(0, "i")]), @r#"
        {
          "id": "x-1",
          "object": "chat.completion",
          "created": 5,
          "model": "m",
          "system_fingerprint": "rbee-0.1.0",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": "Hi",
                "refusal": null
              },
              "logprobs": null,
              "finish_reason": "length"
            }
          ],
          "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {
              "cached_tokens": 3
            }
          }
        }
        "#);
    }

    #[test]
    fn a_whole_completion_is_as_the_api_reference_shows_it() {
        let answer = answer(Kind::Completion, 1, [text(0, "Hi")]);
        insta::assert_json_snapshot!(answer, @r#"
        {
          "id": "x-1",
          "object": "text_completion",
          "created": 5,
          "model": "m",
          "system_fingerprint": "rbee-0.1.0",
          "choices": [
            {
              "index": 0,
              "text": "Hi",
              "logprobs": null,
              "finish_reason": "length"
            }
          ],
          "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {
              "cached_tokens": 3
            }
          }
        }
        "#);
    }

    #[test]
    fn calls_take_the_place_of_the_text_and_reasoning_has_its_own() {
        let call = |index, begin: Option<(&str, &str)>, arguments: &str| Delta {
            tool_calls: vec![ToolCallDelta {
                index,
                id: begin.map(|(id, _)| id.into()),
                name: begin.map(|(_, name)| name.into()),
                arguments: arguments.into(),
            }],
            ..Delta::default()
        };
        let reasoning = Delta { reasoning: "Two sums.".into(), ..Delta::default() };
        let parts = [
            reasoning,
            call(0, Some(("c0", "add")), ""),
            call(0, None, "{\"a\":"),
            call(1, Some(("c1", "add")), "{}"),
            call(0, None, "1}"),
        ];
        let answer = answer(Kind::Chat, 1, parts);
        insta::assert_json_snapshot!(answer["choices"], @r#"
        [
          {
            "index": 0,
            "message": {
              "role": "assistant",
              "reasoning_content": "Two sums.",
              "content": null,
              "refusal": null,
              "tool_calls": [
                {
                  "id": "c0",
                  "type": "function",
                  "function": {
                    "name": "add",
                    "arguments": "{\"a\":1}"
                  }
                },
                {
                  "id": "c1",
                  "type": "function",
                  "function": {
                    "name": "add",
                    "arguments": "{}"
                  }
                }
              ]
            },
            "logprobs": null,
            "finish_reason": "length"
          }
        ]
        "#);
    }

    #[test]
    fn each_choice_has_its_own_text_end_and_log_probabilities() {
        let chosen = TokenLogprob { token: 7, logprob: -0.5, bytes: b"b".to_vec() };
        let logprobs = vec![TokenLogprobs { chosen, top: Vec::new() }];
        let likely = Delta { logprobs, ..text(1, "b") };
        let mut assembly = Assembly::new(2);
        for delta in [text(0, "a"), likely, text(0, "A")] {
            assembly.add(delta);
        }
        assembly.end(1, FinishReason::Length);
        assembly.end(0, FinishReason::Stop);
        let head = head();
        let answer = assembly.answer(Kind::Completion, &head, FinishReason::Stop, usage());
        let answer = serde_json::to_value(answer).unwrap();
        insta::assert_json_snapshot!(answer["choices"], @r#"
        [
          {
            "index": 0,
            "text": "aA",
            "logprobs": null,
            "finish_reason": "stop"
          },
          {
            "index": 1,
            "text": "b",
            "logprobs": {
              "tokens": [
                "b"
              ],
              "token_logprobs": [
                -0.5
              ],
              "top_logprobs": [
                {
                  "b": -0.5
                }
              ],
              "text_offset": [
                0
              ]
            },
            "finish_reason": "length"
          }
        ]
        "#);
    }

    #[test]
    fn what_a_server_says_beside_an_answer_stands_in_it() {
        let fields = |value: Value| value.as_object().unwrap().clone();
        let mut assembly = Assembly::new(1);
        assembly.add(text(0, "Hi"));
        let head_fields = json!({"system_fingerprint": "b42", "service_tier": "flex"});
        assembly.aside(Aside::Answer(fields(head_fields)));
        let (choice, message) = (json!({"stop_reason": 2}), json!({"annotations": []}));
        let (choice, message) = (fields(choice), fields(message));
        assembly.aside(Aside::Choice { index: 0, choice, message });
        assembly.aside(Aside::Usage(fields(json!({"cost": 1}))));
        let head = head();
        let answer = assembly.answer(Kind::Chat, &head, FinishReason::Stop, usage());
        insta::assert_snapshot!(serde_json::to_string(&answer).unwrap(), @r#"{"id":"x-1","object":"chat.completion","created":5,"model":"m","system_fingerprint":"b42","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop","stop_reason":2}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":3},"cost":1},"service_tier":"flex"}"#);
    }

    fn answer(kind: Kind, n: u32, parts: impl IntoIterator<Item = Delta>) -> serde_json::Value {
        let mut assembly = Assembly::new(n);
        parts.into_iter().for_each(|delta| assembly.add(delta));
        let head = head();
        serde_json::to_value(assembly.answer(kind, &head, FinishReason::Length, usage())).unwrap()
    }

    fn text(index: u32, text: &str) -> Delta {
        Delta { index, text: text.into(), ..Delta::default() }
    }

    fn head() -> Head {
        Head { id: "x-1".into(), created: 5, model: "m".into() }
    }

    fn usage() -> worker_contract::Usage {
        worker_contract::Usage { prompt_tokens: 7, completion_tokens: 2, cached_tokens: 3 }
    }
}
