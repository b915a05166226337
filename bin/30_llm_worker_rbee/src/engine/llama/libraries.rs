//! Where llama.cpp's backend libraries are.
//!
//! They lie in one folder, `rbee-engine`, beside the executable or in `../lib`. The build folder is
//! only the last resort, after `cargo install` for one; what is found there is copied to where the
//! executable looks first, so that the build folder can be removed afterwards.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The name of the folder.
const FOLDER: &str = "rbee-engine";

/// No usable folder was found.
#[derive(Debug, thiserror::Error)]
#[error(
    "no engine libraries found: looked for a folder rbee-engine with a CPU backend (libggml-cpu-*.so) in {looked_in}; copy rbee-engine from where the worker was built to beside its executable"
)]
pub struct LibraryError {
    looked_in: String,
}

/// The folder of the backend libraries that this process is to load.
pub fn engine_folder() -> Result<PathBuf, LibraryError> {
    let executable = std::env::current_exe().unwrap_or_default();
    let beside = executable.parent().unwrap_or(Path::new("."));
    let build = PathBuf::from(env!("RBEE_BUILD_ENGINE_DIR"));
    let own = [beside.join(FOLDER), beside.join("../lib").join(FOLDER)];
    if let Some(found) = own.iter().find(|folder| has_cpu_backend(folder)) {
        return Ok(found.clone());
    }
    if !has_cpu_backend(&build) {
        let looked_in = own.iter().chain([&build]).map(|p| p.display().to_string());
        return Err(LibraryError { looked_in: looked_in.collect::<Vec<_>>().join(", ") });
    }
    let is_build_output = build.parent().is_some_and(|target| executable.starts_with(target));
    if !is_build_output {
        match copy_folder(&build, &own[1]) {
            Ok(()) => return Ok(own[1].clone()),
            Err(error) => tracing::warn!(
                folder = %own[1].display(), %error,
                "engine libraries could not be copied there; they are used from the build folder, \
                 which must stay"
            ),
        }
    }
    Ok(build)
}

/// Whether a folder has at least one CPU backend.
fn has_cpu_backend(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries
        .filter_map(Result::ok)
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libggml-cpu"))
}

/// Copies all files of a folder; each appears whole or not at all.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let part = to.join(format!(".{}.{}", entry.file_name().display(), std::process::id()));
        fs::copy(entry.path(), &part)?;
        fs::rename(&part, to.join(entry.file_name()))?;
    }
    Ok(())
}
