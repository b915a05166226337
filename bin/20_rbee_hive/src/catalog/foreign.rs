//! The stores of other programs: which models they have, and in which files. Nothing is changed there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use worker_contract::{ModelAlias, Sha256Digest};

use super::alias::from_file_name;
use super::shard::Shard;
use crate::download::{are_one, is_of, is_projector};

/// The most models that are taken from one store.
const MAX_MODELS: usize = 10_000;
/// How deep folders are looked into.
const MAX_DEPTH: usize = 6;
/// The largest manifest, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;
/// What Ollama calls the layer with the weights.
const OLLAMA_MODEL: &str = "application/vnd.ollama.image.model";
/// What Ollama calls the layer with the projector.
const OLLAMA_PROJECTOR: &str = "application/vnd.ollama.image.projector";

/// A model of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// What it is called there, as far as that is a legal name.
    pub(crate) alias: Option<ModelAlias>,
    /// Its file, or its first part.
    pub(crate) file: PathBuf,
    /// What it sees images with, if it does.
    pub(crate) projector: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
}

/// Where Ollama keeps its models, by default.
pub(crate) fn ollama_folder() -> Option<PathBuf> {
    let named = std::env::var_os("OLLAMA_MODELS").filter(|folder| !folder.is_empty());
    let own = std::env::home_dir().map(|home| home.join(".ollama/models"));
    // The service that Ollama's installer makes runs as a user of its own.
    let service = Some(PathBuf::from("/usr/share/ollama/.ollama/models"));
    match named {
        Some(named) => Some(named.into()),
        None => own.into_iter().chain(service).find(|folder| folder.join("manifests").is_dir()),
    }
}

/// Where LM Studio keeps its models, by default.
pub(crate) fn lm_studio_folder() -> Option<PathBuf> {
    let home = std::env::home_dir()?;
    [".lmstudio/models", ".cache/lm-studio/models"]
        .map(|folder| home.join(folder))
        .into_iter()
        .find(|folder| folder.is_dir())
}

/// The models of Ollama: a manifest for each, `manifests/HOST/OWNER/NAME/TAG`, and blobs by digest.
pub(crate) fn ollama(folder: &Path) -> Vec<Foreign> {
    let manifests = folder.join("manifests");
    let mut found: Vec<Foreign> = Vec::new();
    for path in walk(&manifests) {
        let Some(manifest) = manifest(&path) else { continue };
        let blob = |digest| folder.join("blobs").join(format!("sha256-{digest}"));
        let Some(file) = manifest.layer(OLLAMA_MODEL).map(blob) else { continue };
        let projector = manifest.layer(OLLAMA_PROJECTOR).map(blob).filter(|file| file.is_file());
        let parts: Vec<String> = path
            .strip_prefix(&manifests)
            .into_iter()
            .flatten()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let alias = match parts.as_slice() {
            [_, owner, name, tag] if owner == "library" => format!("{name}:{tag}"),
            [_, owner, name, tag] => format!("{owner}-{name}:{tag}"),
            _ => continue,
        };
        if file.is_file() {
            found.push(Foreign { alias: alias.parse().ok(), file, projector });
        }
    }
    found.truncate(MAX_MODELS);
    found
}

