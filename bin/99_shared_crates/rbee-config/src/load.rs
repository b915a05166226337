//! From file and environment to a [`Config`].

use std::path::Path;

use toml::de::DeTable;

use crate::{Config, ConfigError, Paths, environment, unknown_keys};

impl Config {
    /// Reads the file, which may be missing, and the environment.
    ///
    /// # Errors
    /// What is wrong, and where it is written.
    pub fn load(paths: &Paths) -> Result<Self, ConfigError> {
        let file = &paths.config_file;
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Unreadable { file: file.clone(), source }),
        };
        Self::parse(&text, file, environment::of_process())
    }

    /// Reads a file that somebody named, which must be there, and the environment.
    ///
    /// # Errors
    /// What is wrong, and where it is written.
    pub fn load_named(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::NamedUnreadable { file: file.to_owned(), source })?;
        Self::parse(&text, file, environment::of_process())
    }

    /// Reads a file's text, then the variables `RBEE_SECTION__KEY` among `env`, which win.
    ///
    /// `file` is named in errors only. An empty variable counts as not set.
    ///
    /// # Errors
    /// What is wrong, and where it is written.
    pub fn parse(
        text: &str,
        file: &Path,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            file: file.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        };
        let table = DeTable::parse(text).map_err(syntax)?;
        unknown_keys::refuse(text, file, table.get_ref())?;
        let config =
            serde_path_to_error::deserialize(toml::Deserializer::from(table)).map_err(|error| {
                let key = error.path().to_string();
                let error = error.into_inner();
                ConfigError::Value {
                    file: file.to_owned(),
                    line: line_of(text, error.span().map_or(0, |span| span.start)),
                    key,
                    message: error.message().to_owned(),
                }
            })?;
        environment::apply(config, env)
    }
}

/// The line of a byte of the text, from 1.
pub(crate) fn line_of(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|b| *b == b'\n').count() + 1
}
