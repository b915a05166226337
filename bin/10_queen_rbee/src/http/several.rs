//! Several prompts in one request: each is answered by itself, and all are one answer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures::{Stream, StreamExt as _, stream};
use serde_json::Value;
use worker_contract::{InferenceRequest, Prompt, RequestId, Task, Usage, WorkerId};

use crate::attached::Original;
use crate::dialect::openai::Aside;
use crate::relay::{Failure, MAX_ALL, MAX_TEXT, Part, Weight};

/// How many prompts of one request are under way at once: as many as one worker gives answers to one prompt.
const AT_ONCE: usize = 16;
/// The longest id of a request, in bytes.
const MAX_ID: usize = 128;
/// The field of the prompts.
const PROMPT: &str = "prompt";

/// The request for each prompt, made when its turn comes: `first`, and others like it.
pub(super) fn each_prompt(
    mut first: InferenceRequest,
    others: Vec<Task>,
    mut original: Original,
) -> impl Iterator<Item = (InferenceRequest, Original)> + Send {
    let nothing = Task::Completion { prompt: Prompt::Text(String::new()) };
    let tasks = std::iter::once(std::mem::replace(&mut first.task, nothing)).chain(others);
    let mut prompts = match original.take(PROMPT) {
        Some(Value::Array(prompts)) => prompts.into_iter(),
        _ => Vec::new().into_iter(),
    };
    tasks.enumerate().map(move |(index, task)| {
        let mut request = InferenceRequest { task, ..first.clone() };
        if let (1.., Some(own)) = (index, own_id(&first.request_id, index)) {
            request.request_id = own;
        }
        let original = match prompts.next() {
            Some(prompt) => original.with(PROMPT, prompt),
            None => original.clone(),
        };
        (request, original)
    })
}

/// The id of one of several requests: a long one is shortened to make room for the number.
fn own_id(id: &RequestId, index: usize) -> Option<RequestId> {
    let number = format!("-{index}");
    let most = MAX_ID.saturating_sub(number.len());
    let kept = id.as_str().get(..most).unwrap_or(id.as_str());
    format!("{kept}{number}").parse().ok()
}

/// How much more the answers to the prompts of one request may say, all of which are held until their end:
/// together as much as one answer may.
#[derive(Debug)]
pub(super) struct Room {
    text: AtomicUsize,
    all: AtomicUsize,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(Weight { text: MAX_TEXT, all: MAX_ALL })
    }
}

impl Room {
    fn of(most: Weight) -> Self {
        Self { text: AtomicUsize::new(most.text), all: AtomicUsize::new(most.all) }
    }

    /// Takes so much; where less is left, nothing, and the limit is told.
    fn take(&self, weight: Weight) -> Result<(), usize> {
        take_of(&self.text, weight.text).ok_or(MAX_TEXT)?;
        take_of(&self.all, weight.all).ok_or_else(|| {
            self.text.fetch_add(weight.text, Relaxed);
            MAX_ALL
        })
    }

    fn give_back(&self, weight: Weight) {
        self.text.fetch_add(weight.text, Relaxed);
        self.all.fetch_add(weight.all, Relaxed);
    }
}

fn take_of(left: &AtomicUsize, bytes: usize) -> Option<()> {
    left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).ok().map(|_| ())
}

/// The parts of an answer, given when it is over: what came before it was begun anew is void. They take of
/// the room of all answers.
pub(super) fn at_its_end<One>(
    parts: One,
    room: Arc<Room>,
) -> impl Stream<Item = Result<Part, Failure>> + Send
where
    One: Stream<Item = Result<Part, Failure>> + Send,
{
    let all = async move {
        let mut held = Held { parts: Vec::new(), weight: Weight::default(), worker: None };
        let mut parts = pin!(parts);
        while let Some(part) = parts.next().await {
            if let Err(failure) = held.take(part, &room) {
                return vec![Err(failure)];
            }
        }
        held.parts
    };
    stream::once(all).flat_map(stream::iter)
}