/// The GGUF files below a folder, of split models the first; LM Studio's store is such a folder. A
/// projector that lies alone in a folder is that of the model there, or of the one that is called like it.
pub(crate) fn gguf_files(folder: &Path) -> Vec<Foreign> {
    let files = walk(folder);
    let mut folders: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    for file in files.iter().filter_map(|file| file.to_str()) {
        folders.entry(Path::new(file).parent().unwrap_or(folder)).or_default().push(file);
    }
    let alone = |(folder, files): (&'_ &Path, &Vec<&str>)| {
        let mut projectors = files.iter().filter(|file| is_projector(file));
        let only = projectors.next().filter(|_| projectors.next().is_none())?;
        Some((folder.to_path_buf(), (only.to_string(), are_one(files.iter().copied()))))
    };
    let projectors: BTreeMap<PathBuf, (String, bool)> = folders.iter().filter_map(alone).collect();
    let projector_beside = |model: &Path| {
        let (projector, are_one) = projectors.get(model.parent()?)?;
        is_of(projector, model.to_str()?, *are_one).then(|| PathBuf::from(projector))
    };
    let mut found: Vec<Foreign> = files
        .iter()
        .filter_map(|file| {
            let name = file.file_name()?.to_str()?;
            let stem = name.strip_suffix(".gguf")?;
            let is_addition =
                ["mmproj", "imatrix"].iter().any(|word| stem.to_ascii_lowercase().contains(word));
            let is_first = Shard::of(stem).is_none_or(|shard| shard.index == 1);
            let alias = from_file_name(name);
            let projector = projector_beside(file);
            (is_first && !is_addition).then(|| Foreign { alias, file: file.clone(), projector })
        })
        .collect();
    found.truncate(MAX_MODELS);
    found
}

fn manifest(file: &Path) -> Option<Manifest> {
    if fs::metadata(file).ok()?.len() > MAX_MANIFEST {
        return None;
    }
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

impl Manifest {
    /// The digest of the layer of a kind.
    fn layer(&self, kind: &str) -> Option<Sha256Digest> {
        let layer = self.layers.iter().find(|layer| layer.media_type == kind)?;
        layer.digest.strip_prefix("sha256:")?.parse().ok()
    }
}

/// The files below a folder, sorted; symbolic links to folders are not followed.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if path.is_file() && files.len() < 10 * MAX_MODELS {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_of_ollama_are_found_by_their_manifests() {
        let home = tempfile::tempdir().unwrap();
        let digest = "a".repeat(64);
        let write = |path: &str, text: &str| {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let manifest = |digest: &str| {
            format!(
                r#"{{"layers":[{{"mediaType":"application/vnd.ollama.image.license","digest":"sha256:00"}},
                {{"mediaType":"{OLLAMA_PROJECTOR}","digest":"sha256:{digest}"}},
                {{"mediaType":"{OLLAMA_MODEL}","digest":"sha256:{digest}","size":4}}]}}"#
            )
        };
        write("manifests/registry.ollama.ai/library/qwen2.5/7b", &manifest(&digest));
        write("manifests/registry.ollama.ai/me/mine/latest", &manifest(&digest));
        write("manifests/registry.ollama.ai/library/gone/1b", &manifest(&"b".repeat(64)));
        write("manifests/registry.ollama.ai/library/bad/1b", &manifest("../../etc/passwd"));
        write("manifests/registry.ollama.ai/library/broken/1b", "{");
        write(&format!("blobs/sha256-{digest}"), "GGUF");
        let found = ollama(home.path());
        let names: Vec<_> = found.iter().map(|f| f.alias.as_ref().unwrap().as_str()).collect();
        assert_eq!(names, ["qwen2.5:7b", "me-mine:latest"]);
        let blob = format!("sha256-{digest}");
        assert!(found.iter().all(|f| f.file.ends_with(&blob)));
        assert!(found.iter().all(|f| f.projector.as_ref().unwrap().ends_with(&blob)));
    }

    #[test]
    fn a_folder_gives_each_model_once() {
        let home = tempfile::tempdir().unwrap();
        for name in [
            "pub/repo/a-Q4_0.gguf",
            "pub/repo/mmproj-a.gguf",
            "pub/big/b-00001-of-00002.gguf",
            "pub/big/b-00002-of-00002.gguf",
            "pub/big/README.md",
        ] {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let found = gguf_files(home.path());
        let names: Vec<_> = found.iter().map(|f| f.alias.as_ref().unwrap().as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        let projector = found[1].projector.as_ref().and_then(|file| file.file_name());
        assert_eq!(projector.unwrap(), "mmproj-a.gguf");
        assert_eq!(found[0].projector, None);
        fs::write(home.path().join("pub/repo/mmproj-b.gguf"), "x").unwrap();
        assert_eq!(gguf_files(home.path())[1].projector, None, "which of two?");
        assert!(gguf_files(Path::new("/no/such/folder")).is_empty());
    }
}
