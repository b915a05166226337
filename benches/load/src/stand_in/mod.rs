//! A stand-in worker: numbered tokens at a pace, in the words of the worker's contract and in
//! OpenAI's. It computes nothing, so that what stands between it and a client can be measured.

mod answer;
mod dialect;
pub(crate) mod heartbeat;
mod request;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use self::heartbeat::Reporter;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 4096;

/// A stand-in for workers; it runs until it is ended, or until its standard input closes.
#[derive(Debug, Clone, Args)]
pub(crate) struct StandIn {
    /// How many workers to be, each with a port of its own.
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: u32,
    /// The first worker's port, and so on; 0 takes free ones.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// The slots that each worker tells the queen of.
    #[arg(long, default_value_t = 128)]
    pub(crate) slots: u32,
    /// The name of the model that they run.
    #[arg(long, default_value = "stand-in")]
    pub(crate) model: String,
    /// Report to this queen.
    #[arg(long, value_name = "URL", requires = "token_file")]
    pub(crate) queen: Option<String>,
    /// The queen's data/secrets/local.token.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Milliseconds between two reports.
    #[arg(long, default_value_t = 2000)]
    pub(crate) interval_ms: u64,
}

impl StandIn {
    /// Serves; prints each worker's address, one a line, and an empty line when all serve.
    pub(crate) async fn run(self) -> Result<()> {
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        for index in 0..self.workers {
            let port = match self.port {
                0 => 0,
                first => first + u16::try_from(index)?,
            };
            let listener = listen(SocketAddr::from(([127, 0, 0, 1], port)))?;
            addresses.push(listener.local_addr()?);
            tasks.spawn(serve(listener, self.model.clone()));
        }
        if let (Some(queen), Some(file)) = (&self.queen, &self.token_file) {
            let secret = std::fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            let reporter = Reporter::new(queen, secret.trim())?;
            let interval = Duration::from_millis(self.interval_ms);
            for (index, address) in addresses.iter().enumerate() {
                let beat = heartbeat::of_worker(index, 0, *address, &self.model, self.slots)?;
                tasks.spawn(reporter.clone().report_worker(beat, interval, Duration::ZERO));
            }
        }
        for address in &addresses {
            println!("http://{address}");
        }
        println!();
        tokio::select! {
            () = closed_input() => Ok(()),
            Some(ended) = tasks.join_next() => ended?,
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("{address} cannot be taken"))?;
    Ok(socket.listen(BACKLOG)?)
}

async fn serve(listener: TcpListener, model: String) -> Result<()> {
    let model: &'static str = model.leak();
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let service = service_fn(move |request| request::answer(request, model));
            // Clients come and go as they like.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Whoever started this process has gone. A terminal, or nothing, never closes.
async fn closed_input() {
    let mut nothing = [0];
    let mut input = tokio::io::stdin();
    while tokio::io::AsyncReadExt::read(&mut input, &mut nothing).await.is_ok_and(|n| n > 0) {}
}
