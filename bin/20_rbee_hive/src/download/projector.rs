//! Which file of a repository lets a model see images. Pure.
//!
//! Projectors are called `mmproj…gguf` and lie in the folder of their model or in one above it. The same
//! one is often there in several precisions.

use std::path::Path;

use super::hub::RepoFile;
use crate::catalog::quantization_in;

/// From the best: what every backend computes with, then what loses nothing, then the rest.
const ORDER: [&str; 4] = ["F16", "BF16", "Q8_0", "F32"];
/// The word in the name of each projector.
const MARK: &str = "mmproj";

/// What there is for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// One, or one in several precisions, of which this is the best.
    One(RepoFile),
    /// Several different ones.
    Several(Vec<RepoFile>),
}

/// Whether a file is a projector, by its name.
pub(crate) fn is_projector(name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    base.to_ascii_lowercase().contains(MARK) && is_gguf(base)
}

/// What lies beside the model with this name.
pub(crate) fn beside(model: &str, files: &[RepoFile]) -> Beside {
    let projectors = || files.iter().filter(|file| is_projector(&file.name));
    let mut folder = folder_of(model);
    loop {
        let here: Vec<&RepoFile> =
            projectors().filter(|file| folder_of(&file.name) == folder).collect();
        if !here.is_empty() {
            return best(here);
        }
        match folder {
            Some(deeper) => folder = folder_of(deeper),
            None => return Beside::Nothing,
        }
    }
}

/// The projector with this file name, wherever it lies.
pub(crate) fn named<'f>(wanted: &str, files: &'f [RepoFile]) -> Option<&'f RepoFile> {
    files.iter().find(|file| {
        let base = file.name.rsplit('/').next().unwrap_or(&file.name);
        base.eq_ignore_ascii_case(wanted) && is_gguf(base)
    })
}

fn is_gguf(name: &str) -> bool {
    let extension = Path::new(name).extension();
    extension.is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn best(mut files: Vec<&RepoFile>) -> Beside {
    files.sort_by_key(|file| rank(&file.name));
    let Some(first) = files.first() else { return Beside::Nothing };
    let is_same = |file: &&RepoFile| plain(&file.name) == plain(&first.name);
    if files.iter().all(is_same) {
        return Beside::One((*first).clone());
    }
    Beside::Several(files.into_iter().cloned().collect())
}

/// The name without its precision.
fn plain(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let stem = lower.strip_suffix(".gguf").unwrap_or(&lower);
    let precision = quantization_in(stem).map_or(0, str::len);
    stem[..stem.len() - precision].to_owned()
}

fn rank(name: &str) -> usize {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let precision = quantization_in(stem).unwrap_or_default();
    let place = ORDER.iter().position(|known| known.eq_ignore_ascii_case(precision));
    place.unwrap_or(ORDER.len())
}

/// The folder of a path; `None` for what lies at the top.
fn folder_of(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projector_beside_a_model_is_found() {
        for (names, model, expected) in [
            (&["m-Q4_0.gguf", "mmproj-m-f16.gguf"][..], "m-Q4_0.gguf", "mmproj-m-f16.gguf"),
            (
                &["mmproj-F32.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf"],
                "m.gguf",
                "mmproj-F16.gguf",
            ),
            (&["m.gguf", "README.md", "mmproj.txt"], "m.gguf", ""),
            (&["Q8_0/m.gguf", "mmproj-BF16.gguf"], "Q8_0/m.gguf", "mmproj-BF16.gguf"),
            (
                &["mmproj-x.gguf", "a/mmproj-a.gguf", "b/mmproj-b.gguf"],
                "a/m.gguf",
                "a/mmproj-a.gguf",
            ),
            (&["a/mmproj-a.gguf"], "b/m.gguf", ""),
            (&["a/m.gguf", "a/m.mmproj-Q8_0.gguf"], "a/m.gguf", "a/m.mmproj-Q8_0.gguf"),
            (&["mmproj-a-f16.gguf", "mmproj-b-f16.gguf"], "m.gguf", "2"),
        ] {
            let found = match beside(model, &files(names)) {
                Beside::Nothing => String::new(),
                Beside::One(file) => file.name,
                Beside::Several(files) => files.len().to_string(),
            };
            assert_eq!(found, expected, "{names:?}");
        }
    }

    #[test]
    fn a_projector_is_taken_by_the_name_of_its_file() {
        let files = files(&["x/MMPROJ-f16.gguf", "m.gguf"]);
        assert_eq!(named("mmproj-F16.gguf", &files), Some(&files[0]));
        assert_eq!(named("mmproj-Q8_0.gguf", &files), None);
    }

    fn files(names: &[&str]) -> Vec<RepoFile> {
        let file = |name: &&str| RepoFile { name: (*name).into(), size: None, sha256: None };
        names.iter().map(file).collect()
    }
}
