//! Why an answer has no place to go on at, or to begin.

use worker_contract::ModelAlias;

use super::{Answer, Failure, NoPlace};
use crate::clock;
use crate::relay::reason::Reason;

impl Answer {
    /// Why there is no place. Where the only worker has just failed the request, or a server refused it,
    /// that is why, however long a worker was waited for after that.
    pub(super) fn no_place(&mut self, no_place: NoPlace) -> Failure {
        let is_ending = matches!(no_place, NoPlace::Stopping);
        let refusal = self.refusal.take().or(self.doubt.take());
        if let Some(refusal) = refusal.filter(|_| !is_ending) {
            return refusal;
        }
        // Who waited for a longer context may have waited for too long.
        let is_late = matches!(no_place, NoPlace::Deadline { .. });
        let refusal = self.contexts.take_refusal();
        if let Some(refusal) = refusal.filter(|_| !is_ending && !is_late) {
            return refusal;
        }
        // The model was there: its server was detached, or its hive forgot it.
        let is_forgotten = matches!(no_place, NoPlace::UnknownModel { .. });
        if is_forgotten || no_place.is_nobody_left() {
            if let Some((worker_id, reason)) = self.last_failure.take() {
                return Failure::WorkerFailed { worker_id, reason, is_given_up: false };
            }
            let worker = self.record.worker_id.clone().filter(|_| self.progress.has_begun());
            if let Some(worker_id) = worker.filter(|_| is_forgotten) {
                let reason = "no worker has the model any longer".into();
                return Failure::WorkerFailed { worker_id, reason, is_given_up: false };
            }
        }
        let has_begun = self.progress.has_begun();
        if let Some(word) = self.unwilling.word(&no_place).filter(|_| !has_begun) {
            return word;
        }
        match (self.last_failure.take().filter(|_| is_late), no_place) {
            (Some((worker, reason)), no_place) => {
                let why = reason.after(&format!("the last worker, {worker}, failed it: "));
                self.late(match no_place.last_word() {
                    Some(word) => {
                        why.and(&format!("it has waited since then, the last word on it: {word}"))
                    }
                    None => why,
                })
            }
            (None, NoPlace::Deadline { .. }) if has_begun => {
                Failure::Deadline { tokens: self.progress.tokens(), word: None }
            }
            (None, NoPlace::Deadline { model, word }) => self.in_vain(model, word),
            (None, no_place) => Failure::NoPlace(no_place),
        }
    }

    /// Whether something else becomes of it where nobody can take it: it begins anew, or is told what a server or a worker
    /// has said.
    pub(super) fn has_another_way(&self) -> bool {
        let may_begin_anew = self.asking.is_whole && self.progress.tokens() > 0;
        let is_refused = self.refusal.is_some() || self.doubt.is_some();
        may_begin_anew || is_refused || self.contexts.has_refusal()
    }

    /// Why there was no place until the deadline of a request of which the client has nothing.
    fn in_vain(&self, model: ModelAlias, word: Option<String>) -> Failure {
        if let Some(why) = self.why_nobody(&model) {
            return self.late(why.into());
        }
        let are_refused = self.relay.dispatcher.rules_refuse(&self.wanted());
        Failure::NoPlace(if are_refused {
            NoPlace::Rules { model }
        } else {
            NoPlace::Deadline { model, word }
        })
    }

    /// Why those take nothing that are there for a model, where all of them do not.
    fn why_nobody(&self, model: &ModelAlias) -> Option<String> {
        let (registry, now) = (self.relay.dispatcher.registry(), clock::now());
        if let Some(worker) = registry.shut_worker(model, now) {
            return Some(format!("{worker} fails again and again, and gets nothing for a while"));
        }
        registry.resting_server(model, now).map(|resting| resting.to_string())
    }

    pub(super) fn late(&self, why: Reason) -> Failure {
        Failure::Late { tokens: self.progress.tokens(), why }
    }
}
