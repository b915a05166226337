//! Short questions to the worker's binary: which devices there are, what is in a GGUF file.
//!
//! A question is a child process with a deadline and a bounded answer, so that a file that crashes
//! the engine crashes nothing else. Workers themselves are started by the supervisor.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use daemon_lifecycle::find_binary;
use narration::with_causes;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use worker_contract::{Device, GgufSummary, MemoryNeed};

/// The name of the worker's binary.
const NAME: &str = "llm-worker-rbee";
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 1024 * 1024;
/// The longest reason that is passed on, in characters.
const MAX_REASON: usize = 500;
/// How long the engine may take to look for devices.
const DEVICES_PATIENCE: Duration = Duration::from_secs(20);
/// How long the engine may take to read a file's metadata, also from a slow disk.
const INSPECT_PATIENCE: Duration = Duration::from_secs(60);

/// How long the engine may take to reckon what a model needs.
const FIT_PATIENCE: Duration = Duration::from_secs(60);

/// Where the worker's binary is.
#[derive(Debug, Clone)]
pub(crate) struct WorkerBinary {
    given: Option<PathBuf>,
}

/// A question got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// There is no such binary. The source says where it was looked for.
    #[error("the worker's program {NAME} is missing")]
    Missing(#[source] daemon_lifecycle::LifecycleError),
    /// It cannot be run.
    #[error("the worker's program {NAME} cannot be run")]
    Run(#[source] std::io::Error),
    /// It looked, and said no; or the engine crashed over the question.
    #[error("{0}")]
    Refused(String),
    /// It ended before it could look, for want of a library or because it knows no such question.
    #[error("the worker's program does not work here: {0}")]
    Unusable(String),
    /// It took too long.
    #[error("the worker's program gave no answer in {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Its answer is not what was agreed on.
    #[error("the worker's program gave an answer that cannot be read: is it of another version?")]
    Unreadable(#[source] serde_json::Error),
}

impl AskError {
    /// The whole of it, for whoever uses the machine: without its folders.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Missing(_) => self.to_string(),
            other => with_causes(other),
        }
    }
}

/// What tells one file from another one in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    path: PathBuf,
    bytes: u64,
    inode: u64,
    changed: (i64, i64),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, bytes, inode, changed: (seconds, nanoseconds) } = self;
        write!(f, "{}, {bytes} bytes, inode {inode}, {seconds}.{nanoseconds:09}", path.display())
    }
}

impl WorkerBinary {
    /// The given file, else the one that is found beside this program or on the path.
    pub(crate) fn new(given: Option<PathBuf>) -> Self {
        Self { given }
    }

    /// The binary's path. Looked up anew, so that one that is built meanwhile is found.
    pub(crate) fn path(&self) -> Result<PathBuf, AskError> {
        match &self.given {
            Some(path) => Ok(path.clone()),
            None => find_binary(NAME).map_err(AskError::Missing),
        }
    }

    /// Which file it is; `None` where there is none.
    pub(crate) fn mark(&self) -> Option<Mark> {
        let path = self.path().ok()?;
        let found = std::fs::metadata(&path).ok()?;
        let (bytes, inode) = (found.len(), found.ino());
        Some(Mark { path, bytes, inode, changed: (found.ctime(), found.ctime_nsec()) })
    }

    /// The devices that the engine can use.
    pub(crate) async fn devices(&self) -> Result<Vec<Device>, AskError> {
        self.ask(["devices", "--json"], DEVICES_PATIENCE).await
    }

    /// What a GGUF file says of itself; the refusal of a broken one says why.
    pub(crate) async fn inspect(&self, file: &Path) -> Result<GgufSummary, AskError> {
        let arguments = [OsStr::new("inspect"), file.as_os_str(), OsStr::new("--json")];
        self.ask(arguments, INSPECT_PATIENCE).await
    }

    /// What a worker with these arguments would take of each device.
    pub(crate) async fn fit(&self, arguments: Vec<OsString>) -> Result<Vec<MemoryNeed>, AskError> {
        let fit = ["fit", "--json"].map(OsString::from);
        self.ask(fit.into_iter().chain(arguments), FIT_PATIENCE).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        patience: Duration,
    ) -> Result<T, AskError> {
        let program = self.path()?;
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(AskError::Run)?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let answer = async {
            let (answer, words) = tokio::join!(read_bounded(stdout), read_bounded(stderr));
            Ok((answer?, words?, child.wait().await?))
        };
        let (answer, words, status) = tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| AskError::TimedOut(patience))?
            .map_err(AskError::Run)?;
        // The system's loader names the program by its whole path.
        let place = program.display().to_string();
        let reason = || reason(&String::from_utf8_lossy(&words), status).replace(&place, NAME);
        match status.code() {
            Some(0) => serde_json::from_slice(&answer).map_err(AskError::Unreadable),
            Some(1) | None => Err(AskError::Refused(reason())),
            Some(_) => Err(AskError::Unusable(reason())),
        }
    }
}

