//! What daemons leave on the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cucumber::{given, then};

use super::{Rbee, Step};

#[then(regex = r#"^no file of the home holds (?:"([^"]+)"|the token)$"#)]
fn no_file_holds(world: &mut Rbee, text: String) -> Step {
    let secret = world.secret.clone().unwrap_or_default();
    let text = if text.is_empty() { secret } else { text };
    ensure!(!text.is_empty(), "there is nothing to look for");
    let home = world.cluster()?.home().path();
    let mut looked_at = 0;
    for folder in ["data", "run"] {
        for file in all_files(&home.join(folder))? {
            looked_at += 1;
            let bytes = fs::read(&file)?;
            let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            ensure!(!found, "{} holds it", file.display());
        }
    }
    ensure!(looked_at > 2, "only {looked_at} files were found");
    Ok(())
}

#[then("every database is one file")]
fn closed_databases(world: &mut Rbee) -> Step {
    let files = all_files(&world.cluster()?.home().path().join("data"))?;
    let is_database = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "db");
    ensure!(files.iter().any(is_database), "there is none: {files:?}");
    let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names: Vec<String> = files.iter().map(name).collect();
    let beside = names.iter().find(|name| name.ends_with("-wal") || name.ends_with("-shm"));
    ensure!(beside.is_none(), "one was not closed: {names:?}");
    Ok(())
}

#[given("the worker's program does not work")]
fn break_worker(world: &mut Rbee) -> Step {
    let program = world.cluster()?.home().bin().join("llm-worker-rbee");
    fs::remove_file(&program)?;
    fs::write(
        &program,
        "#!/bin/sh\necho 'libx.so: cannot open shared object file' >&2\nexit 127\n",
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// All files under a folder.
pub(super) fn all_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(all_files(&path)?);
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}
