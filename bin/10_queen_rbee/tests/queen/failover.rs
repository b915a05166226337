//! Answers that go on when the worker fails that gave their beginning.

use std::time::Duration;

use serde_json::json;
use worker_contract::{HiveHeartbeat, SupervisedState, WorkerHeartbeat};

use crate::support::{HiveDouble, Queen, Reply, Script, Stream, WorkerDouble, chat, done, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_stream_goes_on_at_another_worker_and_the_client_notices_nothing() {
    for trouble in [
        Script::Dies(&["Hello"]),
        Script::Fails(&["Hello"], "engine_error"),
        Script::Hangs(&["Hello"]),
    ] {
        let failing = WorkerDouble::start("w-1", [trouble.clone()]);
        let other = WorkerDouble::start("w-2", [Script::Says(&[" world"])]);
        let queen = Queen::configured(|config| config.queen.stall_timeout_s = 1).await;
        queen.worker_beat(&failing.beat()).await;
        queen.worker_beat(&other.beat()).await;
        let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
        assert_eq!(transcript.text(), "Hello world", "{trouble:?}: {transcript:?}");
        assert!(transcript.is_done && transcript.error.is_none());
        let resumed = &other.requests()[0];
        assert_eq!(resumed.resume, [0, 1], "what the client has, and nothing else");
        assert_eq!(resumed.sampling.seed, Some(1), "the first worker's");
        assert_eq!(queen.in_flight("w-1").await + queen.in_flight("w-2").await, 0);
    }
}

#[tokio::test]
async fn who_computes_again_what_the_client_has_is_given_the_time_for_it() {
    let failing = WorkerDouble::start("w-1", [Script::Dies(&["so"; 20])]);
    let ponders = Script::Ponders(Duration::from_millis(2500), &[" on"]);
    let other = WorkerDouble::start("w-2", [ponders]);
    let queen = Queen::configured(|config| config.queen.stall_timeout_s = 1).await;
    queen.worker_beat(&failing.beat()).await;
    queen.worker_beat(&other.beat()).await;
    let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
    assert_eq!(transcript.text(), format!("{} on", "so".repeat(20)), "{transcript:?}");
    assert!(transcript.is_done && transcript.error.is_none());
    assert_eq!(other.requests().len(), 1, "it was not asked twice");
}

#[tokio::test]
async fn a_whole_answer_goes_on_too() {
    let failing = WorkerDouble::start("w-1", [Script::Dies(&["Hello"])]);
    let other = WorkerDouble::start("w-2", [Script::Says(&[" world"])]);
    let queen = Queen::start().await;
    queen.worker_beat(&failing.beat()).await;
    queen.worker_beat(&other.beat()).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world", "{reply:?}");
    assert_eq!(reply.header("x-rbee-worker"), "w-2", "who completed it");
}

#[tokio::test]
async fn of_several_answers_each_goes_on_that_is_not_over() {
    let delta = |index: u32, text: &str, token: i32| json!({"type": "delta", "index": index, "text": text, "tokens": [token]});
    let over = |index: u32| json!({"type": "choice_done", "index": index, "finish_reason": "stop"});
    let broken = json!({"type": "error", "error": {"message": "x", "type": "server_error"}});
    let first = [delta(0, "a", 1), delta(1, "b", 2), delta(2, "c", 3), over(1), broken];
    let rest =
        |index, text, token| Script::Plays(vec![delta(index, text, token), done(2, "length")]);
    for stream in [true, false] {
        let failing = WorkerDouble::start("w-1", [Script::Plays(first.to_vec())]);
        let other = WorkerDouble::start("w-2", [rest(0, "A", 4), rest(2, "C", 5)]);
        let queen = Queen::start().await;
        queen.worker_beat(&failing.beat()).await;
        queen.worker_beat(&other.beat()).await;
        let mut body = chat();
        body["n"] = json!(3);
        if stream {
            let transcript = queen.stream(CHAT, &body).await.begun().await.rest().await;
            let texts = |wanted: u64| -> String {
                let choices = transcript.chunks.iter().map(|chunk| &chunk["choices"][0]);
                let of_it = choices.filter(|choice| choice["index"] == wanted);
                of_it.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
            };
            assert_eq!([texts(0), texts(1), texts(2)], ["aA", "b", "cC"]);
            assert!(transcript.is_done && transcript.error.is_none());
        } else {
            let reply = queen.ask(CHAT, &body).await.json();
            let of = |n: usize| reply["choices"][n]["message"]["content"].clone();
            assert_eq!([of(0), of(1), of(2)], ["aA", "b", "cC"]);
            let reasons = |n: usize| reply["choices"][n]["finish_reason"].clone();
            assert_eq!([reasons(0), reasons(1), reasons(2)], ["length", "stop", "length"]);
        }
        let asked = other.requests();
        let asked: Vec<_> = asked.iter().map(|r| (r.n, r.first_choice, r.resume.clone())).collect();
        assert_eq!(asked, [(1, 0, vec![1]), (1, 2, vec![3])]);
    }
}

#[tokio::test]
async fn a_worker_that_its_hive_says_has_died_is_left_at_once() {
    let worker = WorkerDouble::start("w-1", [Script::Hangs(&["Hello"])]);
    let other = WorkerDouble::start("w-2", [Script::Says(&[" world"])]);
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    queen.worker_beat(&worker.beat()).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    queen.worker_beat(&other.beat()).await;
    let mut beat = hive.beat();
    beat.workers.push(worker.listed(SupervisedState::Failed { reason: "signal 9".into() }));
    queen.hive_beat(&beat).await;
    assert_eq!(stream.rest().await.text(), " world");
}

#[tokio::test]
async fn where_no_other_worker_is_one_is_started_for_the_rest() {
    let worker = WorkerDouble::start("w-1", [Script::Dies(&["Hello"])]);
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    hive.let_start();
    queen.worker_beat(&worker.beat()).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    drop(worker);
    queen.hive_beat(&hive.beat()).await;
    let transcript = stream.rest().await;
    assert!(transcript.is_done, "{transcript:?}");
    assert_eq!((transcript.text().as_str(), hive.spawns()), ("Hello world", 1));
}

#[tokio::test]
async fn tokens_of_one_model_file_are_not_given_to_another() {
    let worker = WorkerDouble::start("w-1", [Script::Dies(&["Hello"])]);
    let (other, same) = (WorkerDouble::start("w-2", []), WorkerDouble::start("w-3", []));
    let digest = |digit: &str| Some(digit.repeat(64).parse().unwrap());
    let queen = Queen::start().await;
    let beat = |worker: &WorkerDouble, digit| {
        let mut beat = worker.beat();
        beat.model.digest = digest(digit);
        beat
    };
    queen.worker_beat(&beat(&worker, "1")).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    queen.worker_beat(&beat(&other, "2")).await;
    queen.worker_beat(&beat(&same, "1")).await;
    assert!(stream.rest().await.is_done);
    assert_eq!((other.requests().len(), same.requests().len()), (0, 1));
}

#[tokio::test]
async fn a_request_that_ends_two_workers_is_refused_also_when_it_comes_again_and_others_are_not() {
    // It is none the better for a token before each end.
    for deadly in [Script::Dies(&[]), Script::Dies(&["Hello"])] {
        let queen = Queen::start().await;
        let deadly: Vec<_> = ["w-1", "w-2", "w-3"]
            .map(|name| WorkerDouble::start(name, [deadly.clone(), deadly.clone()]))
            .into();
        for worker in &deadly {
            queen.worker_beat(&worker.beat()).await;
        }
        let asked = || deadly.iter().map(|worker| worker.requests().len()).sum::<usize>();
        let hive = HiveDouble::start(false);
        let news = async {
            until("two were asked", async || asked() == 2).await;
            let listed = |worker: &WorkerDouble| {
                let reason = "signal 11".to_owned();
                let has_ended = !worker.requests().is_empty();
                let ended = SupervisedState::Failed { reason };
                worker.listed(if has_ended { ended } else { SupervisedState::Ready })
            };
            let workers = deadly.iter().map(listed).collect();
            queen.hive_beat(&HiveHeartbeat { workers, ..hive.beat() }).await;
        };
        let body = chat();
        let (reply, ()) = tokio::join!(queen.ask(CHAT, &body), news);
        let again = queen.ask(CHAT, &chat()).await;
        for (reply, said) in [(&reply, "request (w-1, w-2)"), (&again, "a while ago (w-1, w-2)")] {
            let error = reply.error(422, "request_quarantined");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(said), "{message}");
        }
        assert_eq!(asked(), 2);
        until("the hive is told whose fault it was", async || hive.asked().len() == 2).await;
        let mut told = hive.asked();
        told.sort();
        assert_eq!(told, ["excuse w-1 [1]", "excuse w-2 [1]"]);
        let fine = WorkerDouble::start("w-4", []);
        queen.worker_beat(&fine.beat()).await;
        let other = json!({"model": "m", "messages": [{"role": "user", "content": "Ho"}]});
        assert_eq!(queen.ask(CHAT, &other).await.status, 200);
    }
}

