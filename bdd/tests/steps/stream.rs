//! Questions whose answer comes in pieces.

use std::time::Duration;

use anyhow::{Context, Result};
use cucumber::{given, then, when};
use serde_json::{Value, json};
use test_cluster::{ChatStream, Transcript, ask, wait_until};

use super::{Rbee, SOON, Step};

/// The pieces that have come before something happens to a stream.
const SOME_PIECES: usize = 5;
/// More requests than a worker with one slot takes.
const MOST_IN_WORKER: usize = 8;

#[when(regex = r#"^I ask "([^"]+)" in pieces$"#)]
async fn ask_in_pieces(world: &mut Rbee, prompt: String) -> Step {
    read_all(world, &ask(&prompt)).await
}

#[when(regex = r#"^I ask "([^"]+)" in pieces, for (\d+) tokens$"#)]
async fn ask_in_pieces_briefly(world: &mut Rbee, prompt: String, tokens: u32) -> Step {
    let mut body = ask(&prompt);
    body["max_tokens"] = tokens.into();
    read_all(world, &body).await
}

#[when(regex = r#"^I ask "([^"]+)" in pieces, with usage$"#)]
async fn ask_in_pieces_with_usage(world: &mut Rbee, prompt: String) -> Step {
    let mut body = ask(&prompt);
    body["stream_options"] = json!({"include_usage": true});
    read_all(world, &body).await
}

#[given("a very long answer that is being streamed to me")]
async fn long_stream(world: &mut Rbee) -> Step {
    let (stream, transcript) = start_long(world).await?;
    world.stream = Some(stream);
    world.transcripts.push(transcript);
    Ok(())
}

#[given(regex = r"^(\d+) very long answers that are being streamed to me$")]
async fn long_streams(world: &mut Rbee, count: usize) -> Step {
    for _ in 0..count {
        let (stream, _) = start_long(world).await?;
        world.open_streams.push(stream);
    }
    Ok(())
}

#[given("a second request that waits for the slot")]
async fn waiting_request(world: &mut Rbee) -> Step {
    send_waiting(world)?;
    let cluster = world.cluster()?;
    wait_until("a request that waits for the slot", SOON, async || {
        let status = cluster.status().await.ok()?;
        (status["waiting"] == 1).then_some(())
    })
    .await?;
    Ok(())
}

#[given("as many requests wait as may wait")]
async fn full_queue(world: &mut Rbee) -> Step {
    // Where answers are short, some wait in the worker; one waits in the queen.
    for _ in 0..MOST_IN_WORKER {
        send_waiting(world)?;
        let (cluster, sent) = (world.cluster()?, world.waiting.len() as u64 + 1);
        let known = wait_until("the queen to know the request", SOON, async || {
            let status = cluster.status().await.ok()?;
            let waiting = status["waiting"].as_u64()?;
            let in_flight = status["workers"][0]["in_flight"].as_u64()?;
            (waiting + in_flight == sent).then_some(waiting)
        });
        if known.await? == 1 {
            return Ok(());
        }
    }
    Err(anyhow::anyhow!("the worker takes {MOST_IN_WORKER} requests and more").into())
}

#[when(regex = r#"^I ask "([^"]+)" in pieces, while the queen is told to end$"#)]
async fn ask_while_ending(world: &mut Rbee, prompt: String) -> Step {
    let mut body = ask(&prompt);
    body["max_tokens"] = 40.into();
    let mut stream = world.api()?.chat_stream(&body).await?;
    let mut transcript = Transcript::default();
    stream.read_pieces(SOME_PIECES, &mut transcript).await?;
    let queen = world.cluster_mut()?.queen()?;
    let (read, end) = tokio::join!(stream.read_rest(&mut transcript), queen.terminate());
    read?;
    world.ended = Some(end?);
    world.transcripts.push(transcript);
    Ok(())
}

#[when("I ask for a very long answer")]
async fn ask_for_long(world: &mut Rbee) -> Step {
    let answer = world.api()?.post("/v1/chat/completions", &very_long()).await?;
    world.answers.push(answer);
    Ok(())
}

#[when("the second request is given up")]
async fn give_up(world: &mut Rbee) -> Step {
    ensure!(!world.waiting.is_empty(), "nobody waits");
    world.waiting.shutdown().await;
    let cluster = world.cluster()?;
    wait_until("the end of the request that waited", SOON, async || {
        let status = cluster.status().await.ok()?;
        let is_gone = status["waiting"] == 0 && status["workers"][0]["in_flight"] == 1;
        is_gone.then_some(())
    })
    .await?;
    Ok(())
}

#[when("I close the connection")]
fn close(world: &mut Rbee) -> Step {
    drop(world.stream.take().context("no stream is open")?);
    Ok(())
}

