//! An attached server's answer in OpenAI's words, as the events that a worker of rbee would give. Pure:
//! `now` is passed in.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::Value;
use worker_contract::{
    Delta, ErrorDetail, FinishReason, InferenceEvent, InferenceRequest, Task, Timings, Usage,
};

use super::calls::Calls;
use super::chunk::{Choice, Chunk, Items, beside, is_something};
use super::halves::Halves;
use super::logprobs;
use super::refusal::{message_of, refused_of, worded};
use crate::dialect::openai::{Aside, FINISH_REASON, Fields};

/// How many bytes of a prompt are one token, where nobody counts.
pub(crate) const BYTES_A_TOKEN: u32 = 4;
/// The most tokens of a prompt and of an answer that are believed: more than any context has.
const MOST_TOKENS: u32 = 1 << 24;

/// With which words LM Studio says that it lacks an endpoint.
const NO_ENDPOINT: &str = "Unexpected endpoint";

/// What a server's answer tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// What a worker of rbee would tell.
    Event(InferenceEvent),
    /// What rbee has no use for, and the client may: it belongs to the next event.
    Aside(Aside),
    /// Nothing, in a chunk of the answer: the server is at work on it.
    Nothing,
}

/// Makes events out of one answer.
#[derive(Debug)]
pub struct Translator {
    request_id: worker_contract::RequestId,
    seed: u64,
    /// A guess at all that the server has to read, which is what a server tells, too.
    prompt_tokens: u32,
    /// The number of the first answer that is asked for.
    first_choice: u32,
    choices: Vec<State>,
    halves: Halves,
    /// The model that has to give it, where the server's answers tell theirs.
    model: Option<String>,
    /// How many vectors or scores are asked for, instead of texts.
    items: Option<usize>,
    ready: VecDeque<Told>,
    usage: Option<Usage>,
    /// That is told at the end of an answer, of which there can be several.
    has_told_usage: bool,
    first_reason: Option<FinishReason>,
    sent_at: Instant,
    first_at: Option<Instant>,
    has_begun: bool,
    is_over: bool,
    /// What is wrong, once what is ready was taken.
    fault: Option<Fault>,
}

/// One answer.
#[derive(Debug, Default)]
struct State {
    calls: Calls,
    has_calls: bool,
    /// Whether anything of it has come, if only who speaks.
    has_begun: bool,
    parts: u32,
    /// What was told beside it.
    usage: Option<Usage>,
    /// A reason that rbee does not know: of its end, unless more comes. Some say one in each chunk.
    may_end: Option<String>,
    is_over: bool,
}

/// A server said what is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not understood. What it is, is not told: it could be text of the answer.
    #[error("it sent what is no part of an answer")]
    NoAnswer,
    /// It said that it failed.
    #[error("{0}")]
    Failed(String),
    /// It said that the request is at fault.
    #[error("{}", .0.message)]
    Refused(ErrorDetail),
    /// It said before anything else what is wrong, and not whose fault it is.
    #[error("{}", .0.message)]
    InDoubt(ErrorDetail),
    /// It said that it lacks the endpoint.
    #[error("it does not serve this endpoint: {0}")]
    NoEndpoint(String),
    /// Another model answers than the one that is asked.
    #[error("it runs another model than {asked} at present")]
    OtherModel {
        /// The one that is asked.
        asked: String,
    },
    /// It made some answers, and has ended without the others.
    #[error("it made {made} of {asked} answers")]
    Fewer {
        /// How many there are.
        made: usize,
        /// How many were asked for.
        asked: usize,
    },
    /// Something is missing.
    #[error("it made {made} of {asked} answers")]
    Incomplete {
        /// How many there are.
        made: usize,
        /// How many were asked for.
        asked: usize,
    },
}