/// What has come of the answer to one prompt.
struct Held {
    parts: Vec<Result<Part, Failure>>,
    weight: Weight,
    /// Who gives it, which is told before anything of it.
    worker: Option<WorkerId>,
}

impl Held {
    fn take(&mut self, part: Result<Part, Failure>, room: &Room) -> Result<(), Failure> {
        match &part {
            Ok(Part::Started { worker_id, .. }) => {
                self.parts.clear();
                room.give_back(std::mem::take(&mut self.weight));
                self.worker = Some(worker_id.clone());
            }
            Ok(Part::GoesOn { worker_id, .. }) => self.worker = Some(worker_id.clone()),
            _ => {}
        }
        if let Ok(part) = &part {
            self.make_room_for(part, room)?;
        }
        self.parts.push(part);
        Ok(())
    }

    fn make_room_for(&mut self, part: &Part, room: &Room) -> Result<(), Failure> {
        let weight = Weight::of(part);
        let Err(most) = room.take(weight) else {
            self.weight = self.weight.and(weight);
            return Ok(());
        };
        let reason = format!(
            "its answer and those to the other prompts of the request have more than {} MiB together: send \
             fewer prompts, or stream the answers",
            most >> 20
        );
        tracing::warn!(worker_id = ?self.worker, reason, "the answers to several prompts are given up");
        Err(match self.worker.take() {
            Some(worker_id) => {
                let reason = reason.into();
                Failure::WorkerFailed { worker_id, reason, is_given_up: false }
            }
            None => Failure::OwnLimit(reason),
        })
    }
}

/// The parts of the answers to so many prompts, with `n` choices each, as those of one answer: the choices of
/// each prompt come after those of the one before. What fails one fails all.
pub(super) fn together<One>(
    answers: impl Iterator<Item = One> + Send,
    prompts: usize,
    n: u32,
) -> impl Stream<Item = Result<Part, Failure>> + Send
where
    One: Stream<Item = Result<Part, Failure>> + Send,
{
    let numbered = (0..).zip(answers);
    let numbered = numbered.map(|(prompt, parts)| Box::pin(parts.map(move |part| (prompt, part))));
    let mut merged = Merged { n, left: prompts, first: None, usage: Usage::default() };
    let parts = stream::iter(numbered).flatten_unordered(AT_ONCE);
    parts.flat_map(move |(prompt, part)| {
        stream::iter(merged.take(prompt, part).into_iter().flatten())
    })
}

/// What has come of all answers. Pure.
#[derive(Debug)]
struct Merged {
    n: u32,
    /// Prompts whose answers are not complete.
    left: usize,
    /// The first prompt whose answer began: its worker is named.
    first: Option<u32>,
    usage: Usage,
}

impl Merged {
    /// What a part of the answer to one prompt is for the answer to all.
    fn take(
        &mut self,
        prompt: u32,
        part: Result<Part, Failure>,
    ) -> [Option<Result<Part, Failure>>; 2] {
        let first = prompt.saturating_mul(self.n);
        let parts = match part {
            Ok(Part::Started { .. }) if self.first.is_some() => [None, None],
            Ok(Part::GoesOn { .. }) if self.first != Some(prompt) => [None, None],
            Ok(part @ Part::Started { .. }) => {
                self.first = Some(prompt);
                [Some(part), None]
            }
            Ok(Part::Delta(mut delta)) => {
                delta.index = delta.index.saturating_add(first);
                [Some(Part::Delta(delta)), None]
            }
            Ok(Part::ChoiceDone { index, finish_reason }) => {
                let index = index.saturating_add(first);
                [Some(Part::ChoiceDone { index, finish_reason }), None]
            }
            Ok(Part::Aside(Aside::Choice { index, choice, message })) => {
                let index = index.saturating_add(first);
                [Some(Part::Aside(Aside::Choice { index, choice, message })), None]
            }
            // What it says of one answer's usage is not true of all.
            Ok(Part::Aside(Aside::Usage(_))) => [None, None],
            Ok(Part::Done { finish_reason, usage, timings }) => {
                self.add(usage);
                self.left = self.left.saturating_sub(1);
                let one = Part::ChoiceDone { index: first, finish_reason };
                let all = Part::Done { finish_reason, usage: self.usage, timings };
                [(self.n == 1).then_some(one), (self.left == 0).then_some(all)]
            }
            Ok(part) => [Some(part), None],
            Err(failure) => return [Some(Err(of_prompt(prompt, failure))), None],
        };
        parts.map(|part| part.map(Ok))
    }

