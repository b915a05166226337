//! Which projector a model is downloaded with: the file that lets it see images.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{InvalidModelRef, ModelRef};

/// Which projector comes with a downloaded model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ProjectorChoice {
    /// The one that lies beside the model, if there is exactly one.
    #[default]
    Usual,
    /// The best one that lies beside the model; if there is none, the download fails.
    Best,
    /// None.
    Without,
    /// This one, wherever it is.
    From(ModelRef),
}

/// A text names no projector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a projector is `auto`, `none` or a reference")]
pub struct InvalidProjectorChoice(#[source] InvalidModelRef);

impl ProjectorChoice {
    /// Whether nobody chose.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::Usual
    }
}

impl FromStr for ProjectorChoice {
    type Err = InvalidProjectorChoice;

    fn from_str(text: &str) -> Result<Self, InvalidProjectorChoice> {
        Ok(match text {
            "usual" => Self::Usual,
            "auto" => Self::Best,
            "none" => Self::Without,
            reference => Self::From(reference.parse().map_err(InvalidProjectorChoice)?),
        })
    }
}

impl fmt::Display for ProjectorChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usual => f.write_str("usual"),
            Self::Best => f.write_str("auto"),
            Self::Without => f.write_str("none"),
            Self::From(reference) => reference.fmt(f),
        }
    }
}

impl TryFrom<String> for ProjectorChoice {
    type Error = InvalidProjectorChoice;

    fn try_from(text: String) -> Result<Self, InvalidProjectorChoice> {
        text.parse()
    }
}

impl From<ProjectorChoice> for String {
    fn from(choice: ProjectorChoice) -> Self {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_reads_back_as_it_is_written() {
        for text in ["usual", "auto", "none", "hf:o/r:mmproj-F16.gguf", "file:/srv/mmproj.gguf"] {
            let choice: ProjectorChoice = text.parse().unwrap();
            assert_eq!(choice.to_string(), text);
            let json = serde_json::to_string(&choice).unwrap();
            assert_eq!(serde_json::from_str::<ProjectorChoice>(&json).unwrap(), choice);
        }
        assert!("mmproj.gguf".parse::<ProjectorChoice>().is_err());
        assert!("file:/srv/../x".parse::<ProjectorChoice>().is_err());
    }
}
