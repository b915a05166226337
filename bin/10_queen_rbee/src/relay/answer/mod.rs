//! One answer: found a worker, read, passed on; gone on with elsewhere when the worker fails.

mod ending;
mod late;
mod longer;
mod recover;
mod silence;
mod unwilling;

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use daemon_http::ApiError;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use worker_contract::{InferenceRequest, ModelAlias, Task, TokenId, WorkerId};

use self::silence::{LOOK, Silence, silent};
use self::unwilling::Unwilling;
use super::contexts::Contexts;
use super::failure::Trouble;
use super::patience::{Doing, patience};
use super::progress::{Progress, Step};
use super::reason::Reason;
use super::record::Record;
use super::retry::Tries;
use super::size::Size;
use super::worker::{Leg, WorkerEvents};
use super::{Asking, Failure, Part, Relay, millis};
use crate::attached::{Original, Told};
use crate::clock;
use crate::decisions::{Decided, Kind};
use crate::dialect::openai::Aside;
use crate::dispatch::{NoPlace, Wanted, is_told_at_once};
use crate::metrics::Answering;
use crate::prompt::PromptChain;
use crate::registry::{Answered, Place, PromptTime, Times};
use crate::scheduler::Ways;

/// One answer, part by part. Dropping it ends the request, wherever it is.
#[derive(Debug)]
pub struct Answer {
    /// Tells it from all other requests of this queen.
    number: u64,
    relay: Relay,
    model: ModelAlias,
    request: InferenceRequest,
    /// The same in the client's words.
    original: Original,
    prompt: Arc<PromptChain>,
    asking: Asking,
    /// One timer for the whole answer: its deadline, or the end of the patience with a worker.
    alarm: Pin<Box<Sleep>>,
    progress: Progress,
    tries: Tries,
    /// The most that it had got when a worker failed it.
    had: u32,
    contexts: Contexts,
    size: Size,
    last_failure: Option<(WorkerId, Reason)>,
    /// What a server of somebody else had against it: it goes to workers of rbee since.
    refusal: Option<Failure>,
    /// How a server of somebody else failed with it, where nobody knows whose fault that is.
    doubt: Option<Failure>,
    unwilling: Unwilling,
    /// The workers whose queues it has left, each as often as that.
    left: Vec<WorkerId>,
    /// When a worker was last asked.
    asked_at: Instant,
    /// Whether it has taken the request.
    is_taken: bool,
    /// Whether it was asked for the answer in one piece.
    is_in_one_piece: bool,
    /// Answers have no more time; `None` while that is awaited together with the next part.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    state: State,
    ready: VecDeque<Part>,
    /// What the worker said beside the part that comes next, one of each object that it is said of.
    asides: Vec<Aside>,
    record: Record,
}

#[derive(Debug)]
enum State {
    /// A worker is sought, not before the time.
    Seeking(Option<Instant>),
    /// A worker has given it a place.
    Placed(Box<Place>),
    Reading(Box<Reading>),
    /// What this worker was asked for is complete; the connection can be given back.
    Complete(Box<WorkerEvents>, After),
    Ended,
}

#[derive(Debug)]
struct Reading {
    events: Box<WorkerEvents>,
    place: Place,
    sent_at: Instant,
    /// How many tokens the client had before.
    had: usize,
    /// When the worker last gave something. The head of a server's answer is nothing yet.
    heard_at: Instant,
    /// When it first gave something of the answer.
    first_at: Option<Instant>,
    /// What it has to compute before the first takes there, where that is known.
    prompt_time: Option<PromptTime>,
    /// When requests were last seen to wait in it, this one perhaps among them.
    queues_at: Option<Instant>,
    /// What decides how long it may say nothing before, where it is of a server.
    silence: Option<Box<Silence>>,
}

impl Reading {
    fn new(
        events: Box<WorkerEvents>,
        place: Place,
        had: usize,
        silence: Option<Box<Silence>>,
        asked_at: Instant,
    ) -> Box<Self> {
        let now = Instant::now();
        let heard_at = if silence.is_some() { asked_at } else { now };
        Box::new(Self {
            events,
            place,
            sent_at: now,
            had,
            heard_at,
            first_at: None,
            prompt_time: None,
            queues_at: None,
            silence,
        })
    }

