//! `queen-rbee`: the queen as a daemon.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use access_tokens::Authenticator;
use anyhow::Context as _;
use clap::Parser;
use daemon_http::{Edged, OwnThreads, Unhurried, bind, require_safe_bind, serve_beside};
use daemon_lifecycle::{RunFiles, keep_log_bounded, raise_file_limit, shutdown_token};
use mimalloc::MiMalloc;
use queen_rbee::{App, REPORTS, Settings};
use rbee_config::{Config, Paths};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A small answer is some hundred pieces of memory, all for a moment.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

/// The threads for everything but requests.
const BACKGROUND_THREADS: usize = 2;
/// How long the last words of answers may take whose time is over, before their connections are cut.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// With the features: `rbee-keeper queen rebuild` asks for them, to keep them.
const VERSION: &str = if cfg!(feature = "local-hive") {
    concat!(env!("CARGO_PKG_VERSION"), " (local-hive)")
} else {
    env!("CARGO_PKG_VERSION")
};

/// The brain of rbee: one OpenAI-compatible endpoint for all workers.
#[derive(Debug, Parser)]
#[command(name = "queen-rbee", version = VERSION)]
struct Flags {
    /// Where to listen; `[queen] bind` if left out
    #[arg(long, value_name = "IP:PORT")]
    bind: Option<SocketAddr>,
    /// The configuration file; that of RBEE_HOME or of the user if left out
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let log = narration::init("queen-rbee");
    log.end(run(flags))
}

fn run(flags: Flags) -> anyhow::Result<()> {
    raise_file_limit();
    let mut paths = Paths::from_env()?;
    let mut config = configuration(&mut paths, flags.config)?;
    for ignored in rbee_config::ignored_variables() {
        tracing::warn!("{ignored}");
    }
    config.queen.bind = flags.bind.unwrap_or(config.queen.bind);
    let threads = config.queen.threads.map_or_else(usual_threads, |threads| threads as usize);
    let requests = request_threads(threads)?;
    let reports =
        Unhurried::thread("reports").context("the thread for reports cannot be started")?;
    let background = Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .thread_name("background")
        .enable_all()
        .build()
        .context("the queen's threads cannot be started")?;
    background.block_on(reign(paths, config, requests, reports))
}

/// The configuration of the file that the command line names, else of the usual one, which may be missing.
fn configuration(paths: &mut Paths, named: Option<PathBuf>) -> anyhow::Result<Config> {
    let Some(file) = named else { return Ok(Config::load(paths)?) };
    let config = Config::load_named(&file)?;
    paths.config_file = file;
    Ok(config)
}

/// How many threads carry requests where nobody says it.
///
/// Each further one costs the others: they wake each other, and share locks; and where the queen shares her
/// processors with workers, they need them.
fn usual_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    (processors / 4).clamp(1, 8)
}

async fn reign(
    paths: Paths,
    config: Config,
    requests: OwnThreads,
    reports: OwnThreads,
) -> anyhow::Result<()> {
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
        reports: reports.runtime().clone(),
        with_local_hive: true,
    })
    .await?;
    run_lock.publish_addr(address).context("the queen's address cannot be written")?;
    tracing::info!(%address, features = ?queen_rbee::FEATURES, "queen listens");

    let heard = Unhurried::on(&reports, REPORTS);
    let time = drain + LAST_WORDS;
    let serving = serve_on(&requests, listener, app.routes(), heard, stop.clone(), time);
    let serving = async {
        let served = serving.await;
        // Also where it has failed: nobody is there without a door.
        stop.cancel();
        served
    };
    let draining = async {
        stop.cancelled().await;
        // One time for streams and jobs.
        app.end_jobs(drain).await;
    };
    let (served, (), ()) = tokio::join!(serving, draining, keep_log_bounded(log, stop.clone()));
    app.shutdown().await;
    end(requests, "requests").await;
    end(reports, "reports").await;
    tracing::info!("queen stopped");
    served
}

/// The threads that carry requests, apart from those for commands and starts, which wait for disks and
/// programs and would hold every stream up.
fn request_threads(threads: usize) -> anyhow::Result<OwnThreads> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    OwnThreads::start("requests", builder.worker_threads(threads))
        .context("the threads for requests cannot be started")
}

/// Serves on these threads until `stop`, and until what is under way has ended.
async fn serve_on(
    threads: &OwnThreads,
    listener: TcpListener,
    routes: Edged,
    heard: Unhurried,
    stop: CancellationToken,
    drain: Duration,
) -> anyhow::Result<()> {
    // It belongs to the threads on which it was made.
    let listener = listener.into_std().context("the queen's address is lost")?;
    let serving = async move {
        serve_beside(TcpListener::from_std(listener)?, routes, heard, stop, drain).await;
        anyhow::Ok(())
    };
    TaskTracker::new()
        .spawn_on(serving, threads.runtime())
        .await
        .context("the threads that carry requests have failed")?
}

/// Ends threads, and tells where one has panicked.
async fn end(threads: OwnThreads, what_for: &'static str) {
    let ended = tokio::task::spawn_blocking(move || threads.end()).await;
    if !matches!(ended, Ok(Ok(()))) {
        tracing::error!(what_for, "a thread has panicked");
    }
}
