//! Telling the queen about this machine: at each change, and at least every two seconds.
//!
//! Where nobody listens it is tried again sooner, so that a queen that is started again soon knows whom she has.
//! Changes that come faster than the queen takes them are told as one; nothing queues up.

use std::time::Duration;

use access_tokens::Secret;
use backon::{BackoffBuilder, ConstantBuilder};
use reqwest::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use worker_contract::{ApiErrorBody, HiveHeartbeat};

/// How often a hive tells of itself.
const PACE: Pace = Pace {
    interval: Duration::from_secs(2),
    pause: Duration::from_millis(50),
    again: Duration::from_millis(250),
};
/// How long the queen may take to accept one.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of an answer that is no success is read, in bytes.
const MAX_REFUSAL: usize = 16 * 1024;
/// How long the last one may take, when the hive ends.
const LAST_PATIENCE: Duration = Duration::from_millis(500);

/// Where a hive's heartbeats go.
#[derive(Debug)]
pub enum HeartbeatSink {
    /// Nowhere: this hive has no queen.
    None,
    /// To a queen over HTTP.
    Http {
        /// The queen's base URL.
        queen_url: String,
        /// The secret that the queen accepts.
        token: Secret,
    },
    /// To a queen in the same process.
    Channel(mpsc::Sender<HiveHeartbeat>),
}

/// Sends what `look` sees until `stop`, and once more then.
pub(crate) async fn beat(
    sink: HeartbeatSink,
    look: impl Fn() -> HiveHeartbeat,
    changes: watch::Receiver<()>,
    stop: CancellationToken,
) {
    beat_at(PACE, sink, look, changes, stop).await;
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    /// The longest silence.
    interval: Duration,
    /// The shortest pause after a change, so that a loading worker does not fill the line.
    pause: Duration,
    /// After how long a queen whom nobody is in place of is looked for again, at least; twice that at most.
    again: Duration,
}

impl Pace {
    /// The longest silence after a heartbeat. Hives that lose their queen together do not all come back at once.
    fn silence(self, is_there: bool) -> Duration {
        if is_there {
            return self.interval;
        }
        let pauses = ConstantBuilder::new().with_delay(self.again).with_jitter();
        pauses.build().next().unwrap_or(self.again).min(self.interval)
    }
}

async fn beat_at(
    pace: Pace,
    sink: HeartbeatSink,
    look: impl Fn() -> HiveHeartbeat,
    mut changes: watch::Receiver<()>,
    stop: CancellationToken,
) {
    let mut line = match sink {
        HeartbeatSink::None => return,
        HeartbeatSink::Channel(channel) => Line::Channel(channel),
        HeartbeatSink::Http { queen_url, token } => Line::Http(HttpLine::new(&queen_url, token)),
    };
    while !stop.is_cancelled() {
        changes.mark_unchanged();
        let is_there = tokio::select! {
            is_there = line.send(&look) => is_there,
            () = stop.cancelled() => break,
        };
        let pause = async {
            tokio::time::sleep(pace.pause).await;
            // The sender lives as long as the hive; without it the interval alone counts.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(pace.silence(is_there), pause) => {}
            () = stop.cancelled() => {}
        }
    }
    let _ = tokio::time::timeout(LAST_PATIENCE, line.send(&look)).await;
}

enum Line {
    Channel(mpsc::Sender<HiveHeartbeat>),
    Http(HttpLine),
}

impl Line {
    /// Whether somebody is there, who may have refused it.
    async fn send(&mut self, look: &impl Fn() -> HiveHeartbeat) -> bool {
        match self {
            // Looked at when there is room, so that it is not old when it arrives.
            Self::Channel(channel) => {
                if let Ok(room) = channel.reserve().await {
                    room.send(look());
                }
                true
            }
            Self::Http(line) => line.send(&look()).await,
        }
    }
}

struct HttpLine {
    client: reqwest::Client,
    url: String,
    token: Secret,
    outage: Outage,
}

