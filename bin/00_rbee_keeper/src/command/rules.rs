//! `policy …`

use std::path::Path;

use serde_json::json;

use super::read;
use crate::cli::PolicyCommand;
use crate::failure::Failure;
use crate::render::rules;
use crate::session::Session;
use crate::view::RulesTest;

pub(super) async fn rules(session: &Session, command: PolicyCommand) -> Result<(), Failure> {
    let PolicyCommand::Test(args) = command;
    let script = script(&args.file)?;
    let queen = session.running_queen().await?;
    let body = json!({
        "script": script, "model": args.model, "priority": args.priority.name(),
        "caller": args.caller, "prompt_bytes": args.prompt_bytes,
    });
    let report = queen.post("/v1/policy/test", &body).await?;
    let read: RulesTest = read(&report)?;
    session.output.result(&report, |style| Ok(rules::report(&read, style))).await?;
    match read.models.iter().find_map(|model| model.error.as_ref()) {
        Some(error) => Err(Failure::local(format!("the script failed: {error}"))),
        None => Ok(()),
    }
}

fn script(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::caused(format!("cannot read {}", file.display()), error))
}
