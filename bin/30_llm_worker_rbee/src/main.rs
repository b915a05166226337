//! `llm-worker-rbee`: parse, load, serve, drain.

mod cli;
mod print;
mod serve;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    llm_worker_rbee::engine::llama::prepare_process();
    let cli = Cli::parse();
    let outcome = match (cli.command, cli.serve) {
        (Some(Command::Devices { json }), _) => print::devices(json),
        (Some(Command::Inspect { file, json }), _) => print::inspect(&file, json),
        (Some(Command::Fit { serve, json }), _) => {
            serve::memory_needs(&serve).and_then(|needs| print::memory_needs(&needs, json))
        }
        (Some(Command::Version { json }), _) => print::version(json),
        (None, Some(serve)) => serve::run(serve),
        (None, None) => Cli::command().print_help().map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::error(&error);
            ExitCode::FAILURE
        }
    }
}
