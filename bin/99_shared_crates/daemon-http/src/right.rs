//! By what somebody reads a stream, which is looked at for as long as the stream goes on.

use std::time::Duration;

use access_tokens::{Authenticator, Secret};
use axum::http::HeaderMap;
use tokio::time::Instant;

use crate::bearer;

/// How often it is asked whether who reads still may.
const ASK: Duration = Duration::from_secs(1);

/// By what somebody reads, for as long as they like: a token, which may be revoked, or none, where none is needed.
#[derive(Debug)]
pub struct Right {
    auth: Authenticator,
    secret: Option<Secret>,
    asked_at: Instant,
}

impl Right {
    /// That of a request which the edge has just let in.
    #[must_use]
    pub fn new(auth: Authenticator, headers: &HeaderMap) -> Self {
        let secret = bearer(headers).map(|secret| Secret::from(secret.to_owned()));
        Self { auth, secret, asked_at: Instant::now() }
    }

    /// Whether it still counted when that was last asked, a second ago at most.
    pub fn still_counts(&mut self) -> bool {
        if self.asked_at.elapsed() < ASK {
            return true;
        }
        self.asked_at = Instant::now();
        self.auth.verify(self.secret.as_ref().map(Secret::expose)).is_ok()
    }
}