#[tokio::test]
async fn a_request_that_ends_workers_before_they_say_anything_is_quarantined_too() {
    let queen = Queen::start().await;
    let mut workers: Vec<_> =
        ["w-1", "w-2", "w-3", "w-4"].map(|name| WorkerDouble::start(name, [Script::Silent])).into();
    let mut listed: Vec<_> =
        workers.iter().map(|worker| worker.listed(SupervisedState::Ready)).collect();
    for worker in &workers {
        queen.worker_beat(&worker.beat()).await;
    }
    let hive = HiveDouble::start(false);
    let ends = async {
        // Of two that end together before they say anything, one is held against it.
        for _ in 0..3 {
            let has_it = |worker: &WorkerDouble| !worker.requests().is_empty();
            until("one is asked", async || workers.iter().any(has_it)).await;
            let ended = workers.remove(workers.iter().position(has_it).unwrap());
            for entry in listed.iter_mut().filter(|it| it.worker_id.as_str() == ended.name) {
                entry.state = SupervisedState::Failed { reason: "signal 6".into() };
            }
            drop(ended);
            queen.hive_beat(&HiveHeartbeat { workers: listed.clone(), ..hive.beat() }).await;
        }
        workers
    };
    let body = chat();
    let (reply, left) = tokio::join!(queen.ask(CHAT, &body), ends);
    reply.error(422, "request_quarantined");
    assert!(left[0].requests().is_empty(), "it fails alone");
}

