//! Waiting for a condition, never for a time.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// The time between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks at `condition` until it gives a value, and returns that value.
///
/// The error at the deadline says for how long `missing` was waited for, so `missing` names what
/// did not come: "a ready worker in the queen's list".
pub async fn wait_until<T>(
    missing: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for {missing}", deadline.as_secs_f32());
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let waited = wait_until("three looks", Duration::from_secs(5), async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(waited.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn the_deadline_tells_what_was_missing() {
        let waited =
            wait_until("a blue moon", Duration::from_millis(30), async || None::<()>).await;
        assert!(waited.unwrap_err().to_string().ends_with("in vain for a blue moon"));
    }
}
