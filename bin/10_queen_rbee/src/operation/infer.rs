//! `Infer`: the same way as a chat completion; the text comes as the job's `token` events.

use std::pin::pin;
use std::time::Duration;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::Infer;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use worker_contract::{
    ChatMessage, Delta, ErrorDetail, InferenceRequest, Prompt, RequestId, Role, Sampling, Task,
    WorkerId,
};

use super::Operations;
use crate::admission::Priority;
use crate::attached::{Endpoint, Original};
use crate::decisions::{Decided, Kind};
use crate::dialect::openai::{Aside, by_token, check_sampling};
use crate::http::describe;
use crate::relay::{Asking, Failure, Part, is_name};

/// How long an answer may be awaited in silence.
const PATIENCE: Duration = Duration::from_millis(500);
/// The code of a failure that has none.
const FAILED: &str = "inference_failed";
/// What a worker answers whose model knows no conversation.
const NO_TEMPLATE: &str = "no_chat_template";

impl Operations {
    pub(super) async fn infer(&self, infer: Infer, job: &JobContext) -> Result<Outcome, JobError> {
        // Nobody is to wait for a worker to be told that.
        check_sampling(&infer.sampling).map_err(|refused| failed(refused.detail))?;
        let result = tokio::select! {
            biased;
            () = job.cancelled().cancelled() => return Err(JobError::cancelled()),
            result = self.run(&infer, job) => result,
        };
        result.map_err(|failure| {
            let recorded = failure.recorded();
            let error = failed(describe(failure, &self.registry).detail);
            match recorded {
                Some(recorded) => with_record(error, recorded),
                None => error,
            }
        })
    }

    async fn run(&self, infer: &Infer, job: &JobContext) -> Result<Outcome, Failure> {
        let deadline = Instant::now() + self.request_timeout;
        let chat = || Task::Chat(messages(infer).into());
        // A model without a template continues the prompt as plain text, but follows no instructions.
        let plain = || Task::Completion { prompt: Prompt::Text(infer.prompt.clone()) };
        let may_be_plain = infer.system.is_none();
        if may_be_plain && self.registry.is_without_template(&infer.model) {
            return self.stream(infer, plain(), deadline, job).await;
        }
        match self.stream(infer, chat(), deadline, job).await {
            // Of a worker whose hive has not reported its file, only the worker itself can tell.
            Err(failure) if is_to_be_plain(infer, &failure) => {
                self.log_plain(infer, job);
                self.stream(infer, plain(), deadline, job).await
            }
            result => result,
        }
    }

    /// Records that a refused chat is sent again as plain text.
    fn log_plain(&self, infer: &Infer, job: &JobContext) {
        let why = format!("{} has no chat template: it continues the prompt as it is", infer.model);
        let retry = Decided::told(Kind::Retry, NO_TEMPLATE, why).model(&infer.model);
        let decisions = self.relay.dispatcher().decisions();
        decisions.record(retry.asked(&request_id(job), job.caller()));
    }

    async fn stream(
        &self,
        infer: &Infer,
        task: Task,
        deadline: Instant,
        job: &JobContext,
    ) -> Result<Outcome, Failure> {
        let request = request(task, infer.sampling.clone(), job);
        let asking = Asking {
            caller: job.caller().to_owned(),
            deadline,
            priority: Priority::Interactive,
            session: None,
            via: String::new(),
            is_whole: false,
        };
        let (original, began) = (original(infer, &request), Instant::now());
        let mut answer = self.relay.answer(&infer.model, request, original, asking);
        let mut worker: Option<WorkerId> = None;
        let mut ttft = None;
        let mut is_told = false;
        while let Some(part) = {
            let mut next = pin!(answer.next());
            loop {
                tokio::select! {
                    biased;
                    part = &mut next => break part,
                    () = sleep(PATIENCE), if !is_told && ttft.is_none() => {
                        is_told = self.tell_of_start(infer, job);
                    }
                }
            }
        } {
            let part = part.inspect_err(|failure| {
                if is_to_be_plain(infer, failure) {
                    answer.leave_uncounted();
                }
            });
            match part? {
                Part::Started { worker_id, why } => {
                    ttft = ttft.or_else(|| Some(began.elapsed()));
                    let data = serde_json::to_value(&why).unwrap_or_default();
                    job.event("scheduled", why.to_string(), data);
                    worker = Some(worker_id);
                }
                Part::GoesOn { worker_id, .. } => worker = Some(worker_id),
                Part::Delta(Delta { reasoning, text, tokens, .. }) => {
                    let mut data = json!({"text": text, "tokens": tokens});
                    if !reasoning.is_empty() {
                        data["reasoning"] = reasoning.into();
                    }
                    job.event("token", text, data);
                }
                Part::Aside(aside) => {
                    if let Some(text) = refusal(&aside) {
                        job.event("token", text, json!({"text": text, "tokens": []}));
                    }
                }
                // Of one text, without functions, nothing else can come that the keeper shows.
                Part::ChoiceDone { .. } | Part::Embedding { .. } | Part::Score { .. } => {}
                Part::Done { finish_reason, usage, timings } => {
                    let mut data = json!({
                        "model": infer.model,
                        "worker_id": worker,
                        "finish_reason": finish_reason,
                        "usage": usage,
                        "timings": timings,
                        "ttft_ms": ttft.map(|ttft: Duration| ttft.as_secs_f64() * 1000.0),
                    });
                    // The timings are of the worker that gave the end.
                    if answer.failovers() > 0 {
                        data["failovers"] = answer.failovers().into();
                    }
                    let tokens = usage.completion_tokens;
                    return Ok(Outcome::new(format!("{tokens} tokens"), data));
                }
            }
        }
        // The relay ends every answer with `Done` or a failure.
        Ok(Outcome::said("no tokens"))
    }
}

