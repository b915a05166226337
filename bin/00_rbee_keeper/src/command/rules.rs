//! `policy …`

use std::io::Read as _;
use std::path::Path;

use serde_json::json;

use super::read;
use crate::cli::PolicyCommand;
use crate::failure::Failure;
use crate::render::rules;
use crate::session::Session;
use crate::view::RulesTest;

/// The longest script that the queen uses, in bytes.
const MAX_SCRIPT: u64 = 64 << 10;

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

/// The text of a file that the queen would use: who opens a pipe may wait for ever, and a device may give bytes
/// without end.
fn script(file: &Path) -> Result<String, Failure> {
    let shown = file.display();
    let failed = |error: std::io::Error| Failure::caused(format!("cannot read {shown}"), error);
    if !std::fs::metadata(file).map_err(failed)?.is_file() {
        return Err(Failure::local(format!("cannot read {shown}: it is no regular file")));
    }
    let mut bytes = Vec::new();
    let script = std::fs::File::open(file).map_err(failed)?;
    script.take(MAX_SCRIPT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_SCRIPT {
        return Err(Failure::local(format!(
            "{shown} has more than {MAX_SCRIPT} bytes, the most that the queen reads"
        )));
    }
    String::from_utf8(bytes).map_err(|error| Failure::caused(format!("cannot read {shown}"), error))
}
