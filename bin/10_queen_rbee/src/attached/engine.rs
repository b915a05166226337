//! What kind of server it is, and what follows for answers that have begun elsewhere. Pure.

use serde::{Deserialize, Serialize};

use crate::scheduler::Ways;

/// A kind of server, told by whom it says that its models are owned by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// llama.cpp's `llama-server`: goes on with a last message that is the assistant's, where it is told to.
    LlamaServer,
    /// vLLM: likewise.
    Vllm,
    /// Another queen: goes on with it, and serves all that this one does.
    Rbee,
    /// Ollama: whether it goes on depends on the model's template, into which it puts also the prompt of a
    /// completion.
    Ollama,
    /// LM Studio, which nobody has seen go on.
    LmStudio,
    /// Any other.
    #[default]
    Unknown,
}

impl Engine {
    /// The kind by the `owned_by` of a model.
    #[must_use]
    pub fn by_owner(owner: &str) -> Self {
        match owner {
            "llamacpp" => Self::LlamaServer,
            "vllm" => Self::Vllm,
            "rbee" => Self::Rbee,
            "library" => Self::Ollama,
            "organization_owner" => Self::LmStudio,
            _ => Self::Unknown,
        }
    }

    /// In which ways it takes requests.
    #[must_use]
    pub fn ways(self) -> Ways {
        match self {
            Self::Rbee => Ways::PROMPT | Ways::CHAT | Ways::FORM | Ways::CALL | Ways::OWN,
            Self::LlamaServer | Self::Vllm => Ways::PROMPT | Ways::CHAT | Ways::FORM | Ways::CALL,
            // It passes over `tool_choice`.
            Self::Ollama => Ways::BEGIN,
            Self::LmStudio => Ways::BEGIN | Ways::CALL,
            Self::Unknown => Ways::PROMPT | Ways::CALL,
        }
    }

    /// How many requests one of its models is taken to run at once, where neither it nor anybody else says
    /// so: vLLM and another queen take what comes, and what is too much waits there in good order. Ollama runs
    /// one, unless it was started with `OLLAMA_NUM_PARALLEL`, of which it tells nothing.
    #[must_use]
    pub fn usual_slots(self) -> u32 {
        match self {
            Self::Vllm => 64,
            Self::Rbee => 16,
            Self::Ollama => 1,
            Self::LlamaServer | Self::LmStudio | Self::Unknown => 4,
        }
    }

    /// Whether it limits an answer by `max_tokens` and takes no notice of `max_completion_tokens`, or may.
    #[must_use]
    pub fn knows_only_max_tokens(self) -> bool {
        matches!(self, Self::Ollama | Self::LmStudio)
    }

    /// Whether it gives vectors in base64, which is a quarter of the bytes, or takes no notice of the wish.
    #[must_use]
    pub fn packs_vectors(self) -> bool {
        matches!(self, Self::LlamaServer | Self::Vllm | Self::Rbee | Self::Ollama)
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LlamaServer => "llama-server",
            Self::Vllm => "vllm",
            Self::Rbee => "rbee",
            Self::Ollama => "ollama",
            Self::LmStudio => "lm-studio",
            Self::Unknown => "openai",
        }
    }
}
