//! What daemons leave on the disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cucumber::then;

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
