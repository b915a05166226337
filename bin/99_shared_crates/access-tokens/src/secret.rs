//! Secrets that do not print themselves.

use std::fmt;
use std::io::Write as _;
use std::path::Path;

use crate::TokenError;
use crate::digest::SecretDigest;
use crate::file::{close_to_others, create_folder, lock, read, replace};

/// A bearer secret. `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The secret as text, for a request header or for the one time that it is shown.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is one printable word that could not be guessed.
    pub(crate) fn is_usable(&self) -> bool {
        self.0.len() >= MIN_LENGTH && self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// `rbee_` and 32 random bytes in base64url, without padding.
    pub(crate) fn random() -> Result<Self, TokenError> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|_| TokenError::NoRandomness)?;
        Ok(Self(format!("rbee_{}", base64url(&bytes))))
    }
}

/// Compares digests, in a time that does not depend on the secrets.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        SecretDigest::of(&self.0).matches(&SecretDigest::of(&other.0))
    }
}

impl Eq for Secret {}

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

/// The name of the local secret's file.
pub(crate) const LOCAL_FILE: &str = "local.token";

/// A secret with fewer characters could be guessed.
const MIN_LENGTH: usize = 32;

/// The secret of this user's own rbee processes, made at first use: `local.token`, mode 0600.
///
/// Processes that ask at the same moment get the same secret.
///
/// # Errors
/// When the file or its folder cannot be used, or the file holds no secret.
pub fn local_secret(secrets_dir: &Path) -> Result<Secret, TokenError> {
    let path = secrets_dir.join(LOCAL_FILE);
    let unusable = |source| TokenError::File { path: path.clone(), source };
    create_folder(secrets_dir).map_err(unusable)?;
    let _lock = lock(secrets_dir).map_err(unusable)?;
    if let Some(secret) = existing_local_secret(&path)? {
        close_to_others(&path, 0o600).map_err(unusable)?;
        return Ok(secret);
    }
    let secret = Secret::random()?;
    replace(&path, |file| writeln!(file, "{}", secret.expose())).map_err(unusable)?;
    Ok(secret)
}

/// The local secret if it was made before.
pub(crate) fn existing_local_secret(path: &Path) -> Result<Option<Secret>, TokenError> {
    let unusable = |source| TokenError::File { path: path.to_owned(), source };
    let Some(text) = read(path).map_err(unusable)? else { return Ok(None) };
    let secret = Secret(text.trim().to_owned());
    if !secret.is_usable() {
        return Err(TokenError::DamagedSecret { path: path.to_owned() });
    }
    Ok(Some(secret))
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
}
