//! What a model is for, as its file says: text, vectors or scores; and how the vectors of a text's
//! tokens become one.

use std::fmt;
use std::str::FromStr;

use worker_contract::ModelKind;

/// How one vector comes of the vectors of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
    /// That of the last token.
    Last,
    /// A score by the model's classification head.
    Rank,
}

impl Pooling {
    const ALL: [Self; 4] = [Self::Mean, Self::Cls, Self::Last, Self::Rank];

    fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Last => "last",
            Self::Rank => "rank",
        }
    }

    /// By the number of the key `{arch}.pooling_type`: llama.cpp, include/llama.h, enum
    /// `llama_pooling_type`. `None` for "no pooling".
    fn from_number(number: u32) -> Result<Option<Self>, PurposeError> {
        match number {
            0 => Ok(None),
            1 => Ok(Some(Self::Mean)),
            2 => Ok(Some(Self::Cls)),
            3 => Ok(Some(Self::Last)),
            4 => Ok(Some(Self::Rank)),
            other => Err(PurposeError::UnknownPooling(other)),
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Pooling {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|pooling| pooling.as_str() == text);
        found.ok_or_else(|| "it is mean, cls, last or rank".to_owned())
    }
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It makes text.
    Text,
    /// It makes one row of numbers of a whole text.
    Pooled(Pooling),
}

impl Purpose {
    /// The same in the words of the contract.
    #[must_use]
    pub fn kind(self) -> ModelKind {
        match self {
            Self::Text => ModelKind::Generative,
            Self::Pooled(Pooling::Rank) => ModelKind::Reranking,
            Self::Pooled(_) => ModelKind::Embedding,
        }
    }
}

/// A model is for nothing that the worker does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PurposeError {
    /// It makes text, but not token after token.
    #[error("a model of the architecture {0} makes text by diffusion, which the worker cannot do")]
    Diffusion(String),
    /// It is an embedding model that leaves the pooling open.
    #[error(
        "the model makes vectors, and its file does not say how those of a text's tokens become one; say so with --pooling mean, cls or last"
    )]
    NoPooling,
    /// A number that this engine does not know.
    #[error(
        "the file's pooling_type {0} is not known to this engine; choose one with --pooling mean, cls, last or rank"
    )]
    UnknownPooling(u32),
    /// It cannot rank.
    #[error(
        "the model has no classification head (cls.weight or cls.output.weight), so it cannot score documents with the pooling rank; with mean, cls or last it makes vectors"
    )]
    NoClassifier,
}

/// What a file's metadata says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata<'a> {
    /// `general.architecture`.
    pub(super) architecture: &'a str,
    /// `{arch}.attention.causal`.
    pub(super) causal: Option<bool>,
    /// `{arch}.pooling_type`.
    pub(super) pooling: Option<u32>,
}

/// Architectures whose tokens see the whole text, whether the file says so or not: those that
/// llama.cpp runs without a KV cache (`llama_model::create_memory`).
const WHOLE_TEXT: [&str; 9] = [
    "bert",
    "jina-bert-v2",
    "jina-bert-v3",
    "nomic-bert",
    "nomic-bert-moe",
    "neo-bert",
    "eurobert",
    "modern-bert",
    "gemma-embedding",
];

/// Of those, the ones that fill in masked text, step by step.
const DIFFUSION: [&str; 4] = ["dream", "llada", "llada-moe", "rnd1"];

impl Metadata<'_> {
    /// What the model is for; `wanted` is the user's own choice.
    pub(super) fn purpose(self, wanted: Option<Pooling>) -> Result<Purpose, PurposeError> {
        if DIFFUSION.contains(&self.architecture) {
            return Err(PurposeError::Diffusion(self.architecture.to_owned()));
        }
        let pooling = match (wanted, self.pooling) {
            (Some(wanted), _) => Some(wanted),
            (None, Some(number)) => Pooling::from_number(number)?,
            (None, None) => None,
        };
        let sees_all = self.causal == Some(false) || WHOLE_TEXT.contains(&self.architecture);
        match pooling {
            Some(pooling) => Ok(Purpose::Pooled(pooling)),
            None if sees_all => Err(PurposeError::NoPooling),
            None => Ok(Purpose::Text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_its_model_is_for() {
        let text = Ok(Purpose::Text);
        let pooled = |pooling| Ok(Purpose::Pooled(pooling));
        let rows = [
            ("llama", None, None, None, text.clone()),
            ("llama", Some(true), Some(0), None, text),
            ("llama", None, None, Some(Pooling::Last), pooled(Pooling::Last)),
            ("bert", Some(false), Some(1), None, pooled(Pooling::Mean)),
            ("bert", None, Some(2), None, pooled(Pooling::Cls)),
            ("bert", Some(false), Some(1), Some(Pooling::Cls), pooled(Pooling::Cls)),
            ("bert", Some(false), Some(4), None, pooled(Pooling::Rank)),
            ("bert", Some(false), None, None, Err(PurposeError::NoPooling)),
            ("nomic-bert", None, Some(0), None, Err(PurposeError::NoPooling)),
            ("bert", Some(false), None, Some(Pooling::Mean), pooled(Pooling::Mean)),
            ("qwen3", None, Some(3), None, pooled(Pooling::Last)),
            ("qwen3", None, Some(4), None, pooled(Pooling::Rank)),
            ("bert", None, Some(9), None, Err(PurposeError::UnknownPooling(9))),
            ("bert", None, Some(9), Some(Pooling::Mean), pooled(Pooling::Mean)),
            ("dream", Some(false), None, None, Err(PurposeError::Diffusion("dream".into()))),
        ];
        for (architecture, causal, pooling, wanted, expected) in rows {
            let metadata = Metadata { architecture, causal, pooling };
            assert_eq!(metadata.purpose(wanted), expected, "{metadata:?} {wanted:?}");
        }
    }

    #[test]
    fn the_name_of_a_pooling_is_read_as_it_is_written() {
        for pooling in Pooling::ALL {
            assert_eq!(pooling.to_string().parse(), Ok(pooling));
        }
        assert!("max".parse::<Pooling>().unwrap_err().contains("mean, cls"));
    }
}
