//! `queen-rbee`: the queen as a daemon.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::Duration;

use access_tokens::Authenticator;
use anyhow::Context as _;
use clap::Parser;
use daemon_http::{bind, require_safe_bind, serve};
use daemon_lifecycle::{RunFiles, keep_log_bounded, raise_file_limit, shutdown_token};
use queen_rbee::{App, Settings};
use rbee_config::{Config, Paths};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// The threads for everything but requests.
const BACKGROUND_THREADS: usize = 2;

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
    let threads = config.queen.threads.map_or_else(usual_threads, |threads| threads as usize);
    let background = Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .thread_name("background")
        .enable_all()
        .build()
        .context("the queen's threads cannot be started")?;
    background.block_on(reign(paths, config, threads))
}

/// How many threads carry requests where nobody says it.
///
/// Each further one costs the others: they wake each other, and share locks; and where the queen shares her
/// processors with workers, they need them.
fn usual_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    (processors / 4).clamp(1, 8)
}

async fn reign(paths: Paths, config: Config, threads: usize) -> anyhow::Result<()> {
    paths.create_all()?;
    let stop = shutdown_token()?;
    let run_files = RunFiles::new(&paths.run, "queen-rbee");
    let log = run_files.log_file();
    let run_lock = run_files.acquire()?;

    let auth = Authenticator::from_store(&paths.secrets)?;
    require_safe_bind(config.queen.bind, auth.is_required())?;
    let (listener, address) = bind(config.queen.bind)?;
    let (drain, stopped) = (Duration::from_secs(config.queen.drain_s), stop.clone());
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

    let routes = app.routes();
    let serving = move |listener| serve(listener, routes, stop, drain);
    let served = RequestThreads::start(threads, listener, serving)?;
    tokio::join!(served.end(), keep_log_bounded(log, stopped));
    app.shutdown().await;
    served.join().await;
    tracing::info!("queen stopped");
    Ok(())
}

/// The threads that carry requests: apart from those for commands, starts and reports of what goes on,
/// which wait for disks and programs and would hold every stream up.
struct RequestThreads {
    thread: JoinHandle<()>,
    /// Closed when all requests have been answered.
    served: CancellationToken,
    /// Their connections to workers, which others may use as well, live until this fires.
    over: CancellationToken,
}

impl RequestThreads {
    /// Lets so many threads do what `serving` does with the listener.
    fn start<S>(
        threads: usize,
        listener: TcpListener,
        serving: impl FnOnce(TcpListener) -> S + Send + 'static,
    ) -> anyhow::Result<Self>
    where
        S: Future<Output = ()>,
    {
        let mut runtime = match threads {
            1 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        runtime.worker_threads(threads).thread_name("requests").enable_all();
        let runtime = runtime.build().context("the threads for requests cannot be started")?;
        // It belongs to the threads on which it was made.
        let listener = listener.into_std().context("the queen's address is lost")?;
        let (served, over) = (CancellationToken::new(), CancellationToken::new());
        let (is_served, is_over) = (served.clone().drop_guard(), over.clone());
        let work = move || {
            runtime.block_on(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => serving(listener).await,
                    Err(error) => tracing::error!(%error, "requests cannot be taken"),
                }
                drop(is_served);
                is_over.cancelled().await;
            });
        };
        let thread = std::thread::Builder::new().name("requests".to_owned()).spawn(work)?;
        Ok(Self { thread, served, over })
    }

    /// Waits until all requests have been answered.
    async fn end(&self) {
        self.served.cancelled().await;
    }

    /// Ends the threads.
    async fn join(self) {
        self.over.cancel();
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("a thread that carries requests has panicked");
        }
    }
}
