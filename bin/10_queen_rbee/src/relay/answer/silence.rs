//! How long a server of somebody else is waited for that says nothing: it may load the model first, of which
//! nobody hears, compute a long prompt, or hold a call back until it is whole. Where another worker could take
//! the request, or go on with what there is of the answer, it is given up sooner than where nobody could: then
//! it has the request's time for as long as looks find it well, since whoever sends again to the same server
//! only loses the place there, and what it has given.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use worker_contract::{Prompt, Task, WorkerId};

use super::{Answer, Failure, Place, Reading, Reason, Trouble, Wanted};
use crate::attached::{BYTES_A_TOKEN, Engine};
use crate::decisions::{Decided, Kind};
use crate::dispatch::Dispatcher;
use crate::registry::{Failed, Registry, STILL};
use crate::relay::patience::{
    Doing, LEAST_ALONE, patience, server_begins, server_patience, until_another,
};
use crate::relay::pulse::Pulse;

/// How often it is looked whether another worker can take what a server is silent over.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// How often a request leaves the queue of the same worker. Reports tell of a moment ago, so that it may find itself
/// in a queue again, and each time it loses its turn.
const LEAVES_AT_MOST: usize = 3;

/// How long a server at whose port nothing listens may be silent over a request that it has: one that ends
/// may still finish its answers.
const SHUT_SILENCE: Duration = Duration::from_secs(5);

/// What decides how long a server may be silent over a request.
#[derive(Debug)]
pub(super) struct Silence {
    dispatcher: Dispatcher,
    /// The request as it would go elsewhere: to whom has not failed it, or was started again since. It has no ways
    /// where nobody could go on.
    elsewhere: Wanted,
    bytes: u64,
    /// Tokens of the answer that it reads behind the prompt.
    again: u32,
    stall: Duration,
    deadline: Instant,
    /// Whether it is asked for no stream: then it says nothing before it has computed all of the answer.
    pub(super) in_one_piece: AtomicBool,
    /// When the server last gave something to any request.
    pub(super) pulse: Arc<Pulse>,
}

impl Silence {
    /// When it is looked whether another worker can take the request, where the server was silent over it
    /// since then. While it answers others it is only later than it should be.
    pub(super) fn may_end(&self, place: &Place, since: Instant) -> Instant {
        let left = self.deadline.saturating_duration_since(since);
        let patience = server_patience(self.stall, left, self.doing(place));
        let longest = patience.max(server_begins(self.stall).min(left / 2));
        (self.heard(since) + patience).min(since + longest)
    }

    /// When the server last gave something to anybody, where it gave the request nothing since then.
    fn heard(&self, since: Instant) -> Instant {
        since.max(self.pulse.last())
    }

    /// Whether the server has been silent for too long since then; else when that is looked at again, since
    /// nobody else can take the request.
    pub(super) fn end(&self, place: &Place, since: Instant) -> Result<(), Instant> {
        let can_any = !self.elsewhere.ways.is_none();
        let is_over =
            self.is_lost(place, since) || can_any && self.dispatcher.has_place(&self.elsewhere);
        if is_over { Ok(()) } else { Err(Instant::now() + LOOK) }
    }

    /// Whether the server ends, by its silence since then: nothing listens at its port, so that it is not just
    /// busy.
    pub(super) fn is_shut(&self, place: &Place, since: Instant) -> bool {
        self.heard(since).elapsed() >= SHUT_SILENCE && self.dispatcher.registry().is_shut(place)
    }

    /// When that is looked at next, where it has been silent since then.
    pub(super) fn looks_at(&self, since: Instant) -> Instant {
        (self.heard(since) + SHUT_SILENCE).max(Instant::now() + LOOK)
    }

    /// Whether nothing speaks for it any longer.
    fn is_lost(&self, place: &Place, since: Instant) -> bool {
        self.heard(since).elapsed() >= server_begins(self.stall)
            && !self.dispatcher.registry().looks_reach(place)
    }