    /// The worker gives something.
    fn hears(&mut self) {
        self.heard_at = Instant::now();
        if let Some(silence) = &self.silence {
            silence.pulse.beat();
        }
    }

    /// What the worker took, with so many tokens given in all, for so many texts side by side.
    fn times(&self, given: usize, texts: u32) -> Times {
        let first_at = self.first_at.unwrap_or(self.heard_at);
        Times {
            first: first_at.saturating_duration_since(self.sent_at),
            rest: first_at.elapsed().saturating_mul(texts),
            tokens: given.saturating_sub(self.had) as u64,
        }
    }
}

/// What comes after the end of one worker's part.
#[derive(Debug, Clone, Copy)]
enum After {
    Nothing,
    NextLeg,
}

impl Answer {
    pub(super) fn new(
        relay: Relay,
        model: ModelAlias,
        mut request: InferenceRequest,
        original: Original,
        asking: Asking,
    ) -> Self {
        request.model = Some(model.clone());
        let record = Record::begin(relay.metrics().open_request());
        Self {
            number: relay.shared.requests.fetch_add(1, Relaxed),
            relay,
            model,
            prompt: Arc::new(PromptChain::of(&request)),
            progress: Progress::of(&request),
            request,
            original,
            alarm: Box::pin(sleep_until(asking.deadline)),
            asking,
            tries: Tries::default(),
            had: 0,
            contexts: Contexts::default(),
            size: Size::default(),
            last_failure: None,
            refusal: None,
            doubt: None,
            unwilling: Unwilling::default(),
            left: Vec::new(),
            asked_at: Instant::now(),
            is_taken: false,
            is_in_one_piece: false,
            cut: None,
            state: State::Seeking(None),
            ready: VecDeque::new(),
            asides: Vec::new(),
            record,
        }
    }

    /// The next part; `None` after `Done` or a failure.
    ///
    /// Dropping the returned future can lose the place in the queue: to wait for a part together with
    /// something else, keep the future.
    pub async fn next(&mut self) -> Option<Result<Part, Failure>> {
        let is_done = self.record.outcome == "done";
        let awaited = self.cut.take();
        let mut cut =
            awaited.unwrap_or_else(|| Box::pin(self.relay.cut.child_token().cancelled_owned()));
        let part = tokio::select! {
            biased;
            part = self.next_part() => part,
            // Who has the whole answer is told of its end alone.
            () = &mut cut, if !is_done => {
                self.log_cut();
                Some(Err(self.fail(Failure::NoPlace(NoPlace::Stopping))))
            }
        };
        self.cut = Some(cut);
        part
    }

