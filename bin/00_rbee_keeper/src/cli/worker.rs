//! `worker …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use worker_contract::{DeviceId, HiveAlias, WorkerId};

use super::OfHive;
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
    /// List the workers of all hives, and the models of attached servers
    List(OfHive),
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
    /// Make the models of somebody else's server workers: Ollama, LM Studio, vLLM, llama-server
    ///
    /// The server runs on as it is. The queen looks at it again and again, lists its models, sends it
    /// requests for them, and goes on elsewhere when it fails. The same command again changes it.
    #[command(after_help = "\
Examples:
  rbee-keeper worker attach --url http://nas:11434
  rbee-keeper worker attach --url http://gpu-box:8000/v1 --name vllm --slots 32 --secret-file FILE
  rbee-keeper worker attach --url http://desk:1234 --model qwen2.5-7b-instruct")]
    Attach(AttachArgs),
    /// Forget a server that was attached; it runs on
    Detach {
        /// The server's name
        #[arg(value_name = "NAME")]
        name: HiveAlias,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The server's base URL, with or without /v1
    #[arg(long, value_name = "URL")]
    pub(crate) url: String,
    /// What it speaks
    #[arg(long, value_name = "API", default_value = "openai", value_parser = ["openai"])]
    pub(crate) api: String,
    /// The name that it is to have [default: the URL's host; server-PORT for this machine or an IPv6 address]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<HiveAlias>,
    /// A file with the token that the server demands; - reads it from stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) secret_file: Option<PathBuf>,
    /// How many requests each of its models runs at once [default: what a llama-server says; 64 for vLLM, 16 for another rbee, 1 for Ollama, else 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) slots: Option<u32>,
    /// Only this one of its models; can be given again
    #[arg(long = "model", short, value_name = "MODEL")]
    pub(crate) models: Vec<String>,
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
    /// The model, by its name in a hive's catalog, or a reference: what is not there is downloaded
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: WantedModel,
    /// The device: CPU-0, GPU-0, … [default: the hive's first GPU, else CPU-0]
    #[arg(long, short, value_name = "ID")]
    pub(crate) device: Option<DeviceId>,
    /// On which hive [default: this machine's, else the one that has the model]
    #[arg(long, value_name = "ALIAS")]
    pub(crate) hive: Option<HiveAlias>,
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
    /// On which hive [default: the one that has it]
    #[arg(long, value_name = "ALIAS")]
    pub(crate) hive: Option<HiveAlias>,
}
