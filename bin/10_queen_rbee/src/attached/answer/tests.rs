use serde_json::json;
use worker_contract::{ChatMessage, Prompt, RequestId, Role};

use super::*;

#[test]
fn a_stream_becomes_the_events_of_a_worker() {
    let events = play(
        &request(1),
        &[
            json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
            json!({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]}),
            json!({"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": null}], "usage": null}),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4}}}),
        ],
    );
    let events = events.unwrap();
    assert!(matches!(events[0], InferenceEvent::Started { .. }));
    assert_eq!(events[1], delta(0, "", "Hm"));
    assert_eq!(events[2], delta(0, "Hello", ""));
    let InferenceEvent::Done { finish_reason, usage, .. } = &events[3] else {
        panic!("{events:?}")
    };
    assert_eq!(*finish_reason, FinishReason::Length);
    let expected = Usage { prompt_tokens: 9, completion_tokens: 2, cached_tokens: 4 };
    assert_eq!(*usage, expected);
}

#[test]
fn only_a_farewell_is_missing_once_all_answers_have_ended() {
    let chunk = |index: u32, reason| json!({"choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": reason}]});
    let mut translator = Translator::new(&request(2), 0, 0, Instant::now());
    for (chunk, expected) in [
        (chunk(0, json!(null)), false),
        (chunk(0, json!("stop")), false),
        (chunk(1, json!("length")), true),
        (json!({"choices": [], "usage": {"prompt_tokens": 9}}), true),
    ] {
        translator.event(chunk.to_string().as_bytes(), Instant::now()).unwrap();
        assert_eq!(translator.lacks_only_farewell(), expected, "{chunk}");
    }
    translator.event(b"[DONE]", Instant::now()).unwrap();
    assert!(!translator.lacks_only_farewell(), "it is over");
}

#[test]
fn an_empty_reason_is_no_end() {
    let chunk = |content: &str, reason: &str| json!({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason}]});
    for none in ["", "null"] {
        let chunks = [chunk("a", none), chunk("b", none), chunk("", "length")];
        let events = play(&request(1), &chunks).unwrap();
        assert_eq!(events[1..3], [delta(0, "a", ""), delta(0, "b", "")], "{none}");
        let is_end =
            matches!(events[3], InferenceEvent::Done { finish_reason: FinishReason::Length, .. });
        assert!(is_end && events.len() == 4, "{none}: {events:?}");
    }
}

