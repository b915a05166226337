//! Requests that ended workers, remembered for a while so that the same one, sent again, does not end
//! more of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use worker_contract::InferenceRequest;

/// For how long a request is remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// How many requests are remembered.
const MOST: usize = 256;

/// The requests that are not tried. A clone shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Quarantine {
    kept: Arc<Mutex<VecDeque<(Fingerprint, Instant)>>>,
}

/// What stands for a request of somebody, whatever its id is: nobody has another one's requests refused.
type Fingerprint = [u8; 32];

impl Quarantine {
    /// Remembers a request.
    pub(super) fn add(&self, caller: &str, request: &InferenceRequest, now: Instant) {
        let known = fingerprint(caller, request);
        let mut kept = self.kept();
        kept.truncate(MOST - 1);
        kept.push_front((known, now));
    }

    /// Whether a request is remembered.
    pub(super) fn has(&self, caller: &str, request: &InferenceRequest, now: Instant) -> bool {
        self.kept().retain(|(_, at)| now.saturating_duration_since(*at) < MEMORY);
        // Most of the time nothing is remembered, and nothing has to be computed.
        let is_any = !self.kept().is_empty();
        is_any && {
            let wanted = fingerprint(caller, request);
            self.kept().iter().any(|(known, _)| *known == wanted)
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Fingerprint, Instant)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fingerprint(caller: &str, request: &InferenceRequest) -> Fingerprint {
    // Tasks and formats are plain data; one that cannot be written was never sent to a worker.
    let parts = serde_json::to_vec(&(caller, &request.model, &request.task, &request.format));
    Sha256::digest(parts.unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use worker_contract::{Prompt, RequestId, Task};

    use super::*;

    #[test]
    fn a_request_is_known_again_for_ten_minutes_whatever_its_id_is() {
        let (quarantine, now) = (Quarantine::default(), Instant::now());
        assert!(!quarantine.has("me", &request("a"), now));
        quarantine.add("me", &request("a"), now);
        assert!(quarantine.has("me", &request("a"), now + MEMORY / 2));
        assert!(!quarantine.has("me", &request("b"), now));
        assert!(!quarantine.has("you", &request("a"), now), "another one may ask the same");
        assert!(!quarantine.has("me", &request("a"), now + MEMORY));
    }

    #[test]
    fn only_the_last_ones_are_kept() {
        let (quarantine, now) = (Quarantine::default(), Instant::now());
        for number in 0..=MOST {
            quarantine.add("me", &request(&number.to_string()), now);
        }
        assert_eq!(quarantine.kept().len(), MOST);
        assert!(
            !quarantine.has("me", &request("0"), now) && quarantine.has("me", &request("1"), now)
        );
    }

    fn request(text: &str) -> InferenceRequest {
        let prompt = Prompt::Text(text.into());
        InferenceRequest::new(RequestId::random(), Task::Completion { prompt })
    }
}
