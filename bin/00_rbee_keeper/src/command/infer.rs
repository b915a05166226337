//! `infer`: the text alone goes to stdout, as it comes.

use std::io::Read;

use rbee_operations::{Infer, JobEvent, Operation};
use serde_json::Value;
use worker_contract::{ModelAlias, ModelKind, Sampling};

use super::{data, read};
use crate::cli::{InferArgs, SamplingArgs};
use crate::failure::Failure;
use crate::job_run::{self, Listener};
use crate::live::Live;
use crate::output::Output;
use crate::queen_client::Queen;
use crate::render::{printable, progress};
use crate::session::Session;
use crate::view::Status;

/// The longest prompt that is read from stdin, in bytes; it fits into the queen's default limit.
const MAX_PROMPT: u64 = 9 << 20;

pub(super) async fn infer(session: &Session, args: InferArgs) -> Result<(), Failure> {
    let InferArgs { positional, prompt, model, system, sampling } = args;
    // clap demands exactly one of the two.
    let prompt = match positional.or(prompt).unwrap_or_default() {
        dash if dash == "-" => prompt_from_stdin().await?,
        prompt => prompt,
    };
    if prompt.trim().is_empty() {
        return Err(Failure::usage("the prompt is empty"));
    }
    let queen = session.queen().await?;
    let model = match model {
        Some(model) => model.alias(session, &queen).await?,
        None => only_model(&queen).await?,
    };
    let infer = Infer { model, prompt, system, sampling: sampling.into() };
    let operation = Operation::Infer(Box::new(infer));
    let mut answer = Answer::new(session.output);
    let ended = job_run::run_with(session, &queen, &operation, &mut answer).await;
    answer.end_line().await?;
    let ended = ended?;
    answer.ensure_whole()?;
    conclude(session.output, answer.text, ended).await
}

/// Tells what came besides the text.
async fn conclude(output: Output, text: String, outcome: JobEvent) -> Result<(), Failure> {
    let mut facts = data(outcome);
    if output.is_json() {
        if let Value::Object(facts) = &mut facts {
            facts.insert("text".to_owned(), Value::String(text));
        }
        return output.document(&facts).await;
    }
    output.note(&progress::speed(&read(&facts)?));
    Ok(())
}

/// The answer while it is being written.
struct Answer {
    output: Output,
    live: Live,
    /// The whole text, for `--json` only.
    text: String,
    ends_with_newline: bool,
    /// Whether the last that was shown is reasoning.
    is_thinking: bool,
    /// Whether some of it is no longer kept.
    is_cut: bool,
}

impl Answer {
    fn new(output: Output) -> Self {
        let (live, text) = (Live::new(output), String::new());
        Self { output, live, text, ends_with_newline: true, is_thinking: false, is_cut: false }
    }

    /// Half an answer must not look like a whole one.
    fn ensure_whole(&self) -> Result<(), Failure> {
        if self.is_cut {
            return Err(Failure::local("a part of the answer is lost: it was read too late"));
        }
        Ok(())
    }

    /// Shows how the model comes to its answer, to a person who waits for it.
    fn think(&mut self, reasoning: &str) {
        if !self.output.is_silent() && self.output.stderr_is_terminal() && !reasoning.is_empty() {
            self.is_thinking = true;
            Output::stderr(&printable(reasoning));
        }
    }

    /// Ends the last line in a terminal; a file gets the text and nothing else.
    async fn end_line(&mut self) -> Result<(), Failure> {
        if self.ends_with_newline || !self.output.stdout_is_terminal() {
            return Ok(());
        }
        self.ends_with_newline = true;
        self.output.text("\n").await
    }
}

impl Listener for Answer {
    async fn event(&mut self, event: &JobEvent) -> Result<(), Failure> {
        match event.event.as_str() {
            "token" => self.ensure_whole()?,
            // `job show --why` tells it; here it would stand between the prompt and the answer.
            "scheduled" => return Ok(()),
            // What is missing cannot be had again, unless the job failed, which its end tells.
            "gap" => {
                self.is_cut = true;
                return Ok(());
            }
            _ => {
                self.end_line().await?;
                self.live.show(event);
                return Ok(());
            }
        }
        self.live.clear();
        self.think(reasoning(event));
        let text = token_text(event);
        if text.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.is_thinking) {
            Output::stderr("\n\n");
        }
        if self.output.is_json() {
            self.text.push_str(text);
            return Ok(());
        }
        self.ends_with_newline = text.ends_with('\n');
        let shown =
            if self.output.stdout_is_terminal() { printable(text) } else { text.to_owned() };
        self.output.text(shown).await
    }
}

/// The text of a `token` event: of its data, else of its message.
fn token_text(event: &JobEvent) -> &str {
    let in_data = event.data.as_ref().and_then(|data| data.get("text")).and_then(Value::as_str);
    in_data.unwrap_or(&event.message)
}

/// The reasoning in a `token` event.
fn reasoning(event: &JobEvent) -> &str {
    let in_data = event.data.as_ref().and_then(|data| data.get("reasoning"));
    in_data.and_then(Value::as_str).unwrap_or_default()
}

