//! Secrets that do not print themselves.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::TokenError;
use crate::file::{create_folder, lock, replace};

/// A bearer secret. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret as text, for a request header or for the one time that it is shown.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `rbee_` and 32 random bytes in base64url, without padding.
    pub(crate) fn random() -> Result<Self, TokenError> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|_| TokenError::NoRandomness)?;
        Ok(Self(format!("rbee_{}", base64url(&bytes))))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The secret of this user's own rbee processes, made at first use: `local.token`, mode 0600.
///
/// Processes that ask at the same moment get the same secret.
pub fn local_secret(secrets_dir: &Path) -> Result<Secret, TokenError> {
    let path = secrets_dir.join("local.token");
    let unreadable = |source| TokenError::Unreadable { path: path.clone(), source };
    create_folder(secrets_dir).map_err(unreadable)?;
    let _lock = lock(secrets_dir).map_err(unreadable)?;
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret(text.trim().to_owned())),
        // An empty file is what a full disk leaves behind.
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(error)),
    }
    let secret = Secret::random()?;
    replace(&path, |file| writeln!(file, "{}", secret.expose())).map_err(unreadable)?;
    Ok(secret)
}

/// RFC 4648, section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |n: usize| u32::from(chunk.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for n in 0..=chunk.len() {
            let index = bits >> (18 - 6 * n) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_as_the_rfc_shows_it() {
        assert_eq!(base64url(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64url(b"fooba"), "Zm9vYmE");
        assert_eq!(base64url(&[0xFB, 0xFF]), "-_8");
    }

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret = Secret::random().unwrap();
        assert_eq!(secret.expose().len(), "rbee_".len() + 43);
        assert_eq!(format!("{secret:?}"), "[secret]");
    }

    #[test]
    fn processes_that_ask_at_once_get_the_same_secret() {
        let folder = tempfile::tempdir().unwrap();
        let ask = || local_secret(folder.path()).unwrap().expose().to_owned();
        let all: Vec<String> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|a| a.join().unwrap()).collect()
        });
        assert!(all.iter().all(|s| *s == all[0]));
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_the_secret() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let secrets = folder.path().join("secrets");
        local_secret(&secrets).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&secrets), 0o700);
        assert_eq!(mode(&secrets.join("local.token")), 0o600);
    }
}
