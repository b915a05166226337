//! How far one request is, what a worker is asked for next, and what an event means. Pure.
//!
//! A request is one **leg** at a worker, and another one after each failure. One answer is resumed as
//! a whole. Several answers cannot be: each that is not over becomes a leg of its own. A leg goes on
//! after the tokens that there are, or, where they are not known, after the text.

mod leg;
#[cfg(test)]
mod tests;

use worker_contract::{
    Delta, FinishReason, InferenceEvent, InferenceRequest, Sha256Digest, Task, Timings, TokenId,
    Usage,
};

use super::Part;
use super::choice::Choice;
use super::prefill::skip;

/// How far one request is.
#[derive(Debug)]
pub(super) struct Progress {
    expected: Expected,
    /// Each of its answers; none where vectors or scores are asked for.
    choices: Vec<Choice>,
    /// Which vectors or scores have come.
    items: Vec<bool>,
    has_begun: bool,
    is_started: bool,
    leg: Leg,
    /// Whether the worker of this leg tells tokens.
    tells_tokens: bool,
    /// Whether it may begin a message of its own instead of continuing the last one, as it is asked to.
    begins_message: bool,
    /// Whether the next worker is asked for one text at a time.
    one_by_one: bool,
    /// Tokens of the answer that are in the prompt of this leg.
    prefilled: u32,
    /// Tokens of the answer that the worker of this leg has to compute again, or read, before it goes on.
    again: u32,
    /// What the worker of this leg is expected to give first, and the client has.
    expected_again: String,
    /// What the first worker told, so that the next one goes on with the same randomness.
    seed: Option<u64>,
    /// The model file that the answer's tokens are numbers of.
    digest: Option<Sha256Digest>,
    first_reason: Option<FinishReason>,
    /// How many tokens the prompt has by an earlier worker, which had nothing else to read. Others may have
    /// other tokens, or guess.
    counted: Option<u32>,
    prompt_tokens: u32,
    cached_tokens: u32,
    /// Whether the worker of this leg has given anything.
    has_moved: bool,
    /// Whether it may give what the client has from another one.
    repeats: bool,
}

/// What a worker is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leg {
    /// Everything that is asked for.
    Whole,
    /// One of several answers.
    One(u32),
}

/// What a request is answered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Text,
    Vectors,
    Scores,
}

/// What one event leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing that the client sees.
    Nothing,
    /// A part for the client; before the first one comes `Started`.
    Give(Part),
    /// One of several answers is over, and with it what this worker was asked for. `done` is there
    /// when it was the last.
    LegOver {
        /// Its end.
        ended: Part,
        /// The end of everything.
        done: Option<Part>,
    },
    /// The worker ended the answer by an error.
    Fail(worker_contract::ErrorDetail),
    /// The event cannot come here.
    OutOfOrder,
}

impl Progress {
    /// Nothing of a request is answered.
    pub(super) fn of(request: &InferenceRequest) -> Self {
        let (expected, choices, items) = match &request.task {
            Task::Embed { inputs } => (Expected::Vectors, 0, inputs.len()),
            Task::Rerank { documents, .. } => (Expected::Scores, 0, documents.len()),
            Task::Chat(_) | Task::Completion { .. } | Task::Infill { .. } => {
                (Expected::Text, request.n as usize, 0)
            }
        };
        let choices = std::iter::repeat_with(Choice::default).take(choices).collect();
        Self {
            expected,
            choices,
            items: vec![false; items],
            has_begun: false,
            is_started: false,
            leg: Leg::Whole,
            tells_tokens: true,
            begins_message: false,
            one_by_one: false,
            prefilled: 0,
            again: 0,
            expected_again: String::new(),
            seed: None,
            digest: None,
            first_reason: None,
            counted: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            has_moved: false,
            repeats: false,
        }
    }

    /// Forgets all that was answered, of which the client has nothing.
    pub(super) fn begin_anew(&mut self, request: &mut InferenceRequest) {
        request.resume.clear();
        request.first_choice = 0;
        if self.expected == Expected::Text {
            request.n = self.choices();
        }
        *self = Self::of(request);
    }

