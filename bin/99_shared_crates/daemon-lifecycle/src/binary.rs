//! Where rbee's binaries are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::LifecycleError;

/// The variable that names a folder with rbee's binaries.
const BIN_DIR: &str = "RBEE_BIN_DIR";

/// Finds a binary of rbee: in `RBEE_BIN_DIR`, beside this program, then on the `PATH`.
///
/// # Errors
/// When it is in none of these, the error says how to build it; a folder in `RBEE_BIN_DIR` that does not
/// exist is one, too: whoever named it wants what is there and nothing else.
pub fn find_binary(name: &str) -> Result<PathBuf, LifecycleError> {
    let bin_dir = std::env::var_os(BIN_DIR).filter(|dir| !dir.is_empty());
    let program = std::env::current_exe().ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    find(name, bin_dir.as_deref(), program.as_deref(), &path)
}

fn find(
    name: &str,
    bin_dir: Option<&OsStr>,
    program: Option<&Path>,
    path: &OsStr,
) -> Result<PathBuf, LifecycleError> {
    if let Some(folder) = bin_dir.map(Path::new).filter(|folder| !folder.is_dir()) {
        return Err(LifecycleError::NoBinaryFolder { folder: folder.to_owned() });
    }
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let own: Vec<PathBuf> = bin_dir.map(PathBuf::from).into_iter().chain(beside(program)).collect();
    let on_path = std::env::split_paths(path).filter(|dir| dir.is_absolute());
    let found =
        own.iter().cloned().chain(on_path).map(|dir| dir.join(&file)).find(|f| is_program(f));
    found.ok_or_else(|| {
        let places = own.iter().map(|dir| dir.display().to_string());
        let looked_in = places.chain(["the PATH".to_owned()]).collect::<Vec<_>>().join(", ");
        LifecycleError::NoBinary { name: name.to_owned(), looked_in }
    })
}

/// The folder of a program; of a test in `target/release/deps`, also the one above.
fn beside(program: Option<&Path>) -> Vec<PathBuf> {
    let Some(folder) = program.and_then(Path::parent) else { return Vec::new() };
    let above = folder.parent().filter(|_| folder.file_name() == Some(OsStr::new("deps")));
    [Some(folder), above].into_iter().flatten().map(Path::to_owned).collect()
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_named_folder_wins_over_the_own_one_and_that_over_the_path() {
        let root = tempfile::tempdir().unwrap();
        let place = |dir: &str| {
            let file = root.path().join(dir).join("rbee-hive");
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            file
        };
        let (named, own, on_path) = (place("named"), place("target"), place("usr/bin"));
        let test = root.path().join("target/deps/test-0123");
        let path = on_path.parent().unwrap().as_os_str();
        let search =
            || find("rbee-hive", named.parent().map(Path::as_os_str), Some(&test), path).unwrap();
        for expected in [&named, &own, &on_path] {
            assert_eq!(search(), *expected);
            std::fs::set_permissions(expected, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        let nowhere = root.path().join("nowhere");
        let refused = find("rbee-hive", Some(nowhere.as_os_str()), Some(&test), path).unwrap_err();
        let told = refused.to_string();
        assert!(told.contains("RBEE_BIN_DIR") && told.contains("/nowhere"), "{told}");
        let error = find("rbee-hive", None, Some(&test), path).unwrap_err().to_string();
        assert!(error.contains("cargo build --release -p rbee-hive"), "{error}");
    }
}
