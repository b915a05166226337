//! How far one request is, what a worker is asked for next, and what an event means. Pure.
//!
//! A request is one **leg** at a worker, and another one after each failure. One answer is resumed as
//! a whole. Several answers cannot be: each that is not over becomes a leg of its own.

use worker_contract::{
    Delta, FinishReason, InferenceEvent, InferenceRequest, Sha256Digest, Task, Timings, TokenId,
    Usage,
};

use super::Part;
use super::choice::Choice;

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
            seed: None,
            digest: None,
            first_reason: None,
            prompt_tokens: 0,
            cached_tokens: 0,
            has_moved: false,
            repeats: false,
        }
    }

    /// Writes into the request what the next worker is to do: go on after what the client has.
    pub(super) fn begin_leg(&mut self, request: &mut InferenceRequest) {
        self.is_started = false;
        self.has_moved = false;
        self.repeats = self.has_begun;
        self.choices.iter_mut().for_each(Choice::forget_pending);
        request.sampling.seed = request.sampling.seed.or(self.seed);
        let is_untouched = |choice: &Choice| choice.given().is_empty() && !choice.is_ended();
        self.leg = match self.choices.as_slice() {
            [] => Leg::Whole,
            [only] => {
                request.resume = only.given().to_vec();
                Leg::Whole
            }
            several if several.iter().all(is_untouched) => Leg::Whole,
            several => {
                // Where all have ended, only `done` was lost: the last one says it again.
                let open = several.iter().position(|choice| !choice.is_ended());
                let number = open.unwrap_or(several.len() - 1);
                request.resume = several[number].given().to_vec();
                request.n = 1;
                request.first_choice = u32::try_from(number).unwrap_or(u32::MAX);
                Leg::One(request.first_choice)
            }
        };
    }

    /// What an event of the worker leads to.
    pub(super) fn on_event(&mut self, event: InferenceEvent) -> Step {
        match event {
            InferenceEvent::Started { .. } if self.is_started => Step::OutOfOrder,
            InferenceEvent::Started { seed, prompt_tokens, cached_tokens, .. } => {
                self.is_started = true;
                self.seed = self.seed.or(Some(seed));
                (self.prompt_tokens, self.cached_tokens) = (prompt_tokens, cached_tokens);
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
        self.digest.as_ref().filter(|_| self.tokens() > 0)
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
        self.choices.iter().map(|choice| choice.given().len()).sum()
    }

    fn on_delta(&mut self, delta: Delta) -> Step {
        let is_of_this_leg = match self.leg {
            Leg::Whole => true,
            Leg::One(number) => delta.index == number,
        };
        let choice = self.choices.get_mut(delta.index as usize).filter(|_| is_of_this_leg);
        let Some(choice) = choice else { return Step::OutOfOrder };
        match choice.take(delta) {
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
        progress.begin_leg(&mut request);
        assert_eq!(
            (request.resume.as_slice(), request.sampling.seed),
            ([1, 2].as_slice(), Some(1))
        );
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        assert!(matches!(progress.on_event(delta(0, "b", &[3])), Step::Give(_)));
        assert_eq!(progress.given(0), [1, 2, 3], "what stood for nothing is made again");
        progress.begin_leg(&mut request);
        assert_eq!(request.resume, [1, 2, 3]);
    }

    #[test]
    fn several_answers_go_on_one_after_the_other_and_end_once_each() {
        let mut request = InferenceRequest { n: 3, ..text() };
        let mut progress = begun(&request);
        progress.begin_leg(&mut request);
        assert_eq!((request.n, request.resume.len()), (3, 0), "nothing was given: all again");
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        for (index, tokens) in [(0, [1, 2]), (1, [3, 4]), (2, [5, 6])] {
            assert!(matches!(progress.on_event(delta(index, "a", &tokens)), Step::Give(_)));
        }
        assert!(matches!(progress.on_event(end(1)), Step::Give(_)));
        for (number, given, is_last) in [(0, [1, 2], false), (2, [5, 6], true)] {
            progress.begin_leg(&mut request);
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
        progress.begin_leg(&mut request);
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
        progress.begin_leg(&mut request);
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
