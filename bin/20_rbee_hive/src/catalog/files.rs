//! Where the files of models lie: `models/<sha256>.gguf`, or the parts of one together in a folder
//! `models/<sha256>/`; beside them what a model sees images with, `models/<sha256>.mmproj.gguf`, and the
//! names, `models/<sha256>.json`, from which a catalog can be made again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use worker_contract::{ModelEntry, Sha256Digest};

use super::shard::{MAX_SHARDS, shard_name};

/// The largest file of names, in bytes.
const MAX_LABEL: u64 = 4 << 20;

/// What the name of a projector's file has after the digest of its model.
pub(super) const PROJECTOR_SUFFIX: &str = ".mmproj.gguf";

/// What the file of names holds.
#[derive(Debug, Serialize, Deserialize)]
struct Label {
    models: Vec<ModelEntry>,
}

/// The files of a model of so many parts, in their order.
pub(super) fn of(models: &Path, digest: &Sha256Digest, parts: usize) -> Vec<PathBuf> {
    if parts < 2 {
        return vec![models.join(format!("{digest}.gguf"))];
    }
    let folder = models.join(digest.as_hex());
    (1..=parts.min(MAX_SHARDS)).map(|index| folder.join(shard_name(index, parts))).collect()
}

/// Where the projector of a model is, whose digest is given.
pub(super) fn projector(models: &Path, digest: &Sha256Digest) -> PathBuf {
    models.join(format!("{digest}{PROJECTOR_SUFFIX}"))
}

/// Removes a model's files.
pub(super) fn remove(models: &Path, digest: &Sha256Digest, parts: usize) -> io::Result<()> {
    let removed = if parts < 2 {
        fs::remove_file(models.join(format!("{digest}.gguf")))
    } else {
        fs::remove_dir_all(models.join(digest.as_hex()))
    };
    unless_gone(removed).and(remove_projector(models, digest))
}

/// Removes what a model sees with.
pub(super) fn remove_projector(models: &Path, digest: &Sha256Digest) -> io::Result<()> {
    unless_gone(fs::remove_file(projector(models, digest)))
}

fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Gives a model's files the place of another digest. What it sees with goes with it, or is removed
/// where the other digest has a projector of its own.
pub(super) fn rename(
    models: &Path,
    from: &Sha256Digest,
    to: &Sha256Digest,
    parts: usize,
    has_projector: bool,
) -> io::Result<()> {
    let suffix = if parts < 2 { ".gguf" } else { "" };
    fs::rename(models.join(format!("{from}{suffix}")), models.join(format!("{to}{suffix}")))?;
    if has_projector {
        return remove_projector(models, from);
    }
    unless_gone(fs::rename(projector(models, from), projector(models, to)))
}

/// Writes down under which names a file is known; with none, removes what was written.
pub(super) fn label(models: &Path, digest: &Sha256Digest, names: Vec<ModelEntry>) {
    let path = models.join(format!("{digest}.json"));
    let written = if names.is_empty() {
        fs::remove_file(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    } else {
        write(&path, &Label { models: names })
    };
    if let Err(error) = written {
        // The catalog is what counts; this is for the day when it is lost.
        tracing::warn!(%digest, %error, "the names of a model cannot be written beside it");
    }
}

/// All that labels say, of files that are there.
pub(super) fn labelled(models: &Path) -> Vec<ModelEntry> {
    let Ok(folder) = fs::read_dir(models) else { return Vec::new() };
    let mut entries: Vec<ModelEntry> = folder
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| read(&path))
        .flat_map(|label| label.models)
        .filter(|entry| {
            of(models, &entry.sha256, entry.shards.len()).iter().all(|file| file.is_file())
        })
        .collect();
    entries.sort_by(|a, b| (&a.alias, a.added_at).cmp(&(&b.alias, b.added_at)));
    entries.dedup_by(|a, b| a.alias == b.alias);
    entries
}

fn write(path: &Path, label: &Label) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    fs::write(&beside, serde_json::to_vec_pretty(label).map_err(io::Error::other)?)?;
    fs::rename(beside, path)
}

fn read(path: &Path) -> Option<Label> {
    if fs::metadata(path).ok()?.len() > MAX_LABEL {
        return None;
    }
    let read = serde_json::from_slice(&fs::read(path).ok()?);
    if let Err(error) = &read {
        tracing::warn!(file = %path.display(), %error, "the names beside a model cannot be read");
    }
    read.ok()
}
