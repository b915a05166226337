//! `completions`: what a shell needs to complete the commands.

use clap::CommandFactory;

use super::SUCCESS;
use crate::cli::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Prints the script.
pub(crate) async fn print(shell: clap_complete::Shell, output: Output) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rbee-keeper", &mut script);
    output.text(String::from_utf8_lossy(&script)).await?;
    Ok(SUCCESS)
}