impl HttpLine {
    fn new(queen_url: &str, token: Secret) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
        Self {
            client: client.expect("a client without TLS or proxy needs nothing from the system"),
            url: format!("{}/v1/hive-heartbeat", queen_url.trim_end_matches('/')),
            token,
            outage: Outage::default(),
        }
    }

    /// Whether somebody is there: who refuses it, or is slow, is not helped by more of them.
    async fn send(&mut self, heartbeat: &HiveHeartbeat) -> bool {
        let request = self.client.post(&self.url).bearer_auth(self.token.expose()).json(heartbeat);
        let answer = request.send().await;
        let is_there = answer.as_ref().err().is_none_or(reqwest::Error::is_timeout);
        let sent = match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(refusal(answer, heartbeat).await),
            Err(error) => Err(innermost(&error)),
        };
        match self.outage.note(sent) {
            Some(Err(reason)) => {
                tracing::warn!(url = %self.url, reason, "the queen does not take heartbeats");
            }
            Some(Ok(())) => tracing::info!(url = %self.url, "the queen takes heartbeats"),
            None => {}
        }
        is_there
    }
}

/// What became of the last heartbeat; only a change is news.
#[derive(Debug, Default)]
struct Outage {
    last: Option<Result<(), String>>,
}

impl Outage {
    fn note(&mut self, sent: Result<(), String>) -> Option<Result<(), String>> {
        let before = self.last.replace(sent.clone());
        (before.as_ref() != Some(&sent)).then_some(sent)
    }
}

/// What it means that the queen does not accept the secret: her own words are about the tokens of clients, of which
/// a hive has none.
fn not_added(heartbeat: &HiveHeartbeat) -> String {
    let url = heartbeat.address.as_deref().unwrap_or("URL");
    let (first, alias) = match &heartbeat.hive_id {
        // That is the name of the hive on her own machine.
        alias if alias.is_localhost() => ("start it with --alias NAME, then ", "NAME"),
        alias => ("", alias.as_str()),
    };
    format!(
        "the queen does not know this hive's secret: {first}add it there with `rbee-keeper hive add {alias} --url \
         {url} --secret-file FILE`"
    )
}

/// What the queen says to a heartbeat that she does not take.
async fn refusal(mut answer: reqwest::Response, heartbeat: &HiveHeartbeat) -> String {
    let status = answer.status();
    if status == StatusCode::UNAUTHORIZED {
        return not_added(heartbeat);
    }
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await
        && body.len() < MAX_REFUSAL
    {
        body.extend_from_slice(&chunk);
    }
    let Ok(ApiErrorBody { error }) = serde_json::from_slice(&body) else {
        return status.to_string();
    };
    match error.hint {
        Some(hint) => format!("{}; {hint}", error.message),
        None => error.message,
    }
}

