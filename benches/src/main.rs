//! `./bench.sh`: figures of rbee, each as a ratio or a difference measured side by side in one run.
//!
//! Machines are noisy, so the two sides of a comparison take turns, and medians are told.
#![expect(clippy::print_stdout, reason = "printing figures is what this is for")]

#[path = "../../bin/30_llm_worker_rbee/tests/worker/bare_loop.rs"]
mod bare_loop;
mod download;
mod drafting;
mod figures;
mod footprint;
mod hive_operation;
mod prefix;
mod sampling;
mod supervision;
mod token_rate;
mod worker;

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
    /// Be the other side of the footprint comparison.
    #[arg(long, hide = true)]
    bare_process: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Tokens per second of a worker over HTTP against llama.cpp's own loop.
    Tokens,
    /// Choosing a token against llama.cpp's own chain of samplers.
    Sampling,
    /// What it saves to know a prompt already.
    Prefix,
    /// What guessing ahead gives and costs.
    Draft,
    /// Memory and start of a worker against llama.cpp's own loop.
    Footprint,
    /// A download by the hive against one by curl.
    Download,
    /// A hive operation by direct call against one over HTTP.
    Hive,
    /// How a hive keeps workers running, and what that takes.
    Supervision,
}

fn main() -> anyhow::Result<()> {
    let begin = std::time::Instant::now();
    llm_worker_rbee::engine::llama::prepare_process();
    let cli = Cli::parse();
    if cli.bare_process {
        println!("{}", footprint::run_bare(begin)?);
        return Ok(());
    }
    let wanted = |what| cli.what.is_empty() || cli.what.contains(&what);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if wanted(What::Hive) {
        println!("{}\n", runtime.block_on(hive_operation::measure(cli.rounds))?);
    }
    if wanted(What::Supervision) {
        println!("{}\n", runtime.block_on(supervision::measure(cli.rounds))?);
    }
    if wanted(What::Download) {
        println!("{}\n", runtime.block_on(download::measure(cli.rounds))?);
    }
    if wanted(What::Tokens) {
        println!("{}\n", token_rate::measure(&runtime, cli.rounds)?);
    }
    if wanted(What::Sampling) {
        println!("{}\n", sampling::measure(cli.rounds)?);
    }
    if wanted(What::Prefix) {
        println!("{}\n", prefix::measure(&runtime, cli.rounds)?);
    }
    if wanted(What::Draft) {
        println!("{}\n", drafting::measure(&runtime, cli.rounds)?);
    }
    if wanted(What::Footprint) {
        println!("{}\n", footprint::measure(&runtime, cli.rounds)?);
    }
    Ok(())
}