impl Translator {
    /// A translator of the answer to a request that is sent now. Besides its prompt of so many bytes the server
    /// gets what there is of the answer, `prefilled` tokens.
    #[must_use]
    pub fn new(
        request: &InferenceRequest,
        prompt_bytes: u32,
        prefilled: u32,
        now: Instant,
    ) -> Self {
        let items = match &request.task {
            Task::Embed { inputs } => Some(inputs.len()),
            Task::Rerank { documents, .. } => Some(documents.len()),
            Task::Chat(_) | Task::Completion { .. } | Task::Infill { .. } => None,
        };
        let choices = if items.is_some() { 0 } else { request.n as usize };
        Self {
            request_id: request.request_id.clone(),
            seed: request.sampling.seed.unwrap_or_else(|| fastrand::u64(..)),
            prompt_tokens: (prompt_bytes / BYTES_A_TOKEN).saturating_add(prefilled),
            first_choice: request.first_choice,
            choices: std::iter::repeat_with(State::default).take(choices).collect(),
            halves: Halves::default(),
            model: None,
            items,
            ready: VecDeque::new(),
            usage: None,
            has_told_usage: false,
            first_reason: None,
            sent_at: now,
            first_at: None,
            has_begun: false,
            is_over: false,
            fault: None,
        }
    }

    /// The same for a server whose answers tell which model gave them: it has to be this one.
    #[must_use]
    pub fn only_of(self, model: Option<&str>) -> Self {
        Self { model: model.map(str::to_owned), ..self }
    }

    /// The next event that is ready; after the last one what is wrong with the answer, if anything is.
    pub fn pop(&mut self) -> Result<Option<Told>, Fault> {
        match (self.ready.pop_front(), &self.fault) {
            (None, Some(fault)) => Err(fault.clone()),
            (told, _) => Ok(told),
        }
    }

    /// Takes the data of one event of a stream.
    pub fn event(&mut self, data: &[u8], now: Instant) -> Result<(), Fault> {
        if data == b"[DONE]" {
            self.end(now);
            return Ok(());
        }
        let chunk = self.halves.read(data).ok_or(Fault::NoAnswer)?;
        self.chunk(chunk, now)
    }

    /// Takes a whole answer that is no stream.
    pub fn whole(&mut self, body: &[u8], now: Instant) -> Result<(), Fault> {
        let Some(count) = self.items else {
            self.event(body, now)?;
            self.end(now);
            return Ok(());
        };
        if self.is_over {
            return Err(Fault::NoAnswer);
        }
        let items: Items = serde_json::from_slice(body).map_err(|_| Fault::NoAnswer)?;
        if let Some(error) = items.error.as_ref().filter(|error| is_error(error)) {
            return Err(self.failed(error));
        }
        self.ensure_model(items.model.as_deref())?;
        self.begin();
        self.first_at = Some(now);
        self.usage = items.usage();
        let events = items.events().ok_or(Fault::NoAnswer)?;
        if events.len() != count {
            return Err(Fault::Incomplete { made: events.len(), asked: count });
        }
        self.ready.extend(events.into_iter().map(Told::Event));
        self.done(now);
        Ok(())
    }

    /// Whether vectors or scores are asked for, of which more may come than of a text.
    #[must_use]
    pub fn is_of_items(&self) -> bool {
        self.items.is_some()
    }

    /// Whether all texts have ended, and only the usage, or the end of all, may come.
    #[must_use]
    pub fn lacks_only_farewell(&self) -> bool {
        !self.is_over
            && self.items.is_none()
            && self.fault.is_none()
            && self.choices.iter().all(|choice| choice.is_over)
    }

    /// The connection has ended. Whether nothing is missing, and something is left to be told.
    pub fn closed(&mut self, now: Instant) -> bool {
        self.end_so_far();
        self.ends_here(now)
    }

    /// Nothing more is taken in, though more may have been to come. Whether nothing is missing, and something is
    /// left to be told.
    pub fn ends_here(&mut self, now: Instant) -> bool {
        if !self.is_over && self.items.is_none() && self.choices.iter().all(|c| c.is_over) {
            self.done(now);
        }
        self.is_over && !self.ready.is_empty() && self.fault.is_none()
    }

