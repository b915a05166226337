//! How many tokens a request took, as OpenAI's API counts them.

use serde::Serialize;

/// `usage` of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl From<worker_contract::Usage> for Usage {
    fn from(usage: worker_contract::Usage) -> Self {
        let worker_contract::Usage { prompt_tokens, completion_tokens, cached_tokens } = usage;
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: PromptDetails { cached_tokens },
        }
    }
}

/// `usage` of an answer that is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct InputUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl From<worker_contract::Usage> for InputUsage {
    fn from(usage: worker_contract::Usage) -> Self {
        Self { prompt_tokens: usage.prompt_tokens, total_tokens: usage.prompt_tokens }
    }
}
