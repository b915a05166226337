//! `./bench.sh`: figures of rbee, each as a ratio or a difference measured side by side in one run.
//!
//! Machines are noisy, so the two sides of a comparison take turns, and medians are told.
#![expect(clippy::print_stdout, reason = "printing figures is what this is for")]

#[path = "../../bin/30_llm_worker_rbee/tests/worker/bare_loop.rs"]
mod bare_loop;
mod figures;
mod hive_operation;
mod queen_overhead;
mod stand_in;
mod token_rate;

use clap::{Parser, ValueEnum};

/// Measures rbee on this machine.
#[derive(Debug, Parser)]
#[command(name = "rbee-bench")]
struct Cli {
    /// What to measure; everything by default.
    #[arg(value_enum)]
    what: Vec<What>,
    /// Rounds of each comparison; the median is told.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Tokens per second of a worker over HTTP against llama.cpp's own loop.
    Tokens,
    /// What the queen adds to the first token and to each further one.
    Queen,
    /// A hive operation by direct call against one over HTTP.
    Hive,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let wanted = |what| cli.what.is_empty() || cli.what.contains(&what);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if wanted(What::Queen) {
        println!("{}\n", runtime.block_on(queen_overhead::measure(cli.rounds))?);
    }
    if wanted(What::Hive) {
        println!("{}\n", runtime.block_on(hive_operation::measure(cli.rounds))?);
    }
    if wanted(What::Tokens) {
        println!("{}\n", token_rate::measure(&runtime, cli.rounds)?);
    }
    Ok(())
}