    /// What is being sent there, given up as the server is.
    pub(super) async fn over<T>(
        &self,
        place: &Place,
        mut sending: Pin<&mut impl Future<Output = Result<T, Trouble>>>,
    ) -> Result<T, Trouble> {
        let mut since = Instant::now();
        let mut until = self.may_end(place, since).min(since + SHUT_SILENCE);
        loop {
            if let Ok(sent) = timeout_at(until, &mut sending).await {
                return sent;
            }
            if let Some(late) = stood_still(until) {
                (since, until) = (since + late, Instant::now() + LOOK);
                continue;
            }
            let is_over = Instant::now() >= self.may_end(place, since);
            let end = if is_over { self.end(place, since) } else { Err(Instant::now() + LOOK) };
            until = match end {
                Err(until) if !self.is_shut(place, since) => until,
                _ => return Err(silent(self.dispatcher.registry(), place, since)),
            };
        }
    }

    /// Whether it has been silent since then, to others, too, for longer than a server that works is, whoever
    /// else there is. Another queen may have it in her queue.
    fn is_failure(&self, place: &Place, since: Instant) -> bool {
        let longest = patience(self.stall, Duration::MAX, self.doing(place));
        !is_queen(place) && self.heard(since).elapsed() >= longest.min(server_begins(self.stall))
    }

    /// Whether the server was asked for no stream.
    pub(super) fn is_in_one_piece(&self) -> bool {
        self.in_one_piece.load(Relaxed)
    }

    /// What takes an unknown time has that of a queue.
    fn doing(&self, place: &Place) -> Doing {
        let registry = self.dispatcher.registry();
        if self.is_in_one_piece() || registry.is_crowded(place) || is_queen(place) {
            return Doing::Queues;
        }
        let fresh = u32::try_from(self.bytes / u64::from(BYTES_A_TOKEN)).unwrap_or(u32::MAX);
        let time = registry.prompt_time(place, self.bytes, self.again);
        Doing::Prompt { fresh, again: self.again, time }
    }
}

impl Answer {
    /// How long the server of a place may be silent; `None` where it is one of rbee's, which says what it
    /// does.
    pub(super) fn silence(&self, place: &Place) -> Option<Silence> {
        place.target.server.as_ref()?;
        Some(Silence {
            dispatcher: self.relay.dispatcher.clone(),
            elsewhere: self.elsewhere(place),
            bytes: u64::from(self.prompt.bytes()) + bytes_to_score(&self.request.task),
            again: self.progress.tokens_again(),
            stall: self.relay.shared.stall,
            deadline: self.asking.deadline,
            in_one_piece: AtomicBool::new(self.is_in_one_piece),
            pulse: self.relay.shared.pulses.of(&place.target.hive_id),
        })
    }

    /// When a server that has been silent for too long is looked at again, since nobody else can take the request,
    /// or go on with what there is of the answer; `None` where it is given up, or the worker is one of rbee's.
    ///
    /// A connection may be dead though the server is well. So an answer that this server could go on with itself is
    /// not waited for longer than a server takes to begin one.
    pub(super) fn waits_for_server(&self, reading: &mut Reading) -> Option<Instant> {
        let silence = reading.silence.as_mut()?;
        silence.elsewhere = self.elsewhere(&reading.place);
        // Whoever failed it before has done so over a request that had less.
        if self.progress.given_in_all() > self.had {
            silence.elsewhere.failed.clear();
        }
        let can_itself = silence.elsewhere.ways.meet(reading.place.target.ways());
        let may_go_on = self.progress.has_moved() && can_itself;
        if may_go_on && reading.heard_at.elapsed() >= server_begins(silence.stall) {
            return None;
        }
        silence.end(&reading.place, reading.heard_at).err()
    }

    /// The request's time is over while a worker has it. A server that was silent over it for too long has
    /// failed it; where the one before did, and this one has given nothing since, that is why it is late.
    pub(super) fn late_at(&mut self, place: &Place) -> Failure {
        // One that has given something may hold a call back that takes as long.
        let silence = self.silence(place).filter(|_| !self.progress.has_moved());
        let worker = &place.worker_id;
        let why = if silence.is_some_and(|silence| silence.is_failure(place, self.asked_at)) {
            self.blame(place);
            format!("{worker} gave nothing for {} s", self.asked_at.elapsed().as_secs()).into()
        } else if let Some((before, reason)) = self.failed_before() {
            reason.after(&format!("{before} failed it before: "))
        } else {
            let word = self.meanwhile(place).map(|did| (worker.clone(), did));
            return Failure::Deadline { tokens: self.progress.tokens(), word };
        };
        let late = self.late(why);
        let why = late.recorded().unwrap_or_default();
        self.log(Decided::told(Kind::GiveUp, "deadline", why).worker(worker));
        late
    }

