//! Following a job over connections that may break.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use rbee_operations::JobEvent;
use worker_contract::JobId;

use crate::stream::{Message, open};
use crate::{ClientError, JobClient};

/// An event, and its place in the job's stream.
#[derive(Debug, Clone, PartialEq)]
pub struct FollowedEvent {
    /// Higher than that of every event before.
    pub id: u64,
    /// The event. One named `gap` says that earlier ones are no longer kept.
    pub event: JobEvent,
}

impl JobClient {
    /// The events of a job with ids above `after`, those to come too, each once. Ends when the job
    /// has ended and its last event was given.
    ///
    /// A stream that breaks is opened again behind the last event. The error after which no more is
    /// tried is the stream's last item: the first connection fails, the daemon refuses, or all
    /// retries in a row bring no event.
    pub fn follow(
        &self,
        job_id: &JobId,
        after: Option<u64>,
    ) -> impl Stream<Item = Result<FollowedEvent, ClientError>> + Send + use<> {
        let (client, job_id) = (self.clone(), job_id.clone());
        async_stream::try_stream! {
            let mut last = after.unwrap_or(0);
            let mut messages = open(&client, &job_id, last).await?;
            let mut patience = Patience::new(client.retries());
            loop {
                let broken = match messages.next().await {
                    Some(Ok(Message::Done)) => return,
                    Some(Ok(Message::Event(event))) => {
                        // What a server gives twice is passed on once.
                        if event.id > last {
                            last = event.id;
                            patience.renew();
                            yield *event;
                        }
                        continue;
                    }
                    Some(Err(error)) if !error.is_passing() => Err(error)?,
                    Some(Err(error)) => error,
                    None => client.protocol("a job's stream without an end"),
                };
                messages = reopen(&client, &job_id, last, &mut patience, broken).await?;
            }
        }
    }
}

/// Opens the stream again, as often as patience lasts.
async fn reopen(
    client: &JobClient,
    job_id: &JobId,
    after: u64,
    patience: &mut Patience,
    mut broken: ClientError,
) -> Result<BoxStream<'static, Result<Message, ClientError>>, ClientError> {
    loop {
        let Some(pause) = patience.next() else {
            let (job_id, retries) = (job_id.clone(), patience.used);
            return Err(ClientError::StreamLost { job_id, retries, source: Box::new(broken) });
        };
        tracing::debug!(%job_id, after, error = %broken, "the stream of a job broke");
        tokio::time::sleep(pause).await;
        match open(client, job_id, after).await {
            Err(error) if error.is_passing() => broken = error,
            result => return result,
        }
    }
}

/// How often, and after which pauses, something is tried again.
struct Patience {
    pauses: ExponentialBuilder,
    left: ExponentialBackoff,
    used: usize,
}

impl Patience {
    fn new(pauses: ExponentialBuilder) -> Self {
        Self { pauses, left: pauses.build(), used: 0 }
    }

    fn renew(&mut self) {
        if self.used > 0 {
            *self = Self::new(self.pauses);
        }
    }

    fn next(&mut self) -> Option<Duration> {
        let pause = self.left.next()?;
        self.used += 1;
        Some(pause)
    }
}