/// The cause at the end of the chain: `Connection refused` instead of `error sending request`.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::changes::Changes;

    #[test]
    fn an_outage_is_news_once_and_again_for_another_reason() {
        let mut outage = Outage::default();
        let (ok, gone, refused) = (Ok(()), Err("gone".to_owned()), Err("refused".to_owned()));
        for (sent, is_news) in [
            (&ok, true),
            (&ok, false),
            (&gone, true),
            (&gone, false),
            (&refused, true),
            (&refused, false),
            (&ok, true),
        ] {
            let told = outage.note(sent.clone());
            assert_eq!(told.as_ref(), is_news.then_some(sent));
        }
    }

    #[tokio::test]
    async fn a_hive_whose_secret_the_queen_does_not_know_is_told_how_to_add_it() {
        for (alias, address, advice) in [
            (
                "nas",
                Some("http://nas:9000"),
                "add it there with `rbee-keeper hive add nas --url http://nas:9000 --secret-file FILE`",
            ),
            (
                "nas",
                None,
                "add it there with `rbee-keeper hive add nas --url URL --secret-file FILE`",
            ),
            (
                "localhost",
                Some("http://nas:9000"),
                "start it with --alias NAME, then add it there with `rbee-keeper hive add NAME --url \
                 http://nas:9000 --secret-file FILE`",
            ),
        ] {
            let beat = HiveHeartbeat {
                hive_id: alias.parse().unwrap(),
                address: address.map(str::to_owned),
                ..heartbeat()
            };
            let body = r#"{"error": {"message": "the API token is not valid", "type": "authentication_error"}}"#;
            let answer = axum::http::Response::builder().status(401).body(body).unwrap();
            let told = refusal(answer.into(), &beat).await;
            assert_eq!(told, format!("the queen does not know this hive's secret: {advice}"));
        }
    }

    #[tokio::test]
    async fn a_silent_hive_beats_at_its_interval_and_many_changes_are_told_as_one() {
        let pace =
            Pace { interval: Duration::from_secs(1), pause: Duration::from_millis(20), ..PACE };
        let (sender, mut receiver) = mpsc::channel(1);
        let sink = HeartbeatSink::Channel(sender);
        let (changes, stop) = (Changes::default(), CancellationToken::new());
        let looks = AtomicU32::new(0);
        let look = || {
            looks.fetch_add(1, Ordering::Relaxed);
            heartbeat()
        };
        let beats = beat_at(pace, sink, look, changes.subscribe(), stop.clone());
        let test = async {
            receiver.recv().await.unwrap();
            let silent = Instant::now();
            receiver.recv().await.unwrap();
            assert!(silent.elapsed() >= Duration::from_millis(900), "{:?}", silent.elapsed());

            let told = Instant::now();
            for _ in 0..100 {
                changes.note();
            }
            receiver.recv().await.unwrap();
            assert!(told.elapsed() < Duration::from_millis(900), "{:?}", told.elapsed());

            stop.cancel();
            receiver.recv().await.expect("a last one tells of the end");
        };
        tokio::join!(beats, test);
        assert_eq!(looks.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_queen_that_is_away_is_looked_for_sooner_than_one_that_is_there_is_told() {
        for (interval, is_there, least, most) in [
            (2_000, true, 2_000, 2_000),
            (2_000, false, 250, 500),
            // No later than the next heartbeat.
            (200, false, 200, 200),
        ] {
            let pace = Pace { interval: Duration::from_millis(interval), ..PACE };
            for _ in 0..100 {
                let silence = pace.silence(is_there).as_millis();
                assert!((least..=most).contains(&silence), "{interval} {is_there}: {silence} ms");
            }
        }
    }

    #[tokio::test]
    async fn a_queen_who_refuses_is_there_and_one_who_has_ended_is_looked_for_before_the_next_beat()
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let queen_url = format!("http://{}", listener.local_addr().unwrap());
        let token = || Secret::from("x".repeat(32));
        let refuse = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let answer =
                b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            assert_ne!(connection.read(&mut [0; 4096]).await.unwrap(), 0);
            connection.write_all(answer).await.unwrap();
            connection
        };
        let (mut line, beat) = (HttpLine::new(&queen_url, token()), heartbeat());
        let (is_there, connection) = tokio::join!(line.send(&beat), refuse);
        assert!(is_there);
        drop((listener, connection));
        assert!(!line.send(&heartbeat()).await);

        let pace = Pace { interval: Duration::from_secs(3600), ..PACE };
        let (sender, mut looks) = mpsc::channel(8);
        let look = || {
            let _ = sender.try_send(());
            heartbeat()
        };
        let (changes, stop) = (Changes::default(), CancellationToken::new());
        let sink = HeartbeatSink::Http { queen_url, token: token() };
        let beats = beat_at(pace, sink, look, changes.subscribe(), stop.clone());
        let test = async {
            for attempt in 0..3 {
                let tried = tokio::time::timeout(Duration::from_secs(30), looks.recv()).await;
                assert_eq!(tried, Ok(Some(())), "attempt {attempt}");
            }
            stop.cancel();
        };
        tokio::join!(beats, test);
    }

    #[tokio::test]
    async fn a_queen_that_takes_nothing_does_not_hold_the_end_up() {
        let (sender, _receiver) = mpsc::channel(1);
        sender.send(heartbeat()).await.unwrap();
        let (changes, stop) = (Changes::default(), CancellationToken::new());
        let sink = HeartbeatSink::Channel(sender);
        let beats = beat(sink, heartbeat, changes.subscribe(), stop.clone());
        let begun = Instant::now();
        tokio::join!(beats, async { stop.cancel() });
        assert!(begun.elapsed() < LAST_PATIENCE + Duration::from_secs(5));
    }

    fn heartbeat() -> HiveHeartbeat {
        HiveHeartbeat {
            hive_id: worker_contract::HiveAlias::localhost(),
            address: None,
            version: "0".into(),
            devices: Vec::new(),
            catalog: Vec::new(),
            workers: Vec::new(),
            trouble: None,
        }
    }
}
