//! The words for why requests go where they do.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use worker_contract::{ModelAlias, RequestId};

#[derive(Debug, Subcommand)]
pub(crate) enum RequestCommand {
    /// Show what was decided for a request, and why, from the first decision to the last
    ///
    /// Exits with 3 when no queen is running.
    #[command(after_help = "\
The id is in the answer's header `x-request-id`; of an `infer` job it is the job's id.")]
    Why {
        /// The request's id
        #[arg(value_name = "REQUEST")]
        request: RequestId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Try a script on the workers and places that there are; nothing is changed
    ///
    /// Exits with 3 when no queen is running.
    #[command(after_help = "\
Examples:
  rbee-keeper policy test scheduler.rhai
  rbee-keeper policy test night.rhai --model llama --priority batch

The queen uses the script that lies beside her configuration as scheduler.rhai.")]
    Test(PolicyTestArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyTestArgs {
    /// The script
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The model of the request [default: each model in turn]
    #[arg(long, short, value_name = "ALIAS")]
    pub(crate) model: Option<ModelAlias>,
    /// How urgent the request is
    #[arg(long, value_name = "PRIORITY", default_value = "interactive")]
    pub(crate) priority: RequestPriority,
    /// Who asks: a token's fingerprint, as `token list` shows it
    #[arg(long, value_name = "CALLER", default_value = "local")]
    pub(crate) caller: String,
    /// The length of the prompt
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    pub(crate) prompt_bytes: u32,
}

/// How urgent a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RequestPriority {
    /// Somebody waits for it
    Interactive,
    /// It takes what others leave
    Batch,
}

impl RequestPriority {
    /// Its name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }
}
