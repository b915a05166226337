//! `job …`

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List the jobs that the queen remembers, the latest first
    List {
        /// How many of those that have ended
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(..=10_000))]
        limit: u16,
        /// Also those that only look (lists, logs, …), which are remembered for ten minutes or longer
        #[arg(long)]
        all: bool,
    },
    /// Show one job
    Show {
        #[command(flatten)]
        job: JobArg,
        /// What was decided for an inference, and why; JOB may be the id of a request over HTTP, too
        #[arg(long)]
        why: bool,
    },
    /// Print a job's events from the first to the last; Ctrl-C leaves the job running
    Follow(JobArg),
    /// Cancel a job
    Cancel(JobArg),
}

#[derive(Debug, Args)]
pub(crate) struct JobArg {
    /// The job's id, or the beginning of it
    #[arg(value_name = "JOB", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) job: String,
}