/// The model of a queen that has only one which makes text.
async fn only_model(queen: &Queen) -> Result<ModelAlias, Failure> {
    let answer = queen.get("/v1/models").await?;
    let models =
        answer.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut names: Vec<&str> = models.iter().filter_map(|m| m.get("id")?.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 1 {
        let status: Status = read(&queen.get("/v1/status").await?)?;
        let writing: Vec<&str> =
            names.iter().copied().filter(|name| !makes_no_text(name, &status)).collect();
        // The queen says what any other cannot do.
        if !writing.is_empty() {
            names = writing;
        }
    }
    choose(&names)
}

/// Whether all who know what the model does say that it makes something else: vectors, or scores.
fn makes_no_text(name: &str, status: &Status) -> bool {
    let catalogs = status.hives.iter().flat_map(|hive| &hive.catalog);
    let in_catalogs = catalogs.filter(|model| model.alias.as_str() == name);
    let run = status.workers.iter().filter(|worker| worker.model.name.as_str() == name);
    let mut kinds = in_catalogs
        .filter_map(|model| model.gguf.kind)
        .chain(run.map(|worker| worker.model.kind))
        .peekable();
    kinds.peek().is_some() && kinds.all(|kind| kind != ModelKind::Generative)
}

/// The only name there is.
fn choose(names: &[&str]) -> Result<ModelAlias, Failure> {
    match names {
        [] => Err(Failure::local("there is no model yet").with_hint(
            "fetch one with `rbee-keeper model download hf:OWNER/REPO`, or add a file with \
                 `rbee-keeper model import FILE`",
        )),
        [name] => name.parse().map_err(|error| Failure::Protocol(format!("{error}"))),
        names => Err(Failure::usage(format!("which of {} models?", names.len()))
            .with_hint(format!("give --model with one of: {}", names.join(", ")))),
    }
}

async fn prompt_from_stdin() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut prompt = String::new();
        std::io::stdin().lock().take(MAX_PROMPT + 1).read_to_string(&mut prompt).map(|_| prompt)
    });
    let prompt = match read.await {
        Ok(Ok(prompt)) => prompt,
        Ok(Err(error)) => return Err(Failure::caused("cannot read the prompt from stdin", error)),
        Err(_) => return Err(Failure::local("cannot read the prompt from stdin")),
    };
    if prompt.len() as u64 > MAX_PROMPT {
        return Err(Failure::usage(format!("the prompt is longer than {MAX_PROMPT} bytes")));
    }
    Ok(prompt)
}

impl From<SamplingArgs> for Sampling {
    fn from(args: SamplingArgs) -> Self {
        Self {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: args.top_k,
            min_p: args.min_p,
            seed: args.seed,
            stop: args.stop,
            max_tokens: args.max_tokens,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::GlobalArgs;

    #[test]
    fn a_model_is_chosen_only_where_there_is_no_choice() {
        assert_eq!(choose(&["a"]).unwrap().as_str(), "a");
        let hint = choose(&[]).unwrap_err().hint().unwrap();
        assert!(hint.starts_with("fetch one with `rbee-keeper model download"), "{hint}");
        let several = choose(&["a", "b"]).unwrap_err();
        assert_eq!(several.exit_code(), 2);
        assert!(several.hint().unwrap().contains("a, b"));
    }

    #[test]
    fn models_of_which_all_say_that_they_make_no_text_are_not_offered() {
        let model = |alias: &str, kind: serde_json::Value| {
            serde_json::json!({
                "alias": alias, "sha256": "0".repeat(64), "source": "", "added_at": 0, "architecture": "llama",
                "quantization": "Q8_0", "parameters": 1, "context_length": 512, "has_chat_template": false,
                "size_bytes": 1, "kind": kind,
            })
        };
        let status: Status = serde_json::from_value(serde_json::json!({
            "hives": [
                { "catalog": [model("minilm", "embedding".into()), model("both", "embedding".into())] },
                { "catalog": [model("both", "generative".into()), model("unread", ().into())] },
            ],
            "workers": [{
                "worker_id": "w-1", "hive_id": "a", "device": "CPU-0", "state": "ready",
                "model": { "name": "ranker", "context_length": 512, "kind": "reranking" },
            }],
        }))
        .unwrap();
        for (name, is_left_out) in [
            ("minilm", true),
            ("ranker", true),
            ("both", false),
            ("unread", false),
            ("unknown", false),
        ] {
            assert_eq!(makes_no_text(name, &status), is_left_out, "{name}");
        }
    }

    #[test]
    fn the_text_of_a_token_is_taken_exactly() {
        let event: JobEvent = serde_json::from_str(
            r#"{"event":"token","message":"shown","at":"","data":{"text":" it\n","tokens":[1]}}"#,
        )
        .unwrap();
        assert_eq!((token_text(&event), reasoning(&event)), (" it\n", ""));
        let event: JobEvent = serde_json::from_str(
            r#"{"event":"token","message":"","at":"","data":{"text":"","reasoning":"Hm","tokens":[1]}}"#,
        )
        .unwrap();
        assert_eq!((token_text(&event), reasoning(&event)), ("", "Hm"));
    }

    #[tokio::test]
    async fn what_is_lost_of_an_answer_counts_only_where_the_rest_of_it_comes() {
        let global = GlobalArgs { queen: None, token_file: None, json: true, quiet: true };
        let event = |event: &str| -> JobEvent {
            let event = serde_json::json!({ "event": event, "message": "", "at": "" });
            serde_json::from_value(event).unwrap()
        };
        let mut answer = Answer::new(Output::new(&global));
        answer.event(&event("gap")).await.unwrap();
        answer.event(&event("error")).await.unwrap();
        let late = answer.event(&event("token")).await.unwrap_err();
        assert!(late.to_string().contains("read too late"), "{late}");
        assert!(answer.ensure_whole().is_err(), "nor is its end that of a whole one");
    }
}
