//! From a request to tokens: checks, chat template, tokenizer.

use std::time::{Duration, Instant};

use worker_contract::{
    Chat, InferenceRequest, ModelAlias, ModelKind, OutputFormat, Prompt, Sampling, Task, TokenId,
};

use crate::batch::{Answer, Choice, Ends, Prepared, is_wanted};
use crate::engine::llama::{Model, NotTokenized, TokenCount};
use crate::images::{Eyes, ImageError, Seen};
use crate::media::{Placed, is_media};
use crate::preparations::Effort;
use crate::sampling::constraint::{
    Constraint, ConstraintFactory, InvalidFormat, LazyConstraintFactory, NoVocabulary,
};
use crate::sampling::{Dry, InvalidSampling, TokenSampler, check, choice_seed};
use crate::text::{ChatError, ChatTemplate, ChatTurn, OutputReader};

/// The most answers that are made of one prompt.
const MAX_CHOICES: u32 = 16;

/// The largest number that an answer can have.
const MAX_CHOICE: u32 = 65_535;

/// Up to so many bytes a body has little text: it takes less time than the change to another thread.
const SHORT_BODY: u64 = 16 * 1024;

/// What requests are checked against.
#[derive(Debug)]
pub struct Preparer<'a> {
    /// The name of the model that is loaded.
    pub name: &'a ModelAlias,
    /// The model.
    pub model: &'a Model,
    /// Its chat template, where it has one.
    pub template: Option<&'a ChatTemplate>,
    /// What makes grammars for its vocabulary.
    pub constraints: &'a LazyConstraintFactory,
    /// The longest prompt and answer together, in tokens.
    pub context_length: u32,
    /// Whether no answer depends on what else is computed.
    pub batch_invariant: bool,
    /// What sees images, where there is a projector.
    pub eyes: Option<&'a Eyes>,
}

/// A request cannot be served; it is the request's fault.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It wants another model.
    #[error("this worker runs {loaded}, not {wanted}")]
    WrongModel {
        /// The model that is loaded.
        loaded: ModelAlias,
        /// The model that was asked for.
        wanted: ModelAlias,
    },
    /// A sampling field is out of its range.
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
    /// The answer's format cannot be followed.
    #[error(transparent)]
    Format(#[from] InvalidFormat),
    /// The model cannot be held to a format.
    #[error(transparent)]
    NoVocabulary(#[from] NoVocabulary),
    /// The answer cannot be both.
    #[error(
        "an answer that must call a function has no text of a format; leave out one of the two, or let the model choose"
    )]
    FormatAndCall,
    /// There is nothing to answer.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The model cannot chat.
    #[error("{0} has no chat template, so it cannot chat; send its prompt to /v1/completions")]
    NoTemplate(ModelAlias),
    /// Only a worker in batch-invariant mode can promise this.
    #[error(
        "this worker cannot make a deterministic answer: its hive needs worker.arguments = [\"--batch-invariant\"] in config.toml"
    )]
    NotDeterministic,
    /// The model makes text, and vectors or scores are wanted.
    #[error("{}", ModelKind::Generative.refusal(.0))]
    MakesNoVectors(ModelAlias),
    /// The model cannot see.
    #[error(
        "{0} sees no images: a model that can is added with its projector (rbee-keeper model import FILE --mmproj FILE)"
    )]
    NoEyes(ModelAlias),
    /// Images cannot be used.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// The conversation cannot be answered.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The model cannot fill in the middle.
    #[error(
        "{0} has no infill tokens, so it cannot fill in the middle; models made for code completion can"
    )]
    NoInfillTokens(ModelAlias),
    /// A token is not in the vocabulary.
    #[error("token {token} is not in the vocabulary: it has the tokens 0 to {last}")]
    UnknownToken {
        /// The token.
        token: TokenId,
        /// The largest token of the vocabulary.
        last: u32,
    },
    /// There is no room for an answer.
    #[error(
        "the prompt has {prompt}, and the context of {context_length} tokens must hold the prompt and at least one token of the answer"
    )]
    TooLong {
        /// The prompt's length, with that of the answer that is there already.
        prompt: TokenCount,
        /// The context's length.
        context_length: u32,
    },
    /// Its deadline has passed, or nobody waits for the answer any more.
    #[error("the request's deadline has passed")]
    GivenUp,
}

