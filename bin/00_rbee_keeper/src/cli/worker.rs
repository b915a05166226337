//! `worker …`

use clap::{Args, Subcommand};
use worker_contract::{DeviceId, WorkerId};

use super::OnHive;
use crate::wanted_model::WantedModel;

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Start a worker for a model
    #[command(after_help = "\
Examples:
  rbee-keeper worker spawn --model smollm2 --device CPU-0
  rbee-keeper worker spawn --model llama-8b --device GPU-0 --slots 8 --ctx-size 32768
  rbee-keeper worker spawn --model hf:bartowski/Llama-3.2-3B-Instruct-GGUF     download it first")]
    Spawn(SpawnArgs),
    /// List a hive's workers
    List(OnHive),
    /// Show one worker
    Get(WorkerArg),
    /// Stop a worker
    Delete(WorkerArg),
    /// Start a worker again, be it running or given up after too many failures
    Restart(WorkerArg),
    /// Show what a worker's engine has written
    #[command(after_help = "\
Examples:
  rbee-keeper worker logs w-1 -n 20
  rbee-keeper worker logs w-1 --follow        until Ctrl-C, or the worker is deleted")]
    Logs(LogsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) worker: WorkerArg,
    /// Go on with what is written from now on
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the last lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) lines: u32,
}

#[derive(Debug, Args)]
pub(crate) struct SpawnArgs {
    /// The model, by its name in the hive's catalog, or a reference: what is not there is downloaded
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: WantedModel,
    /// The device: CPU-0, GPU-0, … [default: the hive's first GPU, else CPU-0]
    #[arg(long, short, value_name = "ID")]
    pub(crate) device: Option<DeviceId>,
    #[command(flatten)]
    pub(crate) on: OnHive,
    /// How many requests run at once [default: the hive's setting]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) slots: Option<u32>,
    /// Tokens that fit into the context, all slots together [default: the hive's setting]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ctx_size: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArg {
    /// The worker's id, as `worker list` shows it
    #[arg(value_name = "WORKER")]
    pub(crate) worker_id: WorkerId,
    #[command(flatten)]
    pub(crate) on: OnHive,
}
