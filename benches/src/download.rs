//! A download by the hive against one by curl, from the same server on this machine.
//!
//! Both write to the same disk. What the hive does besides is in its time: it computes the SHA-256,
//! has the file on the disk for good, has the worker read what it is, and puts it into the catalog.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use job_client::{JobClient, JobEnd};
use rbee_operations::{ModelDownload, ModelTarget, Operation};
use test_cluster::{Cluster, demo_model};
use worker_contract::{HiveAlias, ModelAlias};

use crate::figures::{median, table};

/// The size of the file, in bytes.
const SIZE: usize = 1 << 30;

pub(crate) async fn measure(rounds: usize) -> Result<String> {
    let server = Server::start(model()?)?;
    let cluster = Cluster::builder().integrated().start().await?;
    let client = JobClient::new(cluster.api()?.base(), None);
    let scratch = cluster.home().path().join("curl.gguf");
    let (mut curl, mut arrived, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let by_curl = time_of_curl(&server.url(), &scratch)?;
        let (until_arrived, until_known) = time_of_hive(&client, &server.url()).await?;
        if round > 0 {
            curl.push(by_curl);
            arrived.push(until_arrived);
            whole.push(until_known);
        }
    }
    let rate = |seconds: f64| SIZE as f64 / 1e6 / seconds;
    let row = |name: &str, seconds: &[f64]| {
        let ratios: Vec<f64> = curl.iter().zip(seconds).map(|(curl, own)| curl / own).collect();
        vec![
            name.to_owned(),
            format!("{:.0}", rate(median(seconds))),
            format!("{:.2}", median(&ratios)),
        ]
    };
    let rows = vec![
        row("curl", &curl),
        row("hive, until all is there and its digest known", &arrived),
        row("hive, until the model is in the catalog", &whole),
    ];
    let title = "A download of 1 GiB from this machine; aim: 0.9 of curl's rate with SHA-256";
    Ok(table(title, &["download", "MB/s", "of curl's rate"], rows))
}

/// Seconds that curl takes.
fn time_of_curl(url: &str, to: &std::path::Path) -> Result<f64> {
    let _ = fs::remove_file(to);
    let begin = Instant::now();
    let status = Command::new("curl").args(["-sf", "-o"]).arg(to).arg(url).status();
    let status = status.context("curl cannot be run")?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "curl: {status}");
    fs::remove_file(to)?;
    Ok(seconds)
}

/// Seconds that the hive takes until it has read the file's digest, and until the model is known.
async fn time_of_hive(client: &JobClient, url: &str) -> Result<(f64, f64)> {
    let (hive_id, alias) = (HiveAlias::localhost(), "bench".parse::<ModelAlias>()?);
    let download = Operation::ModelDownload(ModelDownload {
        hive_id: hive_id.clone(),
        reference: url.parse()?,
        alias: Some(alias.clone()),
        projector: rbee_operations::ProjectorChoice::Without,
    });
    let begin = Instant::now();
    let mut arrived = None;
    let end = client
        .run(&download, |event| {
            if event.message.starts_with("Reading") {
                arrived.get_or_insert(begin.elapsed().as_secs_f64());
            }
        })
        .await?;
    let whole = begin.elapsed().as_secs_f64();
    ensure!(matches!(end, JobEnd::Succeeded(_)), "the download failed: {end:?}");
    let delete = Operation::ModelDelete(ModelTarget { hive_id, model: alias });
    client.run(&delete, |_| {}).await?;
    Ok((arrived.unwrap_or(whole), whole))
}

/// A model of the wanted size: the demo model, and after it bytes that nothing reads.
fn model() -> Result<Vec<u8>> {
    let mut bytes = fs::read(demo_model()?)?;
    let begin = bytes.clone();
    while bytes.len() < SIZE {
        let more = begin.len().min(SIZE - bytes.len());
        bytes.extend_from_slice(&begin[..more]);
    }
    Ok(bytes)
}

/// A web server with one file in memory, as fast as one can be: a thread for each connection.
struct Server {
    port: u16,
}

impl Server {
    fn start(file: Vec<u8>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let file = Arc::new(file);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let file = Arc::clone(&file);
                // A client that goes away early is none of the server's business.
                std::thread::spawn(move || serve(&stream, &file));
            }
        });
        Ok(Self { port })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/bench.gguf", self.port)
    }
}

fn serve(stream: &TcpStream, file: &[u8]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream);
    loop {
        let (mut request, mut range) = (String::new(), None);
        if lines.read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(asked) = line.strip_prefix("range: bytes=") {
                range = asked.split_once('-').map(|(start, end)| {
                    let end = end.parse().unwrap_or(file.len() - 1);
                    (start.parse().unwrap_or(0), end + 1)
                });
            }
        }
        let (start, end) = range.unwrap_or((0, file.len()));
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        let head = format!(
            "HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\nETag: \"bench\"\r\nContent-Length: {}\r\n\
             Content-Range: bytes {start}-{}/{}\r\n\r\n",
            end - start,
            end - 1,
            file.len()
        );
        let mut stream = stream;
        stream.write_all(head.as_bytes())?;
        if !request.starts_with("HEAD") {
            stream.write_all(&file[start..end])?;
        }
    }
}
