//! The ways from the load to the stand-in: straight, and through each gateway.

mod nginx;
mod process;
mod queen;
mod smg;
mod stand_in;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::time::{Instant, sleep};

pub(crate) use self::process::{Process, Usage};
pub(crate) use self::queen::Queen;
use self::stand_in::Workers;
use crate::client::{Connection, reply};
use crate::order::Order;

/// How long a gateway may take until it answers.
const START: Duration = Duration::from_secs(60);
/// The model that the stand-in runs.
pub(crate) const MODEL: &str = "stand-in";

/// The names of the ways.
pub(crate) const STRAIGHT: &str = "straight";
pub(crate) const NGINX: &str = "nginx";
pub(crate) const SMG: &str = "SMG";
pub(crate) const QUEEN: &str = "queen";

/// Where the programs are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Programs {
    /// The queen without a hive in her: cargo build --profile lto -p queen-rbee; or scripts/build-pgo-queen.sh.
    #[arg(long, value_name = "FILE", default_value = "target/lto/queen-rbee")]
    pub(crate) queen: PathBuf,
    /// nginx; left out if it is not there.
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// Shepherd Model Gateway; left out if it is not there.
    #[arg(long, value_name = "FILE", default_value = "target/smg/bin/smg")]
    smg: PathBuf,
}

/// Starts a gateway in front of workers; gives its address.
type Start = fn(&Path, &[SocketAddr]) -> Result<(Process, SocketAddr)>;

/// One way to the stand-in.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    addresses: Vec<SocketAddr>,
    gateway: Option<Process>,
}

/// All ways to the same stand-in. Dropping them ends all processes.
#[derive(Debug)]
pub(crate) struct Ways {
    pub(crate) all: Vec<Way>,
    /// What was left out, and why.
    pub(crate) left_out: Vec<String>,
    #[expect(dead_code, reason = "dropping them ends them")]
    workers: Workers,
}

impl Way {
    /// Connects the `index`th connection of this way.
    pub(crate) async fn connect(&self, index: usize) -> Result<Connection> {
        Connection::open(self.addresses[index % self.addresses.len()]).await
    }

    /// What the gateway has used so far; `None` for the straight way.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.gateway.as_ref().and_then(|process| process.usage().ok())
    }

    async fn wait_until_it_answers(&self) -> Result<()> {
        let give_up = Instant::now() + START;
        loop {
            let order = Order { tag: 1, tokens: 1, pace: Duration::ZERO };
            let answered = async { reply(&mut self.connect(0).await?, MODEL, order).await };
            match answered.await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > give_up => {
                    let log = self.gateway.as_ref().map_or_else(String::new, Process::log);
                    bail!("{} does not answer: {error:#}\n{log}", self.name);
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Ways {
    /// Starts so many stand-in workers with so many slots each, and the `wanted` gateways in front of
    /// them.
    pub(crate) async fn start(
        programs: &Programs,
        wanted: &[String],
        workers: u32,
        slots: u32,
    ) -> Result<Self> {
        let queen = Queen::start(&programs.queen).await?;
        let workers = Workers::start(workers, slots, &queen)?;
        let addresses = workers.addresses.clone();
        let mut ways = Self { all: Vec::new(), left_out: Vec::new(), workers };
        ways.add(STRAIGHT, addresses.clone(), None).await?;
        let is_wanted = |name: &str| wanted.iter().any(|way| way.eq_ignore_ascii_case(name));
        for (name, program, start) in [
            (NGINX, &programs.nginx, nginx::start as Start),
            (SMG, &programs.smg, smg::start as Start),
        ] {
            if !is_wanted(name) {
                continue;
            }
            if !program.is_file() {
                let reason = format!("{name} is left out: there is no {}", program.display());
                ways.left_out.push(reason);
                continue;
            }
            let (process, address) =
                start(program, &addresses).with_context(|| format!("{name} cannot be started"))?;
            ways.add(name, vec![address], Some(process)).await?;
        }
        if is_wanted(QUEEN) {
            ways.add(QUEEN, vec![queen.address], Some(queen.process)).await?;
        }
        Ok(ways)
    }

    async fn add(
        &mut self,
        name: &'static str,
        addresses: Vec<SocketAddr>,
        gateway: Option<Process>,
    ) -> Result<()> {
        let way = Way { name, addresses, gateway };
        way.wait_until_it_answers().await?;
        self.all.push(way);
        Ok(())
    }

    /// The way with this name, where it is there.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|way| way.name == name)
    }
}

/// A port that nothing listens on at the moment.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
