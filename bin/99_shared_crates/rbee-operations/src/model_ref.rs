//! Where a model comes from, as a person names it: `hf:owner/repo:Q4_K_M@main`, a URL, a file.
//!
//! Parsing is the only way to a [`ModelRef`], so that what becomes a URL or a path was looked at once:
//! no `..`, no control characters, no letters that only look like others in what names a host or a
//! repository, and a bounded length.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest reference, in bytes.
const MAX_BYTES: usize = 2048;
/// The longest owner or repository name, in bytes: the hub's own limit.
const MAX_NAME: usize = 96;
/// The longest revision, in bytes.
const MAX_REVISION: usize = 128;
/// The longest quantization or file name, in bytes.
const MAX_QUANT: usize = 128;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ModelRef {
    /// A repository of the hub that `HF_ENDPOINT` names, by default Hugging Face.
    Hub(HubRef),
    /// A file on a web server: `https://…` or `http://…`.
    Url(String),
    /// A file on the hive's machine, by its absolute path.
    File(String),
}

/// A model in a repository of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubRef {
    /// Whose repository.
    pub owner: String,
    /// The repository's name.
    pub repo: String,
    /// Which quantization (`Q4_K_M`), or which file (`model-q4_k_m.gguf`, `q4/model.gguf`); the hive
    /// chooses if left out.
    pub quant: Option<String>,
    /// A branch, tag or commit; the main branch if left out.
    pub revision: Option<String>,
}

/// A reference was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid model reference {shown:?}: {reason}")]
pub struct InvalidModelRef {
    /// The refused text, cut to a printable length.
    pub shown: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What a reference looks like.
const FORMS: &str = "it is hf:OWNER/REPO, hf:OWNER/REPO:QUANT, hf:OWNER/REPO@REVISION, \
                     https://HOST/FILE.gguf or file:/ABSOLUTE/PATH.gguf";

impl ModelRef {
    /// Whether a text looks like a reference, and not like the name of a model in a catalog.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        ["hf:", "https://", "http://", "file:"].iter().any(|scheme| text.starts_with(scheme))
    }

    /// As it may be stored and shown: without a URL's query, which may be a signature.
    #[must_use]
    pub fn without_secrets(&self) -> String {
        match self {
            Self::Url(url) => url.split('?').next().unwrap_or(url).to_owned(),
            other => other.to_string(),
        }
    }

    /// Whether a model is what the reference stands for, that came from `source`: the reference that it
    /// was downloaded by, with the quantization that was taken, or a path.
    #[must_use]
    pub fn covers(&self, source: &str) -> bool {
        match (self, source.parse()) {
            (Self::Hub(asked), Ok(Self::Hub(had))) => {
                asked.id() == had.id()
                    && asked.revision == had.revision
                    && (asked.quant.is_none() || asked.quant == had.quant)
            }
            (Self::File(path), _) if path == source => true,
            _ => self.without_secrets() == source,
        }
    }

    /// The file's name, where the reference names a file.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        let path = match self {
            Self::Hub(hub) => hub.quant.as_deref().filter(|quant| is_gguf(quant))?,
            Self::Url(url) => url.split('?').next()?,
            Self::File(path) => path,
        };
        path.rsplit('/').next().filter(|name| !name.is_empty())
    }
}

impl HubRef {
    /// `owner/repo`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.repo)
    }
}

impl FromStr for ModelRef {
    type Err = InvalidModelRef;

    fn from_str(text: &str) -> Result<Self, InvalidModelRef> {
        parse(text).map_err(|reason| InvalidModelRef {
            shown: text.chars().filter(|c| !c.is_control()).take(80).collect(),
            reason,
        })
    }
}

impl TryFrom<String> for ModelRef {
    type Error = InvalidModelRef;
    fn try_from(text: String) -> Result<Self, InvalidModelRef> {
        text.parse()
    }
}

