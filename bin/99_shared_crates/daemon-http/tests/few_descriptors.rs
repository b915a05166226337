//! A server that has no file descriptor left. Alone in its file: the limit is the whole process's.
#![cfg(target_os = "linux")]

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_server_without_descriptors_serves_on_when_it_has_some_again() {
    let (listener, address) = daemon_http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let stop = CancellationToken::new();
    let routes = Router::new().route("/", get(async || "hello"));
    let mut running = JoinSet::new();
    running.spawn(daemon_http::serve(listener, routes, stop.clone(), Duration::ZERO));

    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    let mut clients = Vec::new();
    // Each takes two descriptors when it is accepted; in the end there is none for accepting.
    while let Ok(client) = TcpStream::connect(address).await {
        clients.push(client);
        tokio::task::yield_now().await;
    }
    let mut last = clients.pop().expect("some could connect");
    last.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    clients.clear();

    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), last.read_to_string(&mut answer));
    read.await.expect("the server serves on").unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    stop.cancel();
    running.join_all().await;
}
