//! Requests that ended workers, remembered for a while so that the same one, sent again, does not end
//! more of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use worker_contract::{InferenceRequest, WorkerId};

/// For how long a request is remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// How many requests are remembered.
const MOST: usize = 256;

/// The requests that are not tried. A clone shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Quarantine {
    kept: Arc<Mutex<VecDeque<Kept>>>,
}

/// A request that is not tried.
#[derive(Debug)]
struct Kept {
    request: Fingerprint,
    since: Instant,
    /// The workers that it has ended.
    ended: Vec<WorkerId>,
}

/// What stands for a request of somebody, whatever its id is: nobody has another one's requests refused.
type Fingerprint = [u8; 32];

impl Quarantine {
    /// Remembers a request with the workers that it has ended.
    pub(super) fn add(
        &self,
        caller: &str,
        request: &InferenceRequest,
        ended: Vec<WorkerId>,
        now: Instant,
    ) {
        let request = fingerprint(caller, request);
        let mut kept = self.kept();
        kept.truncate(MOST - 1);
        kept.push_front(Kept { request, since: now, ended });
    }

    /// The workers that a request has ended, where it is remembered.
    pub(super) fn ended_by(
        &self,
        caller: &str,
        request: &InferenceRequest,
        now: Instant,
    ) -> Option<Vec<WorkerId>> {
        self.kept().retain(|kept| now.saturating_duration_since(kept.since) < MEMORY);
        // Most of the time nothing is remembered, and nothing has to be computed.
        if self.kept().is_empty() {
            return None;
        }
        let wanted = fingerprint(caller, request);
        let kept = self.kept();
        kept.iter().find(|kept| kept.request == wanted).map(|kept| kept.ended.clone())
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Kept>> {
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
        assert_eq!(quarantine.ended_by("me", &request("a"), now), None);
        quarantine.add("me", &request("a"), ended(), now);
        for (caller, text, after, expected) in [
            ("me", "a", MEMORY / 2, Some(ended())),
            ("me", "b", Duration::ZERO, None),
            // Another one may ask the same.
            ("you", "a", Duration::ZERO, None),
            ("me", "a", MEMORY, None),
        ] {
            let found = quarantine.ended_by(caller, &request(text), now + after);
            assert_eq!(found, expected, "{caller} {text} {after:?}");
        }
    }

    #[test]
    fn only_the_last_ones_are_kept() {
        let (quarantine, now) = (Quarantine::default(), Instant::now());
        for number in 0..=MOST {
            quarantine.add("me", &request(&number.to_string()), ended(), now);
        }
        assert_eq!(quarantine.kept().len(), MOST);
        assert_eq!(quarantine.ended_by("me", &request("0"), now), None);
        assert_eq!(quarantine.ended_by("me", &request("1"), now), Some(ended()));
    }

    fn ended() -> Vec<WorkerId> {
        vec!["w-1".parse().unwrap()]
    }

    fn request(text: &str) -> InferenceRequest {
        let prompt = Prompt::Text(text.into());
        InferenceRequest::new(RequestId::random(), Task::Completion { prompt })
    }
}
