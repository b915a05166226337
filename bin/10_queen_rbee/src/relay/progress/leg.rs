//! What the next worker is asked for: what is missing of the answer, and who can go on with it.

use worker_contract::{InferenceRequest, Sha256Digest};

use super::{Leg, Progress};
use crate::relay::choice::Choice;
use crate::relay::prefill::{Prefill, continues_last, ways_by_text, ways_to_begin};
use crate::scheduler::Ways;

impl Progress {
    /// The next worker makes so many texts at once, where it has a limit.
    pub(in crate::relay) fn take_at_most(&mut self, most: Option<u32>) {
        self.one_by_one = self.choices.len() > 1 && most.is_some_and(|most| self.choices() > most);
    }

    /// Writes into the request what the next worker is to do: go on after what the client has. That is
    /// given back as text where the worker, which goes on in these ways, cannot do so by its tokens.
    pub(in crate::relay) fn begin_leg(
        &mut self,
        request: &mut InferenceRequest,
        worker: Ways,
    ) -> Option<Prefill> {
        if self.is_started && self.tells_tokens && self.prefilled == 0 {
            self.counted.get_or_insert(self.prompt_tokens);
        }
        self.is_started = false;
        self.has_moved = false;
        self.repeats = self.has_begun;
        self.tells_tokens = worker.meet(Ways::TOKENS);
        self.begins_message = continues_last(request) && !worker.meet(Ways::TOKENS | Ways::CHAT);
        (self.prefilled, self.again) = (0, 0);
        self.expected_again.clear();
        self.choices.iter_mut().for_each(Choice::forget_pending);
        request.sampling.seed = request.sampling.seed.or(self.seed);
        request.resume.clear();
        let number = self.next_choice().or(self.one_by_one.then_some(0));
        self.leg = match number {
            Some(number) if self.choices.len() > 1 => {
                request.n = 1;
                request.first_choice = u32::try_from(number).unwrap_or(u32::MAX);
                Leg::One(request.first_choice)
            }
            _ => {
                if self.choices.len() > 1 {
                    (request.n, request.first_choice) = (self.choices(), 0);
                }
                Leg::Whole
            }
        };
        let choice = self.choices.get_mut(number?)?;
        if self.tells_tokens && choice.has_tokens_of_all() {
            request.resume = choice.given().to_vec();
            self.again = u32::try_from(request.resume.len()).unwrap_or(u32::MAX);
            return None;
        }
        if choice.is_untouched() {
            return None;
        }
        choice.leave_tokens();
        let text = choice.text().unwrap_or_default();
        let (prefill, expected_again) = Prefill::of(request, text, choice.passed_on());
        (self.prefilled, self.again) = (prefill.tokens, prefill.tokens);
        self.expected_again = expected_again;
        Some(prefill)
    }

    /// For how many answers the next worker is asked at once.
    pub(in crate::relay) fn asks_next_for(&self) -> u32 {
        let is_one = self.one_by_one || self.next_choice().is_some();
        if is_one { 1 } else { self.choices() }
    }

    /// In which ways the next worker can take the request; none where nobody can go on.
    pub(in crate::relay) fn ways(&self, request: &InferenceRequest) -> Ways {
        let Some(choice) = self.next_choice().and_then(|number| self.choices.get(number)) else {
            return ways_to_begin(request);
        };
        if choice.is_untouched() {
            return ways_to_begin(request);
        }
        let is_text = choice.text().is_some() && !choice.is_ended();
        let by_text = if is_text { ways_by_text(request) } else { Ways::NONE };
        let by_tokens = if choice.has_tokens_of_all() { Ways::TOKENS } else { Ways::NONE };
        by_text | by_tokens
    }

    /// Whether the client has as many tokens as it asked for, so that only the end is missing.
    pub(in crate::relay) fn has_enough(&self, request: &InferenceRequest) -> bool {
        let choice = self.next_choice().and_then(|number| self.choices.get(number));
        let most = request.sampling.max_tokens.unwrap_or(u32::MAX);
        choice.is_some_and(|choice| !choice.has_tokens_of_all() && choice.passed_on() >= most)
    }

    /// The answer that the next leg is about; `None` where it is about all.
    fn next_choice(&self) -> Option<usize> {
        match self.choices.as_slice() {
            [] => None,
            [_] => Some(0),
            several if several.iter().all(Choice::is_untouched) => None,
            // Where all have ended, only `done` was lost: the last one says it again.
            several => {
                let open = several.iter().position(|choice| !choice.is_ended());
                Some(open.unwrap_or(several.len() - 1))
            }
        }
    }

    /// Notes which model file answers. Tokens of another one are other texts, so the first that gave
    /// some is kept to.
    pub(in crate::relay) fn answered_by(&mut self, digest: Option<&Sha256Digest>) {
        if self.tokens() == 0 {
            self.digest = digest.cloned();
        }
    }

    /// The model file that a worker must have to go on with the answer; `None` while any will do.
    pub(in crate::relay) fn needed_digest(&self) -> Option<&Sha256Digest> {
        let choice = self.next_choice().and_then(|number| self.choices.get(number));
        let is_by_tokens = choice.is_none_or(Choice::has_tokens_of_all);
        self.digest.as_ref().filter(|_| self.tokens() > 0 && is_by_tokens)
    }
}
