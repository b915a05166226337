//! Starting a daemon that outlives its starter.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{LifecycleError, log_file};

/// Starts a daemon in the background and gives its process id.
///
/// Its stdin is empty, its stdout and stderr go to the end of `log`, and it is in a process group
/// of its own: a Ctrl-C in the starter's terminal and the terminal's end do not reach it. `envs`
/// are added to the starter's environment. It stays a child of the starter as long as that lives;
/// when it ends before, [`ProcessIdentity::is_running`](crate::ProcessIdentity::is_running) tells so.
///
/// # Errors
/// When the log cannot be opened or the binary cannot be started.
pub fn start_detached(
    binary: &Path,
    args: &[OsString],
    envs: &[(OsString, OsString)],
    log: &Path,
) -> Result<u32, LifecycleError> {
    let failed = |source| LifecycleError::File { path: log.to_owned(), source };
    let output = log_file::open(log).map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let child = Command::new(binary)
        .args(args)
        .envs(envs.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(|source| LifecycleError::Start { binary: binary.to_owned(), source })?;
    Ok(child.id())
}