    fn chunk(&mut self, chunk: Chunk, now: Instant) -> Result<(), Fault> {
        if let Some(error) = chunk.error.as_ref().filter(|error| is_error(error)) {
            return Err(self.failed(error));
        }
        if chunk.choices.is_none() && chunk.usage.is_none() {
            return self.silent(chunk.rest);
        }
        if self.is_over {
            return Err(Fault::NoAnswer);
        }
        if !self.has_begun {
            self.ensure_model(chunk.rest.get("model").and_then(Value::as_str))?;
        }
        self.begin();
        self.aside(Aside::Answer, beside(chunk.rest, &["id", "object", "created", "model"]));
        if let Some(usage) = chunk.usage {
            let (usage, beside) = usage.parts();
            match chunk.choices.as_deref().unwrap_or_default() {
                [choice] if self.choices.len() > 1 => {
                    self.used_by_one(choice.index.unwrap_or_default(), usage);
                }
                choices => {
                    if choices.is_empty() {
                        self.end_so_far();
                    }
                    self.used(usage, choices.is_empty());
                }
            }
            self.aside(Aside::Usage, beside);
        }
        let (choices, told) = (chunk.choices.unwrap_or_default(), self.ready.len());
        let has_choices = !choices.is_empty();
        let is_numbered = choices.iter().any(|choice| choice.index.is_some());
        for (place, choice) in (0..).zip(choices) {
            let number = choice.index.unwrap_or(if is_numbered { 0 } else { place });
            self.choice(number, choice, now)?;
        }
        if has_choices && self.ready.len() == told {
            self.ready.push_back(Told::Nothing);
        }
        Ok(())
    }

    /// An object with nothing of an answer keeps a connection alive, unless it is an error in itself.
    fn silent(&self, fields: Fields) -> Result<(), Fault> {
        let is_error = fields.get("message").is_some_and(|message| !message.is_null())
            || fields.get("object").is_some_and(|object| object == "error");
        if is_error { Err(self.failed(&Value::Object(fields))) } else { Ok(()) }
    }

    /// What an error in place of an answer says. LM Studio refuses so what it cannot serve, with a 200.
    fn failed(&self, error: &Value) -> Fault {
        if let Some(detail) = refused_of(error) {
            return Fault::Refused(detail);
        }
        match worded(error).filter(|_| !self.has_begun) {
            Some(detail) if detail.message.starts_with(NO_ENDPOINT) => {
                Fault::NoEndpoint(detail.message)
            }
            Some(detail) => Fault::InDoubt(detail),
            None => Fault::Failed(message_of(error)),
        }
    }

