//! A folder on a disk of its own that is soon full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A small file system in memory, mounted on a folder until it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts it. Only root can do that.
    pub fn mount(folder: &Path, mebibytes: u32) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let run = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder)
            .output()
            .context("mount cannot be run")?;
        let said = String::from_utf8_lossy(&run.stderr);
        ensure!(run.status.success(), "a small disk cannot be mounted: {said}");
        Ok(Self { folder: folder.to_owned() })
    }

    /// Why no small disk can be mounted here, if so.
    #[must_use]
    pub fn unavailable() -> Option<String> {
        let probe = tempfile::tempdir().ok()?;
        Self::mount(probe.path(), 1).err().map(|error| format!("{error:#}").trim().to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy, because a process may still have a file open; there is nobody to tell of a failure.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).output();
    }
}