#[test]
fn several_answers_end_once_each_and_one_that_is_missing_is_noticed() {
    let both = [
        json!({"choices": [{"index": 1, "delta": {"content": "b"}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}),
        json!({"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]}),
    ];
    let events = play(&request(2), &both).unwrap();
    let ended: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            InferenceEvent::ChoiceDone { index, finish_reason } => Some((*index, *finish_reason)),
            _ => None,
        })
        .collect();
    assert_eq!(ended, [(0, FinishReason::Stop), (1, FinishReason::Length)]);
    let fault = play(&request(2), &both[1..2]).unwrap_err();
    assert_eq!(fault, Fault::Fewer { made: 1, asked: 2 });
    let half = [json!({"choices": [{"index": 0, "delta": {"content": "a"}}]})];
    let mut translator = Translator::new(&request(2), 0, 0, Instant::now());
    for data in [half[0].to_string().as_bytes(), b"[DONE]"] {
        translator.event(data, Instant::now()).unwrap();
    }
    let told: Vec<_> = std::iter::from_fn(|| translator.pop().unwrap_or(None)).collect();
    let last = told.last().unwrap();
    let is_end = matches!(last, Told::Event(InferenceEvent::ChoiceDone { index: 0, .. }));
    assert!(is_end, "{told:?}");
    assert!(translator.pop().is_err(), "the other one is missing");
}

#[test]
fn what_rbee_has_no_use_for_is_told_before_the_event_that_it_came_with() {
    let mut translator = Translator::new(&request(1), 40, 0, Instant::now());
    let chunks = [
        json!({"id": "c", "model": "m", "object": "o", "created": 1, "system_fingerprint": "b42",
            "choices": [{"index": 0, "stop_reason": null, "token_ids": [5],
                "delta": {"role": "assistant", "content": "a", "thought": "b"}}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 9, "total_tokens": 10, "cost": 1,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 2}}}),
    ];
    for chunk in chunks {
        translator.event(chunk.to_string().as_bytes(), Instant::now()).unwrap();
    }
    translator.event(b"[DONE]", Instant::now()).unwrap();
    let told = std::iter::from_fn(|| translator.pop().unwrap());
    let told: Vec<_> = told
        .map(|told| match told {
            Told::Aside(Aside::Answer(fields)) => json!({"answer": fields}).to_string(),
            Told::Aside(Aside::Usage(fields)) => json!({"usage": fields}).to_string(),
            Told::Aside(Aside::Choice { choice, message, .. }) => {
                json!({"choice": choice, "message": message}).to_string()
            }
            Told::Event(InferenceEvent::Delta(delta)) => delta.text,
            Told::Event(InferenceEvent::Done { finish_reason, .. }) => {
                finish_reason.as_str().to_owned()
            }
            Told::Event(_) => "began".to_owned(),
            Told::Nothing => "nothing".to_owned(),
        })
        .collect();
    let expected = [
        "began",
        r#"{"answer":{"system_fingerprint":"b42"}}"#,
        r#"{"choice":{"token_ids":[5]},"message":{"thought":"b"}}"#,
        "a",
        "nothing",
        r#"{"choice":{"finish_reason":"content_filter"},"message":{}}"#,
        r#"{"usage":{"cost":1,"prompt_tokens_details":{"audio_tokens":2}}}"#,
        "stop",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_chunk_in_which_nothing_is_said_shows_that_the_server_is_at_work() {
    let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
    for (chunk, expected) in [
        (json!({"choices": [{"index": 0, "delta": {"content": "a"}}]}), false),
        (json!({"choices": [{"index": 0, "delta": {"content": ""}}]}), true),
        (json!({"choices": [{"index": 0, "delta": {}}]}), true),
        (json!({"choices": [{"index": 0, "delta": {"thought": "b"}}]}), false),
        (json!({"choices": []}), false),
        (json!({}), false),
    ] {
        translator.event(chunk.to_string().as_bytes(), Instant::now()).unwrap();
        let told: Vec<_> = std::iter::from_fn(|| translator.pop().unwrap()).collect();
        assert_eq!(told == [Told::Nothing], expected, "{chunk}: {told:?}");
    }
}

#[test]
fn what_is_said_beside_an_answer_alone_waits_for_no_text_but_with_the_first_chunk_and_the_last() {
    let chunk = |delta: Value, reason: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
    let thought = json!({"thought": "b"});
    let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
    for (because, chunk, is_passed_on) in [
        ("the first one", chunk(thought.clone(), json!(null)), false),
        ("it is something", chunk(thought.clone(), json!(null)), true),
        ("it is nothing", chunk(json!({"thoughts": [], "b": false}), json!(null)), false),
        ("of the choice", json!({"choices": [{"index": 0, "delta": {}, "token_ids": [1]}]}), false),
        ("the last one", chunk(thought.clone(), json!("stop")), false),
        ("after the end", chunk(thought, json!(null)), false),
    ] {
        translator.event(chunk.to_string().as_bytes(), Instant::now()).unwrap();
        let events = drain(&mut translator);
        assert_eq!(events.contains(&delta(0, "", "")), is_passed_on, "{because}: {events:?}");
    }
}

#[test]
fn a_reason_that_rbee_does_not_know_ends_an_answer_of_which_no_more_comes() {
    let chunk = |index: u32, content: &str, reason: &str| json!({"choices": [{"index": index, "delta": {"content": content}, "finish_reason": reason}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}});
    let play = |n, chunks: &[Value]| {
        let mut translator = Translator::new(&request(n), 0, 0, Instant::now());
        for chunk in chunks {
            translator.event(chunk.to_string().as_bytes(), Instant::now()).unwrap();
            assert!(!translator.ends_here(Instant::now()), "more may be to come: {chunk}");
        }
        translator
    };
    let in_each = [chunk(0, "a", "not_yet"), chunk(0, "b", "not_yet")];
    let mut translator = play(1, &in_each);
    assert!(!translator.lacks_only_farewell(), "more may come");
    assert_eq!(drain(&mut translator)[1..], [delta(0, "a", ""), delta(0, "b", "")]);
    translator.event(usage.to_string().as_bytes(), Instant::now()).unwrap();
    assert!(translator.lacks_only_farewell(), "no more comes");

    let told = |translator: &mut Translator| {
        let told = std::iter::from_fn(|| translator.pop().unwrap());
        let reasons = told.filter_map(|told| match told {
            Told::Aside(Aside::Choice { index, choice, .. }) => Some((index, choice)),
            _ => None,
        });
        reasons.map(|(index, choice)| (index, choice[FINISH_REASON].clone())).collect::<Vec<_>>()
    };
    let mut translator = play(1, &in_each);
    assert!(translator.closed(Instant::now()), "no more comes");
    assert_eq!(told(&mut translator), [(0, json!("not_yet"))]);
    let both = [chunk(1, "b", "filtered"), chunk(0, "a", "not_yet"), chunk(0, "", "stop")];
    let mut translator = play(2, &both);
    translator.event(b"[DONE]", Instant::now()).unwrap();
    assert_eq!(told(&mut translator), [(1, json!("filtered"))], "the other one is known");
}

#[test]
fn an_answer_without_a_reason_for_its_end_that_calls_a_function_ends_for_that() {
    let call = json!({"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    for (piece, expected) in [
        (json!({"tool_calls": [call]}), FinishReason::ToolCalls),
        (json!({"content": "a"}), FinishReason::Stop),
    ] {
        let chunks = [json!({"choices": [{"index": 0, "delta": piece}]})];
        let events = play(&request(1), &chunks).unwrap();
        let Some(InferenceEvent::Done { finish_reason, .. }) = events.last() else {
            panic!("{events:?}")
        };
        assert_eq!(*finish_reason, expected, "{piece}");
    }
}

#[test]
fn one_of_several_answers_has_the_number_that_was_asked_for() {
    let request = InferenceRequest { first_choice: 2, ..request(1) };
    let events = play(&request, &[json!({"choices": [{"index": 0, "text": "c"}]})]).unwrap();
    assert_eq!(events[1], delta(2, "c", ""));
}

#[test]
fn an_answer_that_is_no_stream_is_taken_too() {
    let body = json!({
        "choices": [{"index": 0, "message": {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    });
    let mut translator = Translator::new(&request(1), 40, 0, Instant::now());
    translator.whole(body.to_string().as_bytes(), Instant::now()).unwrap();
    let events = drain(&mut translator);
    let InferenceEvent::Delta(delta) = &events[1] else { panic!("{events:?}") };
    assert_eq!(delta.tool_calls[0].name.as_deref(), Some("f"));
    assert!(matches!(
        events[2],
        InferenceEvent::Done { finish_reason: FinishReason::ToolCalls, .. }
    ));
}

#[test]
fn a_text_is_not_lost_over_a_call_without_a_name() {
    let call = json!({"index": 0, "id": "", "function": {"name": "", "arguments": ""}});
    let chunk = |delta: Value, reason: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
    let chunks = [
        chunk(json!({"content": "hi"}), json!(null)),
        chunk(json!({"tool_calls": [call]}), json!(null)),
        chunk(json!({}), json!("stop")),
    ];
    let events = play(&request(1), &chunks).unwrap();
    assert_eq!(events[1], delta(0, "hi", ""));
    let is_end = matches!(events[2], InferenceEvent::Done { .. });
    assert!(is_end && events.len() == 3, "{events:?}");
}

#[test]
fn an_answer_with_nothing_but_a_call_without_a_name_is_none() {
    let call =
        |arguments: &str| json!({"index": 0, "id": "c", "function": {"arguments": arguments}});
    let chunk = |delta: Value, reason: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
    let calls = |arguments| chunk(json!({"tool_calls": [call(arguments)]}), json!(null));
    let end = chunk(json!({}), json!("tool_calls"));
    let fault = play(&request(1), &[calls("{"), calls("}"), end.clone()]).unwrap_err();
    assert!(matches!(fault, Fault::NoAnswer | Fault::Incomplete { made: 0, .. }), "{fault:?}");
    let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
    for chunk in [calls("{}"), end.clone()] {
        translator.event(chunk.to_string().as_bytes(), Instant::now()).unwrap();
    }
    assert!(!translator.ends_here(Instant::now()));
    let faults = std::iter::from_fn(|| Some(translator.pop())).take(9).find_map(Result::err);
    assert_eq!(faults, Some(Fault::NoAnswer), "no farewell is waited for");

    let text = chunk(json!({"content": "hi"}), json!(null));
    let events = play(&request(1), &[text, calls("{}"), end]).unwrap();
    assert_eq!(events[1], delta(0, "hi", ""));
    let Some(InferenceEvent::Done { finish_reason, .. }) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(*finish_reason, FinishReason::Stop);
}

#[test]
fn answers_without_numbers_are_in_their_order() {
    let choice = |text: &str| json!({"message": {"content": text}, "finish_reason": "stop"});
    let body = json!({"choices": [choice("a"), choice("b")]}).to_string();
    let mut translator = Translator::new(&request(2), 0, 0, Instant::now());
    translator.whole(body.as_bytes(), Instant::now()).unwrap();
    let events = drain(&mut translator);
    assert_eq!((&events[1], &events[3]), (&delta(0, "a", ""), &delta(1, "b", "")));
}

#[test]
fn what_is_said_beside_a_call_comes_before_it() {
    let call = json!({"index": 0, "id": "c", "type": "function", "extra_content": {"s": "t"},
        "function": {"name": "f", "arguments": {"a": 1}}});
    let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
    let mut translator = Translator::new(&request(1), 40, 0, Instant::now());
    translator.event(chunk.to_string().as_bytes(), Instant::now()).unwrap();
    let told: Vec<_> = std::iter::from_fn(|| translator.pop().unwrap()).collect();
    let Told::Aside(Aside::Choice { message, .. }) = &told[1] else { panic!("{told:?}") };
    assert_eq!(message["tool_calls"], json!([{"extra_content": {"s": "t"}, "index": 0}]));
    let Told::Event(InferenceEvent::Delta(delta)) = &told[2] else { panic!("{told:?}") };
    assert_eq!(delta.tool_calls[0].arguments, r#"{"a":1}"#);
}

#[test]
fn vectors_and_scores_come_as_they_were_asked_for() {
    let inputs = ["a", "b"].map(|text| Prompt::Text(text.into())).into();
    let embed = InferenceRequest::new(RequestId::random(), Task::Embed { inputs });
    let body = json!({"data": [
        {"index": 1, "embedding": [0.5, -1]}, {"index": 0, "embedding": "AACAPwAAgD8="},
    ], "usage": {"prompt_tokens": 2}});
    let mut translator = Translator::new(&embed, 0, 0, Instant::now());
    translator.whole(body.to_string().as_bytes(), Instant::now()).unwrap();
    let events = drain(&mut translator);
    assert_eq!(events[1], InferenceEvent::Embedding { index: 1, vector: vec![0.5, -1.0] });
    assert_eq!(events[2], InferenceEvent::Embedding { index: 0, vector: vec![1.0, 1.0] });
    let documents = vec!["a".to_owned(), "b".to_owned()];
    let task = Task::Rerank { query: "q".into(), documents };
    let rerank = InferenceRequest::new(RequestId::random(), task);
    let body = json!({"results": [{"index": 0, "relevance_score": 0.25}]});
    let mut translator = Translator::new(&rerank, 0, 0, Instant::now());
    let fault = translator.whole(body.to_string().as_bytes(), Instant::now()).unwrap_err();
    assert_eq!(fault, Fault::Incomplete { made: 1, asked: 2 });
}

#[test]
fn vectors_and_scores_that_are_none_are_the_servers_fault() {
    let inputs = ["a", "b"].map(|text| Prompt::Text(text.into())).into();
    let embed = Task::Embed { inputs };
    let rerank = Task::Rerank { query: "q".into(), documents: vec!["a".to_owned()] };
    let vectors = |second: &str| {
        let entry = |index, vector| format!(r#"{{"index":{index},"embedding":{vector}}}"#);
        format!(r#"{{"data":[{},{}]}}"#, entry(0, "[0.5,1]"), entry(1, second))
    };
    let score = |score| format!(r#"{{"results":[{{"index":0,"relevance_score":{score}}}]}}"#);
    for (task, body, is_fine) in [
        (&embed, vectors("[1,0]"), true),
        (&embed, vectors("[1e39,0]"), false),
        (&embed, vectors("[1e400,0]"), false),
        (&embed, vectors("[null,0]"), false),
        (&embed, vectors("[1]"), false),
        (&embed, vectors("[]"), false),
        (&embed, vectors(r#""no base64""#), false),
        // Not a number, and 1.
        (&embed, vectors(r#""AADAfwAAgD8=""#), false),
        (&rerank, score("0.5"), true),
        (&rerank, score("-1e39"), false),
        (&rerank, score("null"), false),
    ] {
        let request = InferenceRequest::new(RequestId::random(), task.clone());
        let mut translator = Translator::new(&request, 0, 0, Instant::now());
        let taken = translator.whole(body.as_bytes(), Instant::now());
        let expected = if is_fine { Ok(()) } else { Err(Fault::NoAnswer) };
        assert_eq!(taken, expected, "{body}");
    }
}

#[test]
fn a_usage_is_read_as_far_as_it_can_be() {
    for (usage, expected) in [
        (r#"{"prompt_tokens":7.0,"completion_tokens":2.4}"#, Some((7, 2, 0))),
        (r#"{"prompt_tokens":9,"completion_tokens":-3}"#, Some((9, 0, 0))),
        (
            r#"{"prompt_tokens":10000000,"completion_tokens":10000000}"#,
            Some((10_000_000, 10_000_000, 0)),
        ),
        // More than any context has.
        (r#"{"prompt_tokens":9e20,"completion_tokens":3}"#, None),
        (r#"{"prompt_tokens":9,"completion_tokens":1e30}"#, None),
        (r#"{"prompt_tokens":null,"completion_tokens":2}"#, Some((0, 2, 0))),
        (r#"{"prompt_tokens":null,"completion_tokens":"2"}"#, None),
        (r#"{"cost":1}"#, None),
        ("{}", None),
        (
            r#"{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4.0}}"#,
            Some((9, 2, 4)),
        ),
        (r#"{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":4}"#, Some((9, 2, 0))),
        ("5", None),
        ("null", None),
    ] {
        // As the server counts it, the prompt has what it goes on after: four tokens here.
        let mut translator = Translator::new(&request(1), 40, 4, Instant::now());
        let text = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
        let last = format!(r#"{{"choices":[],"usage":{usage}}}"#);
        for event in [text, last.as_str(), "[DONE]"] {
            assert_eq!(translator.event(event.as_bytes(), Instant::now()), Ok(()), "{usage}");
        }
        let events = drain(&mut translator);
        let Some(InferenceEvent::Done { usage: found, .. }) = events.last() else {
            panic!("{events:?}")
        };
        // Where nothing is told it is a guess.
        let (prompt_tokens, completion_tokens, cached_tokens) = expected.unwrap_or((10 + 4, 1, 0));
        let expected = Usage { prompt_tokens, completion_tokens, cached_tokens };
        assert_eq!(*found, expected, "{usage}");
    }
}

#[test]
fn what_several_answers_used_is_told_once_of_all_or_once_of_each() {
    let text = |index: u32| json!({"choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": "stop"}]});
    let used = |completion_tokens: u32, cached: u32| {
        let details = json!({"cached_tokens": cached});
        json!({"prompt_tokens": 9, "completion_tokens": completion_tokens, "prompt_tokens_details": details})
    };
    let end = |tokens, cached| json!({"choices": [], "usage": used(tokens, cached)});
    let beside = |index: u32, tokens| {
        let mut chunk = text(index);
        chunk["usage"] = used(tokens, 4);
        chunk
    };
    let goes_on = |index: u32, tokens| {
        let mut chunk = beside(index, tokens);
        chunk["choices"][0]["finish_reason"] = json!(null);
        chunk
    };
    let both = || {
        let choice = |index| text(index)["choices"][0].clone();
        json!({"choices": [choice(0), choice(1)], "usage": used(7, 4)})
    };
    for (because, chunks, expected) in [
        ("once of all", vec![text(0), text(1), end(7, 4)], 7),
        ("once of each", vec![text(0), end(3, 4), text(1), end(5, 9)], 8),
        ("of all, again and again", vec![beside(0, 1), beside(1, 2), end(2, 4)], 2),
        ("beside each", vec![beside(0, 3), beside(1, 5)], 8),
        ("beside each, again and again", vec![goes_on(0, 1), beside(1, 5), beside(0, 3)], 8),
        ("of both at once", vec![both()], 7),
    ] {
        let events = play(&request(2), &chunks).unwrap();
        let Some(InferenceEvent::Done { usage, .. }) = events.last() else { panic!("{events:?}") };
        let expected = Usage { prompt_tokens: 9, completion_tokens: expected, cached_tokens: 4 };
        assert_eq!(*usage, expected, "{because}");
    }
    let events = play(&request(1), &[text(0), end(5, 4), end(5, 4)]).unwrap();
    let Some(InferenceEvent::Done { usage, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(usage.completion_tokens, 5, "of one answer, told twice");
}

#[test]
fn an_answer_of_another_model_than_the_one_that_is_asked_is_none() {
    let chat = json!({"model": "b", "choices": [{"index": 0, "delta": {"content": "a"}}]});
    let untold = json!({"choices": [{"index": 0, "delta": {"content": "a"}}]});
    let vectors = json!({"model": "b", "data": [{"index": 0, "embedding": [0.5]}]});
    let task = Task::Embed { inputs: vec![Prompt::Text("a".into())] };
    let embed = InferenceRequest::new(RequestId::random(), task);
    let now = Instant::now();
    for (asked, is_answered) in [(None, true), (Some("b"), true), (Some("a"), false)] {
        let fault = Fault::OtherModel { asked: "a".into() };
        let expected = if is_answered { Ok(()) } else { Err(fault) };
        let of = |request: &InferenceRequest| Translator::new(request, 0, 0, now).only_of(asked);
        let (mut text, mut items) = (of(&request(1)), of(&embed));
        assert_eq!(text.event(chat.to_string().as_bytes(), now), expected, "{asked:?}");
        assert_eq!(text.pop().unwrap().is_some(), is_answered, "nothing is told of it");
        assert_eq!(items.whole(vectors.to_string().as_bytes(), now), expected, "{asked:?}");
        let mut text = of(&request(1));
        assert_eq!(text.event(untold.to_string().as_bytes(), now), Ok(()), "nobody knows");
    }
}

#[test]
fn an_end_that_only_the_connection_tells_is_one_where_the_answer_was_over() {
    let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
    let now = Instant::now();
    let text = json!({"choices": [{"index": 0, "delta": {"content": "a"}}]}).to_string();
    translator.event(text.as_bytes(), now).unwrap();
    assert!(!translator.closed(now), "it was in the middle");
    let end = json!({"choices": [{"index": 0, "finish_reason": "stop"}]}).to_string();
    translator.event(end.as_bytes(), now).unwrap();
    assert!(translator.closed(now));
    assert!(matches!(drain(&mut translator).last(), Some(InferenceEvent::Done { .. })));
}

#[test]
fn what_is_no_answer_is_refused_and_an_error_is_told() {
    for bad in ["<html>", "ping", "[]", "null", r#"{"choices":5}"#, r#"{"choices":[{"index":7}]}"#]
    {
        let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
        let fault = translator.event(bad.as_bytes(), Instant::now());
        assert_eq!(fault, Err(Fault::NoAnswer), "{bad}");
    }
    let nothing = Fault::Incomplete { made: 0, asked: 1 };
    assert_eq!(play(&request(1), &[]).unwrap_err(), nothing);
    for error in [json!({"error": {"message": "out of memory"}}), json!({"error": "out of memory"})]
    {
        let fault = play(&request(1), std::slice::from_ref(&error)).unwrap_err();
        assert!(matches!(fault, Fault::InDoubt(_)) && fault.to_string() == "out of memory");
        let text = json!({"choices": [{"index": 0, "delta": {"content": "a"}}]});
        let fault = play(&request(1), &[text, error]).unwrap_err();
        assert_eq!(fault, Fault::Failed("out of memory".into()), "it had begun");
    }
    let wordless = play(&request(1), &[json!({"error": {"code": 5}})]).unwrap_err();
    assert_eq!(wordless, Fault::Failed("it failed without a reason".into()));
    let words = "Unexpected endpoint or method. (POST /v1/chat/completions)";
    let fault = play(&request(1), &[json!({"error": words})]).unwrap_err();
    assert_eq!(fault, Fault::NoEndpoint(words.into()));
    let refused =
        json!({"error": {"message": "no such type", "type": "BadRequestError", "code": 400}});
    let fault = play(&request(1), &[refused]).unwrap_err();
    assert!(matches!(&fault, Fault::Refused(detail) if detail.code.is_none()), "{fault:?}");
    assert_eq!(fault.to_string(), "no such type");
}

#[test]
fn what_tells_nothing_takes_nothing_away() {
    let text = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    for between in [
        "{}",
        r#"{"id":"x","choices":null}"#,
        r#"{"type":"ping","message":null}"#,
        r#"{"choices":[{"index":null,"delta":{}}]}"#,
        r#"{"choices":[],"usage":null}"#,
    ] {
        let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
        for data in [between, text, between, "[DONE]"] {
            assert_eq!(translator.event(data.as_bytes(), Instant::now()), Ok(()), "{between}");
        }
        let events = drain(&mut translator);
        let is_whole = matches!(
            events.as_slice(),
            [InferenceEvent::Started { .. }, said, InferenceEvent::Done { .. }]
                if *said == delta(0, "a", "")
        );
        assert!(is_whole, "{between}: {events:?}");
    }
    for error in [r#"{"message":"no memory"}"#, r#"{"object":"error","message":"no memory"}"#] {
        let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
        let fault = translator.event(error.as_bytes(), Instant::now()).unwrap_err();
        let is_told = matches!(&fault, Fault::InDoubt(detail) if detail.message == "no memory");
        assert!(is_told, "{error}: {fault:?}");
    }
    // It is nothing of an answer that is not streamed, either.
    let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
    translator.whole(b"{}", Instant::now()).unwrap();
    let faults = std::iter::from_fn(|| Some(translator.pop())).find_map(Result::err);
    assert_eq!(faults, Some(Fault::Incomplete { made: 0, asked: 1 }));
}

#[test]
fn log_probabilities_that_are_not_read_are_told_beside_the_choice() {
    let said = json!({"content": null, "refusal": [{"token": "no", "logprob": -0.5}]});
    let choice = json!({"index": 0, "delta": {"content": "a"}, "logprobs": said});
    let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
    let chunk = json!({"choices": [choice]}).to_string();
    translator.event(chunk.as_bytes(), Instant::now()).unwrap();
    let told: Vec<_> = std::iter::from_fn(|| translator.pop().unwrap()).collect();
    let Told::Aside(Aside::Choice { choice, .. }) = &told[1] else { panic!("{told:?}") };
    assert_eq!(choice["logprobs"], said);
    assert_eq!(told[2], Told::Event(delta(0, "a", "")));
}

#[test]
fn an_empty_error_beside_an_answer_is_none() {
    for (error, is_one) in [
        (json!(null), false),
        (json!(""), false),
        (json!({}), false),
        (json!([]), false),
        (json!(false), false),
        (json!(0), false),
        (json!("no memory"), true),
        (json!({"message": "", "code": null, "type": [], "fatal": false}), false),
        (json!({"message": null, "code": 0, "details": {"reason": ""}}), false),
        (json!({"message": "", "type": "server_error"}), true),
        (json!({"code": 500}), true),
        (json!(true), true),
        (json!(500), true),
    ] {
        let choice = json!({"index": 0, "delta": {"content": "a"}});
        let chunk = json!({"choices": [choice], "error": error});
        let events = play(&request(1), &[chunk]);
        assert_eq!(events.is_err(), is_one, "{error}: {events:?}");
        let task = Task::Embed { inputs: vec![Prompt::Text("a".into())] };
        let embed = InferenceRequest::new(RequestId::random(), task);
        let mut translator = Translator::new(&embed, 0, 0, Instant::now());
        let body = json!({"data": [{"index": 0, "embedding": [0.5]}], "error": error}).to_string();
        let taken = translator.whole(body.as_bytes(), Instant::now());
        assert_eq!(taken.is_err(), is_one, "{error}: {taken:?}");
    }
}

#[test]
fn a_token_that_cannot_be_is_told_as_one_that_hardly_can() {
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"-Infinity"},"logprobs":{"content":[
        {"token":"a","logprob":-0.5,"top_logprobs":[{"token":"b","logprob":-Infinity}]}]}}]}"#;
    let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
    translator.event(chunk.as_bytes(), Instant::now()).unwrap();
    let events = drain(&mut translator);
    let InferenceEvent::Delta(said) = &events[1] else { panic!("{events:?}") };
    assert_eq!((said.text.as_str(), said.logprobs[0].top[0].logprob), ("-Infinity", -9999.0));
}

#[test]
fn an_emoji_that_a_server_has_cut_in_two_loses_no_answer() {
    let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
    for text in [r"a\ud83c", r"\udf89", "b"] {
        let chunk = format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#);
        assert_eq!(translator.event(chunk.as_bytes(), Instant::now()), Ok(()), "{text}");
    }
    let told = drain(&mut translator);
    assert_eq!(told[1..], ["a", "🎉", "b"].map(|text| delta(0, text, "")));
    let whole =
        r#"{"choices":[{"index":0,"message":{"content":"a\ud83c"},"finish_reason":"stop"}]}"#;
    let mut translator = Translator::new(&request(1), 0, 0, Instant::now());
    translator.whole(whole.as_bytes(), Instant::now()).unwrap();
    assert_eq!(drain(&mut translator)[1], delta(0, "a\u{fffd}", ""));
}

#[test]
fn an_error_in_place_of_vectors_is_told_in_the_servers_words() {
    let task = Task::Embed { inputs: vec![Prompt::Text("a".into())] };
    let request = InferenceRequest::new(RequestId::random(), task);
    for (body, expected) in [
        (json!({"error": {"message": "too long", "code": 400}}), "too long"),
        (json!({"error": "no memory left"}), "no memory left"),
        (json!({"data": [], "error": null}), "it made 0 of 1 answers"),
    ] {
        let mut translator = Translator::new(&request, 0, 0, Instant::now());
        let body = body.to_string();
        let fault = translator.whole(body.as_bytes(), Instant::now()).unwrap_err();
        assert_eq!(fault.to_string(), expected);
    }
}

fn play(request: &InferenceRequest, chunks: &[Value]) -> Result<Vec<InferenceEvent>, Fault> {
    let now = Instant::now();
    let mut translator = Translator::new(request, 40, 0, now);
    for chunk in chunks {
        translator.event(chunk.to_string().as_bytes(), now)?;
    }
    translator.event(b"[DONE]", now)?;
    let mut events = Vec::new();
    while let Some(told) = translator.pop()? {
        events.extend(event(told));
    }
    Ok(events)
}

fn drain(translator: &mut Translator) -> Vec<InferenceEvent> {
    std::iter::from_fn(|| translator.pop().unwrap()).filter_map(event).collect()
}

fn event(told: Told) -> Option<InferenceEvent> {
    match told {
        Told::Event(event) => Some(event),
        Told::Aside(_) | Told::Nothing => None,
    }
}

fn delta(index: u32, text: &str, reasoning: &str) -> InferenceEvent {
    let (text, reasoning) = (text.to_owned(), reasoning.to_owned());
    InferenceEvent::Delta(Delta { index, text, reasoning, ..Delta::default() })
}

fn request(n: u32) -> InferenceRequest {
    let chat = vec![ChatMessage::text(Role::User, "Hi")].into();
    InferenceRequest { n, ..InferenceRequest::new(RequestId::random(), Task::Chat(chat)) }
}