impl From<ModelRef> for String {
    fn from(reference: ModelRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(hub) => hub.fmt(f),
            Self::Url(url) => f.write_str(url),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}", self.owner, self.repo)?;
        if let Some(quant) = &self.quant {
            write!(f, ":{quant}")?;
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

fn parse(text: &str) -> Result<ModelRef, &'static str> {
    if text.len() > MAX_BYTES {
        return Err("it is longer than 2048 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("it has a control character");
    }
    if let Some(rest) = text.strip_prefix("hf:") {
        return hub(rest.trim_start_matches("//")).map(ModelRef::Hub);
    }
    if text.starts_with("https://") || text.starts_with("http://") {
        return url(text);
    }
    if let Some(rest) = text.strip_prefix("file:") {
        return file(rest);
    }
    Err(FORMS)
}

fn hub(rest: &str) -> Result<HubRef, &'static str> {
    let (rest, revision) = match rest.split_once('@') {
        Some((rest, revision)) => (rest, Some(revision)),
        None => (rest, None),
    };
    let (id, quant) = match rest.split_once(':') {
        Some((id, quant)) => (id, Some(quant)),
        None => (rest, None),
    };
    let (owner, repo) = id.split_once('/').ok_or(FORMS)?;
    if !is_name(owner, MAX_NAME) || !is_name(repo, MAX_NAME) {
        return Err("owner and repository are of letters, digits, '.', '_' and '-', \
                    96 at most, and begin with a letter or a digit");
    }
    if quant.is_some_and(|quant| !is_quant(quant)) {
        return Err(
            "a quantization is of letters, digits, '.', '_' and '-'; so is a file's path, \
                    which has '/' as well",
        );
    }
    if revision.is_some_and(|revision| !is_revision(revision)) {
        return Err("a revision is a branch, a tag or a commit");
    }
    Ok(HubRef {
        owner: owner.into(),
        repo: repo.into(),
        quant: quant.map(Into::into),
        revision: revision.map(Into::into),
    })
}

fn url(text: &str) -> Result<ModelRef, &'static str> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("a URL is of ASCII characters without blanks; others are written as %XX");
    }
    let parsed = url::Url::parse(text).map_err(|_| "it is not a URL")?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err("a URL with a password in it would be shown in lists");
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err("the URL has no host");
    }
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or(rest).to_ascii_lowercase();
    let path = path.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    if path.split('/').any(|part| part == "..") || path.contains("%00") {
        return Err("the URL's path has '..' or a NUL in it");
    }
    if parsed.fragment().is_some() {
        return Err("a URL of a file has no '#'");
    }
    if parsed.path().ends_with('/') {
        return Err("the URL names a folder, not a file");
    }
    Ok(ModelRef::Url(text.to_owned()))
}

fn file(rest: &str) -> Result<ModelRef, &'static str> {
    let path = rest.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(rest);
    if !path.starts_with('/') {
        return Err("a file is named by its absolute path on the hive's machine: file:/PATH");
    }
    if path.starts_with("//") {
        return Err("a file of another host cannot be read: file:/PATH");
    }
    if path.split('/').any(|part| part == "..") {
        return Err("the path has '..' in it");
    }
    if path.ends_with('/') && path.len() > 1 {
        return Err("the path names a folder, not a file");
    }
    Ok(ModelRef::File(path.to_owned()))
}

fn is_name(text: &str, max: usize) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= max
        && text.chars().all(legal)
        && !text.contains("..")
}

/// A quantization, or the path of a file.
fn is_quant(text: &str) -> bool {
    let is_path = || is_gguf(text) && text.split('/').all(|part| is_name(part, MAX_QUANT));
    is_name(text, MAX_QUANT) || (text.len() <= MAX_QUANT && is_path())
}

