//! `status`: all of rbee on one screen.

use serde_json::{Value, json};

use super::{NOT_RUNNING, SUCCESS, now, read};
use crate::failure::Failure;
use crate::queen_process::{self, Daemon};
use crate::render;
use crate::session::Session;

pub(super) async fn status(session: &Session) -> Result<u8, Failure> {
    let queen = match session.running_queen().await {
        Ok(queen) => queen,
        Err(failure @ (Failure::NotRunning | Failure::Unreachable { .. })) => {
            return absent(session, &failure).await;
        }
        Err(failure) => return Err(failure),
    };
    let mut status = queen.get("/v1/status").await?;
    if let Value::Object(fields) = &mut status {
        fields.insert("running".to_owned(), Value::Bool(true));
    }
    session
        .output
        .result(&status, |style| Ok(render::status::screen(&read(&status)?, now(), style)))
        .await?;
    Ok(SUCCESS)
}

/// What can be told without a queen. That there is none is an answer, not an error.
pub(super) async fn absent(session: &Session, failure: &Failure) -> Result<u8, Failure> {
    let address = session.target().url().to_owned();
    if session.output.is_json() {
        let document =
            json!({ "running": false, "address": address, "reason": failure.to_string() });
        session.output.document(&document).await?;
        return Ok(NOT_RUNNING);
    }
    session.output.text(format!("{failure}\n")).await?;
    if let Some(hive) = queen_process::running(session, Daemon::Hive) {
        let pid = hive.pid;
        session.output.text(format!("rbee-hive is running without a queen, pid {pid}\n")).await?;
    }
    session.output.note(&format!("hint: {}", failure.hint().unwrap_or_default()));
    Ok(NOT_RUNNING)
}