    /// Who answers is who is asked, where that is told: a server that was started again may have another model.
    fn ensure_model(&self, told: Option<&str>) -> Result<(), Fault> {
        match (&self.model, told) {
            (Some(asked), Some(told)) if asked != told => {
                Err(Fault::OtherModel { asked: asked.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Takes in what was used. llama-server tells it of each answer when that is over, others once of all.
    fn used(&mut self, usage: Option<Usage>, is_at_end: bool) {
        let Some(usage) = usage else { return };
        let is_of_one = is_at_end && self.has_told_usage && self.choices.len() > 1;
        let before = self.usage.filter(|_| is_of_one);
        self.has_told_usage |= is_at_end;
        let others = before.map_or(0, |before| before.completion_tokens);
        let completion_tokens = usage.completion_tokens.saturating_add(others);
        let cached = before.map_or(usage.cached_tokens, |before| before.cached_tokens);
        self.usage = Some(Usage { completion_tokens, cached_tokens: cached, ..usage });
    }

    /// Takes in what is told beside one of several answers: so llama-server tells of completions, of each what
    /// that used. What is told without an answer is of all.
    fn used_by_one(&mut self, number: u32, usage: Option<Usage>) {
        let Some(usage) = usage.filter(|_| !self.has_told_usage) else { return };
        if let Some(state) = self.choices.get_mut(number as usize) {
            state.usage = Some(usage);
        }
        let each = || self.choices.iter().filter_map(|state| state.usage);
        let completion_tokens =
            each().map(|used| used.completion_tokens).fold(0, u32::saturating_add);
        // The others find the prompt of the first one.
        let cached_tokens = each().map(|used| used.cached_tokens).min().unwrap_or_default();
        self.usage = Some(Usage { completion_tokens, cached_tokens, ..usage });
    }

    fn choice(&mut self, number: u32, choice: Choice, now: Instant) -> Result<(), Fault> {
        let index = number.saturating_add(self.first_choice);
        let state = self.choices.get_mut(number as usize).ok_or(Fault::NoAnswer)?;
        let is_first = !std::mem::replace(&mut state.has_begun, true);
        let (mut of_choice, mut of_message) = (beside(choice.rest, &[]), Fields::new());
        let (logprobs, unread) = choice.logprobs.map(logprobs::read).unwrap_or_default();
        of_choice.extend(unread.map(|unread| ("logprobs".to_owned(), unread)));
        // So LocalAI says in each chunk before the last that it is none yet, and others.
        let is_one = |name: &String| !matches!(name.as_str(), "" | "null");
        let reason = choice.finish_reason.filter(is_one);
        let mut delta = Delta { index, logprobs, ..Delta::default() };
        if let Some(text) = choice.text {
            delta.text = text;
        }
        if let Some(mut piece) = choice.delta.or(choice.message) {
            let (text, reasoning) = piece.take_words();
            delta.text.push_str(&text);
            delta.reasoning = reasoning;
            let pieces = piece.tool_calls.unwrap_or_default();
            let (calls, of_calls) = state.calls.take(pieces).ok_or(Fault::NoAnswer)?;
            delta.tool_calls = calls;
            of_message = beside(piece.rest, &["role"]);
            if !of_calls.is_empty() {
                of_message.insert("tool_calls".into(), of_calls.into());
            }
        }
        // The client does not wait for a text to see that. But with the first chunk, and the last one, some say what
        // is no part of the answer.
        let is_told_alone = !is_first
            && reason.is_none()
            && !state.is_over
            && of_message.values().any(is_something);
        if !of_choice.is_empty() || !of_message.is_empty() {
            let (choice, message) = (of_choice, of_message);
            self.ready.push_back(Told::Aside(Aside::Choice { index, choice, message }));
        }
        let says_something = !delta.text.is_empty()
            || !delta.reasoning.is_empty()
            || !delta.tool_calls.is_empty()
            || !delta.logprobs.is_empty();
        if says_something || is_told_alone {
            if state.is_over {
                return Err(Fault::NoAnswer);
            }
            self.first_at.get_or_insert(now);
            state.may_end = None;
            state.has_calls |= !delta.tool_calls.is_empty();
            state.parts = state.parts.saturating_add(1);
            self.ready.push_back(Told::Event(InferenceEvent::Delta(delta)));
        }
        if let Some(name) = reason {
            match finish_reason(&name) {
                Some(reason) => self.end_choice(number, reason),
                None if !state.is_over => state.may_end = Some(name),
                None => {}
            }
        }
        Ok(())
    }

    /// Ends an answer, if it has not ended. One of which there is nothing but a call without a name is none.
    fn end_choice(&mut self, number: u32, finish_reason: FinishReason) {
        let several = self.choices.len() > 1;
        let Some(state) = self.choices.get_mut(number as usize) else { return };
        state.may_end = None;
        if state.is_over {
            return;
        }
        let calls_nothing = !state.has_calls && state.calls.lacks_a_name();
        if calls_nothing && state.parts == 0 {
            self.fault.get_or_insert(Fault::NoAnswer);
            return;
        }
        state.is_over = true;
        let finish_reason = match finish_reason {
            FinishReason::ToolCalls if calls_nothing => FinishReason::Stop,
            told => told,
        };
        self.first_reason.get_or_insert(finish_reason);
        if several {
            let index = number.saturating_add(self.first_choice);
            self.tell(InferenceEvent::ChoiceDone { index, finish_reason });
        }
    }

    /// Ends each answer that may have ended for a reason that rbee does not know, which is then told as it is.
    fn end_so_far(&mut self) {
        for (number, at) in (0..).zip(0..self.choices.len()) {
            let Some(name) = self.choices.get_mut(at).and_then(|state| state.may_end.take()) else {
                continue;
            };
            let index = self.first_choice.saturating_add(number);
            let choice = Fields::from_iter([(FINISH_REASON.to_owned(), name.into())]);
            let message = Fields::new();
            self.ready.push_back(Told::Aside(Aside::Choice { index, choice, message }));
            self.end_choice(number, FinishReason::Stop);
        }
    }

    /// The server says that all is said.
    fn end(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        let asked = self.choices.len();
        self.begin();
        self.end_so_far();
        for (number, at) in (0..).zip(0..asked) {
            // One of which nothing came at all, not even an end, was not made.
            let Some(state) = self.choices.get(at).filter(|state| state.parts > 0) else {
                continue;
            };
            let reason = if state.has_calls { FinishReason::ToolCalls } else { FinishReason::Stop };
            self.end_choice(number, reason);
        }
        let made = self.choices.iter().filter(|state| state.is_over).count();
        if made < asked {
            self.is_over = true;
            self.fault = Some(if made > 0 {
                Fault::Fewer { made, asked }
            } else {
                Fault::Incomplete { made, asked }
            });
            return;
        }
        self.done(now);
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        self.tell(InferenceEvent::Started {
            request_id: self.request_id.clone(),
            prompt_tokens: self.prompt_tokens,
            cached_tokens: 0,
            seed: self.seed,
        });
    }

    fn tell(&mut self, event: InferenceEvent) {
        self.ready.push_back(Told::Event(event));
    }

    fn aside(&mut self, what: impl FnOnce(Fields) -> Aside, fields: Fields) {
        if !fields.is_empty() {
            self.ready.push_back(Told::Aside(what(fields)));
        }
    }

    fn done(&mut self, now: Instant) {
        self.is_over = true;
        let parts = self.choices.iter().map(|state| state.parts).fold(0, u32::saturating_add);
        let estimate =
            Usage { prompt_tokens: self.prompt_tokens, completion_tokens: parts, cached_tokens: 0 };
        let first_at = self.first_at.unwrap_or(now);
        let millis =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        let prefill_ms = millis(self.sent_at, first_at);
        let timings = Timings {
            prefill_ms,
            ttft_ms: prefill_ms,
            decode_ms: millis(first_at, now),
            ..Timings::default()
        };
        self.tell(InferenceEvent::Done {
            finish_reason: self.first_reason.unwrap_or(FinishReason::Stop),
            usage: self.usage.filter(can_be_so).unwrap_or(estimate),
            timings,
        });
    }
}

/// Whether a request can have used so much.
fn can_be_so(usage: &Usage) -> bool {
    usage.prompt_tokens.max(usage.completion_tokens) <= MOST_TOKENS
}

/// Whether an `error` is one: some write one beside an answer in which nothing is said.
fn is_error(error: &Value) -> bool {
    match error {
        Value::Bool(is_one) => *is_one,
        Value::Number(code) => code.as_f64() != Some(0.0),
        Value::Object(fields) => fields.values().any(is_error),
        other => is_something(other),
    }
}

/// The reason of an end, if rbee has it.
fn finish_reason(reason: &str) -> Option<FinishReason> {
    match reason {
        "stop" => Some(FinishReason::Stop),
        "length" => Some(FinishReason::Length),
        "tool_calls" | "function_call" => Some(FinishReason::ToolCalls),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
