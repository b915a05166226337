//! Where rbee's files are.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ConfigError;

/// The variable that puts everything under one folder.
const HOME: &str = "RBEE_HOME";

/// Where one user's files of rbee are. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `config.toml`.
    pub config_file: PathBuf,
    /// State: databases and secrets.
    pub data: PathBuf,
    /// Tokens and the local secret.
    pub secrets: PathBuf,
    /// Model files.
    pub models: PathBuf,
    /// Process ids, addresses, locks and logs.
    pub run: PathBuf,
    /// Logs of daemons and workers.
    pub logs: PathBuf,
}

impl Paths {
    /// The paths under `RBEE_HOME`, or where the platform keeps such files: on Linux
    /// `~/.config/rbee`, `~/.local/share/rbee`, `~/.cache/rbee` and `~/.local/state/rbee`.
    ///
    /// # Errors
    /// When there is neither `RBEE_HOME` nor a home folder.
    pub fn from_env() -> Result<Self, ConfigError> {
        match std::env::var_os(HOME).filter(|home| !home.is_empty()) {
            Some(home) => {
                let home = PathBuf::from(home);
                let whole = std::path::absolute(&home)
                    .map_err(|source| ConfigError::Folder { folder: home, source })?;
                Ok(Self::under(&whole))
            }
            None => Self::of_platform().ok_or(ConfigError::NoHome),
        }
    }

    /// The paths under one folder.
    #[must_use]
    pub fn under(home: &Path) -> Self {
        let (data, run) = (home.join("data"), home.join("run"));
        Self {
            config_file: home.join("config.toml"),
            secrets: data.join("secrets"),
            models: home.join("models"),
            logs: run.join("logs"),
            data,
            run,
        }
    }

    /// Makes all folders. Data, secrets and run are closed to other users.
    ///
    /// # Errors
    /// Names the folder that cannot be made or closed.
    pub fn create_all(&self) -> Result<(), ConfigError> {
        for folder in [&self.data, &self.secrets, &self.run, &self.logs] {
            private(folder).map_err(|source| failed(folder, source))?;
        }
        let config = self.config_file.parent().unwrap_or(Path::new("."));
        for folder in [&*self.models, config] {
            fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
        }
        Ok(())
    }

    fn of_platform() -> Option<Self> {
        let folders = directories::ProjectDirs::from("", "", "rbee")?;
        let data = folders.data_dir().to_owned();
        // Only Linux has a folder for state.
        let run = folders.state_dir().map_or_else(|| data.join("run"), Path::to_owned);
        Some(Self {
            config_file: folders.config_dir().join("config.toml"),
            secrets: data.join("secrets"),
            models: folders.cache_dir().join("models"),
            logs: run.join("logs"),
            data,
            run,
        })
    }
}

fn failed(folder: &Path, source: std::io::Error) -> ConfigError {
    ConfigError::Folder { folder: folder.to_owned(), source }
}

/// Makes a folder that only its owner can enter, also when it was there with other rights.
fn private(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

        builder.mode(0o700).create(folder)?;
        if fs::metadata(folder)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }
    #[cfg(not(unix))]
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn folders_with_secrets_are_closed_to_others_even_if_they_were_open() {
        use std::os::unix::fs::PermissionsExt as _;

        let home = tempfile::tempdir().unwrap();
        let paths = Paths::under(&home.path().join("rbee"));
        fs::create_dir_all(&paths.secrets).unwrap();
        fs::set_permissions(&paths.secrets, fs::Permissions::from_mode(0o755)).unwrap();
        for _ in 0..2 {
            paths.create_all().unwrap();
        }
        for folder in [&paths.data, &paths.secrets, &paths.run, &paths.logs] {
            let mode = fs::metadata(folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
        }
        assert!(paths.models.is_dir());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("data"), "in the way").unwrap();
        let error = Paths::under(home.path()).create_all().unwrap_err().to_string();
        assert!(error.ends_with("/data"), "{error}");
    }
}
