//! `request …`

use serde_json::Value;

use super::read;
use crate::cli::RequestCommand;
use crate::failure::Failure;
use crate::queen_client::Queen;
use crate::render::decision;
use crate::session::Session;

pub(super) async fn request(session: &Session, command: RequestCommand) -> Result<(), Failure> {
    let RequestCommand::Why { request } = command;
    let queen = session.running_queen().await?;
    let decisions = decisions(&queen, request.as_str()).await?;
    if decisions.as_array().is_none_or(Vec::is_empty) {
        let message = format!("the queen remembers no decision about request {request}");
        return Err(Failure::local(message).with_hint(
            "she keeps the latest 4,096 of each of four shares (ways of requests, refusals, tries, all others), and \
             for a week 10,000 of each on her disk; of dispatches, waits, refusals and each kind of tries only \
             the first 20 of a second get there",
        ));
    }
    session.output.result(&decisions, |_| Ok(decision::list(&read::<Vec<_>>(&decisions)?))).await
}

/// What was decided for a request, in the order in which it was.
pub(super) async fn decisions(queen: &Queen, request: &str) -> Result<Value, Failure> {
    let mut answer = queen.get(&format!("/v1/decisions?request_id={request}&limit=1000")).await?;
    match answer.get_mut("decisions").map(Value::take) {
        Some(Value::Array(mut decisions)) => {
            decisions.reverse();
            Ok(Value::Array(decisions))
        }
        _ => Err(Failure::Protocol("it has no list \"decisions\"".to_owned())),
    }
}
