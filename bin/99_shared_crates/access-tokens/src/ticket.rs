//! Tickets: what lets a stranger read one thing for a while.
//!
//! A queen makes one with the secret of the hive that has the thing; that hive checks it with the same
//! secret, and keeps no list. Whoever has the ticket learns nothing of the secret.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::Secret;
use crate::digest::SecretDigest;

/// What a ticket begins with, so that a MAC for it is one for nothing else.
const KIND: &str = "rbee-ticket-1";

/// A ticket as text.
#[derive(Debug, Clone)]
pub struct Ticket(Secret);

impl Ticket {
    /// A ticket for the thing of this name, good until a time.
    #[must_use]
    pub fn new(secret: &Secret, name: &str, until: SystemTime) -> Self {
        let until = seconds(until);
        let mac = hex(&mac(secret, name, until).finalize().into_bytes());
        Self(Secret::from(format!("{KIND}.{until}.{mac}")))
    }

    /// The ticket as a bearer secret.
    #[must_use]
    pub fn into_secret(self) -> Secret {
        self.0
    }

    /// Whether a text is a ticket for the thing of this name that is still good.
    #[must_use]
    pub fn is_valid(secret: &Secret, name: &str, text: &str, now: SystemTime) -> bool {
        let mut parts = text.split('.');
        let (Some(KIND), Some(until), Some(given), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let Ok(until) = until.parse::<u64>() else { return false };
        let wanted = hex(&mac(secret, name, until).finalize().into_bytes());
        // Digests are compared in constant time.
        SecretDigest::of(&wanted).matches(&SecretDigest::of(given)) && seconds(now) <= until
    }
}

fn mac(secret: &Secret, name: &str, until: u64) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("a key of any length will do");
    mac.update(format!("{KIND}\n{until}\n{name}").as_bytes());
    mac
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_for_one_thing_and_for_a_while() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let secret = Secret::random().unwrap();
        let ticket = Ticket::new(&secret, "file-a", now + Duration::from_secs(60)).into_secret();
        let text = ticket.expose();
        assert!(Ticket::is_valid(&secret, "file-a", text, now));
        assert!(!text.contains(secret.expose()));

        let later = now + Duration::from_secs(61);
        assert!(!Ticket::is_valid(&secret, "file-a", text, later), "it has run out");
        assert!(!Ticket::is_valid(&secret, "file-b", text, now), "it is for another thing");
        assert!(!Ticket::is_valid(&Secret::random().unwrap(), "file-a", text, now));
        let longer = text.replace("1000060", "9000060");
        assert_ne!(longer, text);
        assert!(!Ticket::is_valid(&secret, "file-a", &longer, later), "its end is part of it");
        for bad in
            ["", "rbee-ticket-1", "rbee-ticket-1.x.y", "rbee-ticket-1.9000060.", secret.expose()]
        {
            assert!(!Ticket::is_valid(&secret, "file-a", bad, now), "{bad:?}");
        }
    }
}
