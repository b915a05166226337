//! Models: what a GGUF file says of itself, and what a catalog keeps of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ModelAlias, Task};

/// A SHA-256 digest, written as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Digest(String);

impl Sha256Digest {
    /// The digest as 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn as_hex(&self) -> &str {
        &self.0
    }
}

impl FromStr for Sha256Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err("a SHA-256 digest is 64 hexadecimal digits".to_owned())
    }
}

impl TryFrom<String> for Sha256Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Sha256Digest> for String {
    fn from(digest: Sha256Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a model can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// It makes text.
    #[default]
    Generative,
    /// It makes vectors of texts, and ranks documents by the cosine of theirs.
    Embedding,
    /// It scores how well a document answers a query.
    Reranking,
}

impl ModelKind {
    /// Its name as it is in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generative => "generative",
            Self::Embedding => "embedding",
            Self::Reranking => "reranking",
        }
    }

    /// Whether a model of this kind can do such a task at all.
    #[must_use]
    pub fn serves(self, task: &Task) -> bool {
        match task {
            Task::Chat(_) | Task::Completion { .. } | Task::Infill { .. } => {
                self == Self::Generative
            }
            Task::Embed { .. } => self == Self::Embedding,
            Task::Rerank { .. } => self != Self::Generative,
        }
    }

    /// What a client is told whose task a model of this kind cannot do.
    #[must_use]
    pub fn refusal(self, model: &ModelAlias) -> String {
        match self {
            Self::Generative => format!(
                "{model} makes text, not vectors: send texts to an embedding model; with worker.arguments = [\"--pooling\", \"mean\"] in config.toml, the workers of a hive make vectors with any model"
            ),
            Self::Embedding => format!(
                "{model} makes vectors, not text: it serves embeddings and reranking; send chats and completions to a model that makes text"
            ),
            Self::Reranking => format!(
                "{model} scores documents for a query and does nothing else: it serves reranking; send texts to an embedding model, and chats to one that makes text"
            ),
        }
    }
}

/// What a GGUF file says of itself. Printed by `llm-worker-rbee inspect FILE --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GgufSummary {
    /// `general.architecture`: `llama`, `qwen2`, `gemma3`, `bert`, …
    pub architecture: String,
    /// `general.name`, where the file has one.
    #[serde(default)]
    pub name: Option<String>,
    /// `general.license`, where the file has one.
    #[serde(default)]
    pub license: Option<String>,
    /// The tensor type that holds most of the weights: `Q4_1`, `Q4_K_M`, `F16`, …
    pub quantization: String,
    /// The number of weights.
    pub parameters: u64,
    /// The longest context that the model was trained for, in tokens.
    pub context_length: u32,
    /// How many numbers stand for a token; of a projector, in what it gives. A projector serves models
    /// of its own width only. `None` where the file does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_length: Option<u32>,
    /// What the model can do; `None` where the file does not tell, or whoever read it did not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ModelKind>,
    /// Whether the file carries a chat template.
    pub has_chat_template: bool,
    /// The size of the file, in bytes.
    pub size_bytes: u64,
}

/// A part of a model that is split into several files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShard {
    /// The pinned digest of the part.
    pub sha256: Sha256Digest,
    /// Its size, in bytes.
    pub size_bytes: u64,
}

/// What lets a model see images: a GGUF file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelProjector {
    /// Its pinned digest: a changed file is refused at load.
    pub sha256: Sha256Digest,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Where it came from: a reference, or a path.
    #[serde(default)]
    pub source: String,
}

/// A model of a hive's catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelEntry {
    /// The name by which requests ask for it.
    pub alias: ModelAlias,
    /// The pinned digest of the file: a changed file is refused at load.
    pub sha256: Sha256Digest,
    /// Where the model came from, as the user gave it.
    pub source: String,
    /// When it was added: seconds since the Unix epoch.
    pub added_at: u64,
    /// Of a model that is split: its parts in their order. `sha256` is that of their digests as lines
    /// of text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ModelShard>,
    /// What it sees images with; `None` for a model that sees none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projector: Option<ModelProjector>,
    /// What the file says of itself.
    #[serde(flatten)]
    pub gguf: GgufSummary,
}

impl ModelEntry {
    /// The size of all its files, in bytes.
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        let projector = self.projector.as_ref().map_or(0, |projector| projector.size_bytes);
        self.gguf.size_bytes.saturating_add(projector)
    }
}