impl Preparer<'_> {
    /// Checks a request and makes its tokens.
    pub fn prepare(
        &self,
        request: InferenceRequest,
        answer: Answer,
        arrived: Instant,
    ) -> Result<Prepared, PrepareError> {
        check_choices(&request)?;
        if let Some(wanted) = request.model.filter(|wanted| wanted != self.name) {
            return Err(PrepareError::WrongModel { loaded: self.name.clone(), wanted });
        }
        if request.deterministic && !self.batch_invariant {
            return Err(PrepareError::NotDeterministic);
        }
        check(&request.sampling, self.model.vocabulary_size())?;
        let is_formatted = !request.format.is_text();
        let deadline = request.deadline_ms.map(Duration::from_millis);
        let deadline = deadline.and_then(|left| arrived.checked_add(left));
        let bounds = Bounds {
            context_length: self.context_length,
            resumed: request.resume.len(),
            deadline,
            answer: &answer,
        };
        if !bounds.is_wanted() {
            return Err(PrepareError::GivenUp);
        }
        let Input { tokens: prompt, media, turn } =
            self.input(request.task, is_formatted, &bounds)?;
        self.check_tokens(&request.resume)?;
        if prompt.len() > bounds.most() {
            return Err(bounds.too_long(TokenCount::Exactly(prompt.len())));
        }
        let reader = |choice| match &turn {
            Some(turn) => turn.reader(&request.request_id, choice),
            None => OutputReader::plain(),
        };
        let seed = request.sampling.seed.unwrap_or_else(random_seed);
        let constraint = self.constraint(&request.format, turn.as_ref())?;
        let sampler = self.sampler(&request.sampling, constraint, seed, &prompt);
        // Only one answer can be resumed.
        let choice = |index| Choice {
            index,
            resume: request.resume.clone(),
            sampler: sampler.for_choice(choice_seed(seed, index)),
            output: reader(index),
        };
        let indices = request.first_choice..request.first_choice + request.n;
        let choices = indices.map(choice).collect();
        Ok(Prepared {
            request_id: request.request_id,
            choices,
            ends: Ends {
                max_tokens: request.sampling.max_tokens,
                stop: request.sampling.stop,
                ignore_eos: request.sampling.ignore_eos,
            },
            prompt,
            media: media.into(),
            seed,
            arrived,
            deadline,
            answer,
        })
    }

    fn input(
        &self,
        task: Task,
        is_formatted: bool,
        bounds: &Bounds<'_>,
    ) -> Result<Input, PrepareError> {
        let plain = |tokens| Input { tokens, media: Vec::new(), turn: None };
        let tokens = |text: &str, template_output| {
            let tokens = self
                .model
                .tokenize_within(text, template_output, bounds.most(), || bounds.is_wanted());
            tokens.map_err(|reason| bounds.refused(reason))
        };
        let input = match task {
            Task::Chat(chat) if chat.messages.is_empty() => {
                return Err(PrepareError::Empty("messages"));
            }
            Task::Chat(chat) => {
                let template =
                    self.template.ok_or_else(|| PrepareError::NoTemplate(self.name.clone()))?;
                if chat.messages.iter().any(|message| !message.images.is_empty()) {
                    return self.seen(chat, template, is_formatted, bounds);
                }
                let turn = ChatTurn::new(template, &chat, is_formatted)?;
                Input { tokens: tokens(&turn.prompt, true)?, media: Vec::new(), turn: Some(turn) }
            }
            Task::Completion { prompt: Prompt::Text(text) } => plain(tokens(&text, false)?),
            Task::Completion { prompt: Prompt::Tokens(tokens) } => {
                self.check_tokens(&tokens)?;
                plain(tokens)
            }
            Task::Infill { prefix, suffix } => {
                let most = bounds.most();
                let tokens =
                    self.model.tokenize_infill(&prefix, &suffix, most, || bounds.is_wanted());
                let tokens = tokens.map_err(|reason| bounds.refused(reason))?;
                plain(tokens.ok_or_else(|| PrepareError::NoInfillTokens(self.name.clone()))?)
            }
            Task::Embed { .. } | Task::Rerank { .. } => {
                return Err(PrepareError::MakesNoVectors(self.name.clone()));
            }
        };
        non_empty(input)
    }

    /// A conversation with images.
    fn seen(
        &self,
        mut chat: Chat,
        template: &ChatTemplate,
        is_formatted: bool,
        bounds: &Bounds<'_>,
    ) -> Result<Input, PrepareError> {
        let eyes = self.eyes.ok_or_else(|| PrepareError::NoEyes(self.name.clone()))?;
        let pictures = eyes.take_pictures(&mut chat.messages)?;
        let turn = ChatTurn::new(template, &chat, is_formatted)?;
        // The marks of pictures are no text, and stand for one token or more each.
        let marks = pictures.len() * eyes.mark_bytes();
        let fewest = self.model.fewest_tokens(&turn.prompt).saturating_sub(marks);
        if fewest > bounds.most() {
            return Err(bounds.too_long(TokenCount::AtLeast(fewest)));
        }
        let with_start = !self.model.starts_itself(&turn.prompt);
        let Seen { tokens, media } =
            eyes.see(&turn.prompt, with_start, &pictures, || bounds.is_wanted())?;
        non_empty(Input { tokens, media, turn: Some(turn) })
    }

    /// What makes grammars for the model's vocabulary; the first call takes a while.
    pub fn constraint_factory(&self) -> Result<&ConstraintFactory, NoVocabulary> {
        self.constraints.get(|| self.model.token_environment())
    }

    /// What holds the answer to its format, or to calls where it must make one.
    fn constraint(
        &self,
        format: &OutputFormat,
        turn: Option<&ChatTurn>,
    ) -> Result<Option<Constraint>, PrepareError> {
        let calls = turn.and_then(|turn| Some((turn.grammar.as_deref()?, turn.offer()?)));
        match (format.is_text(), calls) {
            (true, None) => Ok(None),
            (false, None) => Ok(self.constraint_factory()?.constraint(format)?),
            (true, Some((grammar, offer))) => {
                let in_tools = |invalid: InvalidFormat| invalid.at("tools");
                for schema in offer.tools().iter().filter_map(|tool| tool.parameters.as_ref()) {
                    ConstraintFactory::checked_schema(schema).map_err(in_tools)?;
                }
                Ok(Some(self.constraint_factory()?.lark(grammar).map_err(in_tools)?))
            }
            (false, Some(_)) => Err(PrepareError::FormatAndCall),
        }
    }

    fn sampler(
        &self,
        sampling: &Sampling,
        constraint: Option<Constraint>,
        seed: u64,
        prompt: &[TokenId],
    ) -> TokenSampler {
        let vocabulary = self.model.vocabulary_size();
        let mut sampler = TokenSampler::new(sampling, seed, vocabulary, self.context_length);
        if let Some(dry) = Dry::of(sampling, self.context_length) {
            sampler = sampler.with_dry(self.model.dry_sampler(&dry), dry.last_n);
        }
        if let Some(constraint) = constraint {
            sampler = sampler.with_constraint(if sampling.ignore_eos {
                constraint.ignoring_ends()
            } else {
                constraint
            });
        }
        let text: Vec<TokenId> = prompt.iter().copied().filter(|token| !is_media(*token)).collect();
        sampler.see_prompt(&text);
        sampler
    }

    /// A token from outside must be in the vocabulary: llama.cpp refuses a whole batch for it.
    fn check_tokens(&self, tokens: &[TokenId]) -> Result<(), PrepareError> {
        let size = self.model.vocabulary_size();
        let outside = |token: &&TokenId| !u32::try_from(**token).is_ok_and(|t| t < size);
        match tokens.iter().find(outside) {
            Some(token) => {
                Err(PrepareError::UnknownToken { token: *token, last: size.saturating_sub(1) })
            }
            None => Ok(()),
        }
    }
}

