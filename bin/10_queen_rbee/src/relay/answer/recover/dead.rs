//! Whether a request is what has ended the workers that broke off over it, as their hives say.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Answer, Failure};
use crate::relay::suspicion::Conviction;
use crate::scheduler::FailedBy;

/// How long news of workers are waited for that broke off over a request. Of one that hangs it takes longer.
const SOON: Duration = Duration::from_secs(2);
/// How long between two looks whether those that hang still do.
const LOOK: Duration = Duration::from_millis(100);

impl Answer {
    /// Where workers broke off over this request, what their hives say of them decides whether it is to
    /// blame, and whether others end while no worker has it.
    pub(in crate::relay::answer) async fn hear_of_the_dead(&mut self) -> Result<(), Failure> {
        let registry = self.relay.dispatcher.registry();
        let others = |since, own: &[u64]| registry.other_ends(since, own);
        let got = self.progress.given_in_all().saturating_sub(self.had);
        let Some(dead) = self.tries.accusation(got, &others) else { return Ok(()) };
        let soon = (Instant::now() + SOON).min(self.asking.deadline);
        for died in dead {
            // Without news of all of them there is no proof.
            let _ = timeout_at(soon, died.cancelled()).await;
        }
        let hangs = |by: &FailedBy| registry.hangs(by);
        while let Some(until) = self.tries.hangs_until(&hangs, &others) {
            let (until, now) = (Instant::from_std(until).min(self.asking.deadline), Instant::now());
            if now >= until {
                break;
            }
            sleep_until(until.min(now + LOOK)).await;
        }
        let watched_until = self.tries.watched_until(&others);
        if let Some(until) = watched_until {
            tracing::info!(request_id = %self.request.request_id, "it is watched whether workers end without a request");
            sleep_until(Instant::from_std(until).min(self.asking.deadline)).await;
        }
        match self.tries.judge(&others) {
            Some(Conviction { workers, processes }) => {
                registry.explain_ends(&self.tries.ended());
                let (caller, now) = (&self.asking.caller, Instant::now().into_std());
                let quarantine = &self.relay.shared.quarantine;
                quarantine.add(caller, &self.request, workers.clone(), now);
                self.relay.dispatcher.excuse(&processes);
                Err(Failure::Quarantined { workers, is_known: false })
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};
    use worker_contract::{HiveAlias, HiveHeartbeat, SupervisedState, SupervisedWorker};

    use super::super::tests::{answer, beat, relay};
    use super::*;
    use crate::clock;
    use crate::prompt::PromptChain;
    use crate::registry::{Ask, Placed, Registry};
    use crate::relay::failure::Trouble;
    use crate::scheduler::Demand;

    const NAMES: [&str; 2] = ["w-1", "w-2"];

    #[tokio::test(start_paused = true)]
    async fn a_hang_counts_where_the_hive_ends_the_process_for_it_though_the_request_has_left() {
        // When their hive ends them or they are heard again, whether that is so, and whether the request is refused, and
        // after how many seconds that is known: before it is, other workers are watched for ten.
        for (because, after_s, is_heard_again, is_refused, known_s) in [
            ("they hang", 9, false, true, 10),
            ("their hive listens for longer", 20, false, true, 15),
            ("they were stopped for a while", 5, true, false, 5),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let relay = relay(folder.path());
            let registry = relay.dispatcher().registry();
            let mut answer = answer(&relay, &"m".parse().unwrap());
            for number in 1..=NAMES.len() {
                fall_silent(&mut answer, registry, number).await;
            }
            let told = async {
                sleep(Duration::from_secs(after_s)).await;
                for name in NAMES.iter().filter(|_| is_heard_again) {
                    registry.worker_beat(beat(name, 2048), clock::now()).unwrap();
                }
                list(registry, &NAMES, || SupervisedState::Failed { reason: "it hangs".into() });
            };
            let began = Instant::now();
            let judging = async { (answer.hear_of_the_dead().await, began.elapsed().as_secs()) };
            let ((mut heard, took), ()) = tokio::join!(judging, told);
            assert_eq!(took, known_s, "{because}");
            if heard.is_ok() {
                heard = answer.hear_of_the_dead().await;
            }
            let is_quarantined = matches!(heard, Err(Failure::Quarantined { .. }));
            assert_eq!(is_quarantined, is_refused, "{because}: {heard:?}");
        }
    }

    /// The worker of this number takes the request, and says nothing any more; its hive does.
    async fn fall_silent(answer: &mut Answer, registry: &Registry, number: usize) {
        let name = NAMES[number - 1];
        registry.worker_beat(beat(name, 2048), clock::now()).unwrap();
        let (model, prompt) = ("m".parse().unwrap(), PromptChain::default());
        let ask = Ask::of(Demand::of(&model), &prompt);
        let Placed::At(place) = registry.place(&ask, clock::now()) else { panic!("{name} is fit") };
        assert_eq!(place.worker_id.as_str(), name);
        while !place.target.gone.is_cancelled() {
            list(registry, &NAMES[..number], || SupervisedState::Ready);
            advance(Duration::from_secs(1)).await;
            registry.sweep(clock::now());
        }
        answer.recover(Trouble::unanswered("it is silent"), place).unwrap();
    }

    fn list(registry: &Registry, names: &[&str], state: impl Fn() -> SupervisedState) {
        let listed = |name: &&str| SupervisedWorker {
            worker_id: name.parse().unwrap(),
            hive_id: HiveAlias::localhost(),
            model: "m".parse().unwrap(),
            device: "CPU-0".parse().unwrap(),
            address: "http://127.0.0.1:1".into(),
            port: 1,
            pid: 1,
            started_at: 0,
            state: state(),
            restarts: None,
            memory_bytes: None,
        };
        let beat = HiveHeartbeat {
            hive_id: HiveAlias::localhost(),
            address: None,
            version: String::new(),
            devices: Vec::new(),
            catalog: Vec::new(),
            workers: names.iter().map(listed).collect(),
            trouble: None,
        };
        registry.hive_beat(beat, clock::now()).unwrap();
    }
}
