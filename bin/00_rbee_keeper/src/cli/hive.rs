//! `hive …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use rbee_operations::SshTarget;
use worker_contract::HiveAlias;

use super::HiveArg;

#[derive(Debug, Subcommand)]
pub(crate) enum HiveCommand {
    /// List the hives that the queen knows
    List,
    /// Start a hive
    Start {
        #[command(flatten)]
        hive: HiveArg,
        /// Ask nothing
        #[arg(long, short)]
        yes: bool,
    },
    /// Stop a hive and its workers
    ///
    /// Exits with 3 when no queen is running.
    Stop(HiveArg),
    /// Stop a hive and start it again; its workers end
    Restart(HiveArg),
    /// Show a hive's devices, models and workers
    ///
    /// Exits with 3 when no queen is running.
    Status(HiveArg),
    /// Ask a hive for its devices, models and workers at once
    Refresh(HiveArg),
    /// Show the end of a hive's log
    Logs {
        #[command(flatten)]
        hive: HiveArg,
        /// Go on with what is written from now on
        #[arg(long, short)]
        follow: bool,
        /// How many lines
        #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        lines: u16,
    },
    /// Make a hive of another machine known to the queen
    #[command(after_help = "\
Examples:
  rbee-keeper hive add gpu-1 --ssh bee@192.168.1.20 && rbee-keeper hive install gpu-1
  rbee-keeper hive add gpu-1 --ssh gpu-box              an alias of ~/.ssh/config
  rbee-keeper hive add nas --url http://nas:9000 --secret-file -

The queen's user logs in by SSH as on any day: keys, agent, known_hosts, ProxyJump.")]
    Add(HiveAddArgs),
    /// List the hives that announce themselves on the network; none joins by itself
    Discover {
        /// How long to listen, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=30))]
        wait: u32,
    },
    /// List the hosts of the queen's ~/.ssh/config, which can be added
    ImportSsh,
    /// Forget a hive that was added; what is installed on its machine stays
    Remove(NamedHive),
    /// Put a hive on its machine over SSH, or bring it up to date
    ///
    /// Needs no root there. Workers that run are not disturbed.
    Install {
        #[command(flatten)]
        hive: NamedHive,
        /// The queen's URL as that machine reaches it [default: found out]
        #[arg(long, value_name = "URL")]
        queen_url: Option<String>,
    },
    /// Stop a hive and take it off its machine; its models stay
    Uninstall {
        #[command(flatten)]
        hive: NamedHive,
        /// Take its models, too
        #[arg(long)]
        purge: bool,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("way").required(true).multiple(false))]
pub(crate) struct HiveAddArgs {
    /// The name that the hive is to have
    #[arg(value_name = "ALIAS")]
    pub(crate) alias: HiveAlias,
    #[arg(
        long,
        value_name = "TARGET",
        group = "way",
        help = "Where SSH goes: [USER@]HOST[:PORT], or an alias of ~/.ssh/config"
    )]
    pub(crate) ssh: Option<SshTarget>,
    /// The URL of a hive that runs there already
    #[arg(long, value_name = "URL", group = "way", requires = "secret_file")]
    pub(crate) url: Option<String>,
    /// A file with the secret of the hive that runs; - reads it from stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "url")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Where an installed hive listens [default: 9000]
    #[arg(long, value_name = "PORT", requires = "ssh", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The host name or address at which the queen reaches the machine [default: where SSH goes]
    #[arg(long, value_name = "HOST", requires = "ssh")]
    pub(crate) advertise: Option<String>,
}

/// A hive of another machine.
#[derive(Debug, Args)]
pub(crate) struct NamedHive {
    /// The hive
    #[arg(value_name = "ALIAS")]
    pub(crate) alias: HiveAlias,
}