    /// What a worker did that has had the request for a while and has given nothing of it yet, which is nobody's
    /// fault. Servers of others do not say.
    fn meanwhile(&self, place: &Place) -> Option<String> {
        let had_for = self.asked_at.elapsed();
        if self.progress.has_moved() || had_for < LOOK {
            return None;
        }
        let after = format!("yet, after {} s", had_for.as_secs());
        if place.target.server.is_some() {
            return Some(format!("had given nothing {after}"));
        }
        if !self.is_taken {
            return Some(format!("had not answered {after}"));
        }
        let did = match &self.request.task {
            _ if !self.progress.is_started() => "had it in its queue",
            Task::Embed { .. } => "was still computing its vectors",
            Task::Rerank { .. } => "was still computing its scores",
            Task::Chat(_) | Task::Completion { .. } | Task::Infill { .. } => {
                "was still computing its prompt"
            }
        };
        Some(did.to_owned())
    }

    /// Whether the queen stood still, so that the alarm comes late: she heard nobody meanwhile, and that is no silence
    /// of the worker. What has come in that time is read before the alarm that is set then. The request's time goes on.
    pub(super) fn excuses(&mut self, reading: &mut Reading) -> bool {
        let now = Instant::now();
        let Some(late) = stood_still(self.alarm.deadline()) else { return false };
        reading.heard_at = (reading.heard_at + late).min(now);
        self.asked_at = (self.asked_at + late).min(now);
        if now >= self.asking.deadline {
            return false;
        }
        let until = self.patience_ends(reading).max(now + LOOK);
        self.set_alarm(reading, until.min(self.asking.deadline));
        true
    }

    /// When it is looked next whether a worker of rbee that says nothing of a prompt has it taken away.
    pub(super) fn looks_for_another_at(&self, reading: &Reading) -> Option<Instant> {
        let (at, _) = self.may_be_taken(reading)?;
        // Whether it waits in the worker's queue, its next report tells.
        let at =
            if self.progress.is_started() { at } else { at.min(reading.heard_at + LEAST_ALONE) };
        Some(at.max(Instant::now() + LOOK))
    }

    /// Why another worker, which has room, is asked in the place of one of rbee that has been silent for so long
    /// over a prompt, or has it in its queue. One that hangs can report all the same.
    pub(super) fn is_better_elsewhere(&self, reading: &Reading) -> Option<Trouble> {
        let (at, is_queued) = self.may_be_taken(reading)?;
        if at > Instant::now() {
            return None;
        }
        if is_queued {
            return self.leaves_queue(reading);
        }
        let (place, since) = (&reading.place, reading.heard_at);
        let is_better = self.relay.dispatcher.has_place(&self.elsewhere(place));
        is_better.then(|| silent(self.relay.dispatcher.registry(), place, since))
    }

    /// What a worker has in its queue leaves that for the place that another one gives it at once, if one does that
    /// it has not left too often.
    pub(super) fn leaves_queue(&self, reading: &Reading) -> Option<Trouble> {
        let mut elsewhere = self.elsewhere(&reading.place);
        elsewhere.barred.extend(left_too_often(&self.left));
        let given = u32::try_from(self.progress.tokens()).unwrap_or(u32::MAX);
        let place = self.relay.dispatcher.place_now(elsewhere, given)?;
        let reason = nothing_for(reading.heard_at.elapsed());
        Some(Trouble::Queues { reason, other: Box::new(place) })
    }

    /// From when on another one is asked, and whether the request is in the worker's queue.
    fn may_be_taken(&self, reading: &Reading) -> Option<(Instant, bool)> {
        let (place, again) = (&reading.place, self.progress.tokens_again());
        if place.target.server.is_some() || self.progress.has_moved() {
            return None;
        }
        let registry = self.relay.dispatcher.registry();
        let doing = if self.progress.is_started() {
            let fresh = self.progress.fresh_prompt_tokens();
            Doing::Prompt { fresh, again, time: reading.prompt_time }
        } else if registry.is_crowded(place) || registry.has_queue(place) {
            Doing::Queues
        } else {
            let bytes = self.prompt.bytes();
            let time = registry.prompt_time(place, u64::from(bytes), again);
            Doing::Prompt { fresh: bytes / BYTES_A_TOKEN, again, time }
        };
        let left = self.asking.deadline.saturating_duration_since(reading.heard_at);
        let is_queued = matches!(doing, Doing::Queues);
        Some((reading.heard_at + until_another(left, doing)?, is_queued))
    }

