//! A worker gives up rights, goes on working, and dies alone.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{PATIENCE, WorkerProcess, block_on, client, events, tokens};

fn story(max_tokens: u32) -> Value {
    json!({
        "task": {"type": "completion", "prompt": "Once upon a time"},
        "sampling": {"max_tokens": max_tokens, "ignore_eos": true, "temperature": 0},
    })
}

/// The lines of all threads' `/proc/PID/task/TID/status` that begin with `field`.
fn of_all_threads(worker: &WorkerProcess, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", worker.pid())).unwrap();
    let statuses = tasks.filter_map(|task| {
        // A thread may end meanwhile.
        std::fs::read_to_string(task.ok()?.path().join("status")).ok()
    });
    let line = |status: String| status.lines().find(|l| l.starts_with(field)).map(str::to_owned);
    statuses.filter_map(line).collect()
}

/// What it said before it listened.
fn told_at_start(worker: &WorkerProcess) -> String {
    let told = worker.log.iter().find(|line| line.contains("sandbox: "));
    told.unwrap_or_else(|| panic!("it says nothing of a sandbox: {:?}", worker.log)).clone()
}

#[test]
fn a_ready_worker_has_given_up_its_rights_and_says_so() {
    let mut worker = WorkerProcess::ready(&["--slots", "2"]);
    for (field, wanted) in [("NoNewPrivs:", "NoNewPrivs:\t1"), ("Seccomp:", "Seccomp:\t2")] {
        let lines = of_all_threads(&worker, field);
        assert!(lines.len() >= 3, "the threads of the runtime and the engine: {lines:?}");
        assert!(lines.iter().all(|line| line == wanted), "{lines:?}");
    }
    let told = told_at_start(&worker);
    let loaded = worker.wait_for_log("sandbox: ");
    // Which of the two holds is the kernel's; that it does is shown by the tests of the module.
    let is_enforced = told.contains("reads only the model");
    assert_ne!(is_enforced, told.contains("files and network are not restricted: "), "{told}");
    assert_eq!(is_enforced, loaded.contains("the engine's thread opens no file"), "{loaded}");
    assert!(told.contains("refused (seccomp)"), "{told}");
    assert!(loaded.contains("no thread runs a program or opens a socket"), "{loaded}");
    assert_eq!(tokens(&worker.events(&story(16))).len(), 16);
}

#[test]
fn a_worker_without_a_sandbox_says_that_it_has_none_and_answers_the_same() {
    let sandboxed = WorkerProcess::ready(&["--slots", "1"]);
    let open = WorkerProcess::ready(&["--slots", "1", "--sandbox", "off"]);
    assert!(told_at_start(&open).contains("keeps all rights"));
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("Seccomp:")).unwrap();
    assert!(of_all_threads(&open, "Seccomp:").iter().all(|line| line == own));
    assert_eq!(tokens(&open.events(&story(16))), tokens(&sandboxed.events(&story(16))));
}

#[test]
fn heartbeats_of_a_sandboxed_worker_reach_a_queen_by_name_and_by_address() {
    for host in ["localhost", "127.0.0.1"] {
        let queen = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{host}:{}", queen.local_addr().unwrap().port());
        let beats = beats_at(queen);
        let args = ["--queen", &url, "--heartbeat-interval-ms", "50"];
        let worker = WorkerProcess::ready(&args);
        let deadline = Instant::now() + PATIENCE;
        let mut ready = 0;
        while ready < 3 {
            let left = deadline.saturating_duration_since(Instant::now());
            let beat = beats.recv_timeout(left).unwrap_or_else(|_| panic!("no beat to {host}"));
            ready += u32::from(beat["state"] == "ready");
        }
        drop(worker);
    }
}

#[test]
fn a_queen_that_comes_after_a_worker_hears_of_it_long_before_its_next_report_is_due() {
    let place = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let args = ["--queen", &format!("http://{place}"), "--heartbeat-interval-ms", "600000"];
    let worker = WorkerProcess::ready(&args);
    let queen = TcpListener::bind(place).unwrap();
    let beats = beats_at(queen);
    let beat = beats.recv_timeout(PATIENCE).expect("no beat came");
    assert_eq!(beat["state"], "ready");
    drop(worker);
}

/// What comes to a queen.
fn beats_at(queen: TcpListener) -> mpsc::Receiver<Value> {
    let (beats_in, beats) = mpsc::sync_channel(1000);
    std::thread::spawn(move || {
        // One request for each connection, so that a new socket is made for each beat.
        while let Ok((connection, _)) = queen.accept() {
            let Some(beat) = read_beat(connection) else { continue };
            if beats_in.send(beat).is_err() {
                return;
            }
        }
    });
    beats
}

/// Reads one request and answers it; its body.
fn read_beat(connection: TcpStream) -> Option<Value> {
    connection.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut reader = BufReader::new(connection);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    reader.get_mut().write_all(answer).ok()?;
    serde_json::from_slice(&body).ok()
}

#[test]
fn a_worker_that_aborts_ends_alone() {
    for signal in ["-ABRT", "-KILL"] {
        let mut dying = WorkerProcess::ready(&["--slots", "1"]);
        let other = WorkerProcess::ready(&["--slots", "1"]);
        let asked = |worker: &WorkerProcess, max_tokens| {
            let url = format!("{}/v1/inference", worker.url);
            std::thread::spawn(move || {
                block_on(async {
                    client().post(url).json(&story(max_tokens)).send().await?.text().await
                })
            })
        };
        let (cut, whole) = (asked(&dying, 6000), asked(&other, 64));
        dying.wait_until("its slot is busy", |health| health["slots"]["busy"] == 1);
        dying.signal(signal);
        assert_eq!(dying.wait_for_end(), None, "it ends by the signal");
        assert!(cut.join().unwrap().is_err(), "its answer is cut");
        let answer = events(&whole.join().unwrap().unwrap());
        assert_eq!(tokens(&answer).len(), 64);
        assert_eq!(answer.last().unwrap()["type"], "done");
        assert_eq!(tokens(&other.events(&story(4))).len(), 4);
    }
}
