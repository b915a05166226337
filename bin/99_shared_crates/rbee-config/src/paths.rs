//! Where files lie.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ConfigError;

/// The places of rbee's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The configuration, which need not exist.
    pub config_file: PathBuf,
    /// State: databases.
    pub data: PathBuf,
    /// Tokens and secrets; only their owner can enter.
    pub secrets: PathBuf,
    /// Model files.
    pub models: PathBuf,
    /// Pid and address files of running daemons.
    pub run: PathBuf,
    /// Log files.
    pub logs: PathBuf,
}

impl Paths {
    /// Everything under `RBEE_HOME` where it is set, else the platform's own places.
    pub fn from_env() -> Result<Self, ConfigError> {
        if let Some(home) = std::env::var_os("RBEE_HOME").filter(|home| !home.is_empty()) {
            let home = PathBuf::from(home);
            return Ok(Self::under(&std::path::absolute(&home).unwrap_or(home)));
        }
        let base = directories::BaseDirs::new().ok_or(ConfigError::NoHome)?;
        let data = base.data_dir().join("rbee");
        let run = base.state_dir().unwrap_or(base.data_local_dir()).join("rbee");
        Ok(Self {
            config_file: base.config_dir().join("rbee/config.toml"),
            secrets: data.join("secrets"),
            data,
            models: base.cache_dir().join("rbee/models"),
            logs: run.join("logs"),
            run,
        })
    }

    /// Everything under one folder.
    #[must_use]
    pub fn under(home: &Path) -> Self {
        Self {
            config_file: home.join("config.toml"),
            data: home.join("data"),
            secrets: home.join("data/secrets"),
            models: home.join("models"),
            run: home.join("run"),
            logs: home.join("run/logs"),
        }
    }

    /// Makes all folders; those of state and secrets can be entered by their owner only.
    pub fn create_all(&self) -> Result<(), ConfigError> {
        for folder in [&self.data, &self.secrets, &self.models, &self.run, &self.logs] {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder
                .create(folder)
                .map_err(|source| ConfigError::Folder { folder: folder.clone(), source })?;
        }
        Ok(())
    }
}
