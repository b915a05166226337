//! Handing places out to those who wait, in the order of the queues.

use worker_contract::ModelAlias;

use super::kinds::Kinds;
use super::starts::Attempts;
use super::{Dispatcher, NoPlace, Queues};
use crate::admission::{Spot, Ticket};
use crate::clock;
use crate::registry::{Judging, Placed};
use crate::scheduler::{Decision, WaitReason};

/// What one step of handing out has come to.
#[derive(Debug)]
enum Step {
    /// Nothing more can be done.
    Done,
    /// Somebody was placed or refused, or a worker is started.
    Taken,
    /// The rules have to be asked first, for the request there.
    Asks(Spot),
}

/// Who judges places for requests that wait, from one step to the next that changes nothing.
#[derive(Debug, Default)]
struct Judgings<'a> {
    known: Vec<(Spot, Judging<'a>)>,
}

impl Dispatcher {
    /// Gives every place that there is to whoever is next, and starts workers that are needed.
    pub(super) fn hand_out(&self, attempts: &mut Attempts) {
        let models = self.queues().admission.models_by_arrival();
        for model in &models {
            self.hand_out_for(model, None);
        }
        // Only now, or a worker that has just come for those of one model would make room for another.
        for model in &models {
            self.hand_out_for(model, Some(attempts));
        }
        let queues = &mut *self.queues();
        queues.starts.forget_all_but(&queues.admission);
        self.registry.set_waiting(queues.admission.len());
    }

    /// Gives every place that there is to those who wait for a model; where there are `attempts` to put it
    /// to, workers are started. The queues are locked for one step at a time, and not while somebody's rules
    /// are asked.
    fn hand_out_for(&self, model: &ModelAlias, mut attempts: Option<&mut Attempts>) {
        let mut judgings = Judgings::default();
        loop {
            let step = {
                let queues = &mut *self.queues();
                self.hand_out_one(queues, model, attempts.as_deref_mut(), &mut judgings)
            };
            match step {
                Step::Done => return,
                // What the rules said was true before.
                Step::Taken => judgings = Judgings::default(),
                Step::Asks(spot) => judgings.answer(spot),
            }
        }
    }

    /// One step for a model: somebody is placed or refused, or a worker is started.
    fn hand_out_one<'a>(
        &'a self,
        queues: &mut Queues,
        model: &ModelAlias,
        mut attempts: Option<&mut Attempts>,
        judgings: &mut Judgings<'a>,
    ) -> Step {
        let Queues { admission, starts } = queues;
        let now = clock::now();
        let mut next = None;
        let has_rules = self.registry.has_place_rules();
        let closed = starts.closed(model, |hive| self.registry.hive_heard(hive, now));
        let mut kinds = Kinds::default();
        for (spot, waiting) in admission.waiting(model) {
            if waiting.wanted.deadline <= now || waiting.answer.is_closed() {
                let late = NoPlace::Deadline { model: model.clone() };
                next = Some((spot, Some(Err(late))));
                break;
            }
            let kind = waiting.wanted.kind(has_rules);
            if !kinds.is_worth_asking(kind) {
                continue;
            }
            let ask = waiting.wanted.ask(&closed);
            let judging = judgings.at(spot, || self.registry.judging(&ask));
            match self.registry.place_judged(&ask, judging, now) {
                None => return Step::Asks(spot),
                Some(Placed::At(place)) => next = Some((spot, Some(Ok(place)))),
                Some(Placed::Not(Decision::Reject { reason, retry_after_s })) => {
                    let source = starts.last_error(model);
                    let refused = self.refused(model, reason, retry_after_s, source);
                    next = Some((spot, Some(Err(refused))));
                }
                Some(Placed::Not(Decision::Spawn(spawn))) => {
                    let Some(attempts) = attempts.as_deref_mut() else { continue };
                    // Where a worker that was to go has just got a request, it is decided again.
                    let Some(attempt) = self.spawner.spawn(model, &spawn) else {
                        return Step::Done;
                    };
                    if attempt.is_first {
                        self.log_spawn(&waiting.wanted, &spawn);
                    }
                    attempts.begun(model, attempt);
                    // Others may have what they need already.
                    return Step::Taken;
                }
                Some(Placed::Not(Decision::Wait(WaitReason::Room))) if kind.speaks_for_all() => {
                    return Step::Done;
                }
                Some(Placed::Not(_)) => continue,
            }
            break;
        }
        let Some((spot, answer)) = next else { return Step::Done };
        let ticket = Ticket::new(model, spot);
        let request = match &answer {
            Some(Ok(_)) => admission.serve(&ticket),
            _ => admission.leave(&ticket),
        };
        if let (Some(request), Some(answer)) = (request, answer) {
            request.end(answer);
        }
        Step::Taken
    }
}

impl<'a> Judgings<'a> {
    /// Whoever judges for the request at a spot; `None` where there are no rules.
    fn at(
        &mut self,
        spot: Spot,
        begin: impl FnOnce() -> Option<Judging<'a>>,
    ) -> Option<&Judging<'a>> {
        if !self.known.iter().any(|(known, _)| *known == spot) {
            self.known.push((spot, begin()?));
        }
        self.find(spot)
    }

    fn answer(&self, spot: Spot) {
        if let Some(judging) = self.find(spot) {
            judging.answer();
        }
    }

    fn find(&self, spot: Spot) -> Option<&Judging<'a>> {
        self.known.iter().find(|(known, _)| *known == spot).map(|(_, judging)| judging)
    }
}
