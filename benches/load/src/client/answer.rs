//! Reading one answer, and how long its parts took.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::timeout;

use super::check::Check;
use super::connection::Connection;
use crate::order::{Order, micros};

/// How long a stream may say nothing until it counts as dead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(pub(crate) Duration);

/// How long the parts of an answer took, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// From the request to the first token.
    pub(crate) first: f64,
    /// From the writing of each token to its reading.
    pub(crate) tokens: Vec<f64>,
}

/// Reads a streamed answer. Every token must come, in order.
pub(crate) async fn stream(
    connection: &mut Connection,
    model: &str,
    order: Order,
    patience: Patience,
) -> Result<Outcome> {
    let begin = micros();
    let (mut check, mut body) = (Check::new(order), Vec::new());
    let mut outcome = Outcome::default();
    let silent = || format!("it was silent for {} s", patience.0.as_secs());
    let asked = connection.ask(model, order, true, &mut body);
    timeout(patience.0, asked).await.with_context(silent)??;
    loop {
        let now = micros();
        check.events(&mut body, |token| {
            if outcome.tokens.is_empty() {
                outcome.first = now.saturating_sub(begin) as f64;
            }
            outcome.tokens.push(now.saturating_sub(token.written) as f64);
        })?;
        // An end may come with the last bytes: no timer for what is there.
        if connection.is_ended() {
            break;
        }
        timeout(patience.0, connection.read(&mut body)).await.with_context(silent)??;
    }
    ensure!(body.is_empty(), "half an event was left");
    check.end()?;
    Ok(outcome)
}

/// Reads an answer that is no stream.
pub(crate) async fn reply(connection: &mut Connection, model: &str, order: Order) -> Result<()> {
    let (mut check, mut body) = (Check::new(order), Vec::new());
    connection.ask(model, order, false, &mut body).await?;
    while connection.read(&mut body).await? {}
    check.whole(&body, |_| ())?;
    check.end()
}
