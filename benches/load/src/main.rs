//! `./bench.sh gateway|scale|heartbeats`: what the queen costs a stream, a reply and a connection,
//! beside other gateways; and the load and the stand-in worker that it takes to know.
//!
//! Load, stand-in and gateways are processes of their own. Whatever is measured is also checked:
//! every token must arrive once, in its order, in its answer.
#![expect(clippy::print_stdout, reason = "printing figures is what this is for")]

mod client;
mod figures;
mod measure;
mod order;
mod stand_in;
mod way;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use self::measure::{fastest, heartbeats, paced, replies, scale};
use self::stand_in::StandIn;
use self::way::{Programs, Ways};

/// A load generator and a stand-in worker
#[derive(Debug, Parser)]
#[command(name = "rbee-load")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the queen adds to tokens, and how many she carries, beside nginx and SMG
    Gateway {
        /// What to measure; everything by default
        #[arg(value_enum)]
        parts: Vec<Part>,
        #[command(flatten)]
        comparison: Comparison,
    },
    /// A thousand and ten thousand streams of one token a second
    Scale {
        /// How many streams, one run after the other
        #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
        streams: Vec<u32>,
        #[command(flatten)]
        comparison: Comparison,
    },
    /// What reports of 100 hives and 2,000 workers take of the queen
    Heartbeats(Comparison),
    /// Be a worker that computes nothing
    StandIn(StandIn),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Tokens at a pace
    Paced,
    /// Tokens as fast as they come
    Fastest,
    /// Answers that are no streams
    Replies,
}

#[derive(Debug, clap::Args)]
struct Comparison {
    #[command(flatten)]
    programs: Programs,
    /// Rounds of each comparison; the median is told
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The ways to compare besides the straight one
    #[arg(long, value_delimiter = ',', default_value = "nginx,SMG,queen")]
    ways: Vec<String>,
}

/// The stand-in workers of a comparison, and their slots.
const WORKERS: u32 = 4;
const SLOTS: u32 = 128;
/// Those for very many streams.
const MANY_WORKERS: u32 = 40;
const MANY_SLOTS: u32 = 256;

fn main() -> Result<()> {
    // One thread: the gateways have the other core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(run(Cli::parse().command));
    // A read of standard input cannot be taken back.
    runtime.shutdown_background();
    ended
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Gateway { parts, comparison } => {
            let ways = comparison.start(WORKERS, SLOTS).await?;
            let wanted = |part| parts.is_empty() || parts.contains(&part);
            if wanted(Part::Paced) {
                println!("{}\n", paced::measure(&ways, comparison.rounds).await?);
            }
            if wanted(Part::Fastest) {
                println!("{}\n", fastest::measure(&ways, comparison.rounds).await?);
            }
            if wanted(Part::Replies) {
                println!("{}\n", replies::measure(&ways, comparison.rounds).await?);
            }
        }
        Command::Scale { streams, comparison } => {
            let ways = comparison.start(MANY_WORKERS, MANY_SLOTS).await?;
            println!("{}\n", scale::measure(&ways, &streams).await?);
        }
        Command::Heartbeats(Comparison { programs, rounds, .. }) => {
            println!("{}\n", heartbeats::measure(&programs, rounds).await?);
        }
        Command::StandIn(stand_in) => stand_in.run().await?,
    }
    Ok(())
}

impl Comparison {
    async fn start(&self, workers: u32, slots: u32) -> Result<Ways> {
        let ways = Ways::start(&self.programs, &self.ways, workers, slots).await?;
        for reason in &ways.left_out {
            println!("{reason}\n");
        }
        Ok(ways)
    }
}