impl Operations {
    /// Says that a worker is being started, if that is what the answer waits for.
    fn tell_of_start(&self, infer: &Infer, job: &JobContext) -> bool {
        let model = &infer.model;
        let is_starting = self.registry.is_starting_for(model);
        if is_starting {
            job.say(format!("No worker runs {model}: one is being started, and loads it"));
        }
        is_starting
    }
}

/// What a server says of a model that refuses, which stands in place of the text.
fn refusal(aside: &Aside) -> Option<&str> {
    let Aside::Choice { message, .. } = aside else { return None };
    message.get("refusal")?.as_str().filter(|text| !text.is_empty())
}

/// Whether what failed is to be sent again as plain text.
fn is_to_be_plain(infer: &Infer, failure: &Failure) -> bool {
    let Failure::Refused { detail, .. } = failure else { return false };
    infer.system.is_none() && detail.code.as_deref() == Some(NO_TEMPLATE)
}

fn failed(detail: ErrorDetail) -> JobError {
    let code = detail.code.unwrap_or_else(|| FAILED.to_owned());
    JobError { hint: detail.hint, ..JobError::new(code, detail.message) }
}

/// The error with what may be stored of it: its words, code and hint may be a stranger's.
fn with_record(error: JobError, recorded: String) -> JobError {
    let code = if is_name(&error.code) { error.code.as_str() } else { FAILED };
    let stored = JobError::new(code, recorded);
    error.stored_as(stored)
}

fn messages(infer: &Infer) -> Vec<ChatMessage> {
    let message = |role, content: &String| ChatMessage::text(role, content.clone());
    let system = infer.system.as_ref().map(|system| message(Role::System, system));
    system.into_iter().chain([message(Role::User, &infer.prompt)]).collect()
}

/// The job's id is the request's: one name in all logs.
fn request(task: Task, sampling: Sampling, job: &JobContext) -> InferenceRequest {
    InferenceRequest { sampling, ..InferenceRequest::new(request_id(job), task) }
}

fn request_id(job: &JobContext) -> RequestId {
    job.job_id().as_str().parse().unwrap_or_else(|_| RequestId::random())
}

/// The request in the words that a client of OpenAI's API would use.
fn original(infer: &Infer, request: &InferenceRequest) -> Original {
    let mut body = match serde_json::to_value(&infer.sampling) {
        Ok(Value::Object(sampling)) => sampling,
        _ => Map::new(),
    };
    if let Some(bias) = body.remove("logit_bias") {
        body.insert("logit_bias".into(), Value::Object(by_token(&bias)));
    }
    let told = body.remove("logprobs");
    let Task::Chat(chat) = &request.task else {
        body.insert("prompt".into(), infer.prompt.as_str().into());
        body.extend(told.map(|count| ("logprobs".to_owned(), count)));
        return Original::new(Endpoint::Completion, body);
    };
    let written = |message: &ChatMessage| json!({"role": message.role, "content": message.content});
    body.insert("messages".into(), chat.messages.iter().map(written).collect());
    if let Some(top) = told {
        body.insert("logprobs".into(), true.into());
        body.insert("top_logprobs".into(), top);
    }
    Original::new(Endpoint::Chat, body)
}
