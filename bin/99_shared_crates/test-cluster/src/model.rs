//! The model that tests run, and files that only look like one.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

/// The demo model's file, fetched with `scripts/fetch-demo-model.sh` if it is not there yet.
///
/// It lies in `$RBEE_TEST_MODELS`, else in `~/.cache/rbee-test-models`.
pub fn demo_model() -> Result<PathBuf> {
    static MODEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&MODEL, "SmolLM2-135M-Instruct.Q4_1.gguf", "fetch-demo-model.sh")
}

/// An embedding model's file (all-MiniLM-L6-v2, F16), fetched with
/// `scripts/fetch-embedding-model.sh` if it is not there yet; it lies where the demo model does.
pub fn embedding_model() -> Result<PathBuf> {
    static MODEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&MODEL, "all-MiniLM-L6-v2.F16.gguf", "fetch-embedding-model.sh")
}

/// What the embedding model's original weights make of some sentences, as JSON.
pub fn embedding_reference() -> Result<PathBuf> {
    static FILE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&FILE, "all-MiniLM-L6-v2.reference.json", "fetch-embedding-model.sh")
}

fn once(place: &OnceLock<Result<PathBuf, String>>, file: &str, script: &str) -> Result<PathBuf> {
    let found =
        place.get_or_init(|| find_or_fetch(file, script).map_err(|error| format!("{error:#}")));
    found.clone().map_err(|error| anyhow!(error))
}

/// Writes a file that begins like a GGUF and goes on with noise.
pub fn write_broken_model(path: &Path) -> Result<()> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(b"this is not a model".repeat(1000));
    replace(path, &bytes)
}

/// Writes the demo model without its end.
pub fn write_truncated_model(path: &Path) -> Result<()> {
    let whole = demo_model()?;
    let half = fs::metadata(&whole)?.len() / 2;
    let mut bytes = Vec::new();
    File::open(whole)?.take(half).read_to_end(&mut bytes)?;
    replace(path, &bytes)
}

/// Puts a fresh file at `path`: a catalog may share its file with the test model by a hard link.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a model file has a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

fn find_or_fetch(file: &str, script: &str) -> Result<PathBuf> {
    let dir = match env::var_os("RBEE_TEST_MODELS") {
        Some(dir) => PathBuf::from(dir),
        None => env::home_dir().context("no home folder")?.join(".cache/rbee-test-models"),
    };
    let file = dir.join(file);
    if file.is_file() {
        return Ok(file);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../scripts").join(script);
    let run = Command::new(&script)
        .arg(&dir)
        .output()
        .with_context(|| format!("{} cannot be run", script.display()))?;
    let said = String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.success() && file.is_file(), "{} failed: {said}", script.display());
    Ok(file)
}
