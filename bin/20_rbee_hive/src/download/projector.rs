//! Which file of a repository lets a model see images. Pure.
//!
//! Projectors are called `mmproj…gguf` and lie in the folder of their model or in one above it. The same
//! one is often there in several precisions.

use std::path::Path;

use super::hub::RepoFile;
use crate::catalog::quantization_in;
use crate::catalog::shard::Shard;

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
    /// One beside several different models, whose name does not say of which it is.
    Unclear(RepoFile),
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
            let models = files.iter().filter(|file| is_below(&file.name, folder));
            let are_one = are_one(models.map(|file| file.name.as_str()));
            return match best(here) {
                Beside::One(file) if !model.is_empty() && !is_of(&file.name, model, are_one) => {
                    Beside::Unclear(file)
                }
                found => found,
            };
        }
        match folder {
            Some(deeper) => folder = folder_of(deeper),
            None => return Beside::Nothing,
        }
    }
}

/// Whether the models among these files are one, in several quantizations or parts, by their names.
pub(crate) fn are_one<'f>(files: impl Iterator<Item = &'f str>) -> bool {
    let mut names = files.filter(|name| !is_addition(name)).map(model_name);
    let first = names.next();
    first.is_none_or(|first| names.all(|name| name == first))
}

/// Whether a projector is that of a model which lies beside it, as far as their names say: it is where
/// there is no other model, else where it is called as the model is.
pub(crate) fn is_of(projector: &str, model: &str, are_one: bool) -> bool {
    if are_one {
        return true;
    }
    let (model, name) = (model_name(model), model_name(projector).replace(MARK, ""));
    let name = name.trim_matches(is_separator);
    let rest = model.strip_prefix(name).filter(|_| !name.is_empty());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(is_separator))
}

/// Whether a file is no model of its own, by its name.
fn is_addition(name: &str) -> bool {
    let base = base(name).to_ascii_lowercase();
    !is_gguf(&base)
        || [MARK, "imatrix", "lora", "adapter", "vocab"].iter().any(|w| base.contains(w))
}

/// What a model is called, without its part, its quantization and its folder.
fn model_name(name: &str) -> String {
    let base = base(name).to_ascii_lowercase();
    let stem = base.strip_suffix(".gguf").unwrap_or(&base);
    let stem = Shard::of(stem).map_or(stem, |shard| shard.stem);
    plain(stem).trim_end_matches(is_separator).to_owned()
}

fn is_separator(c: char) -> bool {
    matches!(c, '-' | '_' | '.')
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_below(path: &str, folder: Option<&str>) -> bool {
    folder.is_none_or(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
}

/// The file with this path, else those with this name, wherever they lie.
pub(crate) fn named(wanted: &str, files: &[RepoFile]) -> Beside {
    let mut found: Vec<&RepoFile> = files
        .iter()
        .filter(|file| {
            let base = file.name.rsplit('/').next().unwrap_or(&file.name);
            [file.name.as_str(), base].iter().any(|name| name.eq_ignore_ascii_case(wanted))
                && is_gguf(base)
        })
        .collect();
    if let Some(there) = found.iter().find(|file| file.name.eq_ignore_ascii_case(wanted)) {
        found = vec![*there];
    }
    match found.as_slice() {
        [] => Beside::Nothing,
        [one] => Beside::One((*one).clone()),
        several => Beside::Several(several.iter().map(|file| (*file).clone()).collect()),
    }
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
            (
                &[
                    "m-Q4_0.gguf",
                    "m-UD-Q8_0-00001-of-00002.gguf",
                    "imatrix-n.gguf",
                    "mmproj-F16.gguf",
                ],
                "m-Q4_0.gguf",
                "mmproj-F16.gguf",
            ),
            (&["m.gguf", "n.gguf", "mmproj-F16.gguf"], "m.gguf", "? mmproj-F16.gguf"),
            (&["m.gguf", "n.gguf", "mmproj-n-F16.gguf"], "m.gguf", "? mmproj-n-F16.gguf"),
            (&["m.gguf", "n-it-Q4_0.gguf", "n.mmproj.gguf"], "n-it-Q4_0.gguf", "n.mmproj.gguf"),
            (&["n.gguf", "n-vl.gguf", "mmproj-n-vl.gguf"], "n.gguf", "? mmproj-n-vl.gguf"),
            (&["a/m.gguf", "b/n.gguf", "a/mmproj.gguf"], "a/m.gguf", "a/mmproj.gguf"),
            (&["a/m.gguf", "b/n.gguf", "mmproj.gguf"], "a/m.gguf", "? mmproj.gguf"),
        ] {
            let found = match beside(model, &files(names)) {
                Beside::Nothing => String::new(),
                Beside::One(file) => file.name,
                Beside::Unclear(file) => format!("? {}", file.name),
                Beside::Several(files) => files.len().to_string(),
            };
            assert_eq!(found, expected, "{names:?}");
        }
    }

    #[test]
    fn a_projector_is_taken_by_the_name_of_its_file() {
        let files = files(&["x/MMPROJ-f16.gguf", "m.gguf", "a/eyes.gguf", "b/eyes.gguf"]);
        assert_eq!(named("mmproj-F16.gguf", &files), Beside::One(files[0].clone()));
        assert_eq!(named("mmproj-Q8_0.gguf", &files), Beside::Nothing);
        assert_eq!(named("b/eyes.gguf", &files), Beside::One(files[3].clone()));
        assert_eq!(named("eyes.gguf", &files), Beside::Several(files[2..].to_vec()));
    }

    fn files(names: &[&str]) -> Vec<RepoFile> {
        let file = |name: &&str| RepoFile { name: (*name).into(), size: None, sha256: None };
        names.iter().map(file).collect()
    }
}
