//! The words of the command line, and nothing else: what each of them does is in `command/`.

mod hive;
mod infer;
mod job;
mod model;
mod queen;
mod rules;
mod token;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use worker_contract::HiveAlias;

pub(crate) use self::hive::{HiveAddArgs, HiveCommand, NamedHive};
pub(crate) use self::infer::{InferArgs, SamplingArgs};
pub(crate) use self::job::JobCommand;
pub(crate) use self::model::{
    AcceptArgs, DownloadArgs, FromStore, ImportArgs, ListModelsArgs, ModelArg, ModelCommand,
    PolicyArgs, UpdateArgs, VerifyArgs,
};
pub(crate) use self::queen::{QueenCommand, RebuildArgs};
pub(crate) use self::rules::{PolicyCommand, RequestCommand};
pub(crate) use self::token::TokenCommand;
pub(crate) use self::worker::{AttachArgs, LogsArgs, SpawnArgs, WorkerArg, WorkerCommand};

/// Run language models on the computers that you own.
#[derive(Debug, Parser)]
#[command(
    name = "rbee-keeper",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "\
Examples:
  rbee-keeper up                                        start rbee on this machine
  rbee-keeper model download hf:OWNER/REPO               fetch a model; model import takes a file
  rbee-keeper worker spawn --model smollm2 --device CPU-0
  rbee-keeper infer --model smollm2 'Why is the sky blue?'
  rbee-keeper status                                    everything on one screen
  rbee-keeper down                                      stop it all

A command that needs this machine's queen starts her; these do not, and exit with 3 where she does not run:
status, queen status, queen info, hive status, hive stop, request why, policy test.

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 no queen is running, 130 Ctrl-C."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// The queen's address, such as http://gpu-box:8500 [default: this machine's queen]
    #[arg(long, global = true, value_name = "URL", env = "RBEE_QUEEN_URL", hide_env_values = true)]
    pub(crate) queen: Option<String>,
    /// A file with the API token; RBEE_API_KEY holds one directly
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// Print one JSON document on stdout; errors and warnings are JSON objects on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print results and errors only: no progress, no notes
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start rbee on this machine: the queen, and a hive
    Up(StartArgs),
    /// Stop all of rbee on this machine: workers, hive, queen
    Down,
    /// Show queen, hives, devices, workers and models on one screen
    ///
    /// Exits with 3 when no queen is running.
    Status,
    /// The queen: the process that answers clients and decides where a request runs
    #[command(subcommand)]
    Queen(QueenCommand),
    /// Hives: one on each machine, it starts and watches the workers there
    #[command(subcommand)]
    Hive(HiveCommand),
    /// Workers: one process for each loaded model
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Models: the GGUF files that a hive can load
    #[command(subcommand)]
    Model(ModelCommand),
    /// Run a prompt; the answer comes on stdout as it is written
    Infer(InferArgs),
    /// Jobs: everything that the queen was asked to do
    #[command(subcommand)]
    Job(JobCommand),
    /// Requests: what the queen decided for each, and why
    #[command(subcommand)]
    Request(RequestCommand),
    /// Your own rules: a script that may refuse places, prefer some, and set priorities
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// API tokens: what a queen that others can reach demands of its clients
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print a shell's completion script
    #[command(after_help = "\
Examples:
  rbee-keeper completions bash > ~/.local/share/bash-completion/completions/rbee-keeper
  rbee-keeper completions zsh > ~/.zfunc/_rbee-keeper")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Where the queen listens [default: queen.bind of the configuration]
    ///
    /// Any address but loopback needs an API token: see `rbee-keeper token create`.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) bind: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct HiveArg {
    /// The hive; `localhost` is the queen's own machine
    #[arg(value_name = "ALIAS", default_value = "localhost")]
    pub(crate) alias: HiveAlias,
}

/// The hive whose things are listed.
#[derive(Debug, Args)]
pub(crate) struct OfHive {
    /// Only those of this hive [default: those of all hives]
    #[arg(long, value_name = "ALIAS")]
    pub(crate) hive: Option<HiveAlias>,
}

/// The hive where something is added or removed.
#[derive(Debug, Args)]
pub(crate) struct OnHive {
    /// On which hive
    #[arg(long, value_name = "ALIAS", default_value = "localhost")]
    pub(crate) hive: HiveAlias,
}

#[cfg(test)]
mod tests;
