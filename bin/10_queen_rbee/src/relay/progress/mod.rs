//! How far one request is, what a worker is asked for next, and what an event means. Pure.
//!
//! A request is one **leg** at a worker, and another one after each failure. One answer is resumed as
//! a whole. Several answers cannot be: each that is not over becomes a leg of its own. A leg goes on
//! after the tokens that there are, or, where they are not known, after the text.

use worker_contract::{
    Delta, FinishReason, InferenceEvent, InferenceRequest, Sha256Digest, Task, Timings, TokenId,
    Usage,
};

use super::Part;
use super::choice::Choice;
use super::prefill::{Prefill, skip, ways_by_text, ways_to_begin};
use crate::scheduler::Ways;

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
    /// Tokens of the answer that are in the prompt of this leg.
    prefilled: u32,
    /// What the worker of this leg is expected to give first, and the client has.
    expected_again: String,
    /// What the first worker told, so that the next one goes on with the same randomness.
    seed: Option<u64>,
    /// The model file that the answer's tokens are numbers of.
    digest: Option<Sha256Digest>,
    first_reason: Option<FinishReason>,
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
            prefilled: 0,
            expected_again: String::new(),
            seed: None,
            digest: None,
            first_reason: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            has_moved: false,
            repeats: false,
        }
    }

    /// Writes into the request what the next worker is to do: go on after what the client has. That is
    /// given back as text where the worker, which goes on in these ways, cannot do so by its tokens.
    pub(super) fn begin_leg(
        &mut self,
        request: &mut InferenceRequest,
        worker: Ways,
    ) -> Option<Prefill> {
        self.is_started = false;
        self.has_moved = false;
        self.repeats = self.has_begun;
        self.tells_tokens = worker.meet(Ways::TOKENS);
        self.prefilled = 0;
        self.expected_again.clear();
        self.choices.iter_mut().for_each(Choice::forget_pending);
        request.sampling.seed = request.sampling.seed.or(self.seed);
        request.resume.clear();
        let number = self.next_choice();
        self.leg = match number {
            Some(number) if self.choices.len() > 1 => {
                request.n = 1;
                request.first_choice = u32::try_from(number).unwrap_or(u32::MAX);
                Leg::One(request.first_choice)
            }
            _ => Leg::Whole,
        };
        let choice = self.choices.get_mut(number?)?;
        if self.tells_tokens && choice.has_tokens_of_all() {
            request.resume = choice.given().to_vec();
            return None;
        }
        if choice.is_untouched() {
            return None;
        }
        choice.leave_tokens();
        let text = choice.text().unwrap_or_default();
        let (prefill, expected_again) = Prefill::of(request, text, choice.passed_on());
        self.prefilled = prefill.tokens;
        self.expected_again = expected_again;
        Some(prefill)
    }

    /// In which ways the next worker can take the request; none where nobody can go on.
    pub(super) fn ways(&self, request: &InferenceRequest) -> Ways {
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
    pub(super) fn has_enough(&self, request: &InferenceRequest) -> bool {
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

    /// What an event of the worker leads to.
    pub(super) fn on_event(&mut self, event: InferenceEvent) -> Step {
        match event {
            InferenceEvent::Started { .. } if self.is_started => Step::OutOfOrder,
            InferenceEvent::Started { seed, prompt_tokens, cached_tokens, .. } => {
                self.is_started = true;
                self.seed = self.seed.or(Some(seed));
                self.prompt_tokens = prompt_tokens.saturating_sub(self.prefilled);
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

    /// Notes which model file answers. Tokens of another one are other texts, so the first that gave
    /// some is kept to.
    pub(super) fn answered_by(&mut self, digest: Option<&Sha256Digest>) {
        if self.tokens() == 0 {
            self.digest = digest.cloned();
        }
    }

    /// The model file that a worker must have to go on with the answer; `None` while any will do.
    pub(super) fn needed_digest(&self) -> Option<&Sha256Digest> {
        let choice = self.next_choice().and_then(|number| self.choices.get(number));
        let is_by_tokens = choice.is_none_or(Choice::has_tokens_of_all);
        self.digest.as_ref().filter(|_| self.tokens() > 0 && is_by_tokens)
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

    /// How many tokens were passed on, over all answers.
    pub(super) fn tokens(&self) -> usize {
        self.choices.iter().map(|choice| choice.passed_on() as usize).sum()
    }

    fn on_delta(&mut self, mut delta: Delta) -> Step {
        if !self.expected_again.is_empty() {
            skip(&mut self.expected_again, &mut delta.text);
        }
        let is_of_this_leg = match self.leg {
            Leg::Whole => true,
            Leg::One(number) => delta.index == number,
        };
        let choice = self.choices.get_mut(delta.index as usize).filter(|_| is_of_this_leg);
        let Some(choice) = choice else { return Step::OutOfOrder };
        match choice.take(delta, self.tells_tokens) {
            Ok(Some(delta)) => {
                self.has_moved = true;
                Step::Give(Part::Delta(delta))
            }
            Ok(None) => Step::Nothing,
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
        let usage = Usage {
            prompt_tokens: usage.prompt_tokens.saturating_sub(self.prefilled),
            completion_tokens: usage.completion_tokens.saturating_add(self.prefilled),
            ..usage
        };
        if !self.tells_tokens {
            // Until then it was a guess.
            self.prompt_tokens = usage.prompt_tokens;
        }
        let Leg::One(index) = self.leg else {
            if self.is_complete() {
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

#[cfg(test)]
mod tests {
    use worker_contract::{
        ErrorDetail, ErrorKind, FinishReason, Prompt, RequestId, Timings, Usage,
    };

    use super::*;

    #[test]
    fn tokens_without_text_come_with_the_next_text() {
        let mut progress = started();
        assert_eq!(progress.on_event(delta(0, "", &[1])), Step::Nothing);
        assert_eq!(progress.on_event(delta(0, "", &[2])), Step::Nothing);
        let InferenceEvent::Delta(whole) = delta(0, "🐝", &[1, 2, 3]) else { unreachable!() };
        assert_eq!(progress.on_event(delta(0, "🐝", &[3])), Step::Give(Part::Delta(whole)));
        assert_eq!((progress.given(0), progress.tokens()), ([1, 2, 3].as_slice(), 3));
    }

    #[test]
    fn the_tokens_of_each_answer_are_kept_and_each_ends_once() {
        let mut progress = begun(&InferenceRequest { n: 2, ..text() });
        for (index, tokens) in [(0, [1, 2]), (1, [3, 4]), (0, [5, 6])] {
            assert!(matches!(progress.on_event(delta(index, "a", &tokens)), Step::Give(_)));
        }
        assert_eq!(progress.given(0), [1, 2, 5, 6]);
        assert_eq!((progress.given(1), progress.given(2)), ([3, 4].as_slice(), [].as_slice()));
        assert_eq!(progress.on_event(done()), Step::OutOfOrder, "neither has ended");
        for index in [1, 0] {
            assert!(matches!(progress.on_event(end(index)), Step::Give(Part::ChoiceDone { .. })));
            assert_eq!(progress.on_event(end(index)), Step::OutOfOrder, "it has ended");
            assert_eq!(progress.on_event(delta(index, "a", &[1])), Step::OutOfOrder);
        }
        assert_eq!(progress.on_event(delta(2, "a", &[1])), Step::OutOfOrder, "there are two");
        assert!(matches!(progress.on_event(done()), Step::Give(Part::Done { .. })));
    }

    #[test]
    fn a_request_for_vectors_or_scores_gets_each_of_them_once_and_nothing_else() {
        let vector = |index| InferenceEvent::Embedding { index, vector: vec![1.0] };
        let score = |index| InferenceEvent::Score { index, score: 0.5 };
        let inputs = ["a", "b"].map(|text| Prompt::Text(text.into())).into();
        let documents = vec!["a".to_owned(), "b".to_owned()];
        let embed = request(Task::Embed { inputs });
        let rerank = request(Task::Rerank { query: "q".into(), documents });
        let rows: [(_, &dyn Fn(u32) -> InferenceEvent, InferenceEvent); 2] =
            [(embed, &vector, score(0)), (rerank, &score, vector(0))];
        for (request, item, other) in rows {
            let mut progress = begun(&request);
            assert_eq!(progress.on_event(delta(0, "a", &[1])), Step::OutOfOrder);
            assert_eq!(progress.on_event(other), Step::OutOfOrder);
            assert_eq!(progress.on_event(item(2)), Step::OutOfOrder, "there are two");
            assert!(matches!(progress.on_event(item(1)), Step::Give(_)));
            assert_eq!(progress.on_event(item(1)), Step::OutOfOrder, "it has come");
            assert_eq!(progress.on_event(done()), Step::OutOfOrder, "one is missing");
            assert!(matches!(progress.on_event(item(0)), Step::Give(_)));
            assert!(matches!(progress.on_event(done()), Step::Give(Part::Done { .. })));
        }
        assert_eq!(started().on_event(vector(0)), Step::OutOfOrder);
    }

    #[test]
    fn events_out_of_order_are_refused() {
        let mut fresh = Progress::of(&text());
        assert_eq!(fresh.on_event(delta(0, "a", &[1])), Step::OutOfOrder);
        assert_eq!(fresh.on_event(done()), Step::OutOfOrder);
        assert_eq!(started().on_event(begin()), Step::OutOfOrder);
        assert_eq!(started().on_event(end(0)), Step::OutOfOrder, "`done` ends the only answer");
    }

    #[test]
    fn an_error_is_an_error_at_any_time() {
        let error = ErrorDetail {
            message: "engine".into(),
            kind: ErrorKind::ServerError,
            param: None,
            code: None,
            hint: None,
        };
        for mut progress in [Progress::of(&text()), started()] {
            let event = InferenceEvent::Error { error: error.clone() };
            assert_eq!(progress.on_event(event), Step::Fail(error.clone()));
        }
    }

    #[test]
    fn one_answer_goes_on_after_what_was_passed_on_with_the_same_seed() {
        let (mut request, mut progress) = (text(), started());
        assert!(matches!(progress.on_event(delta(0, "a", &[1, 2])), Step::Give(_)));
        assert_eq!(progress.on_event(delta(0, "", &[3])), Step::Nothing);
        progress.begin_leg(&mut request, Ways::ALL);
        assert_eq!(
            (request.resume.as_slice(), request.sampling.seed),
            ([1, 2].as_slice(), Some(1))
        );
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        assert!(matches!(progress.on_event(delta(0, "b", &[3])), Step::Give(_)));
        assert_eq!(progress.given(0), [1, 2, 3], "what stood for nothing is made again");
        progress.begin_leg(&mut request, Ways::ALL);
        assert_eq!(request.resume, [1, 2, 3]);
    }

    #[test]
    fn several_answers_go_on_one_after_the_other_and_end_once_each() {
        let mut request = InferenceRequest { n: 3, ..text() };
        let mut progress = begun(&request);
        progress.begin_leg(&mut request, Ways::ALL);
        assert_eq!((request.n, request.resume.len()), (3, 0), "nothing was given: all again");
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        for (index, tokens) in [(0, [1, 2]), (1, [3, 4]), (2, [5, 6])] {
            assert!(matches!(progress.on_event(delta(index, "a", &tokens)), Step::Give(_)));
        }
        assert!(matches!(progress.on_event(end(1)), Step::Give(_)));
        for (number, given, is_last) in [(0, [1, 2], false), (2, [5, 6], true)] {
            progress.begin_leg(&mut request, Ways::ALL);
            assert_eq!((request.n, request.first_choice), (1, number));
            assert_eq!(request.resume, given);
            assert_eq!(progress.on_event(begin()), Step::Nothing);
            assert_eq!(progress.on_event(delta(1, "a", &[9])), Step::OutOfOrder, "another one");
            assert!(matches!(progress.on_event(delta(number, "b", &[7])), Step::Give(_)));
            assert_eq!(progress.on_event(end(number)), Step::OutOfOrder, "`done` ends it");
            let Step::LegOver { ended, done } = progress.on_event(done_after(4)) else {
                panic!("its end is not the end of the leg");
            };
            let finish_reason = FinishReason::Stop;
            assert_eq!(ended, Part::ChoiceDone { index: number, finish_reason });
            assert_eq!(done.is_some(), is_last);
            if let Some(Part::Done { usage, .. }) = done {
                assert_eq!(usage.completion_tokens, 4 + 2 + 4, "of all answers");
            }
        }
    }

    #[test]
    fn where_only_the_end_of_several_answers_was_lost_it_alone_comes_again() {
        let mut request = InferenceRequest { n: 2, ..text() };
        let mut progress = begun(&request);
        for index in [0, 1] {
            assert!(matches!(progress.on_event(delta(index, "a", &[1])), Step::Give(_)));
            assert!(matches!(progress.on_event(end(index)), Step::Give(_)));
        }
        progress.begin_leg(&mut request, Ways::ALL);
        assert_eq!((request.n, request.first_choice), (1, 1));
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        assert!(matches!(progress.on_event(done_after(1)), Step::Give(Part::Done { .. })));
    }

    #[test]
    fn vectors_that_were_given_are_not_given_again_by_the_next_worker() {
        let inputs = ["a", "b"].map(|text| Prompt::Text(text.into())).into();
        let mut request = request(Task::Embed { inputs });
        let vector = |index| InferenceEvent::Embedding { index, vector: vec![1.0] };
        let mut progress = begun(&request);
        assert!(matches!(progress.on_event(vector(0)), Step::Give(_)));
        progress.begin();
        progress.begin_leg(&mut request, Ways::ALL);
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        assert_eq!(progress.on_event(vector(0)), Step::Nothing);
        assert!(matches!(progress.on_event(vector(1)), Step::Give(_)));
        assert!(matches!(progress.on_event(done()), Step::Give(Part::Done { .. })));
    }

    #[test]
    fn tokens_are_gone_on_with_by_the_same_model_file_only() {
        let digest = |digit: &str| digit.repeat(64).parse::<Sha256Digest>().unwrap();
        let mut progress = started();
        progress.answered_by(Some(&digest("1")));
        assert_eq!(progress.needed_digest(), None, "nothing was given");
        progress.answered_by(Some(&digest("2")));
        assert!(matches!(progress.on_event(delta(0, "a", &[1])), Step::Give(_)));
        progress.answered_by(Some(&digest("3")));
        assert_eq!(progress.needed_digest(), Some(&digest("2")));
    }

    #[test]
    fn what_tells_no_tokens_is_gone_on_with_after_its_text() {
        let (mut request, mut progress) = (chat(), Progress::of(&chat()));
        assert_eq!(progress.ways(&request), Ways::ALL);
        assert_eq!(progress.begin_leg(&mut request, Ways::CHAT), None);
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        for text in ["Hello", " "] {
            assert!(matches!(progress.on_event(delta(0, text, &[])), Step::Give(_)));
        }
        assert_eq!((progress.ways(&request), progress.tokens()), (Ways::CHAT, 2));
        for _ in 0..2 {
            let prefill = progress.begin_leg(&mut request, Ways::ALL).unwrap();
            assert_eq!((prefill.text.as_str(), prefill.tokens), ("Hello", 2));
            assert!(request.resume.is_empty());
        }
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        let Step::Give(Part::Delta(given)) = progress.on_event(delta(0, " world", &[7])) else {
            panic!("nothing was given");
        };
        assert_eq!(given.text, "world", "the client has the space");
        let Step::Give(Part::Done { usage, .. }) = progress.on_event(done_after(1)) else {
            panic!("it is not over");
        };
        assert_eq!(usage.completion_tokens, 3);
        let prefill = progress.begin_leg(&mut request, Ways::ALL).unwrap();
        assert_eq!(prefill.text, "Hello world", "tokens after a text are no beginning");
    }

    #[test]
    fn who_knows_no_tokens_goes_on_after_the_text_and_who_knows_them_by_them() {
        let (mut request, mut progress) = (chat(), Progress::of(&chat()));
        progress.begin_leg(&mut request, Ways::ALL);
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        assert!(matches!(progress.on_event(delta(0, "Hello", &[1, 2])), Step::Give(_)));
        assert_eq!(progress.ways(&request), Ways::CHAT | Ways::TOKENS);
        assert_eq!(progress.begin_leg(&mut request, Ways::ALL), None);
        assert_eq!(request.resume, [1, 2]);
        let prefill = progress.begin_leg(&mut request, Ways::CHAT | Ways::PROMPT).unwrap();
        assert_eq!((prefill.text.as_str(), request.resume.len()), ("Hello", 0));
    }

    #[test]
    fn reasoning_without_tokens_cannot_be_gone_on_with() {
        let (mut request, mut progress) = (chat(), Progress::of(&chat()));
        progress.begin_leg(&mut request, Ways::CHAT);
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        let thought = Delta { reasoning: "Hm".into(), ..Delta::default() };
        assert!(matches!(progress.on_event(InferenceEvent::Delta(thought)), Step::Give(_)));
        assert!(progress.ways(&request).is_none());
    }

    fn chat() -> InferenceRequest {
        let hi = worker_contract::ChatMessage::text(worker_contract::Role::User, "Hi");
        request(Task::Chat(vec![hi].into()))
    }

    fn started() -> Progress {
        begun(&text())
    }

    fn begun(request: &InferenceRequest) -> Progress {
        let mut progress = Progress::of(request);
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        progress
    }

    fn text() -> InferenceRequest {
        request(Task::Completion { prompt: Prompt::Text("a".into()) })
    }

    fn request(task: Task) -> InferenceRequest {
        InferenceRequest::new("r".parse().unwrap(), task)
    }

    fn begin() -> InferenceEvent {
        let request_id: RequestId = "r".parse().unwrap();
        InferenceEvent::Started { request_id, prompt_tokens: 1, cached_tokens: 0, seed: 1 }
    }

    fn delta(index: u32, text: &str, tokens: &[TokenId]) -> InferenceEvent {
        InferenceEvent::Delta(Delta {
            index,
            text: text.into(),
            tokens: tokens.to_vec(),
            ..Default::default()
        })
    }

    fn end(index: u32) -> InferenceEvent {
        InferenceEvent::ChoiceDone { index, finish_reason: FinishReason::Stop }
    }

    fn done_after(completion_tokens: u32) -> InferenceEvent {
        let usage = Usage { completion_tokens, ..Usage::default() };
        let timings = Timings::default();
        InferenceEvent::Done { finish_reason: FinishReason::Stop, usage, timings }
    }

    fn done() -> InferenceEvent {
        let (usage, timings) = (Usage::default(), Timings::default());
        InferenceEvent::Done { finish_reason: FinishReason::Stop, usage, timings }
    }
}