/// Reads to the end and keeps no more than the beginning, so that the child never waits.
async fn read_bounded(mut from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    (&mut from).take(MAX_ANSWER).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}

/// The last line that is meant for a person.
fn reason(words: &str, status: ExitStatus) -> String {
    let lines = || words.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let own = lines().find_map(|line| line.strip_prefix("error: "));
    let crashed = status.code().is_none();
    match own.or_else(|| lines().next().filter(|_| !crashed)) {
        Some(line) => line.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect(),
        None => format!("the engine could not read it ({status})"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_reason_of_a_refusal_is_the_programs_own() {
        let failed = ExitStatus::from_raw(1 << 8);
        let crashed = ExitStatus::from_raw(11);
        for (words, status, expected) in [
            ("llama: noise\nerror: the file is truncated\n", failed, "the file is truncated"),
            ("the file is truncated\n", failed, "the file is truncated"),
            ("", failed, "the engine could not read it (exit status: 1)"),
            ("llama: noise\n", crashed, "the engine could not read it (signal: 11 (SIGSEGV))"),
        ] {
            assert_eq!(reason(words, status), expected);
        }
    }

    #[tokio::test]
    async fn a_binary_that_does_not_answer_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let binary = WorkerBinary::new(Some(script(folder.path(), "exec sleep 60")));
        let asked = binary.ask::<u8>(["x"], Duration::from_millis(50)).await;
        assert!(matches!(asked, Err(AskError::TimedOut(_))), "{asked:?}");
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let endless = script(folder.path(), "head -c 5000000 /dev/zero | tr '\\0' 1");
        let asked = WorkerBinary::new(Some(endless)).devices().await;
        assert!(matches!(asked, Err(AskError::Unreadable(_))), "{asked:?}");
    }

    #[tokio::test]
    async fn a_binary_that_does_not_work_is_not_taken_for_one_that_says_no() {
        let folder = tempfile::tempdir().unwrap();
        let says_no = script(folder.path(), "echo 'error: the file is truncated' >&2; exit 1");
        let asked = WorkerBinary::new(Some(says_no)).inspect(Path::new("/m.gguf")).await;
        assert!(matches!(&asked, Err(AskError::Refused(why)) if why == "the file is truncated"));
        let lacks_a_library = script(folder.path(), "echo 'no libggml.so' >&2; exit 127");
        let asked = WorkerBinary::new(Some(lacks_a_library)).inspect(Path::new("/m.gguf")).await;
        assert!(matches!(&asked, Err(AskError::Unusable(why)) if why == "no libggml.so"));
    }

    #[tokio::test]
    async fn a_missing_binary_is_told() {
        let asked = WorkerBinary::new(Some("/no/such/worker".into())).devices().await;
        assert!(matches!(asked, Err(AskError::Run(_))), "{asked:?}");
        assert_eq!(WorkerBinary::new(Some("/no/such/worker".into())).mark(), None);
    }

    #[tokio::test]
    async fn what_is_told_of_a_failure_names_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display().to_string();
        let error = |asked: Result<Vec<Device>, AskError>| asked.unwrap_err().told();
        let lacks =
            script(folder.path(), "echo \"$0: error while loading libggml.so\" >&2; exit 127");
        let lacks = error(WorkerBinary::new(Some(lacks)).devices().await);
        let nowhere = error(WorkerBinary::new(Some(folder.path().join("none"))).devices().await);
        let looked_in = daemon_lifecycle::LifecycleError::NoBinary {
            name: NAME.to_owned(),
            looked_in: place.clone(),
        };
        for (told, words) in [
            (lacks, "does not work here: llm-worker-rbee: error while loading libggml.so"),
            (nowhere, "llm-worker-rbee cannot be run: No such file"),
            (AskError::Missing(looked_in).told(), "llm-worker-rbee is missing"),
        ] {
            assert!(told.contains(words) && !told.contains(&place), "{told}");
        }
    }

    #[test]
    fn another_file_in_the_same_place_has_another_mark() {
        let folder = tempfile::tempdir().unwrap();
        let binary = WorkerBinary::new(Some(script(folder.path(), "exit 1")));
        let before = binary.mark().unwrap();
        assert_eq!(binary.mark().as_ref(), Some(&before));
        script(folder.path(), "exit 2 # and longer");
        assert_ne!(binary.mark().unwrap(), before);
    }

    fn script(folder: &Path, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;

        let path = folder.join("worker");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}
