//! What a binary says of itself.

use serde::{Deserialize, Serialize};

/// Among the features of a hive, and of a queen that has one in her: it ends without its workers where `POST /v1/shutdown?workers=keep` says so.
pub const LEAVES_WORKERS: &str = "leaves-workers";

/// How a daemon was built: the answer to `GET /v1/build-info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// The binary.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The cargo features that it was built with, and marks of what it knows to do.
    pub features: Vec<String>,
    /// `release` or `debug`.
    pub profile: String,
    /// The processor and the system that it was built for: `x86_64-linux`.
    pub target: String,
}

/// Describes the calling binary; profile and target are those of this build.
#[must_use]
pub fn build_info(name: &str, version: &str, features: &[&str]) -> BuildInfo {
    BuildInfo {
        name: name.to_owned(),
        version: version.to_owned(),
        features: features.iter().map(|&feature| feature.to_owned()).collect(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    }
}
