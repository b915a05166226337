//! Where the binaries under test are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::Topology;

/// The folder of the built binaries, and those that the environment names one by one.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// Takes `RBEE_BIN_DIR`, else the folder of the profile that the test was built in.
    pub fn find() -> Result<Self> {
        if let Some(dir) = env::var_os("RBEE_BIN_DIR") {
            return Ok(Self { dir: PathBuf::from(dir) });
        }
        let test = env::current_exe().context("the test does not know its own path")?;
        // target/release/deps/bdd-0123 → target/release
        let dir = test
            .ancestors()
            .find(|dir| dir.file_name().is_some_and(|name| name == "deps"))
            .and_then(Path::parent)
            .context("the test is not in a target folder: set RBEE_BIN_DIR")?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The queen of a topology: with `local-hive` it is `queen-rbee`, without it `plain/queen-rbee`.
    pub fn queen(&self, topology: Topology) -> Result<PathBuf> {
        let (variable, file, build) = match topology {
            Topology::Integrated => (
                "RBEE_TEST_QUEEN_LOCAL",
                "queen-rbee",
                "cargo build --release -p queen-rbee --features local-hive",
            ),
            Topology::Distributed => (
                "RBEE_TEST_QUEEN_PLAIN",
                "plain/queen-rbee",
                "cargo build --release -p queen-rbee, copied to target/release/plain/",
            ),
        };
        let path = env::var_os(variable).map_or_else(|| self.dir.join(file), PathBuf::from);
        existing(&path, build)
    }

    /// Any other binary, by its file name.
    pub fn get(&self, name: &str) -> Result<PathBuf> {
        existing(&self.dir.join(name), &format!("cargo build --release -p {name}"))
    }
}

fn existing(path: &Path, build: &str) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is missing; build it first: {build}", path.display());
    }
    path.canonicalize().with_context(|| format!("{} cannot be resolved", path.display()))
}
