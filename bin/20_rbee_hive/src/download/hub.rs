//! Hugging Face's API, or that of a mirror: which files a repository has, and where they are.
//!
//! The requests are those of the crate `hf-hub`, which itself is not used: it resumes nothing, takes one
//! connection for a file, compares no digest, and brings a second TLS library and a storage protocol of
//! the hub's own.

use access_tokens::Secret;
use hyper::Method;
use rbee_operations::HubRef;
use serde::Deserialize;
use url::Url;
use worker_contract::Sha256Digest;

use super::client::{Ask, Client, host};
use super::error::DownloadError;
use super::fetch::Remote;

/// The hub that is asked if nobody names another.
pub(crate) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The most files of a repository that are looked at.
const MAX_FILES: usize = 20_000;

/// A hub, and who asks it.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    pub(crate) endpoint: Url,
    pub(crate) token: Option<Secret>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RepoFile {
    /// Its path in the repository.
    pub(crate) name: String,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<Sha256Digest>,
}

/// A repository at one commit.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    commit: String,
    pub(crate) files: Vec<RepoFile>,
}

#[derive(Debug, Deserialize)]
struct ModelInfo {
    #[serde(default)]
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

impl Hub {
    /// What a repository has.
    pub(crate) async fn repository(
        &self,
        client: &Client,
        model: &HubRef,
    ) -> Result<Repository, DownloadError> {
        let revision = model.revision.as_deref().unwrap_or("main");
        let mut url = self.url(&["api", "models", &model.owner, &model.repo, "revision", revision]);
        // Sizes and digests too.
        url.set_query(Some("blobs=true"));
        let what = format!("model {}", model.id());
        let ask = Ask {
            method: Method::GET,
            url: &url,
            token: self.token.as_ref(),
            range: None,
            what: &what,
        };
        let document = client.document(ask).await?;
        let info: ModelInfo = serde_json::from_slice(&document).map_err(|error| {
            DownloadError::Answer { host: host(&url), reason: error.to_string() }
        })?;
        let commit = info.sha.filter(|sha| is_commit(sha)).unwrap_or_else(|| revision.to_owned());
        let files = info.siblings.into_iter().take(MAX_FILES).filter_map(file).collect();
        Ok(Repository { commit, files })
    }

    /// Where a file is. The commit is named, so that all files are of the same one.
    pub(crate) fn remote(
        &self,
        model: &HubRef,
        repository: &Repository,
        file: &RepoFile,
    ) -> Remote {
        let mut path = vec![&*model.owner, &*model.repo, "resolve", &*repository.commit];
        path.extend(file.name.split('/'));
        Remote {
            url: self.url(&path),
            token: self.token.clone(),
            what: file.name.clone(),
            size: file.size,
            sha256: file.sha256.clone(),
        }
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

/// A file with a name that is no way to another one.
fn file(sibling: Sibling) -> Option<RepoFile> {
    let name = sibling.rfilename;
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let is_plain = name.split('/').all(plain) && !name.chars().any(char::is_control);
    let (size, sha256) = match sibling.lfs {
        Some(lfs) => (lfs.size.or(sibling.size), lfs.sha256.and_then(|sha256| sha256.parse().ok())),
        None => (sibling.size, None),
    };
    (is_plain && name.len() <= 1024).then_some(RepoFile { name, size, sha256 })
}

fn is_commit(sha: &str) -> bool {
    sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_hub_and_keep_odd_names_in_their_place() {
        let hub = |endpoint: &str| Hub { endpoint: endpoint.parse().unwrap(), token: None };
        let model: HubRef = HubRef {
            owner: "o".into(),
            repo: "r".into(),
            quant: None,
            revision: Some("refs/pr/1".into()),
        };
        for (endpoint, name, expected) in [
            (DEFAULT_ENDPOINT, "a.gguf", "https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/a.gguf"),
            (
                "http://mirror:8080/hf/",
                "q/a b#1.gguf",
                "http://mirror:8080/hf/o/r/resolve/refs%2Fpr%2F1/q/a%20b%231.gguf",
            ),
        ] {
            let file = RepoFile { name: name.into(), size: None, sha256: None };
            let repository = Repository { commit: "refs/pr/1".into(), files: Vec::new() };
            let remote = hub(endpoint).remote(&model, &repository, &file);
            assert_eq!(remote.url.as_str(), expected);
        }
    }

    #[test]
    fn a_file_whose_name_is_a_way_to_another_one_is_not_seen() {
        for (name, seen) in [
            ("a.gguf", true),
            ("q4/a.gguf", true),
            ("../a.gguf", false),
            ("q/../../a.gguf", false),
            ("/a.gguf", false),
            ("a\n.gguf", false),
        ] {
            let sibling = Sibling { rfilename: name.into(), size: None, lfs: None };
            assert_eq!(file(sibling).is_some(), seen, "{name:?}");
        }
    }
}