    fn add(&mut self, usage: Usage) {
        let Usage { prompt_tokens, completion_tokens, cached_tokens } = &mut self.usage;
        *prompt_tokens = prompt_tokens.saturating_add(usage.prompt_tokens);
        *completion_tokens = completion_tokens.saturating_add(usage.completion_tokens);
        *cached_tokens = cached_tokens.saturating_add(usage.cached_tokens);
    }
}

/// A failure that is one prompt's fault says which one's.
fn of_prompt(prompt: u32, failure: Failure) -> Failure {
    let Failure::Refused { status, mut detail } = failure else { return failure };
    if matches!(detail.param.as_deref(), Some(PROMPT | "messages")) {
        let path = format!("{PROMPT}[{prompt}]");
        detail.message = format!("{path}: {}", detail.message);
        detail.param = Some(path);
    }
    Failure::Refused { status, detail }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use daemon_http::ApiError;
    use serde_json::json;
    use worker_contract::{Delta, FinishReason, Timings};

    use super::*;
    use crate::attached::Endpoint;
    use crate::scheduler::{Estimate, Reason, Why};

    #[tokio::test]
    async fn the_choices_of_each_prompt_come_after_those_of_the_one_before() {
        let answer = |text: &'static str| {
            let ends = |index| Part::ChoiceDone { index, finish_reason: FinishReason::Stop };
            stream::iter([delta(1, text), ends(1), delta(0, text), ends(0), done(2)]).map(Ok)
        };
        let parts = parts_of([answer("a"), answer("b")], 2).await;
        for (prompt, text) in [(0, "a"), (1, "b")] {
            for choice in [0, 1] {
                let index = prompt * 2 + choice;
                assert!(parts.contains(&delta(index, text)), "{index}: {parts:?}");
                let end = Part::ChoiceDone { index, finish_reason: FinishReason::Stop };
                assert_eq!(parts.iter().filter(|part| **part == end).count(), 1, "{parts:?}");
            }
        }
        assert_eq!(parts.len(), 9);
        assert_eq!(parts.last(), Some(&done(4)), "the usage is that of both");
    }

    #[tokio::test]
    async fn the_worker_is_named_that_completes_the_prompt_whose_worker_was_named() {
        let starts = |id: &str| Part::Started { worker_id: id.parse().unwrap(), why: why(id) };
        let goes_on = |id: &str| Part::GoesOn { worker_id: id.parse().unwrap(), why: why(id) };
        let answers = [
            vec![starts("a"), delta(0, "1"), goes_on("b"), done(1)],
            vec![starts("c"), delta(0, "2"), goes_on("d"), done(1)],
        ];
        let answers = answers.map(|parts| stream::iter(parts).map(Ok));
        let parts = parts_of(answers, 1).await;
        let named: Vec<_> = parts
            .iter()
            .filter_map(|part| match part {
                Part::Started { worker_id, .. } | Part::GoesOn { worker_id, .. } => {
                    Some(worker_id.as_str())
                }
                _ => None,
            })
            .collect();
        assert!(matches!(named.as_slice(), ["a", "b"] | ["c", "d"]), "{named:?}");
    }

    fn why(worker: &str) -> Why {
        let worker = worker.parse().unwrap();
        let chosen = Estimate { worker, expected_ms: 1, load: 0, slots: 1, held_bytes: 0 };
        Why { reason: Reason::OnlyOne, chosen, next: None, candidates: 1 }
    }

    #[tokio::test]
    async fn an_answer_that_is_alone_is_said_to_be_over_by_its_index() {
        let answers = (0..20).map(|_| stream::iter([delta(0, "a"), done(1)]).map(Ok));
        let parts = parts_of(answers, 1).await;
        let ended = parts.iter().filter_map(|part| match part {
            Part::ChoiceDone { index, .. } => Some(*index),
            _ => None,
        });
        let mut ended: Vec<u32> = ended.collect();
        ended.sort_unstable();
        assert_eq!(ended, (0..20).collect::<Vec<_>>());
        assert_eq!(parts.last(), Some(&done(20)));
    }

    #[tokio::test]
    async fn no_more_than_some_are_under_way_at_once() {
        let mut begun = 0;
        let answers = (0..100).map(|_| {
            begun += 1;
            stream::pending::<Result<Part, Failure>>()
        });
        let mut all = Box::pin(together(answers, 100, 1));
        assert!(futures::poll!(all.next()).is_pending());
        drop(all);
        assert_eq!(begun, AT_ONCE);
    }

    #[test]
    fn a_refusal_names_the_prompt() {
        let told = |param: &str| {
            let detail = ApiError::bad_request("x", "it is too long").param(param).detail;
            match of_prompt(3, Failure::Refused { status: StatusCode::BAD_REQUEST, detail }) {
                Failure::Refused { detail, .. } => (detail.message, detail.param.unwrap()),
                other => panic!("{other}"),
            }
        };
        let named = ("prompt[3]: it is too long".to_owned(), "prompt[3]".to_owned());
        assert_eq!((told("messages"), told("prompt")), (named.clone(), named));
        assert_eq!(told("stop"), ("it is too long".to_owned(), "stop".to_owned()));
    }

    #[test]
    fn each_prompt_is_a_request_of_its_own_also_in_the_words_of_the_client() {
        let task = |text: &str| Task::Completion { prompt: Prompt::Text(text.into()) };
        let id: RequestId = "r-1".parse().unwrap();
        let mut first = InferenceRequest::new(id, task("a"));
        first.n = 3;
        let body = |prompt| {
            let body = json!({"prompt": prompt, "n": 3});
            Original::new(Endpoint::Completion, body.as_object().unwrap().clone())
        };
        let several = each_prompt(first.clone(), vec![task("b")], body(json!(["a", "b"])));
        let several: Vec<_> = several.collect();
        let id = "r-1-1".parse().unwrap();
        let second = InferenceRequest { request_id: id, task: task("b"), ..first.clone() };
        assert_eq!(several, [(first.clone(), body(json!("a"))), (second, body(json!("b")))]);

        let none = Original::of_no_server(Endpoint::Completion);
        let several = each_prompt(first, vec![task("b")], none.clone());
        assert!(several.map(|(_, original)| original).eq([none.clone(), none]));
    }

    #[test]
    fn each_prompt_has_an_id_of_its_own_however_long_that_of_all_is() {
        for length in [1, 125, 126, 127, 128] {
            let id: RequestId = "r".repeat(length).parse().unwrap();
            let task = || Task::Completion { prompt: Prompt::Text("a".into()) };
            let first = InferenceRequest::new(id.clone(), task());
            let others = std::iter::repeat_with(task).take(99).collect();
            let none = Original::of_no_server(Endpoint::Completion);
            let several = each_prompt(first, others, none);
            let ids: Vec<String> = several.map(|(one, _)| one.request_id.to_string()).collect();
            assert_eq!(ids[0], id.as_str());
            let own: std::collections::BTreeSet<&String> = ids.iter().collect();
            assert_eq!(own.len(), 100, "{length}: {ids:?}");
        }
    }

    #[tokio::test]
    async fn what_came_of_an_answer_before_it_was_begun_anew_is_void_and_takes_no_room() {
        let parts = [started(), delta(0, "Good"), started(), delta(0, "Hi"), done(1)];
        let most = |text| Weight { text, all: MAX_ALL };
        let room = Arc::new(Room::of(most(4)));
        let parts = at_its_end(stream::iter(parts).map(Ok), Arc::clone(&room));
        let parts: Vec<Part> = parts.map(Result::unwrap).collect().await;
        assert_eq!(parts, [started(), delta(0, "Hi"), done(1)]);
        let text = |text| Weight { text, all: 0 };
        assert_eq!((room.take(text(2)), room.take(text(1))), (Ok(()), Err(MAX_TEXT)));
        let held = parts.iter().map(Weight::of).fold(Weight::default(), Weight::and);
        let all = |all| Weight { text: 0, all };
        assert_eq!(room.take(all(MAX_ALL - held.all + 1)), Err(MAX_ALL));
        assert_eq!(room.take(all(MAX_ALL - held.all)), Ok(()));
    }

    #[tokio::test]
    async fn the_answers_to_all_prompts_have_the_room_of_one_and_what_is_beyond_fails_all() {
        let aside = || {
            let fields = json!({"more": "of it"}).as_object().unwrap().clone();
            Part::Aside(Aside::Answer(fields))
        };
        let answer = |text: &str| [started(), aside(), delta(0, text), done(1)];
        let answers = || ["abc", "def"].map(answer);
        let all = answers().iter().flatten().map(Weight::of).fold(Weight::default(), Weight::and);
        assert_eq!(all.text, 6);
        let rows = [
            (all, None),
            (Weight { text: 5, ..all }, Some("more than 64 MiB together")),
            (Weight { all: all.all - 1, ..all }, Some("more than 256 MiB together")),
        ];
        for (most, excess) in rows {
            let room = Arc::new(Room::of(most));
            let answers =
                answers().map(|parts| at_its_end(stream::iter(parts).map(Ok), Arc::clone(&room)));
            let parts: Vec<_> = together(answers.into_iter(), 2, 1).collect().await;
            let failed = parts.iter().find_map(|part| part.as_ref().err());
            let told = failed.map(ToString::to_string);
            assert_eq!(told.is_some(), excess.is_some(), "{told:?}");
            let (told, excess) = (told.unwrap_or_default(), excess.unwrap_or_default());
            assert!(excess.is_empty() || told.contains("w-1 failed"), "{told}");
            assert!(told.contains(excess), "{told}");
        }
    }

    async fn parts_of<One>(
        answers: impl IntoIterator<Item = One, IntoIter: Send + ExactSizeIterator>,
        n: u32,
    ) -> Vec<Part>
    where
        One: Stream<Item = Result<Part, Failure>> + Send,
    {
        let answers = answers.into_iter();
        let prompts = answers.len();
        together(answers, prompts, n).map(Result::unwrap).collect().await
    }

    fn delta(index: u32, text: &str) -> Part {
        Part::Delta(Delta { index, text: text.into(), ..Delta::default() })
    }

    fn started() -> Part {
        let worker: WorkerId = "w-1".parse().unwrap();
        let chosen =
            Estimate { worker: worker.clone(), expected_ms: 1, load: 0, slots: 1, held_bytes: 0 };
        let why = Why { reason: Reason::OnlyOne, chosen, next: None, candidates: 1 };
        Part::Started { worker_id: worker, why }
    }

    fn done(tokens: u32) -> Part {
        let usage = Usage { completion_tokens: tokens, ..Usage::default() };
        Part::Done { finish_reason: FinishReason::Stop, usage, timings: Timings::default() }
    }
}
