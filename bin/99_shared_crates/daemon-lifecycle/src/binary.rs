//! Finding rbee's own programs.

use std::env;
use std::path::{Path, PathBuf};

use crate::LifecycleError;

/// The path of one of rbee's programs: in `$RBEE_BIN_DIR`, beside the running program (also one
/// folder up, where tests run in `deps/`), or in `$PATH`.
pub fn find_binary(name: &str) -> Result<PathBuf, LifecycleError> {
    let executable = env::current_exe().unwrap_or_default();
    let beside = executable.parent().map(Path::to_owned);
    let above = beside.as_deref().filter(|f| f.ends_with("deps")).and_then(Path::parent);
    let folders = env::var_os("RBEE_BIN_DIR")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .into_iter()
        .chain(beside.clone())
        .chain(above.map(Path::to_owned));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = folders.collect();
    let file = format!("{name}{}", env::consts::EXE_SUFFIX);
    let all = folders.iter().cloned().chain(env::split_paths(&path));
    if let Some(found) = all.map(|folder| folder.join(&file)).find(|file| is_program(file)) {
        return Ok(found);
    }
    let searched = folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>();
    Err(LifecycleError::NoBinary {
        name: name.to_owned(),
        searched: format!("{} and $PATH", searched.join(", ")),
        package: name.to_owned(),
    })
}

#[cfg(unix)]
fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(file: &Path) -> bool {
    file.is_file()
}
