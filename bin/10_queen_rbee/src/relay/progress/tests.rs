use worker_contract::{ErrorDetail, ErrorKind, FinishReason, Prompt, RequestId, Timings, Usage};

use super::*;
use crate::scheduler::Ways;

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
    assert_eq!((request.resume.as_slice(), request.sampling.seed), ([1, 2].as_slice(), Some(1)));
    assert_eq!(progress.tokens_again(), 2);
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
        assert_eq!(progress.tokens_again(), 2);
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
fn a_message_of_its_own_is_not_gone_on_with_as_a_continuation() {
    let begins = Ways::BEGIN;
    for (because, continues, first, expected) in [
        ("it continues the last message", true, Ways::CHAT | Ways::PROMPT, Ways::CHAT),
        ("it may have begun another one", true, begins, Ways::NONE),
        ("and so may one of which nothing is known", true, Ways::PROMPT, Ways::NONE),
        ("there is none to continue", false, begins, Ways::CHAT),
    ] {
        let mut request = chat();
        let Task::Chat(conversation) = &mut request.task else { panic!("it is a chat") };
        conversation.continue_last = continues;
        let mut progress = Progress::of(&request);
        progress.begin_leg(&mut request, first);
        assert_eq!(progress.on_event(begin()), Step::Nothing);
        assert_eq!(progress.ways(&request), Ways::ALL, "{because}: nothing was given");
        assert!(matches!(progress.on_event(delta(0, "Blue", &[])), Step::Give(_)));
        assert_eq!(progress.ways(&request), expected, "{because}");
        progress.begin_anew(&mut request);
        assert_eq!(progress.ways(&request), Ways::ALL, "{because}: it is begun anew");
    }
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
fn the_prompt_has_the_tokens_of_the_request_whoever_goes_on_with_its_answer() {
    let (told, untold): (&[TokenId], &[TokenId]) = (&[1, 2], &[]);
    for (because, first, tokens, next, read) in [
        ("who goes on by tokens reads the prompt", Ways::ALL, told, Ways::ALL, 5),
        ("one has counted, and the next one guesses", Ways::ALL, told, Ways::CHAT, 40),
        ("one has counted, and the next one counts otherwise", Ways::ALL, told, Ways::CHAT, 2),
        ("nobody has counted, and the text is a token", Ways::CHAT, untold, Ways::ALL, 6),
        ("so it is where the next one does not count", Ways::CHAT, untold, Ways::CHAT, 6),
    ] {
        let (mut request, mut progress) = (chat(), Progress::of(&chat()));
        progress.begin_leg(&mut request, first);
        assert_eq!(progress.on_event(begin_after(5)), Step::Nothing, "{because}");
        assert!(matches!(progress.on_event(delta(0, "Hello", tokens)), Step::Give(_)));
        progress.begin_leg(&mut request, next);
        assert_eq!(progress.on_event(begin_after(read)), Step::Nothing, "{because}");
        assert_eq!(progress.usage().prompt_tokens, 5, "{because}");
        let usage = Usage { prompt_tokens: read, completion_tokens: 1, cached_tokens: 0 };
        let (finish_reason, timings) = (FinishReason::Stop, Timings::default());
        let done = InferenceEvent::Done { finish_reason, usage, timings };
        let Step::Give(Part::Done { usage, .. }) = progress.on_event(done) else {
            panic!("{because}: it is not over");
        };
        assert_eq!(usage.prompt_tokens, 5, "{because}");
    }
}

#[test]
fn what_comes_with_what_is_said_beside_it_is_passed_on_and_cannot_be_gone_on_with() {
    let (mut request, mut progress) = (chat(), Progress::of(&chat()));
    progress.begin_leg(&mut request, Ways::CHAT);
    assert_eq!(progress.on_event(begin()), Step::Nothing);
    assert!(matches!(progress.on_event(delta(0, "", &[])), Step::Give(Part::Delta(_))));
    assert!(progress.has_moved() && progress.ways(&request).is_none());

    let (mut request, mut progress) = (chat(), Progress::of(&chat()));
    progress.begin_leg(&mut request, Ways::CHAT);
    assert_eq!(progress.on_event(begin()), Step::Nothing);
    assert!(matches!(progress.on_event(delta(0, "Hi ", &[])), Step::Give(_)));
    progress.begin_leg(&mut request, Ways::CHAT);
    assert_eq!(progress.on_event(begin()), Step::Nothing);
    assert_eq!(progress.on_event(delta(0, " ", &[])), Step::Nothing, "the client has the space");
    assert_eq!(progress.ways(&request), Ways::CHAT, "and nothing but text");
}

#[test]
fn log_probabilities_of_last_tokens_come_once_their_answer_has_ended() {
    let chosen = worker_contract::TokenLogprob { token: 1, logprob: -0.5, bytes: Vec::new() };
    let logprobs = vec![worker_contract::TokenLogprobs { chosen, top: Vec::new() }];
    let likely = |index| Delta { index, logprobs: logprobs.clone(), ..Delta::default() };
    for (n, ends) in [(1, vec![]), (2, vec![end(0), end(1)])] {
        let several = InferenceRequest { n, ..text() };
        let (mut request, mut progress) = (several.clone(), Progress::of(&several));
        progress.begin_leg(&mut request, Ways::CHAT);
        progress.on_event(begin());
        for index in 0..n {
            assert_eq!(progress.on_event(InferenceEvent::Delta(likely(index))), Step::Nothing);
        }
        assert_eq!(progress.take_rests().count(), 0, "more may come");
        for event in ends.into_iter().chain([done()]) {
            assert!(matches!(progress.on_event(event), Step::Give(_)));
        }
        let expected: Vec<_> = (0..n).map(likely).collect();
        assert_eq!(progress.take_rests().collect::<Vec<_>>(), expected);
        assert_eq!(progress.take_rests().count(), 0, "they come once");
    }
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
    begin_after(1)
}

fn begin_after(prompt_tokens: u32) -> InferenceEvent {
    let request_id: RequestId = "r".parse().unwrap();
    InferenceEvent::Started { request_id, prompt_tokens, cached_tokens: 0, seed: 1 }
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
