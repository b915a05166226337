//! What lies in the models folder and belongs to no model: unfinished downloads, and files that no name
//! stands for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Catalog;
use crate::download::read_note;

/// Something that takes disk for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Garbage {
    /// Its name in the models folder.
    pub(crate) name: String,
    /// What it is to become, for people; of a file without a name nothing is known.
    pub(crate) what: Option<String>,
    /// The bytes that it takes.
    pub(crate) bytes: u64,
    /// How many it would have in the end, where that is known.
    pub(crate) total: Option<u64>,
    /// When it was last written to: seconds since the Unix epoch.
    pub(crate) changed_at: Option<u64>,
}

impl Catalog {
    /// Lists it, but for what `is_busy` says is being downloaded. Blocking.
    pub(crate) fn garbage(&self, is_busy: impl Fn(&str) -> bool) -> Vec<Garbage> {
        let mut found: Vec<Garbage> = read(&self.partial())
            .filter(|path| path.extension().is_some_and(|extension| extension == "part"))
            .filter(|path| !is_busy(&stem(path)))
            .map(|path| {
                let note = read_note(&path.with_extension("json"));
                let total = note.as_ref().and_then(|note| note.size);
                let bytes = note.as_ref().map(crate::download::Note::present);
                let what = note.map(|note| note.what);
                let mut garbage = of(&path, format!("{}/{}", super::PARTIAL, name(&path)));
                garbage.bytes = bytes.unwrap_or(garbage.bytes);
                Garbage { what, total, ..garbage }
            })
            .collect();
        let view = self.view();
        let known: BTreeSet<&str> =
            view.values().map(|pinned| pinned.entry.sha256.as_hex()).collect();
        let seeing = view.values().filter(|pinned| pinned.projector.is_some());
        let seeing: BTreeSet<&str> = seeing.map(|pinned| pinned.entry.sha256.as_hex()).collect();
        let unknown = read(&self.models).filter(|path| {
            let name = name(path);
            if let Some(model) = name.strip_suffix(super::files::PROJECTOR_SUFFIX) {
                return is_digest(model) && !seeing.contains(model);
            }
            let stem = stem(path);
            is_digest(&stem)
                && !known.contains(stem.as_str())
                && (name == format!("{stem}.gguf") || (path.is_dir() && name == stem))
        });
        found.extend(unknown.map(|path| of(&path, name(&path))));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Removes it, and says what is gone. Blocking. `if_idle` does the removal of what nobody needs.
    pub(crate) fn remove_garbage(&self, if_idle: impl Fn(&str, &mut dyn FnMut())) -> Vec<Garbage> {
        // No model can be added meanwhile, so nothing gets a name that is removed here.
        let _store = self.store();
        let mut garbage = self.garbage(|_| false);
        garbage.retain(|found| {
            let path = self.models.join(&found.name);
            let mut is_gone = false;
            if_idle(&stem(&path), &mut || is_gone = remove(&path));
            is_gone
        });
        garbage
    }
}

fn remove(path: &Path) -> bool {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    let _ = fs::remove_file(path.with_extension("json"));
    if let Err(error) = &removed {
        tracing::warn!(file = %path.display(), %error, "garbage cannot be removed");
    }
    removed.is_ok()
}

fn of(path: &Path, name: String) -> Garbage {
    let metadata = fs::metadata(path).ok();
    let changed = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
    let changed = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let bytes = if path.is_dir() {
        read(path).filter_map(|file| Some(fs::metadata(file).ok()?.len())).sum()
    } else {
        metadata.map_or(0, |metadata| metadata.len())
    };
    Garbage { name, what: None, bytes, total: None, changed_at: changed.map(|t| t.as_secs()) }
}

fn read(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_digest(text: &str) -> bool {
    text.parse::<worker_contract::Sha256Digest>().is_ok()
}
