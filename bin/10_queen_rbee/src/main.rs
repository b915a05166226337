//! `queen-rbee`: the queen as a daemon.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use access_tokens::Authenticator;
use anyhow::Context as _;
use clap::Parser;
use daemon_http::{bind, require_safe_bind, serve};
use daemon_lifecycle::{RunFiles, keep_log_bounded, raise_file_limit, shutdown_token};
use queen_rbee::{App, Settings};
use rbee_config::{Config, Paths};

/// The brain of rbee: one OpenAI-compatible endpoint for all workers.
#[derive(Debug, Parser)]
#[command(name = "queen-rbee", version)]
struct Flags {
    /// Where to listen; `[queen] bind` if left out
    #[arg(long, value_name = "IP:PORT")]
    bind: Option<SocketAddr>,
    /// The configuration file; that of RBEE_HOME or of the user if left out
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    narration::init("queen-rbee");
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last line is for whoever started the queen")]
fn tell(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

fn run(flags: Flags) -> anyhow::Result<()> {
    raise_file_limit();
    let mut paths = Paths::from_env()?;
    if let Some(file) = flags.config {
        paths.config_file = file;
    }
    let mut config = Config::load(&paths)?;
    config.queen.bind = flags.bind.unwrap_or(config.queen.bind);
    let threads = config.queen.threads.map_or_else(threads, |threads| threads as usize);
    let mut runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("the queen's threads cannot be started")?
        .block_on(reign(paths, config))
}

/// How many threads carry requests where nobody says it.
///
/// Each further one costs the others: they wake each other, and share locks. A thread carries more than
/// 100,000 tokens a second, and where the queen shares her processors with workers, they need them.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    (processors / 4).clamp(1, 8)
}

async fn reign(paths: Paths, config: Config) -> anyhow::Result<()> {
    paths.create_all()?;
    let stop = shutdown_token()?;
    let run_files = RunFiles::new(&paths.run, "queen-rbee");
    let log = run_files.log_file();
    let run_lock = run_files.acquire()?;

    let auth = Authenticator::from_store(&paths.secrets)?;
    require_safe_bind(config.queen.bind, auth.is_required())?;
    let (listener, address) = bind(config.queen.bind)?;
    let drain = Duration::from_secs(config.queen.drain_s);
    let app = App::start(Settings {
        paths,
        config,
        address,
        auth,
        stop: stop.clone(),
        with_local_hive: true,
    })
    .await?;
    run_lock.publish_addr(address).context("the queen's address cannot be written")?;
    tracing::info!(%address, features = ?queen_rbee::FEATURES, "queen listens");

    let serving = serve(listener, app.router(), stop.clone(), drain);
    tokio::join!(serving, keep_log_bounded(log, stop));
    app.shutdown().await;
    tracing::info!("queen stopped");
    Ok(())
}