    /// Whether an answer that has begun may wait in its worker, which has the youngest give way where its KV cache
    /// is full: it gives others tokens, and requests wait there, or did a moment ago. It has the patience of one
    /// in a queue.
    pub(super) fn may_have_given_way(&self, reading: &mut Reading) -> bool {
        let (stall, left) = (self.relay.shared.stall, Duration::MAX);
        let is_in_time = reading.heard_at.elapsed() < patience(stall, left, Doing::Queues);
        if self.relay.dispatcher.registry().gives_beside_queue(&reading.place) {
            reading.queues_at = Some(Instant::now());
        }
        let did_queue = reading.queues_at.is_some_and(|at| at.elapsed() < stall);
        self.progress.has_moved() && is_in_time && did_queue
    }

    /// The request as it would go to others than this worker. Who failed it would take it only as a last resort,
    /// unless it was started again since.
    fn elsewhere(&self, place: &Place) -> Wanted {
        let mut elsewhere = self.wanted();
        elsewhere.barred.push(place.worker_id.clone());
        elsewhere
    }

    /// Who failed the request last, where it has got nothing since.
    fn failed_before(&mut self) -> Option<(WorkerId, Reason)> {
        self.last_failure.take().filter(|_| !self.progress.has_moved())
    }

    fn blame(&self, place: &Place) {
        let failed = Failed { request: self.number, is_connection: true };
        let registry = self.relay.dispatcher.registry();
        if registry.worker_failed(place, failed, Instant::now().into_std()).has_opened {
            let reason = nothing_for(self.asked_at.elapsed()).into();
            self.log_opened(&place.worker_id, &reason);
        }
    }
}

/// How much later it is than a timer was set for, where the queen stood still over it.
fn stood_still(timer: Instant) -> Option<Duration> {
    Some(timer.elapsed()).filter(|late| *late >= STILL)
}

/// Those whose queues a request has left as often as it leaves any.
fn left_too_often(left: &[WorkerId]) -> impl Iterator<Item = WorkerId> {
    let times = |worker: &&WorkerId| left.iter().filter(|it| it == worker).count();
    left.iter().filter(move |worker| times(worker) >= LEAVES_AT_MOST).cloned()
}

fn is_queen(place: &Place) -> bool {
    place.target.server.as_ref().is_some_and(|server| server.engine == Engine::Rbee)
}

/// A worker has been silent since then for too long.
pub(super) fn silent(registry: &Registry, place: &Place, since: Instant) -> Trouble {
    let missed = registry.missed(place);
    let missed = missed.map(|reason| format!("; looks do not reach it either: {reason}"));
    let missed = missed.unwrap_or_default();
    Trouble::connection(format!("{}{missed}", nothing_for(since.elapsed())))
}

fn nothing_for(silent: Duration) -> String {
    format!("it gave nothing for {} s", silent.as_secs())
}

/// How much is computed of what makes vectors or scores, of which the prompt's chain tells nothing.
fn bytes_to_score(task: &Task) -> u64 {
    let of = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => tokens.len().saturating_mul(BYTES_A_TOKEN as usize),
    };
    let bytes = match task {
        Task::Embed { inputs } => inputs.iter().map(of).fold(0, usize::saturating_add),
        Task::Rerank { query, documents } => {
            let of = |document: &String| query.len().saturating_add(document.len());
            documents.iter().map(of).fold(0, usize::saturating_add)
        }
        Task::Chat(_) | Task::Completion { .. } | Task::Infill { .. } => 0,
    };
    u64::try_from(bytes).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_go_back_to_a_worker_whose_queue_it_has_left_but_not_for_ever() {
        for (left, expected) in [("", None), ("a b a b", None), ("a b a b a", Some("a"))] {
            let workers = left.split_whitespace().map(|worker| worker.parse().unwrap());
            let barred = left_too_often(&workers.collect::<Vec<_>>()).next();
            assert_eq!(barred.as_ref().map(WorkerId::as_str), expected, "{left}");
        }
    }
}
