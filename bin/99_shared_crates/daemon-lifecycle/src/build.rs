//! What a daemon says of its own build.

use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/build-info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// The daemon.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The cargo features that it was built with.
    pub features: Vec<String>,
    /// The operating system and architecture that it was built for.
    pub target: String,
}

/// What a daemon says of its own build.
#[must_use]
pub fn build_info(name: &str, version: &str, features: &[&str]) -> BuildInfo {
    BuildInfo {
        name: name.to_owned(),
        version: version.to_owned(),
        features: features.iter().map(|feature| (*feature).to_owned()).collect(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    }
}
