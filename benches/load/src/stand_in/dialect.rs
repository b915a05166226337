//! The words around tokens.

use serde_json::json;

use crate::order::{Order, Token, micros};

/// In whose words an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The worker's contract.
    Worker,
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's completions.
    Completion,
}

impl Dialect {
    /// What comes before the first token.
    pub(super) fn begin(self) -> &'static [u8] {
        match self {
            Self::Worker => {
                b"data: {\"type\":\"started\",\"request_id\":\"load\",\"prompt_tokens\":8,\"cached_tokens\":0,\"seed\":1}\n\n"
            }
            Self::Chat => {
                b"data: {\"id\":\"chatcmpl-load\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"stand-in\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n"
            }
            Self::Completion => b"",
        }
    }

    /// One token.
    pub(super) fn token(self, token: Token, out: &mut Vec<u8>) {
        let head: &[u8] = match self {
            Self::Worker => b"data: {\"type\":\"delta\",\"text\":\"",
            Self::Chat => {
                b"data: {\"id\":\"chatcmpl-load\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"stand-in\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\""
            }
            Self::Completion => {
                b"data: {\"id\":\"cmpl-load\",\"object\":\"text_completion\",\"created\":1,\"model\":\"stand-in\",\"choices\":[{\"index\":0,\"text\":\""
            }
        };
        out.extend_from_slice(head);
        token.write(out);
        match self {
            Self::Worker => {
                out.extend_from_slice(b"\",\"tokens\":[");
                out.extend_from_slice(token.number.to_string().as_bytes());
                out.extend_from_slice(b"]}\n\n");
            }
            Self::Chat => {
                out.extend_from_slice(b"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
            }
            Self::Completion => {
                out.extend_from_slice(b"\",\"logprobs\":null,\"finish_reason\":null}]}\n\n");
            }
        }
    }

    /// What comes after the last token.
    pub(super) fn end(self, tokens: u32) -> Vec<u8> {
        let (last, end) = match self {
            Self::Worker => {
                let usage = json!({
                    "prompt_tokens": 8, "completion_tokens": tokens, "cached_tokens": 0,
                });
                let timings = json!({
                    "queue_ms": 0.0, "prefill_ms": 0.0, "ttft_ms": 0.0, "decode_ms": 0.0,
                });
                let reason = "length";
                let done = json!({
                    "type": "done", "finish_reason": reason, "usage": usage, "timings": timings,
                });
                (done, "")
            }
            Self::Chat => {
                let choice = json!({
                    "index": 0, "delta": {}, "logprobs": null, "finish_reason": "length",
                });
                (openai("chat.completion.chunk", &choice), "data: [DONE]\n\n")
            }
            Self::Completion => {
                let choice = json!({
                    "index": 0, "text": "", "logprobs": null, "finish_reason": "length",
                });
                (openai("text_completion", &choice), "data: [DONE]\n\n")
            }
        };
        format!("data: {last}\n\n{end}").into_bytes()
    }

    /// An answer that is no stream.
    pub(super) fn whole(self, order: Order) -> String {
        let mut text = Vec::new();
        for number in 1..=order.tokens {
            Token { tag: order.tag, number, written: micros() }.write(&mut text);
        }
        let text = String::from_utf8_lossy(&text);
        let choice = match self {
            Self::Chat => json!({
                "index": 0, "message": {"role": "assistant", "content": text},
                "logprobs": null, "finish_reason": "length",
            }),
            _ => json!({"index": 0, "text": text, "logprobs": null, "finish_reason": "length"}),
        };
        let object = if self == Self::Chat { "chat.completion" } else { "text_completion" };
        let mut answer = openai(object, &choice);
        answer["usage"] = json!({
            "prompt_tokens": 8, "completion_tokens": order.tokens,
            "total_tokens": 8 + u64::from(order.tokens),
        });
        answer.to_string()
    }
}

fn openai(object: &str, choice: &serde_json::Value) -> serde_json::Value {
    json!({
        "id": "load", "object": object, "created": 1, "model": "stand-in", "choices": [choice],
    })
}
