use std::net::SocketAddr;
use std::thread;

use axum::body::{Body, Bytes};
use axum::routing::{any, get};
use axum::{Extension, Router};
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::bind;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_accepted_socket_sends_small_parts_at_once() {
    let (listener, address) = local();
    let mut door = Door::new(listener, 1);
    let _client = TcpStream::connect(address).await.unwrap();
    let accepted = door.next().await;
    assert!(accepted.stream.nodelay().unwrap());
    assert!(accepted.place.is_some());
}

#[tokio::test]
async fn a_head_that_does_not_come_closes_the_connection() {
    let bounds = Bounds { head_time: Duration::from_millis(50), ..BOUNDS };
    let server = Server::start(bounds, LONG);
    for beginning in ["", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut client = server.connect().await;
        client.write_all(beginning.as_bytes()).await.unwrap();
        assert_eq!(read_to_end(client).await, "", "{beginning:?}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_others_are_served_on() {
    let server = Server::start(BOUNDS, LONG);
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let long_header = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(MAX_HEAD_BYTES));
    let huge_header = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(1 << 20));
    let unfinished = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(20_000));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "b".repeat(70_000));
    for (request, status) in [
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n", "400"),
        ("GET\r\n\r\n", "400"),
        ("GET / HTTP/9.9\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (&many_headers, "431"),
        (&long_header, "431"),
        (&huge_header, "431"),
        (&unfinished, "431"),
        (&long_path, "4"),
    ] {
        let mut client = server.connect().await;
        // The server may close before it has read everything.
        let _ = client.write_all(request.as_bytes()).await;
        let answer = read_to_end(client).await;
        let expected = if status.is_empty() { String::new() } else { format!("HTTP/1.1 {status}") };
        let shown: String = request.chars().take(40).collect();
        assert!(answer.starts_with(&expected), "{shown:?}: {answer}");
        assert!(server.answers().await, "after {shown:?}");
    }
}

#[tokio::test]
async fn a_connection_too_many_waits_for_a_place_while_others_are_answered() {
    let server = Server::start(Bounds { connections: 1, ..BOUNDS }, LONG);
    let mut first = server.connect().await;
    first.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut first, "first").await;
    let mut second = server.connect().await;
    second.write_all(HELLO_AND_CLOSE).await.unwrap();
    // Longer than one that asks nothing would keep its place.
    let early = timeout(Duration::from_secs(1), second.read_u8()).await;
    assert!(early.is_err(), "the second was served beside the first: {early:?}");
    server.finish_slow.cancel();
    // When the first has been answered, and asks nothing more, it is in the way.
    assert!(read_to_end(second).await.ends_with("hello"));
    let answer = read_to_end(first).await;
    assert!(answer.ends_with("last\r\n0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn who_asks_finds_a_place_among_those_that_ask_nothing_and_no_answer_is_cut() {
    let own = Unhurried::thread("unhurried").unwrap();
    for unhurried in [None, Some(Unhurried::on(&own, &["POST /thread "]))] {
        let server = Server::start_beside(unhurried, Bounds { connections: 24, ..BOUNDS }, LONG);
        let mut streams = Vec::new();
        for _ in 0..8 {
            let mut stream = server.connect().await;
            stream.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            read_until(&mut stream, "first").await;
            streams.push(stream);
        }
        let mut half = server.connect().await;
        half.write_all(HELLO_AND_CLOSE.split_at(9).0).await.unwrap();
        // More than there are places.
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.push(server.connect().await);
        }
        let begin = Instant::now();
        for _ in 0..3 {
            assert!(server.answers().await);
        }
        assert!(begin.elapsed() < BOUNDS.head_time / 3, "{:?}", begin.elapsed());
        assert_eq!(read_to_end(silent.swap_remove(0)).await, "", "the first of them has left");
        half.write_all(HELLO_AND_CLOSE.split_at(9).1).await.unwrap();
        assert!(read_to_end(half).await.ends_with("hello"), "who has begun to ask is heard");
        server.finish_slow.cancel();
        for mut stream in streams {
            read_until(&mut stream, "last").await;
        }
    }
    own.end().unwrap();
}

#[tokio::test]
async fn a_connection_between_two_requests_may_idle_no_longer_than_a_head_takes() {
    let bounds = Bounds { head_time: Duration::from_millis(50), ..BOUNDS };
    let server = Server::start(bounds, LONG);
    let mut idle = server.connect().await;
    idle.write_all(HELLO).await.unwrap();
    assert!(read_to_end(idle).await.ends_with("hello"));
}

#[tokio::test]
async fn thousands_of_connections_that_send_nothing_keep_nobody_out_and_are_closed() {
    let bounds = Bounds { head_time: Duration::from_secs(3), ..BOUNDS };
    let server = Server::start(bounds, LONG);
    // Each connection is two files of this process; a few are something else.
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = files.saturating_sub(200).min(20_000) / 2;
    let mut silent = Vec::new();
    for number in 0..count {
        let mut client = server.connect().await;
        // Some begin to speak, and never go on.
        if number % 2 == 0 {
            client.write_all(b"GET / HTTP").await.unwrap();
        }
        silent.push(client);
    }
    let begin = Instant::now();
    assert!(server.answers().await, "with {count} silent connections");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    for client in silent {
        assert_eq!(read_to_end(client).await, "");
    }
}

