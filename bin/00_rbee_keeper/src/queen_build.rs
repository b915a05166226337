//! Builds the queen from its source and puts it where the commands find it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::output::Output;

/// The package, and the name of its binary.
const QUEEN: &str = "queen-rbee";
/// The feature of one that has this machine's hive inside.
pub(crate) const LOCAL_HIVE: &str = "local-hive";
/// How much of cargo's output an error tells, in lines.
const TAIL: usize = 20;

/// How long the installed queen may take to say what she is.
const ANSWER: Duration = Duration::from_secs(5);

/// What was built.
pub(crate) struct Rebuilt {
    /// The binary that the commands start.
    pub(crate) binary: PathBuf,
    pub(crate) has_local_hive: bool,
}

/// Builds the queen and puts her in the place of the one that is installed; whether a hive is inside is as
/// there, unless it is said.
pub(crate) async fn rebuild(
    output: Output,
    source: Option<&Path>,
    local_hive: Option<bool>,
) -> Result<Rebuilt, Failure> {
    let checkout = checkout(source)?;
    let place = match daemon_lifecycle::find_binary(QUEEN) {
        Ok(place) => place,
        Err(_) => beside_this_program()?,
    };
    let has_local_hive = match local_hive {
        Some(wanted) => wanted,
        None => has_local_hive(&place).await,
    };
    output.note(&format!("building {QUEEN} in {}, {}", checkout.display(), inside(has_local_hive)));
    let built = cargo_build(output, &checkout, has_local_hive).await?;
    install(&built, &place).map_err(|error| {
        Failure::caused(format!("cannot put {QUEEN} at {}", place.display()), error)
    })?;
    Ok(Rebuilt { binary: place, has_local_hive })
}

/// What is told of where the hive is, and how to have it otherwise.
fn inside(has_local_hive: bool) -> &'static str {
    if has_local_hive {
        "with this machine's hive inside (--without-local-hive leaves it out)"
    } else {
        "without a hive inside (--with-local-hive puts it in)"
    }
}

/// Whether the queen that the commands start has a hive inside.
pub(crate) async fn installed_has_local_hive() -> bool {
    match daemon_lifecycle::find_binary(QUEEN) {
        Ok(place) => has_local_hive(&place).await,
        Err(_) => false,
    }
}

/// Whether an installed queen has a hive inside; not where there is none, or she does not say.
async fn has_local_hive(queen: &Path) -> bool {
    let mut asked = Command::new(queen);
    asked.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match timeout(ANSWER, asked.output()).await {
        Ok(Ok(said)) => String::from_utf8_lossy(&said.stdout).contains("(local-hive)"),
        _ => false,
    }
}

/// The checkout to build: the one that was named, or the one that this program came from.
fn checkout(source: Option<&Path>) -> Result<PathBuf, Failure> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = source.unwrap_or(&own);
    let folder = folder.canonicalize().map_err(|error| {
        Failure::caused(format!("there is no checkout of rbee at {}", folder.display()), error)
            .with_hint(SOURCE_HINT)
    })?;
    if folder.join("bin/10_queen_rbee/Cargo.toml").is_file() {
        return Ok(folder);
    }
    Err(Failure::local(format!("{} is not a checkout of rbee", folder.display()))
        .with_hint(SOURCE_HINT))
}

const SOURCE_HINT: &str =
    "clone rbee and name the folder: `rbee-keeper queen rebuild --source DIR`";

/// Runs cargo and gives the path of what it built.
async fn cargo_build(
    output: Output,
    checkout: &Path,
    with_local_hive: bool,
) -> Result<PathBuf, Failure> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(checkout)
        .args(["build", "--release", "-p", QUEEN, "--message-format=json-render-diagnostics"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(if output.is_silent() { Stdio::piped() } else { Stdio::inherit() })
        .kill_on_drop(true);
    if with_local_hive {
        cargo.args(["--features", LOCAL_HIVE]);
    }
    let ended = cargo.spawn().map_err(|error| {
        Failure::caused("cannot run cargo", error)
            .with_hint("install Rust from https://rustup.rs, then try again")
    })?;
    let ended = ended
        .wait_with_output()
        .await
        .map_err(|error| Failure::caused("cannot follow cargo", error))?;
    if !ended.status.success() {
        let told = String::from_utf8_lossy(&ended.stderr);
        let lines: Vec<&str> = told.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        let message = format!("cargo could not build {QUEEN} ({})", ended.status);
        return Err(match tail.trim() {
            "" => Failure::local(message),
            tail => Failure::local(format!("{message}:\n{tail}")),
        });
    }
    executable(&String::from_utf8_lossy(&ended.stdout))
        .ok_or_else(|| Failure::local("cargo does not say where it put the binary"))
}

/// The binary that cargo's messages name, one JSON object a line.
fn executable(messages: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    messages
        .filter(|message| message.target.as_ref().is_some_and(|target| target.name == QUEEN))
        .filter_map(|message| message.executable)
        .next_back()
}

fn beside_this_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::caused("cannot find this program's own folder", error))?;
    Ok(program.with_file_name(QUEEN))
}

/// Replaces `place` by a copy of `built` in one step: who starts the binary gets the whole of one
/// or of the other, and a process that runs keeps its own.
fn install(built: &Path, place: &Path) -> std::io::Result<()> {
    if place
        .canonicalize()
        .is_ok_and(|place| built.canonicalize().is_ok_and(|built| built == place))
    {
        return Ok(());
    }
    // A link is kept; what it points to is replaced.
    let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
    let copy = place.with_file_name(format!(".{QUEEN}.{}.tmp", std::process::id()));
    let copied = std::fs::copy(built, &copy)
        .and_then(|_| std::fs::File::open(&copy)?.sync_all())
        .and_then(|()| std::fs::rename(&copy, &place));
    if copied.is_err() {
        let _ = std::fs::remove_file(&copy);
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_that_this_program_came_from_is_found() {
        assert!(checkout(None).unwrap().join("Cargo.toml").is_file());
    }

    #[test]
    fn a_folder_that_is_no_checkout_is_refused_with_the_option_that_names_one() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("none")] {
            let refused = checkout(Some(&path)).unwrap_err();
            assert!(refused.hint().unwrap().contains("--source"), "{refused}");
        }
    }

    #[test]
    fn the_binary_is_the_one_that_cargo_names() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"queen-rbee"},"executable":"/t/queen-rbee"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executable(messages), Some(PathBuf::from("/t/queen-rbee")));
        assert_eq!(executable(""), None);
    }

    #[test]
    fn an_installed_binary_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (built, place) = (folder.path().join("built"), folder.path().join("queen-rbee"));
        std::fs::write(&built, "new").unwrap();
        std::fs::write(&place, "old").unwrap();
        install(&built, &place).unwrap();
        assert_eq!(std::fs::read_to_string(&place).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        install(&place, &place).unwrap();
        assert_eq!(std::fs::read_to_string(&place).unwrap(), "new");
    }
}
