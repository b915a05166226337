//! Who asks in a village: those who wait, those who go away, and those who have no time.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep};

use crate::admission::Priority;
use crate::dispatch::LEAST_LEFT;
use crate::simulation::queen::{Outcome, Queen, Question};

/// How many ask while things go wrong.
pub(super) const GUESTS: usize = 36;
/// Longer than a history, jumps of the clock included.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How late after its deadline an answer may end.
const LATE: Duration = Duration::from_millis(100);
pub(super) const MODELS: [&str; 4] = ["a", "b", "c", "d"];

/// Somebody who asks.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) number: usize,
    pub(super) at: Duration,
    model: &'static str,
    manners: Manners,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manners {
    Waits,
    /// Goes away, wherever the request is by then.
    Leaves(Duration),
    HasOnly(Duration),
}

/// Those of a history, some of them in crowds.
pub(super) fn plan(rng: &mut Rng, end: Duration) -> Vec<Guest> {
    let mut guests: Vec<Guest> = Vec::new();
    for number in 0..GUESTS {
        let millis = rng.u64(500..u64::try_from(end.as_millis()).unwrap());
        let alone = (Duration::from_millis(millis), MODELS[rng.usize(0..MODELS.len())]);
        let crowd = guests.last().filter(|_| rng.u8(0..5) < 3);
        let (at, model) = crowd.map_or(alone, |guest| (guest.at, guest.model));
        let soon = Duration::from_millis(rng.u64(0..6000));
        let manners = match rng.u8(0..8) {
            0 | 1 => Manners::Leaves(soon),
            2 => Manners::HasOnly(soon + Duration::from_millis(50)),
            _ => Manners::Waits,
        };
        guests.push(Guest { number, at, model, manners });
    }
    guests
}

/// One of each model, who wait.
pub(super) fn last(number: usize, model: &'static str) -> Guest {
    Guest { number, at: Duration::ZERO, model, manners: Manners::Waits }
}

impl Guest {
    /// Asks; gives what became of it, and how often another worker took over.
    pub(super) async fn ask(&self, queen: &Queen) -> (Outcome, u64) {
        let began = Instant::now();
        let asked = queen.ask(self.question());
        let (outcome, failovers) = match self.manners {
            Manners::Leaves(after) => tokio::select! {
                biased;
                end = asked => end,
                () = sleep(after) => (Outcome::Left, 0),
            },
            _ => asked.await,
        };
        let is_late = |allowed: Duration| began.elapsed() > allowed + LATE;
        match (self.manners, &outcome) {
            (Manners::HasOnly(allowed), _)
                if is_late(allowed) && !queen.has_jumped_since(began) =>
            {
                let late = began.elapsed();
                (Outcome::Wrong(format!("{outcome:?} after {late:?} of {allowed:?}")), failovers)
            }
            (Manners::HasOnly(allowed), Outcome::Failed(why))
                if why == "deadline" && began.elapsed() + LEAST_LEFT < allowed =>
            {
                (Outcome::Wrong("its deadline had not passed".into()), failovers)
            }
            (Manners::Waits | Manners::Leaves(_), Outcome::Failed(why)) if why == "deadline" => {
                (Outcome::Wrong("it had time".into()), failovers)
            }
            _ => (outcome, failovers),
        }
    }

    fn question(&self) -> Question {
        let is_batch = self.number.is_multiple_of(4);
        Question {
            id: format!("r-{}", self.number),
            model: self.model.parse().unwrap(),
            prompt: format!("{} {}", self.model, self.number),
            caller: format!("caller-{}", self.number % 3),
            priority: if is_batch { Priority::Batch } else { Priority::Interactive },
            patience: match self.manners {
                Manners::HasOnly(allowed) => allowed,
                Manners::Waits | Manners::Leaves(_) => PATIENCE,
            },
            is_whole: self.number.is_multiple_of(3),
        }
    }
}