/// What it takes to prepare a request whose body has so many bytes: everything that is prepared is in it.
#[must_use]
pub fn effort(request: &InferenceRequest, body_bytes: u64) -> Effort {
    let chat = match &request.task {
        Task::Chat(chat) => Some(chat),
        _ => None,
    };
    if chat.is_some_and(|chat| chat.messages.iter().any(|message| !message.images.is_empty())) {
        return Effort::Images;
    }
    if body_bytes > SHORT_BODY {
        return Effort::Long;
    }
    let has_tools = chat.is_some_and(|chat| !chat.tools.is_empty());
    let has_dry = request.sampling.dry_multiplier.is_some_and(|m| m > 0.0);
    if has_tools || has_dry || !request.format.is_text() { Effort::More } else { Effort::Little }
}

fn check_choices(request: &InferenceRequest) -> Result<(), InvalidSampling> {
    if !(1..=MAX_CHOICES).contains(&request.n) {
        return Err(InvalidSampling::new("n", request.n, "from 1 to 16"));
    }
    if request.first_choice > MAX_CHOICE {
        return Err(InvalidSampling::new("first_choice", request.first_choice, "at most 65535"));
    }
    if request.n > 1 && !request.resume.is_empty() {
        return Err(InvalidSampling::new("n", request.n, "1 where resume is given"));
    }
    Ok(())
}

