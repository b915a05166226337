//! How long a worker may be silent over a request. Pure.

use std::time::Duration;

use crate::registry::PromptTime;

/// How many times as long as in its slot a request may be silent in a worker's own queue.
const IN_QUEUE: u32 = 10;
/// How many times as long as any worker a server of somebody else may take to begin, where another one could,
/// or nobody knows that it is well: it may load the model first, or finish others' requests.
const SERVER_BEGINS: u32 = 6;
/// How long each fresh token of a prompt may take at a worker that has computed none yet: a slow processor
/// makes ten a second.
const PREFILL_TOKEN: Duration = Duration::from_millis(100);
/// How long each token of the answer that the client has already may take at a worker that has shown no speed:
/// in batch-invariant mode it computes them one by one, as when they were made.
const TOKEN_AGAIN: Duration = Duration::from_millis(200);
/// How long a worker has at least before another one is asked in its place.
pub(super) const LEAST_ALONE: Duration = Duration::from_secs(5);
/// How many times as long as others a prompt may take,
const SLACK: u32 = 8;
/// and how many times for each slot, since as many may be computed beside it.
const SLACK_A_SLOT: u32 = 2;

/// What a worker does with a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Doing {
    /// It has it in its queue.
    Queues,
    /// It computes the prompt, and what another one has given of the answer.
    Prompt {
        /// How many tokens of the prompt it did not hold.
        fresh: u32,
        /// How many of the answer the client has.
        again: u32,
        /// What they take there, where that is known.
        time: Option<PromptTime>,
    },
    /// It gives the answer.
    Answers,
}

/// How long it may be silent, where `stall` is how long any worker may be, and so much time is left for the
/// request. Of that a prompt has half, so that another worker can compute it still; but who is slow is no
/// slower for it, and has what its prompts take.
pub(super) fn patience(stall: Duration, left: Duration, doing: Doing) -> Duration {
    match doing {
        Doing::Queues => stall.saturating_mul(IN_QUEUE),
        Doing::Answers => stall,
        Doing::Prompt { fresh, again, time } => {
            let (least, most) = if let Some(PromptTime { shown, slots }) = time {
                let slack = SLACK.max(slots.saturating_mul(SLACK_A_SLOT));
                (shown, shown.saturating_mul(slack))
            } else {
                let again = TOKEN_AGAIN.saturating_mul(again);
                (Duration::ZERO, PREFILL_TOKEN.saturating_mul(fresh).saturating_add(again))
            };
            stall.saturating_add(most).min(left / 2).max(stall.saturating_add(least))
        }
    }
}

/// After how long without a word a worker that computes a prompt has it taken away where another one has room
/// at once, and so much time is left for the request: half of that, and never before it can be expected to be
/// through. What waits in its queue, it is let have at once where somebody else has room. `None` for an answer.
pub(super) fn until_another(left: Duration, doing: Doing) -> Option<Duration> {
    let (fresh, again, time) = match doing {
        Doing::Queues => return Some(LEAST_ALONE),
        Doing::Answers => return None,
        Doing::Prompt { fresh, again, time } => (fresh, again, time),
    };
    let unknown =
        || PREFILL_TOKEN.saturating_mul(fresh).saturating_add(TOKEN_AGAIN.saturating_mul(again));
    let needs = time.map_or_else(unknown, |time| time.shown);
    Some(needs.max(left / 2).max(LEAST_ALONE))
}

/// How long a server of somebody else may say nothing before the first of its answer, where another one can
/// take the request: it has half of the time that is left, and more only where its prompts have shown to
/// take that.
pub(super) fn server_patience(stall: Duration, left: Duration, doing: Doing) -> Duration {
    let half = left / 2;
    let most = match doing {
        Doing::Queues => patience(stall, left, doing).min(half),
        Doing::Prompt { .. } | Doing::Answers => patience(stall.min(half), left, doing),
    };
    most.min(server_begins(stall))
}

