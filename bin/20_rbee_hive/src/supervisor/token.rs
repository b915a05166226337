//! By what a hive knows its workers again: a token in the environment that each was started with.
//!
//! A token has two parts: one that all hives of these files share, one by worker. The kernel shows a
//! process's environment to its own user only, so that no other user can pass a process off as a worker.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use uuid::Uuid;

/// The variable in a worker's environment.
pub(super) const VARIABLE: &str = "RBEE_WORKER_TOKEN";

/// Makes and recognizes the tokens of these files' workers.
#[derive(Debug)]
pub(super) struct WorkerTokens {
    shared: String,
}

impl WorkerTokens {
    /// Reads the part that all tokens share, or makes it.
    pub(super) fn open(file: &Path) -> io::Result<Self> {
        if let Ok(text) = fs::read_to_string(file)
            && let Ok(shared) = text.trim().parse::<Uuid>()
        {
            return Ok(Self { shared: shared.to_string() });
        }
        let shared = Uuid::new_v4().to_string();
        let mut fresh = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
        fresh.write_all(shared.as_bytes())?;
        fresh.persist(file)?;
        Ok(Self { shared })
    }

    /// A token for one process.
    pub(super) fn make(&self) -> String {
        format!("{}.{}", self.shared, Uuid::new_v4())
    }

    /// Whether a hive of these files made the token.
    pub(super) fn is_ours(&self, token: &str) -> bool {
        token.strip_prefix(self.shared.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_hive_recognizes_the_tokens_of_the_one_before_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("worker-tokens");
        let first = WorkerTokens::open(&file).unwrap();
        let (token, other) = (first.make(), first.make());
        assert_ne!(token, other);
        assert!(WorkerTokens::open(&file).unwrap().is_ours(&token));
        for foreign in ["", ".", "x", &first.shared] {
            assert!(!first.is_ours(foreign), "{foreign}");
        }
        fs::write(&file, "noise").unwrap();
        assert!(!WorkerTokens::open(&file).unwrap().is_ours(&token));
    }
}
