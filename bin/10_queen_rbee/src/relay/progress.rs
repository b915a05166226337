//! How far one request is, and what follows from a failure. Pure.

use worker_contract::{Delta, InferenceEvent, InferenceRequest, Task, TokenId, WorkerId};

use super::Part;
use super::choice::Choice;

/// How often a request is tried again after its worker failed.
const MAX_RETRIES: usize = 2;

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
    failed: Vec<WorkerId>,
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
            failed: Vec::new(),
        }
    }

    /// What an event of the worker leads to.
    pub(super) fn on_event(&mut self, event: InferenceEvent) -> Step {
        match event {
            InferenceEvent::Started { .. } if self.is_started => Step::OutOfOrder,
            InferenceEvent::Started { .. } => {
                self.is_started = true;
                Step::Nothing
            }
            InferenceEvent::Error { error } => Step::Fail(error),
            _ if !self.is_started => Step::OutOfOrder,
            InferenceEvent::Delta(delta) => self.on_delta(delta),
            // Where there is only one answer, `done` ends it.
            InferenceEvent::ChoiceDone { .. } if self.choices.len() <= 1 => Step::OutOfOrder,
            InferenceEvent::ChoiceDone { index, finish_reason } => {
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
            InferenceEvent::Done { finish_reason, usage, timings } if self.is_complete() => {
                Step::Give(Part::Done { finish_reason, usage, timings })
            }
            InferenceEvent::Done { .. } => Step::OutOfOrder,
        }
    }

    /// Notes that the client gets its first part. True the first time.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.has_begun, true)
    }

    /// A worker failed. Whether the request may be tried again: the client has got nothing, and it
    /// was not tried too often.
    pub(super) fn on_failure(&mut self, worker: WorkerId) -> bool {
        let may_retry = !self.has_begun && self.failed.len() < MAX_RETRIES;
        self.failed.push(worker);
        self.reset();
        may_retry
    }

    /// Another worker begins the answer afresh.
    pub(super) fn reset(&mut self) {
        self.is_started = false;
        self.choices.iter_mut().for_each(Choice::forget_pending);
    }

    /// The workers that failed this request.
    pub(super) fn failed(&self) -> &[WorkerId] {
        &self.failed
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
        let Some(choice) = self.choices.get_mut(delta.index as usize) else {
            return Step::OutOfOrder;
        };
        match choice.take(delta) {
            Ok(Some(delta)) => Step::Give(Part::Delta(delta)),
            Ok(None) => Step::Nothing,
            Err(_) => Step::OutOfOrder,
        }
    }

    fn on_item(&mut self, kind: Expected, index: u32, part: Part) -> Step {
        match self.items.get_mut(index as usize).filter(|_| self.expected == kind) {
            Some(has_come) if !*has_come => {
                *has_come = true;
                Step::Give(part)
            }
            _ => Step::OutOfOrder,
        }
    }

    /// Whether nothing is missing but `done`.
    fn is_complete(&self) -> bool {
        let choices_are = self.choices.len() <= 1 || self.choices.iter().all(Choice::is_ended);
        choices_are && self.items.iter().all(|has_come| *has_come)
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
    fn a_request_is_tried_twice_again_and_only_while_the_client_has_nothing() {
        let worker = |name: &str| name.parse::<WorkerId>().unwrap();
        let mut progress = started();
        assert!(progress.on_failure(worker("a")));
        assert_eq!(progress.on_event(begin()), Step::Nothing, "the next worker begins afresh");
        assert!(progress.on_failure(worker("b")));
        assert!(!progress.on_failure(worker("c")));
        assert_eq!(progress.failed().len(), 3);

        let mut progress = started();
        assert!(progress.begin() && !progress.begin());
        assert!(!progress.on_failure(worker("a")));
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

    fn done() -> InferenceEvent {
        let (usage, timings) = (Usage::default(), Timings::default());
        InferenceEvent::Done { finish_reason: FinishReason::Stop, usage, timings }
    }
}
