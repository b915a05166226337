//! How the queen asks a hive on the simulated network. As with a real one, an operation is a job of the
//! hive, and following it is tried again when a connection breaks: a job whose hive has ended is lost.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use job_server::{JobContext, JobError, Outcome};
use rbee_operations::Operation;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use turmoil::net::TcpStream;
use worker_contract::HiveAlias;

use super::rest::Witness;
use crate::hive_client::{FindHive, HiveClient};

/// Where hives listen.
pub(super) const HIVE_PORT: u16 = 9000;
/// How long a call may take that is no stream.
const CALL: Duration = Duration::from_secs(10);
/// How long following a job may be silent,
const SILENCE: Duration = Duration::from_secs(12);
/// and how often the hive says something.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How often a job is followed again in a row.
const RETRIES: u32 = 6;

/// How a job ended; nothing while it runs.
#[derive(Debug, Default)]
pub(super) struct JobEnd {
    /// Wakes those who wait in the order in which they came, unlike a watch channel: else not every history
    /// would be the same the next time.
    has_ended: CancellationToken,
    told: OnceLock<Value>,
}

impl JobEnd {
    pub(super) fn ended(&self, result: Result<Outcome, JobError>) {
        let told = match result {
            Ok(outcome) => json!({ "data": outcome.data }),
            Err(error) => json!({ "code": error.code, "message": error.message }),
        };
        let _ = self.told.set(told);
        self.has_ended.cancel();
    }

    pub(super) async fn wait(&self) -> Value {
        self.has_ended.cancelled().await;
        self.told.get().cloned().unwrap_or_default()
    }
}

/// The queen's clients of all hives.
#[derive(Debug)]
pub(super) struct Hives {
    pub(super) names: Vec<HiveAlias>,
    pub(super) witness: Arc<Witness>,
}

impl FindHive for Hives {
    fn find(&self, id: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        if !self.names.contains(id) {
            return Err(JobError::new("hive_not_found", format!("there is no hive {id}")));
        }
        Ok(Arc::new(Hive { name: id.clone(), witness: Arc::clone(&self.witness) }))
    }
}

#[derive(Debug)]
struct Hive {
    name: HiveAlias,
    witness: Arc<Witness>,
}

impl HiveClient for Hive {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let (witness, host) = (Arc::clone(&self.witness), self.name.to_string());
        let asked = witness.sees(&host, &operation);
        Box::pin(async move {
            tokio::select! {
                biased;
                () = job.cancelled().cancelled() => Err(JobError::cancelled()),
                end = run(&host, &operation) => {
                    let how = end.as_ref().map_or_else(|error| error.code.as_str(), |_| "done");
                    witness.tell(&format!("{asked}: {how}"));
                    end
                }
            }
        })
    }
}

async fn run(host: &str, operation: &Operation) -> Result<Outcome, JobError> {
    let submitted = timeout(CALL, call(host, &json!({ "submit": operation }))).await;
    let number = match submitted {
        Ok(Ok(answer)) => answer["job"].as_u64(),
        _ => None,
    };
    let unreachable = || JobError::new("hive_unreachable", "the hive cannot be asked");
    let number = number.ok_or_else(unreachable)?;
    for retry in 0..=RETRIES {
        let followed = call(host, &json!({ "follow": number })).await;
        if let Ok(end) = followed {
            return match end["code"].as_str() {
                Some(code) => Err(JobError::new(code, end["message"].as_str().unwrap_or_default())),
                None => Ok(Outcome::new("done", end["data"].clone())),
            };
        }
        sleep(Duration::from_millis(100 << retry).min(Duration::from_secs(3))).await;
    }
    Err(JobError::new("hive_lost", "the hive was lost"))
}

/// Asks for one thing; the lines before its answer that are empty say that it is coming.
async fn call(host: &str, request: &Value) -> std::io::Result<Value> {
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let mut stream = timeout(CALL, TcpStream::connect((host, HIVE_PORT))).await.map_err(late)??;
    stream.write_all(format!("{request}\n").as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let line = timeout(SILENCE, lines.next_line()).await.map_err(late)??;
        let Some(line) = line else { return Err(std::io::ErrorKind::UnexpectedEof.into()) };
        if !line.is_empty() {
            return serde_json::from_str(&line).map_err(std::io::Error::from);
        }
    }
}