#[then(regex = r"^every slot is free within (\d+) seconds$")]
async fn slots_free(world: &mut Rbee, seconds: u64) -> Step {
    let cluster = world.cluster()?;
    let free = |worker: &Value| {
        worker["slots"]["busy"] == 0 && worker["queued"] == 0 && worker["in_flight"] == 0
    };
    wait_until("all slots to be free", Duration::from_secs(seconds), async || {
        let workers = cluster.workers().await.ok()?;
        (!workers.is_empty() && workers.iter().all(free)).then_some(())
    })
    .await?;
    Ok(())
}

#[then("the stream goes on with more text and no error")]
async fn stream_goes_on(world: &mut Rbee) -> Step {
    let stream = world.stream.as_mut().context("no stream is open")?;
    let transcript = world.transcripts.last_mut().context("nothing was streamed")?;
    let before = transcript.pieces.len();
    stream.read_pieces(before + 40, transcript).await.context("the connection broke")?;
    ensure!(transcript.error.is_none(), "the error is {:?}", transcript.error);
    ensure!(transcript.pieces.len() >= before + 40, "it has ended: {transcript:?}");
    Ok(())
}

#[then(regex = r"^at least (\d+) pieces came$")]
fn pieces_came(world: &mut Rbee, least: usize) -> Step {
    let pieces = &world.transcript()?.pieces;
    ensure!(pieces.len() >= least, "only {} came: {pieces:?}", pieces.len());
    Ok(())
}

#[then("the first piece came in the first half of the time")]
fn first_piece_early(world: &mut Rbee) -> Step {
    let pieces = &world.transcript()?.pieces;
    let (first, last) = pieces.first().zip(pieces.last()).context("no piece came")?;
    ensure!(
        first.1 < last.1 / 2,
        "the first came after {:?}, the last after {:?}",
        first.1,
        last.1
    );
    Ok(())
}

#[then("the stream ended with a finish reason and [DONE]")]
fn stream_ended_well(world: &mut Rbee) -> Step {
    let transcript = world.transcript()?;
    ensure!(transcript.finish_reason.is_some(), "no finish reason: {:?}", transcript.chunks.last());
    ensure!(transcript.done, "no [DONE]");
    let first = transcript.chunks.first().context("no chunk came")?;
    ensure!(first["choices"][0]["delta"]["role"] == "assistant", "the first chunk is {first}");
    let strange =
        |chunk: &&Value| chunk["object"] != "chat.completion.chunk" || chunk["id"] != first["id"];
    ensure!(!transcript.chunks.iter().any(|chunk| strange(&chunk)), "the chunks differ");
    Ok(())
}

#[then(regex = r#"^the finish reason is "(\w+)"$"#)]
fn finish_reason(world: &mut Rbee, reason: String) -> Step {
    let told = &world.transcript()?.finish_reason;
    ensure!(told.as_deref() == Some(&reason), "it is {told:?}");
    Ok(())
}

#[then("the last chunk holds the usage and no choice")]
fn usage_last(world: &mut Rbee) -> Step {
    let last = world.transcript()?.chunks.last().context("no chunk came")?;
    ensure!(last["usage"].is_object() && last["choices"] == json!([]), "it is {last}");
    Ok(())
}

#[then("no chunk holds a usage")]
fn no_usage(world: &mut Rbee) -> Step {
    let usage = &world.transcript()?.usage;
    ensure!(usage.is_none(), "one holds {usage:?}");
    Ok(())
}

#[then("no piece holds a broken character")]
fn whole_characters(world: &mut Rbee) -> Step {
    let transcript = world.transcript()?;
    ensure!(!transcript.text.is_empty(), "the answer is empty");
    ensure!(!transcript.text.contains('\u{FFFD}'), "one does: {:?}", transcript.text);
    Ok(())
}

/// A request whose answer takes many seconds.
pub(super) fn very_long() -> Value {
    let mut body = ask("Write a very long story about a bee and her hive.");
    body["max_tokens"] = 900.into();
    body["ignore_eos"] = true.into();
    body
}

async fn start_long(world: &Rbee) -> Result<(ChatStream, Transcript)> {
    let mut stream = world.api()?.chat_stream(&very_long()).await?;
    let mut transcript = Transcript::default();
    stream.read_pieces(SOME_PIECES, &mut transcript).await?;
    ensure!(transcript.pieces.len() == SOME_PIECES, "the stream is over: {transcript:?}");
    Ok((stream, transcript))
}

async fn read_all(world: &mut Rbee, body: &Value) -> Step {
    let mut stream = world.api()?.chat_stream(body).await?;
    let mut transcript = Transcript::default();
    stream.read_rest(&mut transcript).await?;
    ensure!(transcript.error.is_none(), "the stream ended with {:?}", transcript.error);
    world.transcripts.push(transcript);
    Ok(())
}

/// Asks for a long answer, which is not read before the scenario ends.
fn send_waiting(world: &mut Rbee) -> Result<()> {
    let api = world.api()?;
    world.waiting.spawn(async move { api.post("/v1/chat/completions", &very_long()).await });
    Ok(())
}