    async fn next_part(&mut self) -> Option<Result<Part, Failure>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Some(Ok(part));
            }
            let next = match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return None,
                State::Complete(events, after) => {
                    events.finish().await;
                    if matches!(after, After::NextLeg) {
                        self.state = State::Seeking(None);
                    }
                    Ok(())
                }
                // What seeking needs is let go once a worker answers: a stream is open for long.
                State::Seeking(not_before) => Box::pin(self.seek(not_before, None)).await,
                State::Placed(place) => Box::pin(self.seek(None, Some(place))).await,
                State::Reading(reading) => self.read(reading).await,
            };
            match next {
                Ok(()) => {}
                Err(failure) if self.is_whole_without(&failure) => self.fill(),
                Err(failure) => return Some(Err(self.fail(failure))),
            }
        }
    }

    /// The tokens of one of the answers that were passed on.
    #[must_use]
    pub fn tokens(&self, choice: usize) -> &[TokenId] {
        self.progress.given(choice)
    }

    /// The same is asked for in another way after it has failed, and counts in its place.
    pub fn leave_uncounted(&mut self) {
        self.record.is_replaced = true;
    }

    /// How often another worker took over.
    #[must_use]
    pub fn failovers(&self) -> u64 {
        u64::from(self.record.failovers)
    }

    /// Finds a worker and sends it the request.
    async fn seek(
        &mut self,
        not_before: Option<Instant>,
        placed: Option<Box<Place>>,
    ) -> Result<(), Failure> {
        let is_first = self.record.worker_id.is_none();
        let now = Instant::now().into_std();
        let quarantine = &self.relay.shared.quarantine;
        let known = is_first.then(|| quarantine.ended_by(&self.asking.caller, &self.request, now));
        if let Some(workers) = known.flatten() {
            return Err(Failure::Quarantined { workers, is_known: true });
        }
        if is_first {
            self.ensure_able()?;
        }
        self.record.seeks();
        self.hear_of_the_dead().await?;
        if let Some(until) = not_before {
            sleep_until(until.min(self.asking.deadline)).await;
        }
        let placed = match placed {
            Some(place) => Some(Ok(*place)),
            None => self.relay.place(self.wanted()).await,
        };
        let place = match placed {
            Some(Ok(place)) => place,
            Some(Err(_)) if self.contexts.is_cut() => {
                self.fill();
                return Ok(());
            }
            Some(Err(no_place)) if self.may_begin_anew(&no_place) => {
                self.begin_anew();
                self.state = State::Seeking(None);
                return Ok(());
            }
            Some(Err(no_place)) => return Err(self.rejected(no_place)),
            None => {
                self.log_cut();
                return Err(Failure::NoPlace(NoPlace::Stopping));
            }
        };
        if is_first {
            let figures = self.relay.metrics().model(&self.model);
            figures.waited(self.record.began.elapsed());
            self.record.figures = Some(Answering::begin(figures));
        }
        let most = place.target.server.as_ref().and_then(|server| server.most_answers);
        self.progress.take_at_most(most);
        let prefill = self.progress.begin_leg(&mut self.request, place.target.ways());
        if prefill.is_some() && self.progress.has_enough(&self.request) {
            drop(place);
            self.fill();
            return Ok(());
        }
        self.progress.answered_by(place.digest.as_ref());
        self.record.asks(place.worker_id.clone());
        // Who has a place has some time left; no time at all would be a bad request.
        let left = self.asking.deadline.saturating_duration_since(Instant::now());
        self.request.deadline_ms = Some(millis(left).max(1));
        // A worker answers to the name by which it runs its file.
        if place.model != self.model {
            self.request.model = Some(place.model.clone());
        }
        let (target, begins_by) = (Arc::clone(&place.target), self.time_ends(None));
        (self.asked_at, self.is_taken, self.is_in_one_piece) = (Instant::now(), false, false);
        let silence = self.silence(&place).map(Box::new);
        let leg = Leg {
            request: &self.request,
            original: &self.original,
            prefill: prefill.as_ref(),
            prompt_bytes: self.prompt.bytes(),
            via: &self.asking.via,
            is_uncounted: false,
            in_one_piece: silence.as_deref().map(|silence| &silence.in_one_piece),
        };
        let sent = {
            let sending = pin!(self.relay.workers.send(target, &leg, begins_by));
            match &silence {
                Some(silence) => silence.over(&place, sending).await,
                None => sending.await,
            }
        };
        self.is_in_one_piece = silence.as_ref().is_some_and(|silence| silence.is_in_one_piece());
        if place.model != self.model {
            self.request.model = Some(self.model.clone());
        }
        match sent {
            Ok(mut events) => {
                events.go_on_until(self.asking.deadline);
                self.is_taken = true;
                let had = self.progress.tokens();
                let reading = Reading::new(Box::new(events), place, had, silence, self.asked_at);
                self.set_alarm(&reading, self.patience_ends(&reading));
                self.state = State::Reading(reading);
                Ok(())
            }
            Err(trouble) => self.recover(trouble, place),
        }
    }

    /// No model is loaded, and none ended for it, that would only say that it cannot do this.
    fn ensure_able(&self) -> Result<(), Failure> {
        let registry = self.relay.dispatcher.registry();
        let Some(kind) = registry.unable_kind(&self.model, &self.request.task) else {
            return Ok(());
        };
        let message = kind.refusal(&self.model);
        self.log(Decided::told(Kind::Reject, "unable", message.clone()));
        let refused = ApiError::bad_request("unsupported_task", message).param("task");
        Err(Failure::Refused { status: refused.status, detail: refused.detail })
    }

    /// There is no place, and that is the end.
    fn rejected(&mut self, no_place: NoPlace) -> Failure {
        let (reason, words) = (no_place.reason(), no_place.for_clients());
        let failure = self.no_place(no_place);
        let (reason, words) = match (&failure, failure.recorded()) {
            (Failure::NoPlace(told), _) => (told.reason(), told.for_clients()),
            (Failure::Late { .. }, Some(told)) => (reason, told),
            (Failure::Refused { .. }, Some(told)) => {
                (reason, format!("{words}; before, it was told {told}"))
            }
            // What other failures mean is recorded as such.
            _ => return failure,
        };
        self.log(Decided::told(Kind::Reject, reason, words));
        failure
    }

    /// In which ways it can be taken. What was here before goes to workers of this queen only, or it
    /// would go round for ever; so does what came before any server was attached.
    fn ways(&self) -> Ways {
        let ways = self.progress.ways(&self.request);
        let is_ours = !self.original.is_kept()
            || self.refusal.is_some()
            || self.relay.workers.was_here(&self.asking.via);
        if is_ours && !ways.is_none() { Ways::TOKENS } else { ways }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            request_id: self.request.request_id.clone(),
            model: self.model.clone(),
            caller: self.asking.caller.clone(),
            priority: self.asking.priority,
            prompt: Arc::clone(&self.prompt),
            answer_tokens: self.request.sampling.max_tokens.unwrap_or(0),
            answers: self.progress.asks_next_for(),
            session: self.asking.session.clone(),
            failed: self.tries.failed().to_vec(),
            barred: [self.unwilling.by(), self.contexts.refused_by()].concat(),
            digest: self.progress.needed_digest().cloned(),
            alone: self.tries.is_suspect(),
            fell_alone: self.tries.fell_alone(),
            ways: self.ways(),
            too_short: self.contexts.too_short(),
            has_another_way: self.has_another_way(),
            had_a_place: self.record.worker_id.is_some(),
            waits_told: self.record.waits_told.clone(),
            bounces: self.unwilling.bounces(),
            deadline: self.time_ends(None).into_std(),
        }
    }

    /// Reads until there is a part, or this worker's part of the answer is over.
    async fn read(&mut self, mut reading: Box<Reading>) -> Result<(), Failure> {
        loop {
            let event = tokio::select! {
                biased;
                event = reading.events.next() => event,
                () = &mut self.alarm => match self.on_alarm(&mut reading) {
                    Some(_) if reading.events.is_complete() => continue,
                    Some(trouble) => Err(trouble),
                    None => continue,
                },
            };
            self.size.came(reading.events.take_received());
            if let Some(reason) = self.size.excess() {
                return Err(self.too_much(reason, &reading.place));
            }
            let event = match event {
                Ok(Told::Event(event)) => event,
                Ok(told) => {
                    reading.hears();
                    if let Told::Aside(aside) = told {
                        self.keep(aside);
                    }
                    continue;
                }
                Err(trouble) => return self.recover(trouble, reading.place),
            };
            if self.is_cut_short(&event, &reading.place) {
                self.go_on_longer(reading.place);
                return Ok(());
            }
            let before = (self.progress.is_started(), self.progress.has_moved());
            let step = self.progress.on_event(event);
            if self.progress.is_started() {
                reading.hears();
                // Patience changes with what it does: in its queue, with the prompt, with the answer.
                if before != (true, self.progress.has_moved()) {
                    if !self.progress.has_moved() {
                        reading.prompt_time = self.prompt_time(&reading.place);
                    }
                    self.set_alarm(&reading, self.patience_ends(&reading));
                }
            }
            match step {
                Step::Nothing => {}
                Step::Give(part) => {
                    if let Part::Delta(delta) = &part {
                        self.size.said(delta);
                    }
                    self.give(part, reading);
                    return Ok(());
                }
                Step::LegOver { ended, done } => {
                    self.record.goes_on();
                    self.give_ahead();
                    self.ready.push_back(ended);
                    let after = if done.is_some() { After::Nothing } else { After::NextLeg };
                    if let Some(done) = done {
                        self.done(done, &reading);
                    }
                    self.state = State::Complete(reading.events, after);
                    return Ok(());
                }
                Step::Fail(error) if error.code.as_deref() == Some("deadline_exceeded") => {
                    return self.recover(Trouble::Deadline, reading.place);
                }
                Step::Fail(error) => {
                    return self.recover(Trouble::garbage(error.message), reading.place);
                }
                Step::OutOfOrder => {
                    let trouble = Trouble::garbage("it sent events in the wrong order");
                    return self.recover(trouble, reading.place);
                }
            }
        }
    }

    /// Keeps what is said beside the next part. Of how many objects that can be, the request decides, and how
    /// much it is, is limited by what an answer may have in all.
    fn keep(&mut self, aside: Aside) {
        let mut left = Some(aside);
        for kept in &mut self.asides {
            left = left.and_then(|aside| kept.absorb(aside));
        }
        self.asides.extend(left);
    }

    /// Passes a part on.
    fn give(&mut self, part: Part, mut reading: Box<Reading>) {
        let place = &reading.place;
        let is_first = reading.first_at.is_none();
        if is_first {
            reading.first_at = Some(reading.heard_at);
            self.record.goes_on();
            if !is_told_at_once(self.unwilling.bounces()) {
                self.log_placed(place);
            }
            self.contexts.gave(&place.worker_id, place.context_tokens);
            if self.relay.dispatcher.registry().worker_works(place, clock::now()) {
                self.log_closed(&place.worker_id);
            }
        }
        if self.progress.begin() {
            self.record.began_to_answer(reading.heard_at);
            let (worker_id, why) = (place.worker_id.clone(), place.why.clone());
            self.ready.push_back(Part::Started { worker_id, why });
        } else if is_first {
            let (worker_id, why) = (place.worker_id.clone(), place.why.clone());
            self.ready.push_back(Part::GoesOn { worker_id, why });
        }
        self.give_ahead();
        self.doubt = None;
        self.last_failure = None;
        if matches!(part, Part::Done { .. }) {
            self.done(part, &reading);
            self.state = State::Complete(reading.events, After::Nothing);
            return;
        }
        self.ready.push_back(part);
        self.state = State::Reading(reading);
    }

    /// Passes on what comes before the next part.
    fn give_ahead(&mut self) {
        self.ready.extend(self.asides.drain(..).map(Part::Aside));
        self.ready.extend(self.progress.take_rests().map(Part::Delta));
    }

    fn done(&mut self, done: Part, reading: &Reading) {
        if let Part::Done { usage, timings, .. } = &done {
            self.record.usage = Some(*usage);
            self.record.answered(*usage, self.progress.choices());
            // Some of them stand for no text.
            let given = self.progress.tokens().max(usage.completion_tokens as usize);
            let times = reading.times(given, self.request.n);
            let (usage, timings) = (*usage, *timings);
            let before = u32::try_from(reading.had).unwrap_or(u32::MAX);
            let prompt_bytes = self.prompt.bytes();
            let answered = Answered { prompt_bytes, usage, before, timings, times };
            let registry = self.relay.dispatcher.registry();
            if registry.worker_answered(&reading.place, &answered, clock::now()) {
                self.log_closed(&reading.place.worker_id);
            }
        }
        self.record.outcome = "done";
        self.ready.push_back(done);
    }

    /// Sets the alarm to the end of a worker's patience. Between, it is looked whether a server ends, and
    /// whether another worker has room for what one is silent over.
    fn set_alarm(&mut self, reading: &Reading, until: Instant) {
        let looks = match &reading.silence {
            Some(silence) => Some(silence.looks_at(reading.heard_at)),
            None => self.looks_for_another_at(reading),
        };
        self.alarm.as_mut().reset(looks.map_or(until, |looks| until.min(looks)));
    }

    /// What the alarm means; `None` where it came too early, and is set again.
    fn on_alarm(&mut self, reading: &mut Reading) -> Option<Trouble> {
        if self.excuses(reading) {
            return None;
        }
        let now = Instant::now();
        if now >= self.time_ends(Some(reading)) {
            return Some(Trouble::Deadline);
        }
        let (place, since) = (&reading.place, reading.heard_at);
        if reading.silence.as_ref().is_some_and(|silence| silence.is_shut(place, since)) {
            return Some(silent(self.relay.dispatcher.registry(), place, since));
        }
        let until = self.patience_ends(reading);
        if now < until {
            let trouble = self.is_better_elsewhere(reading);
            if trouble.is_none() {
                self.set_alarm(reading, until);
            }
            return trouble;
        }
        if self.may_have_given_way(reading) {
            self.alarm.as_mut().reset((now + LOOK).min(self.asking.deadline));
            return self.leaves_queue(reading);
        }
        if let Some(until) = self.waits_for_server(reading) {
            let until = until.min(self.time_ends(Some(reading)));
            self.alarm.as_mut().reset(until);
            return None;
        }
        let registry = self.relay.dispatcher.registry();
        Some(silent(registry, &reading.place, reading.heard_at))
    }

    /// When a worker that computes the answer has been silent for too long, or there is no more time.
    fn patience_ends(&self, reading: &Reading) -> Instant {
        let (has_moved, time_ends) = (self.progress.has_moved(), self.time_ends(Some(reading)));
        if let Some(silence) = reading.silence.as_ref().filter(|_| !has_moved) {
            return silence.may_end(&reading.place, reading.heard_at).min(time_ends);
        }
        let doing = if has_moved {
            Doing::Answers
        } else if !self.progress.is_started() {
            Doing::Queues
        } else {
            let (fresh, again) =
                (self.progress.fresh_prompt_tokens(), self.progress.tokens_again());
            Doing::Prompt { fresh, again, time: reading.prompt_time }
        };
        let left = self.asking.deadline.saturating_duration_since(reading.heard_at);
        let patience = patience(self.relay.shared.stall, left, doing);
        (reading.heard_at + patience).min(time_ends)
    }

    /// What the fresh part of the prompt, and the answer so far, takes at a worker, where that is known.
    fn prompt_time(&self, place: &Place) -> Option<PromptTime> {
        let bytes = self.progress.fresh_bytes(self.prompt.bytes());
        let again = self.progress.tokens_again();
        self.relay.dispatcher.registry().prompt_time(place, bytes, again)
    }

    /// Whether the client has got anything.
    pub(super) fn has_begun(&self) -> bool {
        self.progress.has_begun()
    }

    /// How many tokens it has got.
    pub(super) fn given(&self) -> usize {
        self.progress.tokens()
    }

    /// The same in words, also of what is no text.
    pub(super) fn given_in_words(&self) -> String {
        let count = self.progress.given_in_all();
        let what = match &self.request.task {
            Task::Embed { .. } => "vectors",
            Task::Rerank { .. } => "scores",
            Task::Chat(_) | Task::Completion { .. } | Task::Infill { .. } => "tokens",
        };
        format!("{count} {what}")
    }

    /// Records a decision about this request.
    pub(super) fn log(&self, decided: Decided) {
        let decided = decided.asked(&self.request.request_id, &self.asking.caller);
        self.relay.dispatcher.decisions().record(decided.model(&self.model));
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.state = State::Ended;
        self.log_failure(&failure);
        self.record.outcome = match &failure {
            Failure::NoPlace(NoPlace::Deadline { .. })
            | Failure::Deadline { .. }
            | Failure::Late { .. } => "deadline",
            Failure::NoPlace(NoPlace::QueueFull { .. }) => "queue_full",
            Failure::NoPlace(NoPlace::Stopping) => "stopping",
            Failure::NoPlace(NoPlace::UnknownModel { .. }) | Failure::Refused { .. } => "refused",
            Failure::NoPlace(NoPlace::Resting(_)) | Failure::Busy { .. } => "busy",
            Failure::NoPlace(_) => "no_worker",
            Failure::OwnLimit(_) => "own_limit",
            Failure::WorkerFailed { .. } => "worker_failed",
            Failure::Quarantined { .. } => "quarantined",
        };
        failure
    }
}
