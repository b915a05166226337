//! The command line of rbee: a thin client of the queen, which also starts and stops the local one.
//!
//! Results go to stdout, everything else to stderr. Each command is a file in `command/`; what
//! people read is made in `render/`.

mod cli;
mod command;
mod failure;
mod interrupt;
mod job_run;
mod live;
mod output;
mod queen_build;
mod queen_client;
mod queen_process;
mod recommend;
mod render;
mod session;
mod view;
mod wanted_model;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{Cli, GlobalArgs};
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::session::Session;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = Output::new(&cli.global);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(output, Err(Failure::caused("cannot start", error))),
    };
    let interrupts = Interrupts::default();
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = run(cli, output, interrupts.clone()) => ended,
            interruption = interrupts.end() => match interruption {
                Ok(interruption) => Err(interruption),
                Err(error) => Err(Failure::caused("cannot listen for Ctrl-C", error)),
            },
        }
    });
    // A read of stdin or a write to a full pipe may never return; nobody waits for it.
    runtime.shutdown_background();
    end(output, ended)
}

async fn run(cli: Cli, output: Output, interrupts: Interrupts) -> Result<u8, Failure> {
    let Cli { global, command } = cli;
    if let cli::Command::Completions { shell } = command {
        return command::completions::print(shell, output).await;
    }
    let session = Session::open(global, output, interrupts)?;
    command::dispatch(command, &session).await
}

fn end(output: Output, ended: Result<u8, Failure>) -> ExitCode {
    match ended {
        Ok(exit_code) => ExitCode::from(exit_code),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Arguments that clap did not accept, or a wish for help.
fn refuse(error: &clap::Error) -> ExitCode {
    let is_help =
        !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if is_help || !wants_json {
        // A closed stdout is no reason to complain about help that nobody reads.
        let _ = error.print();
    } else {
        let global = GlobalArgs { queen: None, token_file: None, json: true, quiet: true };
        let text = error.render().to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        Output::new(&global).failure(&Failure::usage(message));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