/// The longest that it may take to, unless looks find it well and nobody else can.
pub(super) fn server_begins(stall: Duration) -> Duration {
    stall.saturating_mul(SERVER_BEGINS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_has_a_multiple_of_what_others_took_and_half_of_the_time_at_most() {
        let shown = |seconds, slots| {
            let shown = Duration::from_secs(seconds);
            Some(PromptTime { shown, slots })
        };
        for (because, fresh, time, left, expected) in [
            ("nothing was shown", 1_000, None, 600, 130),
            ("half of the time is for another one", 20_000, None, 600, 300),
            ("a fast worker hangs", 20_000, shown(10, 4), 600, 110),
            ("all slots may compute prompts", 20_000, shown(10, 16), 3600, 350),
            ("a slow one is let end", 20_000, shown(400, 4), 600, 430),
            ("never less than anybody has", 20_000, None, 10, 30),
            ("nothing is fresh", 0, None, 600, 30),
        ] {
            let (stall, left) = (Duration::from_secs(30), Duration::from_secs(left));
            let found = patience(stall, left, Doing::Prompt { fresh, again: 0, time });
            assert_eq!(found, Duration::from_secs(expected), "{because}");
        }
    }

    #[test]
    fn what_the_client_has_of_an_answer_takes_its_time_too() {
        let (stall, left) = (Duration::from_secs(30), Duration::from_secs(600));
        for (fresh, again, seconds) in [(100, 0, 40), (0, 500, 130), (100, 500, 140)] {
            let found = patience(stall, left, Doing::Prompt { fresh, again, time: None });
            assert_eq!(found, Duration::from_secs(seconds), "{fresh} and {again} tokens");
        }
    }

    #[test]
    fn another_worker_that_has_room_is_asked_after_half_of_the_time_unless_the_prompt_takes_longer()
    {
        let (shown, seconds) = (Duration::from_secs, Duration::from_secs);
        let prompt = |fresh, time: Option<u64>| Doing::Prompt {
            fresh,
            again: 0,
            time: time.map(|time| PromptTime { shown: shown(time), slots: 4 }),
        };
        for (because, doing, left, expected) in [
            ("half of the time", prompt(30, None), 15, Some(seconds(7) + seconds(1) / 2)),
            ("it may be slow", prompt(300, None), 15, Some(seconds(30))),
            ("it is slow", prompt(30, Some(12)), 15, Some(seconds(12))),
            ("it is fast", prompt(300, Some(1)), 20, Some(seconds(10))),
            ("hardly any time is left", prompt(30, None), 2, Some(seconds(5))),
            ("others are before it", Doing::Queues, 15, Some(seconds(5))),
            ("it answers", Doing::Answers, 15, None),
        ] {
            assert_eq!(until_another(seconds(left), doing), expected, "{because}");
        }
    }

    #[test]
    fn a_silent_server_leaves_half_of_the_time_to_another_one() {
        let (stall, seconds) = (Duration::from_secs(30), Duration::from_secs);
        let prompt = |fresh, shown: Option<u64>| Doing::Prompt {
            fresh,
            again: 0,
            time: shown.map(|shown| PromptTime { shown: seconds(shown), slots: 4 }),
        };
        for (because, doing, left, expected) in [
            ("a short prompt", prompt(0, None), 600, 30),
            ("a long prompt", prompt(1_000, None), 600, 130),
            ("little time is left", prompt(1_000, None), 20, 10),
            ("its prompts take longer", prompt(1_000, Some(15)), 20, 25),
            ("it may load", prompt(20_000, None), 600, 180),
            ("others are before it", Doing::Queues, 600, 180),
            ("others are before it, and little time is left", Doing::Queues, 60, 30),
        ] {
            let found = server_patience(stall, seconds(left), doing);
            assert_eq!(found, seconds(expected), "{because}");
        }
    }
}