#[tokio::test]
async fn workers_that_end_together_before_they_say_anything_are_not_held_against_a_request() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let silent = ["w-1", "w-2"].map(|name| WorkerDouble::start(name, [Script::Silent]));
    let fine = WorkerDouble::start("w-3", []);
    for worker in &silent {
        queen.worker_beat(&worker.beat()).await;
    }
    let asked = || silent.iter().filter(|worker| !worker.requests().is_empty());
    let ends = async {
        for count in [1, 2] {
            until("one more is asked", async || asked().count() == count).await;
            if count == 2 {
                queen.worker_beat(&fine.beat()).await;
            }
            let failed = || SupervisedState::Failed { reason: "signal 9".into() };
            let workers = asked().map(|worker| worker.listed(failed())).collect();
            queen.hive_beat(&HiveHeartbeat { workers, ..hive.beat() }).await;
        }
    };
    let body = chat();
    let (reply, ()) = tokio::join!(queen.ask(CHAT, &body), ends);
    assert_eq!((reply.status, fine.requests().len()), (200, 1), "{reply:?}");
}

#[tokio::test]
async fn a_request_whose_connections_are_cut_twice_is_not_to_blame() {
    let queen = Queen::start().await;
    let cut: Vec<_> =
        ["w-1", "w-2"].map(|name| WorkerDouble::start(name, [Script::Dies(&[])])).into();
    for worker in &cut {
        queen.worker_beat(&worker.beat()).await;
    }
    let fine = WorkerDouble::start("w-3", []);
    queen.worker_beat(&fine.beat()).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!((reply.status, fine.requests().len()), (200, 1), "{reply:?}");
}

#[tokio::test]
async fn an_answer_that_fills_the_context_is_over_when_its_end_was_lost() {
    let failing = WorkerDouble::start("w-1", [Script::Dies(&["Hello"])]);
    let full = Script::Refuses(400, "context_length_exceeded");
    let other = WorkerDouble::start("w-2", [full]);
    let queen = Queen::start().await;
    queen.worker_beat(&failing.beat()).await;
    queen.worker_beat(&other.beat()).await;
    let choice = queen.ask(CHAT, &chat()).await.json()["choices"][0].clone();
    assert_eq!(choice["message"]["content"], "Hello");
    assert_eq!(choice["finish_reason"], "length");
}