#[tokio::test]
async fn a_drain_lets_answers_end_and_closes_idle_connections() {
    let server = Server::start(BOUNDS, LONG);
    let mut idle = server.connect().await;
    idle.write_all(HELLO).await.unwrap();
    assert_eq!(idle.read_u8().await.unwrap(), b'H');
    let mut slow = server.connect().await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut slow, "first").await;

    server.stop.cancel();
    assert!(read_to_end(idle).await.ends_with("hello"));
    server.finish_slow.cancel();
    assert!(read_to_end(slow).await.contains("last"));
    let address = server.address;
    server.ended().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn at_the_end_of_the_drain_time_answers_are_cut() {
    let server = Server::start(BOUNDS, Duration::from_millis(200));
    let mut endless = server.connect().await;
    endless.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut endless, "first").await;
    let start = Instant::now();
    server.stop.cancel();
    server.ended().await;
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    assert!(!read_to_end(endless).await.contains("last"));
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_answer() {
    let server = Server::start(BOUNDS, LONG);
    let mut client = server.connect().await;
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut client, "first").await;
    drop(client);
    timeout(LONG, server.slow_dropped.cancelled()).await.expect("the body is dropped");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_left_and_one_that_reads_slowly_is_not() {
    let bounds = Bounds { stall: Duration::from_millis(500), ..BOUNDS };
    let server = Server::start(bounds, LONG);
    let mut clients = [server.connect().await, server.connect().await];
    for client in &mut clients {
        client.write_all(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        read_until(client, "200 OK").await;
    }
    let [idle, slow] = &mut clients;
    // More than the sockets hold between them, a little at a time.
    let mut piece = vec![0; 256 << 10];
    let reads = async {
        loop {
            sleep(Duration::from_millis(1)).await;
            assert_ne!(timeout(LONG, slow.read(&mut piece)).await.unwrap().unwrap(), 0);
        }
    };
    tokio::select! {
        () = reads => {}
        left = timeout(LONG, server.much_dropped.acquire()) => left.unwrap().unwrap().forget(),
    }
    let mut rest = Vec::new();
    let end = timeout(LONG, idle.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(end.is_err() || !rest.is_empty(), "what was on its way may still come");
    assert!(server.much_dropped.try_acquire().is_err(), "the slow one is still served");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_left_when_its_time_is_over() {
    let server = Server::start(BOUNDS, LONG);
    let mut client = server.connect().await;
    client.write_all(b"GET /until HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let left = timeout(LONG, server.much_dropped.acquire()).await;
    left.expect("its body is dropped, long before the connection stalls").unwrap().forget();
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_answer_with_an_end_is_waited_for() {
    let stall = Duration::from_secs(5);
    let (ends, unfinished) = AnswerEnds::at(Instant::now());
    let mut extensions = axum::http::Extensions::new();
    extensions.insert(ends);
    let carried = Arc::new(Carried::default());
    carried.begin(&extensions);
    // It takes one byte, and no more before something is read.
    let (near, _far) = tokio::io::duplex(1);
    let mut stream = Patient::new(near, stall, Arc::clone(&carried));
    stream.write_all(b"a").await.unwrap();
    let begin = Instant::now();
    assert_eq!(stream.write_all(b"b").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(begin.elapsed() < stall, "the body is still there");
    drop(unfinished);
    let early = timeout(Duration::from_secs(2), stream.write_all(b"b")).await;
    assert!(early.is_err(), "the body had ended: {early:?}");
}

#[tokio::test]
async fn requests_that_can_wait_have_a_thread_of_their_own() {
    let own = Unhurried::thread("unhurried").unwrap();
    let server = Server::start_beside(Some(Unhurried::on(&own, &["POST /thread "])), BOUNDS, LONG);
    let mut unhurried = server.connect().await;
    for method in ["POST", "GET"] {
        let request = format!("{method} /thread HTTP/1.1\r\nHost: localhost\r\n\r\n");
        unhurried.write_all(request.as_bytes()).await.unwrap();
        // A connection stays where its first request brought it.
        read_until(&mut unhurried, "unhurried").await;
    }
    let mut other = server.connect().await;
    other
        .write_all(b"GET /thread HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let answer = read_to_end(other).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.ends_with("unhurried"), "{answer}");
    // In pieces it is no beginning that anybody waits for.
    let mut pieces = server.connect().await;
    pieces.write_all(b"POST /thr").await.unwrap();
    let nobody = timeout(Duration::from_millis(100), pieces.read_u8()).await;
    assert!(nobody.is_err(), "{nobody:?}");
    pieces
        .write_all(b"ead HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let answer = read_to_end(pieces).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.ends_with("unhurried"), "{answer}");

    let mut silent = server.connect().await;
    server.stop.cancel();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "who has asked nothing is closed");
    assert!(timeout(LONG, unhurried.read(&mut [0])).await.is_ok(), "as is who asks nothing more");
    server.ended().await;
    own.end().unwrap();
}

#[tokio::test]
async fn who_sends_nothing_is_closed_before_it_is_sorted() {
    let own = Unhurried::thread("unhurried").unwrap();
    let bounds = Bounds { head_time: Duration::from_millis(50), ..BOUNDS };
    let server = Server::start_beside(Some(Unhurried::on(&own, &["POST /thread "])), bounds, LONG);
    assert_eq!(read_to_end(server.connect().await).await, "");
    let mut unfinished = server.connect().await;
    unfinished.write_all(b"POST /thread HTTP/1.1\r\n").await.unwrap();
    assert_eq!(read_to_end(unfinished).await, "");
}

#[test]
fn connections_leave_half_of_the_open_files_to_others() {
    for (files, connections) in [
        (None, 16_384),
        (Some(1 << 20), 16_384),
        (Some(1024), 480),
        (Some(128), 32),
        (Some(32), 16),
    ] {
        assert_eq!(connections_within(files), connections, "{files:?}");
    }
}

const HELLO: &[u8] = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HELLO_AND_CLOSE: &[u8] =
    b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    finish_slow: CancellationToken,
    slow_dropped: CancellationToken,
    /// One for each answer of `/much` that was dropped.
    much_dropped: Arc<Semaphore>,
    running: JoinSet<()>,
}

impl Server {
    /// `/hello` answers at once; `/slow` sends "first" and, when it is told to finish, "last"; `/much` does
    /// not end, and `/until` neither, though its time is over soon.
    fn start(bounds: Bounds, drain: Duration) -> Self {
        Self::start_beside(None, bounds, drain)
    }

    /// The same, where some connections are carried by another thread; `/thread` says by which.
    fn start_beside(unhurried: Option<Unhurried>, bounds: Bounds, drain: Duration) -> Self {
        let (listener, address) = local();
        let [stop, finish_slow, slow_dropped] = std::array::from_fn(|_| CancellationToken::new());
        let (finish, dropped) = (finish_slow.clone(), slow_dropped.clone());
        let slow = move || {
            let (finish, dropped) = (finish.clone(), dropped.clone().drop_guard());
            let last = async move {
                let _dropped = dropped;
                finish.cancelled_owned().await;
                Ok(Bytes::from_static(b"last"))
            };
            let first = futures::stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"first"))]);
            std::future::ready(Body::from_stream(first.chain(futures::stream::once(last))))
        };
        let much_dropped = Arc::new(Semaphore::new(0));
        let dropped = Arc::clone(&much_dropped);
        let much = move || {
            let left = Left(Arc::clone(&dropped));
            let pieces = futures::stream::repeat_with(move || {
                let _left = &left;
                Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 16 << 10]))
            });
            std::future::ready(Body::from_stream(pieces))
        };
        let endless = much.clone();
        let until = move || {
            let pieces = endless().into_inner().into_data_stream();
            let (ends, unfinished) = AnswerEnds::at(Instant::now() + Duration::from_millis(200));
            let pieces = futures::stream::unfold(
                (pieces, unfinished),
                |(mut pieces, unfinished)| async move {
                    Some((pieces.next().await?, (pieces, unfinished)))
                },
            );
            let body = Body::from_stream(pieces);
            std::future::ready((Extension(ends), body))
        };
        let routes = Router::new()
            .route("/until", get(until))
            .route("/hello", get(async || "hello"))
            .route(
                "/thread",
                any(async || thread::current().name().map(str::to_owned).unwrap_or_default()),
            )
            .route("/slow", get(slow))
            .route("/much", get(much));
        let mut running = JoinSet::new();
        running.spawn(serve_within(bounds, listener, routes, unhurried, stop.clone(), drain));
        Self { address, stop, finish_slow, slow_dropped, much_dropped, running }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn answers(&self) -> bool {
        let mut client = self.connect().await;
        client.write_all(HELLO_AND_CLOSE).await.unwrap();
        read_to_end(client).await.ends_with("hello")
    }

    async fn ended(mut self) {
        timeout(LONG, self.running.join_next()).await.expect("the server ends");
    }
}

/// Counts itself when it is dropped.
struct Left(Arc<Semaphore>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

fn local() -> (TcpListener, SocketAddr) {
    bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// Everything until the connection ends, also if it ends by a reset.
async fn read_to_end(mut client: TcpStream) -> String {
    let mut bytes = Vec::new();
    let end = timeout(LONG, client.read_to_end(&mut bytes)).await;
    assert!(end.is_ok(), "the connection stays open after {:?}", String::from_utf8_lossy(&bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn read_until(client: &mut TcpStream, wanted: &str) {
    let mut text = String::new();
    while !text.contains(wanted) {
        let byte = timeout(LONG, client.read_u8()).await.expect("an answer").unwrap();
        text.push(char::from(byte));
    }
}