    /// What an event of the worker leads to.
    pub(super) fn on_event(&mut self, event: InferenceEvent) -> Step {
        match event {
            InferenceEvent::Started { .. } if self.is_started => Step::OutOfOrder,
            InferenceEvent::Started { seed, prompt_tokens, cached_tokens, .. } => {
                self.is_started = true;
                self.seed = self.seed.or(Some(seed));
                self.prompt_tokens = self.of_prompt(prompt_tokens);
                self.cached_tokens = cached_tokens.min(self.prompt_tokens);
                Step::Nothing
            }
            InferenceEvent::Error { error } => Step::Fail(error),
            _ if !self.is_started => Step::OutOfOrder,
            InferenceEvent::Delta(delta) => self.on_delta(delta),
            // Where there is only one answer, `done` ends it.
            InferenceEvent::ChoiceDone { .. }
                if self.choices.len() <= 1 || self.leg != Leg::Whole =>
            {
                Step::OutOfOrder
            }
            InferenceEvent::ChoiceDone { index, finish_reason } => {
                self.first_reason = self.first_reason.or(Some(finish_reason));
                let has_ended = self.choices.get_mut(index as usize).is_some_and(Choice::end);
                if has_ended {
                    Step::Give(Part::ChoiceDone { index, finish_reason })
                } else {
                    Step::OutOfOrder
                }
            }
            InferenceEvent::Embedding { index, vector } => {
                self.on_item(Expected::Vectors, index, Part::Embedding { index, vector })
            }
            InferenceEvent::Score { index, score } => {
                self.on_item(Expected::Scores, index, Part::Score { index, score })
            }
            InferenceEvent::Done { finish_reason, usage, timings } => {
                self.on_done(finish_reason, usage, timings)
            }
        }
    }

