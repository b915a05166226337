//! Answers whose text is forced by a grammar, so that bookkeeping shows: whatever is interleaved,
//! reused, cancelled or resumed, each text must come out to the letter.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::{WorkerProcess, block_on, client, events, text, tokens};

/// Texts with characters of one to four bytes, so that tokens end inside of characters.
const ALPHABET: [&str; 12] = ["a", "Q", "7", " ", "-", "ü", "ß", "→", "語", "🦀", "é", "."];

/// The text number `n`, which no other has.
fn forced(n: usize) -> String {
    let mut state = n as u64 * 7919 + 17;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    (0..30).map(|_| ALPHABET[next() % ALPHABET.len()]).collect()
}

/// A request that only its text can answer; half of them begin alike.
fn request(n: usize) -> Value {
    let system = "You are a patient teacher. Answer briefly and kindly. ".repeat(4 * (n % 2));
    json!({
        "task": {"type": "completion", "prompt": format!("{system}Question {n}:")},
        "sampling": {"seed": n, "repeat_penalty": 1.1, "presence_penalty": 0.5},
        "format": {"type": "json_schema", "schema": {"const": forced(n)}},
    })
}

fn answer(n: usize) -> String {
    serde_json::to_string(&forced(n)).unwrap()
}

/// Sends requests at once and gives the events of each answer.
fn all(worker: &WorkerProcess, bodies: &[Value]) -> Vec<Vec<Value>> {
    let url = format!("{}/v1/inference", worker.url);
    let answers = bodies.iter().map(|body| {
        let request = client().post(&url).json(body);
        async move { request.send().await.unwrap().text().await.unwrap() }
    });
    let bodies = block_on(futures::future::join_all(answers));
    bodies.iter().map(|body| events(body)).collect()
}

/// Sends a request and goes away after some bytes of its answer.
fn cancel(address: &str, body: &Value, bytes: usize) {
    let body = body.to_string();
    let mut connection = TcpStream::connect(address).unwrap();
    let head = format!("POST /v1/inference HTTP/1.1\r\nhost: {address}\r\n");
    let length = body.len();
    write!(
        connection,
        "{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let _ = connection.read_exact(&mut vec![0; bytes]);
}

#[test]
fn answers_are_exact_while_others_come_go_and_resume() {
    let worker = WorkerProcess::ready(&["--slots", "4", "--ctx-size", "1024"]);
    let address = worker.url.strip_prefix("http://").unwrap().to_owned();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 100;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                cancel(&address, &request(n), 200 + n * 97 % 2000);
                n += 1;
            }
        });
        let wanted: Vec<usize> = (0..8).collect();
        let whole = all(&worker, &wanted.iter().map(|n| request(*n)).collect::<Vec<_>>());
        for (n, events) in wanted.iter().zip(&whole) {
            assert_eq!(text(events), answer(*n), "answer {n}");
        }
        let cuts: Vec<(usize, Value)> = wanted
            .iter()
            .map(|n| {
                let given = tokens(&whole[*n]);
                let mut cut = request(*n);
                cut["resume"] = json!(given[..=(n * 5) % (given.len() - 1)]);
                (*n, cut)
            })
            .collect();
        let rests = all(&worker, &cuts.iter().map(|(_, cut)| cut.clone()).collect::<Vec<_>>());
        for ((n, _), rest) in cuts.iter().zip(&rests) {
            let rest = text(rest);
            assert!(!rest.is_empty() && answer(*n).ends_with(&rest), "answer {n}: {rest:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    worker.wait_until("all slots are free", |health| {
        health["slots"]["busy"] == 0 && health["queued"] == 0
    });
    assert_eq!(text(&worker.events(&request(3))), answer(3));
}

#[test]
fn an_answer_resumed_at_any_token_goes_on_to_the_letter() {
    // Without guesses each delta is one step, so what a client has at a cut is known.
    let worker = WorkerProcess::ready(&["--slots", "2", "--draft", "off"]);
    let whole = worker.events(&request(5));
    assert_eq!(text(&whole), answer(5));
    let given = tokens(&whole);
    for cut in 1..given.len() {
        let mut count = 0;
        let shown: String = whole
            .iter()
            .filter(|event| event["type"] == "delta")
            .take_while(|event| {
                count += event["tokens"].as_array().unwrap().len();
                count <= cut
            })
            .filter_map(|event| event["text"].as_str())
            .collect();
        let mut resumed = request(5);
        resumed["resume"] = json!(given[..cut]);
        assert_eq!(shown + &text(&worker.events(&resumed)), answer(5), "cut at {cut}");
    }
}
