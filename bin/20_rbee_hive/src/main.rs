//! `rbee-hive`: the hive as a daemon of its own.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use access_tokens::{Authenticator, local_secret};
use anyhow::Context;
use clap::Parser;
use daemon_http::{Edge, bind, edge, serve};
use daemon_lifecycle::{LEAVES_WORKERS, RunFiles, build_info, keep_log_bounded, shutdown_token};
use job_server::{Executor, JobRegistry, Limits};
use rbee_config::{Config, Paths};
use rbee_hive::{Announcement, Hive, HiveSettings, is_model_file, model_files, router};
use worker_contract::HiveAlias;

/// The largest request body, in bytes: an operation is small.
const MAX_BODY_BYTES: u64 = 1024 * 1024;

/// One machine of rbee: starts and watches its workers, keeps its models.
#[derive(Debug, Parser)]
#[command(name = "rbee-hive", version)]
struct Flags {
    /// Where to listen; `[hive] bind` if left out
    #[arg(long, value_name = "IP:PORT")]
    bind: Option<SocketAddr>,
    /// The queen's base URL, for heartbeats; `[hive] queen_url` if left out
    #[arg(long, value_name = "URL")]
    queen: Option<String>,
    /// The hive's name; `[hive] alias` if left out
    #[arg(long, value_name = "NAME")]
    alias: Option<HiveAlias>,
    /// The host name or IP under which the queen reaches this machine
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let log = narration::init("rbee-hive");
    log.end(run(flags))
}

/// A network without mDNS is no reason not to run.
fn announce(hive: &Hive, host: &str, port: u16) -> Option<Announcement> {
    match Announcement::start(hive.alias(), host, port) {
        Ok(announcement) => Some(announcement),
        Err(error) => {
            tracing::warn!(%error, "the hive cannot be announced on the network");
            None
        }
    }
}

/// Tells what a queen needs to know of this hive: the secret itself to a person at a console only.
fn tell_how_to_join(hive: &Hive, secret_file: &Path) {
    let Some(url) = hive.address() else { return };
    let alias = hive.alias();
    let command = format!("rbee-keeper hive add {alias} --url {url} --secret-file FILE");
    let file = secret_file.display();
    tracing::info!(command, secret = %file, "a queen elsewhere takes this hive in by its secret");
    if std::io::stderr().is_terminal()
        && let Ok(secret) = std::fs::read_to_string(secret_file)
    {
        // For the console, never for a log.
        narration::tell(format!("the secret of this hive, for `hive add`: {}", secret.trim()));
    }
}

#[tokio::main]
async fn run(flags: Flags) -> anyhow::Result<()> {
    let paths = Paths::from_env()?;
    let config = configured(&paths, flags)?;
    paths.create_all()?;
    let stop = shutdown_token()?;
    let run_files = RunFiles::new(&paths.run, "rbee-hive");
    let log = run_files.log_file();
    let run_lock = run_files.acquire()?;

    let auth = authenticator(&paths, config.hive.bind)?;
    let (listener, address) = bind(config.hive.bind)?;
    let secret = local_secret(&paths.secrets)?;
    let shown_to_queen = secret.clone();
    let secret_file = paths.secrets.join("local.token");
    let settings = HiveSettings::standalone(paths, &config, address, secret)?;
    let hive = Hive::start(settings).await?;
    let jobs = JobRegistry::in_memory(Limits::default());
    let build = build_info("rbee-hive", env!("CARGO_PKG_VERSION"), &[LEAVES_WORKERS]);
    let executor: Arc<dyn Executor> = Arc::new(hive.clone());
    hive.resume_downloads(&jobs, &executor);
    let routes = router(&hive, jobs.clone(), auth.clone(), build, stop.clone());
    let routes = edge(routes, Edge { auth, max_body_bytes: MAX_BODY_BYTES });
    let routes = routes.with_self_guarded(is_model_file, model_files(&hive, shown_to_queen));
    run_lock.publish_addr(address).context("the hive's address cannot be written")?;
    tracing::info!(%address, hive = %hive.alias(), "hive listens");
    let can_be_reached = !address.ip().to_canonical().is_loopback();
    if can_be_reached {
        tell_how_to_join(&hive, &secret_file);
    }
    let announcement = (can_be_reached && config.hive.announce)
        .then(|| announce(&hive, hive.host(), address.port()))
        .flatten();

    let grace = Duration::from_secs(config.hive.stop_grace_s);
    let drained = async {
        stop.cancelled().await;
        tracing::info!("stopping all workers");
        if let Some(announcement) = announcement {
            announcement.end().await;
        }
        hive.leave_downloads();
        jobs.shutdown(grace).await;
        hive.shutdown().await;
    };
    let serving = serve(listener, routes, stop.clone(), grace);
    tokio::join!(serving, drained, keep_log_bounded(log, stop.clone()));
    tracing::info!("hive stopped");
    Ok(())
}

/// Who may come in: where other machines can reach the hive, only who shows its secret or a token.
fn authenticator(paths: &Paths, bind: SocketAddr) -> anyhow::Result<Authenticator> {
    let auth = Authenticator::from_store(&paths.secrets)?;
    Ok(if bind.ip().to_canonical().is_loopback() { auth } else { auth.demanding() })
}

/// The configuration, with what the command line says in its place.
fn configured(paths: &Paths, flags: Flags) -> anyhow::Result<Config> {
    let mut config = Config::load(paths)?;
    for ignored in rbee_config::ignored_variables() {
        tracing::warn!("{ignored}");
    }
    let hive = &mut config.hive;
    if let Some(bind) = flags.bind {
        hive.bind = bind;
    }
    if let Some(alias) = flags.alias {
        hive.alias = alias;
    }
    hive.queen_url = flags.queen.or(hive.queen_url.take());
    hive.advertise = flags.advertise.or(hive.advertise.take());
    Ok(config)
}