    /// Notes that the client gets its first part. True the first time.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.has_begun, true)
    }

    /// Whether the client has got a part.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the worker has given the request a slot.
    pub(super) fn is_started(&self) -> bool {
        self.is_started
    }

    /// Whether the worker has given anything of the answer.
    pub(super) fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Tokens of the prompt that the worker has to compute before its first one.
    pub(super) fn fresh_prompt_tokens(&self) -> u32 {
        self.prompt_tokens.saturating_sub(self.cached_tokens)
    }

    /// Tokens of the answer that it has to compute as well before that: those that the client has.
    pub(super) fn tokens_again(&self) -> u32 {
        self.again
    }

    /// How many bytes the fresh tokens are of a prompt of so many.
    pub(super) fn fresh_bytes(&self, prompt_bytes: u32) -> u64 {
        let bytes = u64::from(prompt_bytes) * u64::from(self.fresh_prompt_tokens());
        bytes / u64::from(self.prompt_tokens.max(1))
    }

    /// How many tokens, vectors and scores were passed on.
    pub(super) fn given_in_all(&self) -> u32 {
        let items = self.items.iter().filter(|has_come| **has_come).count();
        u32::try_from(self.tokens() + items).unwrap_or(u32::MAX)
    }

    /// The end of an answer that cannot be resumed because it fills the model's context, and of
    /// everything if it was the last.
    pub(super) fn filled_context(&mut self) -> (Option<Part>, Option<Part>) {
        let (finish_reason, timings) = (FinishReason::Length, Timings::default());
        if self.leg == Leg::Whole {
            let usage = Usage { completion_tokens: self.seen_tokens(), ..self.usage() };
            return (None, Some(Part::Done { finish_reason, usage, timings }));
        }
        let completion_tokens = match self.leg {
            Leg::One(index) => self.choices.get(index as usize).map_or(0, Choice::seen),
            Leg::Whole => 0,
        };
        let completion_tokens = completion_tokens.saturating_sub(self.prefilled);
        let usage = Usage { completion_tokens, ..self.usage() };
        match self.on_done(finish_reason, usage, timings) {
            Step::LegOver { ended, done } => (Some(ended), done),
            Step::Give(done) => (None, Some(done)),
            _ => (None, None),
        }
    }

    /// The tokens of one of its answers that were passed on.
    pub(super) fn given(&self, choice: usize) -> &[TokenId] {
        self.choices.get(choice).map_or(&[], Choice::given)
    }

    /// Whether it is one text, and nothing but text was passed on: no reasoning, and no calls.
    pub(super) fn is_one_text(&self) -> bool {
        matches!(self.choices.as_slice(), [only] if only.text().is_some())
    }

    /// How many texts are asked for.
    pub(super) fn choices(&self) -> u32 {
        u32::try_from(self.choices.len()).unwrap_or(u32::MAX)
    }

    /// How many tokens were passed on, over all answers.
    pub(super) fn tokens(&self) -> usize {
        self.choices.iter().map(|choice| choice.passed_on() as usize).sum()
    }

    /// What was said of the last tokens of answers that have ended, which stand for no text.
    pub(super) fn take_rests(&mut self) -> impl Iterator<Item = Delta> {
        let rest = |(index, choice): (u32, &mut Choice)| {
            choice.take_rest().map(|logprobs| Delta { index, logprobs, ..Delta::default() })
        };
        (0..).zip(&mut self.choices).filter_map(rest)
    }

    fn on_delta(&mut self, mut delta: Delta) -> Step {
        // With a server's chunk that has nothing else comes what is said beside it.
        let is_beside =
            !self.tells_tokens && delta == Delta { index: delta.index, ..Delta::default() };
        if !self.expected_again.is_empty() {
            skip(&mut self.expected_again, &mut delta.text);
        }
        let is_of_this_leg = match self.leg {
            Leg::Whole => true,
            Leg::One(number) => delta.index == number,
        };
        let choice = self.choices.get_mut(delta.index as usize).filter(|_| is_of_this_leg);
        let Some(choice) = choice else { return Step::OutOfOrder };
        let taken = if is_beside {
            choice.take_beside().map(|()| Some(delta))
        } else {
            choice.take(delta, self.tells_tokens)
        };
        match taken {
            Ok(Some(delta)) => {
                self.has_moved = true;
                if self.begins_message {
                    choice.stand_apart();
                }
                Step::Give(Part::Delta(delta))
            }
            Ok(None) => {
                self.has_moved = true;
                Step::Nothing
            }
            Err(_) => Step::OutOfOrder,
        }
    }

    /// A worker that takes over makes all vectors again; those that were given are given once.
    fn on_item(&mut self, kind: Expected, index: u32, part: Part) -> Step {
        match self.items.get_mut(index as usize).filter(|_| self.expected == kind) {
            Some(has_come) if !*has_come => {
                *has_come = true;
                self.has_moved = true;
                Step::Give(part)
            }
            Some(_) if self.repeats => Step::Nothing,
            _ => Step::OutOfOrder,
        }
    }

    fn on_done(&mut self, finish_reason: FinishReason, usage: Usage, timings: Timings) -> Step {
        let prompt_tokens = self.of_prompt(usage.prompt_tokens);
        let usage = Usage {
            prompt_tokens,
            completion_tokens: usage.completion_tokens.saturating_add(self.prefilled),
            cached_tokens: usage.cached_tokens.min(prompt_tokens),
        };
        if !self.tells_tokens {
            // Until then it was a guess.
            self.prompt_tokens = usage.prompt_tokens;
        }
        let Leg::One(index) = self.leg else {
            if self.is_complete() {
                for choice in &mut self.choices {
                    choice.end();
                }
                return Step::Give(Part::Done { finish_reason, usage, timings });
            }
            return Step::OutOfOrder;
        };
        self.first_reason = self.first_reason.or(Some(finish_reason));
        let choice = self.choices.get_mut(index as usize);
        let is_news = choice.is_some_and(|choice| {
            choice.has_tokens(usage.completion_tokens);
            choice.end()
        });
        let done = self.is_complete().then(|| Part::Done {
            finish_reason: self.first_reason.unwrap_or(finish_reason),
            usage: Usage { completion_tokens: self.seen_tokens(), ..self.usage() },
            timings,
        });
        match (is_news, done) {
            (true, done) => {
                Step::LegOver { ended: Part::ChoiceDone { index, finish_reason }, done }
            }
            (false, Some(done)) => Step::Give(done),
            (false, None) => Step::OutOfOrder,
        }
    }

    /// How many tokens the prompt has, where the worker of this leg read so many.
    fn of_prompt(&self, read: u32) -> u32 {
        self.counted.unwrap_or_else(|| read.saturating_sub(self.prefilled))
    }

    /// Whether nothing is missing but `done`.
    fn is_complete(&self) -> bool {
        let choices_are = self.choices.len() <= 1 || self.choices.iter().all(Choice::is_ended);
        choices_are && self.items.iter().all(|has_come| *has_come)
    }

    fn usage(&self) -> Usage {
        let (prompt_tokens, cached_tokens) = (self.prompt_tokens, self.cached_tokens);
        Usage { prompt_tokens, cached_tokens, completion_tokens: 0 }
    }

    /// The tokens of all answers, those included that stand for no text.
    fn seen_tokens(&self) -> u32 {
        self.choices.iter().map(Choice::seen).fold(0, u32::saturating_add)
    }
}
