//! What a machine is given: hive, worker, the libraries of the worker's engine, and what keeps the hive
//! running. Each file has its digest, and all together have the name of a release.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use daemon_lifecycle::{LifecycleError, find_binary};
use sha2::{Digest as _, Sha256};
use worker_contract::Sha256Digest;

use super::version::Version;
use crate::hive_client::HIVE_PROGRAM;

const WORKER_PROGRAM: &str = "llm-worker-rbee";
/// The folder of the engine's libraries, beside the worker or in `../lib`.
const ENGINE: &str = "rbee-engine";
/// What keeps the hive running where no systemd does.
const SUPERVISE: &str = include_str!("script/supervise.sh");

/// All that is copied.
#[derive(Debug, Clone)]
pub(super) struct Payload {
    pub(super) files: Vec<PayloadFile>,
    /// Names these files with these contents.
    pub(super) release: String,
    /// The C library that the programs need.
    pub(super) glibc: Option<Version>,
}

/// A file that is copied.
#[derive(Debug, Clone)]
pub(super) struct PayloadFile {
    /// Its path in the release; it needs no quotes anywhere.
    pub(super) name: String,
    pub(super) content: Content,
    pub(super) bytes: u64,
    pub(super) sha256: Sha256Digest,
    pub(super) mode: &'static str,
}

/// Where a file's bytes are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    File(PathBuf),
    Text(&'static str),
}

/// The queen's machine has not all that a hive needs.
#[derive(Debug, thiserror::Error)]
pub(super) enum PayloadError {
    #[error(transparent)]
    NoProgram(#[from] LifecycleError),
    #[error(
        "beside {} there is no folder {ENGINE} with the engine's libraries",
        worker.display()
    )]
    NoEngine { worker: PathBuf },
    #[error("{} cannot be read", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Payload {
    /// What the queen's own machine runs. Reads all files; to be called where that may block.
    pub(super) fn of_this_machine() -> Result<Self, PayloadError> {
        let real = |program: &str| {
            let found = find_binary(program)?;
            found.canonicalize().map_err(|source| PayloadError::Unreadable { file: found, source })
        };
        let (hive, worker) = (real(HIVE_PROGRAM)?, real(WORKER_PROGRAM)?);
        let mut sources = vec![
            (HIVE_PROGRAM.to_owned(), hive, "700"),
            (WORKER_PROGRAM.to_owned(), worker.clone(), "700"),
        ];
        for library in libraries(&worker)? {
            let name = library.file_name().and_then(|name| name.to_str()).filter(|n| is_plain(n));
            if let Some(name) = name {
                sources.push((format!("{ENGINE}/{name}"), library.clone(), "600"));
            }
        }
        Self::of(sources)
    }

    fn of(sources: Vec<(String, PathBuf, &'static str)>) -> Result<Self, PayloadError> {
        let mut files = Vec::with_capacity(sources.len() + 1);
        let mut glibc = None;
        for (name, file, mode) in sources {
            let bytes = fs::read(&file)
                .map_err(|source| PayloadError::Unreadable { file: file.clone(), source })?;
            glibc = glibc.max(Version::of_glibc_in(&bytes));
            files.push(PayloadFile::new(name, Content::File(file), &bytes, mode));
        }
        let supervise = Content::Text(SUPERVISE);
        let name = "supervise.sh".to_owned();
        files.push(PayloadFile::new(name, supervise, SUPERVISE.as_bytes(), "600"));
        let mut all = Sha256::new();
        for file in &files {
            all.update(format!("{} {}\n", file.sha256, file.name));
        }
        let release = hex(&all.finalize())[..16].to_owned();
        Ok(Self { files, release, glibc })
    }
}

impl PayloadFile {
    fn new(name: String, content: Content, bytes: &[u8], mode: &'static str) -> Self {
        let sha256 = digest(bytes);
        Self { name, content, bytes: bytes.len() as u64, sha256, mode }
    }
}

/// The SHA-256 of some bytes.
pub(super) fn digest(bytes: &[u8]) -> Sha256Digest {
    hex(&Sha256::digest(bytes)).parse().expect("64 hexadecimal digits are a digest")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn libraries(worker: &Path) -> Result<Vec<PathBuf>, PayloadError> {
    let beside = worker.parent().unwrap_or(Path::new("/"));
    let folder = [beside.join(ENGINE), beside.join("../lib").join(ENGINE)]
        .into_iter()
        .find(|folder| folder.is_dir())
        .ok_or_else(|| PayloadError::NoEngine { worker: worker.to_owned() })?;
    let unreadable = |source| PayloadError::Unreadable { file: folder.clone(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name is an argument, a path and a line of a list all alike.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_named_by_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rbee-hive");
        let payload = |content: &str| {
            fs::write(&file, content).unwrap();
            Payload::of(vec![("rbee-hive".to_owned(), file.clone(), "700")]).unwrap()
        };
        let (one, again, other) =
            (payload("one GLIBC_2.34"), payload("one GLIBC_2.34"), payload("two"));
        assert_eq!(one.release, again.release);
        assert_ne!(one.release, other.release);
        assert_eq!(one.glibc, Some("2.34".parse().unwrap()));
        let names: Vec<_> = one.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["rbee-hive", "supervise.sh"]);
        assert_eq!(one.files[0].bytes, 14);
    }
}