/// As git has it, but for what nobody names a branch.
fn is_revision(text: &str) -> bool {
    text.len() <= MAX_REVISION && text.split('/').all(|part| is_name(part, MAX_REVISION))
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_understood_and_written_as_they_were_given() {
        for text in [
            "hf:bartowski/Llama-3.2-3B-Instruct-GGUF",
            "hf:o/r:Q4_K_M",
            "hf:o/r:model-Q4_K_M.gguf@main",
            "hf:o/r:vision/mmproj-F16.gguf@main",
            "hf:o/r@refs/pr/7",
            "hf:o/r:Q8_0@0123456789abcdef0123456789abcdef01234567",
            "https://example.com/models/a.gguf?signature=x",
            "http://127.0.0.1:8080/a.gguf",
            "file:/srv/models/größe.gguf",
        ] {
            let reference: ModelRef = text.parse().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(reference.to_string(), text);
            let json = serde_json::to_string(&reference).unwrap();
            assert_eq!(serde_json::from_str::<ModelRef>(&json).unwrap(), reference);
        }
        let hub = "hf:o/r:Q4_K_M@v1".parse().unwrap();
        let ModelRef::Hub(hub) = hub else { panic!("{hub:?}") };
        assert_eq!((hub.quant.as_deref(), hub.revision.as_deref()), (Some("Q4_K_M"), Some("v1")));
        let file: ModelRef = "file:///a/b.gguf".parse().unwrap();
        assert_eq!(file, ModelRef::File("/a/b.gguf".into()));
    }

    #[test]
    fn what_could_become_another_path_host_or_name_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "it is hf:"),
            ("llama3", "it is hf:"),
            ("ftp://host/a.gguf", "it is hf:"),
            ("hf:llama3", "it is hf:"),
            ("hf:../etc", "owner and repository"),
            ("hf:o/..", "owner and repository"),
            ("hf:o/r/s", "owner and repository"),
            ("hf:o/r..x", "owner and repository"),
            ("hf:/etc/passwd", "owner and repository"),
            ("hf:о/r", "owner and repository"),     // a Cyrillic о
            ("hf:o/ｒepo", "owner and repository"), // a fullwidth r
            ("hf:o/r:Q4∕K", "a quantization"),
            ("hf:o/r:../x", "a quantization"),
            ("hf:o/r:../x.gguf", "a quantization"),
            ("hf:o/r:/x.gguf", "a quantization"),
            ("hf:o/r:a//x.gguf", "a quantization"),
            ("hf:o/r:a/x", "a quantization"),
            ("hf:o/r:", "a quantization"),
            ("hf:o/r@", "a revision"),
            ("hf:o/r@../../api", "a revision"),
            ("hf:o/r@-x", "a revision"),
            ("hf:o/r\0", "control character"),
            ("https://exаmple.com/a.gguf", "ASCII"), // a Cyrillic а
            ("https://example.com/a b.gguf", "ASCII"),
            ("https://user:pw@example.com/a.gguf", "password"),
            ("https:///a.gguf", "a folder"), // a.gguf is the host
            ("https://example.com/../a.gguf", "'..'"),
            ("https://example.com/x/%2e%2E/a.gguf", "'..'"),
            ("https://example.com/x%2f..%2fa.gguf", "'..'"),
            ("https://example.com/a%00.gguf", "'..'"),
            ("https://example.com/a.gguf#x", "'#'"),
            ("https://example.com/", "a folder"),
            ("http://[::1/a.gguf", "not a URL"),
            ("file:a.gguf", "absolute path"),
            ("file:/srv/../etc/passwd", "'..'"),
            ("file:////host/a.gguf", "another host"),
            ("file:/srv/", "a folder"),
            ("file:/a\nb", "control character"),
        ] {
            let error = text.parse::<ModelRef>().expect_err(text);
            assert!(error.reason.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_name_of_ten_thousand_characters_is_refused_and_not_repeated() {
        for text in ["hf:o/", "https://example.com/", "file:/"] {
            let error = format!("{text}{}", "a".repeat(10_000)).parse::<ModelRef>().unwrap_err();
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    #[test]
    fn a_model_is_known_by_where_it_came_from() {
        for (reference, source, covers) in [
            ("hf:o/r", "hf:o/r:Q4_K_M", true),
            ("hf:o/r:Q4_K_M", "hf:o/r:Q4_K_M", true),
            ("hf:o/r:Q8_0", "hf:o/r:Q4_K_M", false),
            ("hf:o/r@v1", "hf:o/r:Q4_K_M", false),
            ("hf:o/s", "hf:o/r:Q4_K_M", false),
            ("https://h/a.gguf?sig=x", "https://h/a.gguf", true),
            ("https://h/a.gguf", "https://h/b.gguf", false),
            ("file:/srv/a.gguf", "/srv/a.gguf", true),
            ("file:/srv/a.gguf", "/srv/b.gguf", false),
        ] {
            let reference: ModelRef = reference.parse().unwrap();
            assert_eq!(reference.covers(source), covers, "{reference} {source}");
        }
    }

    #[test]
    fn a_signature_is_not_shown() {
        let reference: ModelRef = "https://h/a.gguf?sig=secret".parse().unwrap();
        assert_eq!(reference.without_secrets(), "https://h/a.gguf");
        assert_eq!(reference.file_name(), Some("a.gguf"));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_has_no_way_up_and_no_control_character(text in "(hf:|https://|file:/|)\\PC{0,60}") {
            if let Ok(reference) = text.parse::<ModelRef>() {
                let shown = reference.to_string();
                let path = reference.without_secrets();
                prop_assert!(!path.split(['/', ':', '@']).any(|part| part == ".."), "{path}");
                prop_assert!(!shown.chars().any(char::is_control));
                prop_assert_eq!(shown.parse::<ModelRef>().unwrap(), reference);
            }
        }
    }
}