#[tokio::test]
async fn an_answer_goes_on_where_the_context_is_as_long_as_it_was_and_is_not_cut_short() {
    let failing = WorkerDouble::start("w-1", [Script::Dies(&["Hello"])]);
    let full = Script::Refuses(400, "context_length_exceeded");
    let small = WorkerDouble::start("w-2", vec![full; 20]);
    let large = WorkerDouble::start("w-3", [Script::Says(&[" world"])]);
    let queen = Queen::start().await;
    queen.worker_beat(&failing.beat()).await;
    queen.worker_beat(&with_context(&small, 256)).await;
    queen.worker_beat(&large.beat()).await;
    let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
    assert_eq!(transcript.text(), "Hello world", "{transcript:?}");
    assert!(transcript.is_done && transcript.error.is_none());
    assert_eq!((small.requests().len(), large.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_prompt_that_is_too_long_for_one_worker_is_taken_by_one_with_a_longer_context() {
    let full = || Script::Refuses(400, "context_length_exceeded");
    for (contexts, scripts, expected, asked) in [
        ([256, 2048], [full(), Script::Says(&["Hi"])], 200, [1, 1]),
        ([256, 2048], [full(), full()], 400, [1, 1]),
        ([256, 256], [full(), full()], 400, [1, 0]),
        ([2048, 256], [full(), full()], 400, [1, 0]),
    ] {
        let queen = Queen::start().await;
        let workers: Vec<_> = ["w-1", "w-2"].into_iter().zip(scripts).collect();
        let workers: Vec<_> =
            workers.into_iter().map(|(name, script)| WorkerDouble::start(name, [script])).collect();
        for (worker, context) in workers.iter().zip(contexts) {
            queen.worker_beat(&with_context(worker, context)).await;
        }
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(reply.status, expected, "{contexts:?}: {reply:?}");
        let counts: Vec<_> = workers.iter().map(|worker| worker.requests().len()).collect();
        assert_eq!(counts, asked, "{contexts:?}");
        if expected == 400 {
            reply.error(400, "context_length_exceeded");
        }
    }
}

#[tokio::test]
async fn an_answer_that_a_short_context_cuts_goes_on_in_a_longer_one() {
    for (max_tokens, context, busy, expected) in [
        (None, 2048, 3, ("Hello world", "stop")),
        (Some(400), 2048, 3, ("Hello world", "stop")),
        (Some(1), 2048, 3, ("Hello", "length")),
        (None, 8, 3, ("Hello", "length")),
    ] {
        let delta = json!({"type": "delta", "index": 0, "text": "Hello", "tokens": [1]});
        let cut = Script::Plays(vec![delta, done(1, "length")]);
        let short = WorkerDouble::start("w-1", [cut]);
        let other = WorkerDouble::start("w-2", [Script::Says(&[" world"])]);
        let queen = Queen::start().await;
        queen.worker_beat(&with_context(&short, 8)).await;
        let mut beat = with_context(&other, context);
        beat.slots.busy = busy;
        queen.worker_beat(&beat).await;
        let mut body = chat();
        body["max_tokens"] = json!(max_tokens);
        let reply = queen.ask(CHAT, &body).await;
        let choice = &reply.json()["choices"][0];
        let found = (&choice["message"]["content"], &choice["finish_reason"]);
        assert_eq!(found, (&json!(expected.0), &json!(expected.1)), "{max_tokens:?}: {reply:?}");
        assert_eq!(short.requests().len(), 1);
        let resumed = other.requests();
        assert_eq!(resumed.len(), usize::from(expected.1 == "stop"));
        assert!(resumed.iter().all(|request| request.resume == [1]), "{resumed:?}");
    }
}

#[tokio::test]
async fn an_answer_goes_on_in_a_longer_context_only_where_it_can_be_cut_anywhere_and_there_at_once()
{
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    for (because, fields, reasoning, digest) in [
        ("the other has another file", json!({}), "", "2"),
        ("text was held back for a stop text", json!({"stop": ["END"]}), "", "1"),
        ("text was held back for a call", json!({"tools": tool}), "", "1"),
        ("text was held back for the end of its reasoning", json!({}), "Hm", "1"),
    ] {
        let said = json!({"type": "delta", "text": "Hello", "reasoning": reasoning, "tokens": [1]});
        let short = WorkerDouble::start("w-1", [Script::Plays(vec![said, done(1, "length")])]);
        let long = WorkerDouble::start("w-2", []);
        let queen = Queen::start().await;
        for (worker, context, busy, digit) in [(&short, 8, 0, "1"), (&long, 2048, 3, digest)] {
            let mut beat = with_context(worker, context);
            beat.model.digest = Some(digit.repeat(64).parse().unwrap());
            beat.slots.busy = busy;
            queen.worker_beat(&beat).await;
        }
        let mut body = chat();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let choice = queen.ask(CHAT, &body).await.json()["choices"][0].clone();
        let found = (&choice["message"]["content"], &choice["finish_reason"]);
        assert_eq!(found, (&json!("Hello"), &json!("length")), "{because}: {choice}");
        assert_eq!((short.requests().len(), long.requests().len()), (1, 0), "{because}");
    }
}

#[tokio::test]
async fn an_answer_that_was_whole_where_a_context_cut_it_is_so_until_more_of_it_comes() {
    let fails = || Script::Fails(&[], "engine_error");
    for (because, then, expected) in [
        ("it fails", vec![fails(); 20], "Hello"),
        ("it refuses", vec![Script::Refuses(400, "no"); 20], "Hello"),
        ("it is silent", vec![Script::Silent], "Hello"),
        (
            "it has gone on",
            vec![Script::Fails(&[" on"], "engine_error"), Script::Silent],
            "Hello on",
        ),
    ] {
        let said = json!({"type": "delta", "text": "Hello", "tokens": [1]});
        let short = WorkerDouble::start("w-1", [Script::Plays(vec![said, done(1, "length")])]);
        let long = WorkerDouble::start("w-2", then);
        let queen = Queen::start().await;
        queen.worker_beat(&with_context(&short, 8)).await;
        let mut beat = long.beat();
        beat.slots.busy = 3;
        queen.worker_beat(&beat).await;
        let mut body = chat();
        body["stream"] = json!(true);
        let request = queen.post(CHAT).header("x-rbee-deadline-ms", "1500").json(&body);
        let transcript = Stream::open(request).await.begun().await.rest().await;
        let is_whole = transcript.is_done && transcript.error.is_none();
        assert_eq!(
            (transcript.text().as_str(), is_whole),
            (expected, expected == "Hello"),
            "{because}"
        );
        assert!(!long.requests().is_empty(), "{because}");
    }
}

#[tokio::test]
async fn a_whole_answer_is_not_held_back_by_who_was_to_go_on_and_does_not() {
    let check = async |because: &str, then: Script| {
        let said = json!({"type": "delta", "text": "Hello", "tokens": [1]});
        let short = WorkerDouble::start("w-1", [Script::Plays(vec![said, done(1, "length")])]);
        let long = WorkerDouble::start("w-2", vec![then; 20]);
        let queen = Queen::configured(|config| config.queen.stall_timeout_s = 1).await;
        queen.worker_beat(&with_context(&short, 8)).await;
        let mut beat = long.beat();
        beat.slots.busy = 3;
        queen.worker_beat(&beat).await;
        let reply = queen.ask(CHAT, &chat()).await;
        let choice = &reply.json()["choices"][0];
        let found = (&choice["message"]["content"], &choice["finish_reason"]);
        assert_eq!(found, (&json!("Hello"), &json!("length")), "{because}: {reply:?}");
        assert_eq!(long.requests().len(), 1, "{because}");
    };
    tokio::join!(
        check("it fails", Script::Fails(&[], "engine_error")),
        check("its connection breaks", Script::Dies(&[])),
        check("it computes without an end", Script::Hangs(&[])),
        check("it has it in its queue", Script::Queues),
        check("it says neither yes nor no", Script::Silent),
    );
}

#[tokio::test]
async fn an_answer_that_a_context_cuts_before_it_says_anything_is_its_workers_own() {
    let said = json!({"type": "delta", "text": "", "tokens": [1, 2]});
    let short = WorkerDouble::start("w-1", [Script::Plays(vec![said, done(2, "length")])]);
    let long = WorkerDouble::start("w-2", [Script::Fails(&[], "engine_error")]);
    let queen = Queen::start().await;
    queen.worker_beat(&with_context(&short, 8)).await;
    let mut beat = long.beat();
    beat.slots.busy = 3;
    queen.worker_beat(&beat).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!((reply.status, reply.header("x-rbee-worker")), (200, "w-1"), "{reply:?}");
    let answer = reply.json();
    let found = (&answer["choices"][0]["finish_reason"], &answer["usage"]["completion_tokens"]);
    assert_eq!(found, (&json!("length"), &json!(2)), "{answer}");
    assert!(long.requests().is_empty());
}

#[tokio::test]
async fn a_whole_answer_that_was_cut_is_not_begun_anew_where_who_was_to_go_on_fails() {
    let said = json!({"type": "delta", "text": "Hello", "tokens": [1]});
    let short = WorkerDouble::start("w-1", [Script::Plays(vec![said, done(1, "length")])]);
    let long = WorkerDouble::start("w-2", [Script::Silent]);
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    queen.worker_beat(&with_context(&short, 8)).await;
    let mut beat = long.beat();
    beat.slots.busy = 3;
    queen.worker_beat(&beat).await;
    let ends = async {
        until("it is to go on", async || !long.requests().is_empty()).await;
        let workers = vec![long.listed(SupervisedState::Failed { reason: "signal 9".into() })];
        // Without the file none is started for it.
        let beat = HiveHeartbeat { workers, catalog: Vec::new(), ..hive.beat() };
        loop {
            queen.hive_beat(&beat).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let body = chat();
    let reply = tokio::select! {
        reply = queen.ask(CHAT, &body) => reply,
        () = ends => unreachable!("its hive reports without end"),
    };
    let choice = &reply.json()["choices"][0];
    let found = (&choice["message"]["content"], &choice["finish_reason"]);
    assert_eq!(found, (&json!("Hello"), &json!("length")), "{reply:?}");
    assert_eq!(short.requests().len(), 1, "it was begun anew");
}

fn with_context(worker: &WorkerDouble, tokens: u32) -> WorkerHeartbeat {
    let mut beat = worker.beat();
    beat.model.context_length = tokens;
    beat
}

#[tokio::test]
async fn a_worker_that_fails_again_and_again_gets_nothing_for_a_while() {
    let failing = WorkerDouble::start("w-1", vec![Script::Babbles; 20]);
    let queen = Queen::start().await;
    queen.worker_beat(&failing.beat()).await;
    for tries in [3, 6] {
        queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
        assert_eq!(failing.requests().len(), tries, "one request may be at fault itself");
    }
    let ask = async |deadline_ms: &str| {
        let request = queen.post(CHAT).header("x-rbee-deadline-ms", deadline_ms).json(&chat());
        Reply::read(request).await
    };
    let told = |reply: &Reply, said: &str| {
        let error = reply.error(504, "deadline_exceeded");
        let is_told = error["message"].as_str().unwrap().contains(said);
        assert!(!is_told || error.get("hint").is_none(), "more time would not help: {error}");
        is_told
    };
    // The third one opens its circuit, for longer than it may take.
    let third = ask("1500").await;
    assert!(told(&third, "the last worker, w-1, failed it: it sent"), "{third:?}");
    until("a request is kept from it", async || {
        let before = failing.requests().len();
        // Where its time is over during a try, nobody is named.
        let is_kept_back = told(&ask("300").await, "w-1 fails again and again");
        assert!(!is_kept_back || failing.requests().len() == before, "it was asked");
        is_kept_back
    })
    .await;
    let kept_back = failing.requests().len();
    until("it is tried again by itself", async || {
        ask("300").await;
        failing.requests().len() > kept_back
    })
    .await;
    let opened = Reply::read(queen.get("/v1/decisions?model=m")).await.text;
    assert!(opened.contains("circuit_opened"), "{opened}");
}

#[tokio::test]
async fn a_whole_answer_is_begun_anew_where_only_another_file_is_left_and_a_stream_is_not() {
    let digest = |digit: &str| Some(digit.repeat(64).parse().unwrap());
    let beat = |worker: &WorkerDouble, digit| {
        let mut beat = worker.beat();
        beat.model.digest = digest(digit);
        beat
    };
    for stream in [true, false] {
        let first = WorkerDouble::start("w-1", [Script::Dies(&["Good"])]);
        let other = WorkerDouble::start("w-2", []);
        let queen = Queen::start().await;
        queen.worker_beat(&beat(&first, "1")).await;
        if stream {
            let mut answer = queen.stream(CHAT, &chat()).await.begun().await;
            answer.until_text().await;
            drop(first);
            queen.worker_beat(&beat(&other, "2")).await;
            let rest = answer.rest().await;
            assert!(!rest.is_done && rest.error.is_some(), "{rest:?}");
            assert!(other.requests().is_empty(), "its client has the beginning of another answer");
            continue;
        }
        let joins = async {
            until("the first one has it", async || !first.requests().is_empty()).await;
            queen.worker_beat(&beat(&other, "2")).await;
        };
        let body = chat();
        let (reply, ()) = tokio::join!(queen.ask(CHAT, &body), joins);
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world", "{reply:?}");
        let begun = &other.requests()[0];
        assert_eq!(begun.resume, Vec::<i32>::new(), "nothing of the first answer is in it");
    }
}