/// What a prompt must keep to.
#[derive(Debug)]
struct Bounds<'a> {
    context_length: u32,
    /// Tokens of the answer that are there already.
    resumed: usize,
    deadline: Option<Instant>,
    answer: &'a Answer,
}

impl Bounds<'_> {
    /// The most tokens that it can have.
    fn most(&self) -> usize {
        (self.context_length as usize).saturating_sub(1 + self.resumed)
    }

    fn is_wanted(&self) -> bool {
        is_wanted(self.answer, self.deadline)
    }

    fn too_long(&self, prompt: TokenCount) -> PrepareError {
        let prompt = prompt.and(self.resumed);
        PrepareError::TooLong { prompt, context_length: self.context_length }
    }

    fn refused(&self, reason: NotTokenized) -> PrepareError {
        match reason {
            NotTokenized::TooLong(prompt) => self.too_long(prompt),
            NotTokenized::GivenUp => PrepareError::GivenUp,
        }
    }
}

/// What a task is for the engine.
#[derive(Debug)]
struct Input {
    tokens: Vec<TokenId>,
    /// The images among them.
    media: Vec<Placed>,
    /// Where it is a conversation.
    turn: Option<ChatTurn>,
}

fn non_empty(input: Input) -> Result<Input, PrepareError> {
    if input.tokens.is_empty() { Err(PrepareError::Empty("prompt")) } else { Ok(input) }
}

/// A seed that nobody chose. JSON numbers are exact up to 2^53.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(Instant::now()) >> 11
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_in_a_request_counts_for_what_it_takes() {
        let chat = |message: serde_json::Value, count: usize| json!({"task": {"type": "chat", "messages": vec![message; count]}});
        let user = json!({"role": "user", "content": ""});
        let words = "word ".repeat(4000);
        let call = json!({"id": "1", "name": "f", "arguments": words});
        let called = json!({"role": "assistant", "content": "", "tool_calls": [call]});
        let thought = json!({"role": "assistant", "content": "", "reasoning": words});
        let mut variables = chat(user.clone(), 1);
        variables["task"]["template_variables"] = json!({"x": words});
        let mut tools = chat(user.clone(), 1);
        tools["task"]["tools"] = json!([{"name": "f"}]);
        let shown = json!({"role": "user", "content": "", "images": [{"at": 0, "data": ""}]});
        let complete = |prompt: &str| json!({"task": {"type": "completion", "prompt": prompt}, "sampling": {}});
        let mut formatted = complete("x");
        formatted["format"] = json!({"type": "json_object"});
        let mut dry = complete("x");
        dry["sampling"]["dry_multiplier"] = json!(0.8);
        for (what, request, expected) in [
            ("a message", chat(user.clone(), 1), Effort::Little),
            ("many messages of nothing", chat(user, 60_000), Effort::Long),
            ("a long call", chat(called, 1), Effort::Long),
            ("long thoughts", chat(thought, 1), Effort::Long),
            ("a long variable", variables, Effort::Long),
            ("functions", tools, Effort::More),
            ("an image", chat(shown, 1), Effort::Images),
            ("a short prompt", complete("x"), Effort::Little),
            ("a long prompt", complete(&words), Effort::Long),
            ("a format", formatted, Effort::More),
            ("a search of the vocabulary", dry, Effort::More),
        ] {
            let body = request.to_string();
            let request: InferenceRequest = serde_json::from_str(&body).unwrap();
            assert_eq!(effort(&request, body.len() as u64), expected, "{what}");
        }
    }
}
