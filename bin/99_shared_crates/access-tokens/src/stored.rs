//! Secrets that other services gave: each a file of its own beside the tokens, mode 0600.

use std::io::{self, Write as _};
use std::path::Path;

use crate::file::{close_to_others, create_folder, read, replace};
use crate::{Secret, TokenError};

/// The longest secret that is kept, in bytes.
const MAX_BYTES: usize = 4096;

/// A secret that was stored under a name; `None` where there is none. A file that others could read is
/// closed to them.
///
/// # Errors
/// When the file cannot be used, or holds no secret.
pub fn stored_secret(secrets_dir: &Path, name: &str) -> Result<Option<Secret>, TokenError> {
    let path = secrets_dir.join(name);
    let unusable = |source| TokenError::File { path: path.clone(), source };
    let Some(text) = read(&path).map_err(unusable)? else { return Ok(None) };
    close_to_others(&path, 0o600).map_err(unusable)?;
    let text = text.trim();
    if !is_secret(text) {
        return Err(unusable(io::Error::new(io::ErrorKind::InvalidData, "it holds no token")));
    }
    Ok(Some(Secret::from(text.to_owned())))
}

/// Stores a secret under a name, in place of one that was there.
///
/// # Errors
/// When it is not one printable word, or the file cannot be written.
pub fn store_secret(secrets_dir: &Path, name: &str, secret: &Secret) -> Result<(), TokenError> {
    let path = secrets_dir.join(name);
    let unusable = |source| TokenError::File { path: path.clone(), source };
    if !is_secret(secret.expose()) {
        let reason = "a token is one word of printable characters";
        return Err(unusable(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    }
    create_folder(secrets_dir).map_err(unusable)?;
    replace(&path, |file| writeln!(file, "{}", secret.expose())).map_err(unusable)
}

/// Removes a stored secret; says whether there was one.
///
/// # Errors
/// When the file cannot be removed.
pub fn forget_secret(secrets_dir: &Path, name: &str) -> Result<bool, TokenError> {
    let path = secrets_dir.join(name);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(TokenError::File { path, source }),
    }
}

fn is_secret(text: &str) -> bool {
    (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_stored_secret_is_read_back_and_closed_to_others() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        assert!(stored_secret(folder.path(), "hub.token").unwrap().is_none());
        let secret = Secret::from("hf_abc".to_owned());
        store_secret(folder.path(), "hub.token", &secret).unwrap();
        let path = folder.path().join("hub.token");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(stored_secret(folder.path(), "hub.token").unwrap(), Some(secret));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(forget_secret(folder.path(), "hub.token").unwrap());
        assert!(!forget_secret(folder.path(), "hub.token").unwrap());
    }

    #[test]
    fn what_no_header_can_carry_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["", "two words", "line\nbreak", "naïve"] {
            let refused = store_secret(folder.path(), "t", &Secret::from(bad.to_owned()));
            assert!(refused.is_err(), "{bad:?}");
        }
        std::fs::write(folder.path().join("t"), "two words").unwrap();
        assert!(stored_secret(folder.path(), "t").is_err());
    }
}
