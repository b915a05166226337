//! `queen …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::StartArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum QueenCommand {
    /// Start the queen in the background
    #[command(after_help = "\
Examples:
  rbee-keeper queen start
  rbee-keeper token create --name laptop && rbee-keeper queen start --bind 0.0.0.0:8500")]
    Start(StartArgs),
    /// Stop the queen; requests that run are finished first, and workers run on
    ///
    /// The next queen finds the workers again. `rbee-keeper down` ends them, too.
    Stop,
    /// Stop the queen and start it again at the same address; workers run on
    Restart(StartArgs),
    /// Show whether the queen runs; exits with 3 when it does not
    Status,
    /// Show version, features and address of the running queen; exits with 3 when there is none
    Info,
    /// Build the queen again from its source, with or without a hive inside
    #[command(after_help = "\
Examples:
  rbee-keeper queen rebuild --with-local-hive
  rbee-keeper queen rebuild --source ~/src/rbee")]
    Rebuild(RebuildArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Put this machine's hive into the queen's process: its operations are direct calls then
    /// [default: as in the queen that is installed]
    #[arg(long)]
    pub(crate) with_local_hive: bool,
    /// Leave this machine's hive a process of its own
    #[arg(long, conflicts_with = "with_local_hive")]
    pub(crate) without_local_hive: bool,
    /// The checkout to build [default: the one that this program was built from]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) source: Option<PathBuf>,
}

impl RebuildArgs {
    /// Whether the hive is to be in the queen's process, where somebody says so.
    pub(crate) fn local_hive(&self) -> Option<bool> {
        match (self.with_local_hive, self.without_local_hive) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}
