//! From a request to the tokens of its texts: checks and tokenizer.

use std::time::{Duration, Instant};

use worker_contract::{InferenceRequest, ModelAlias, ModelKind, Prompt, Task, TokenId};

use super::request::{EmbeddingRequest, Wanted};
use crate::batch::{Answer, is_wanted};
use crate::engine::PooledLimits;
use crate::engine::llama::{Model, NotTokenized, TokenCount};

/// The most texts of one request: as OpenAI's API has it for embeddings.
const MAX_TEXTS: usize = 2048;

/// The most bytes of the query, counted once for each document with which it is read: as much as the
/// largest request.
const MAX_QUERY_BYTES: usize = 16 * 1024 * 1024;

/// What requests for vectors and scores are checked against.
#[derive(Debug)]
pub struct EmbeddingPreparer<'a> {
    /// The name of the model that is loaded.
    pub name: &'a ModelAlias,
    /// The model.
    pub model: &'a Model,
    /// What its engine can compute.
    pub limits: PooledLimits,
    /// Whether each text is computed alone.
    pub batch_invariant: bool,
}

/// A request cannot be served; it is the request's fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedEmbedding {
    /// It wants another model.
    #[error("this worker runs {loaded}, not {wanted}")]
    WrongModel {
        /// The model that is loaded.
        loaded: ModelAlias,
        /// The model that was asked for.
        wanted: ModelAlias,
    },
    /// It wants text.
    #[error("{}", ModelKind::Embedding.refusal(.0))]
    MakesNoText(ModelAlias),
    /// It wants vectors or text of a reranking model.
    #[error("{}", ModelKind::Reranking.refusal(.0))]
    OnlyRanks(ModelAlias),
    /// A field asks for what vectors do not have.
    #[error("{0} means nothing for vectors and scores; leave it out")]
    Meaningless(&'static str),
    /// Only a worker in batch-invariant mode can promise this.
    #[error(
        "this worker cannot promise a deterministic answer, because the last digits of a vector depend on the texts that are computed beside it: start it with --batch-invariant"
    )]
    NotDeterministic,
    /// There is nothing to compute.
    #[error("{0} is empty")]
    Empty(String),
    /// There are too many texts.
    #[error("{field} has {count} entries; the most is {MAX_TEXTS}: send them in several requests")]
    TooMany {
        /// The field.
        field: &'static str,
        /// How many it has.
        count: usize,
    },
    /// The query would be read too often.
    #[error(
        "the query of {query_bytes} bytes is too long for {documents} documents, each of which is read with it; shorten it, or send fewer documents at once"
    )]
    LongQuery {
        /// The length of the query.
        query_bytes: usize,
        /// How many documents there are.
        documents: usize,
    },
    /// A token is not in the vocabulary.
    #[error("token {token} in {field} is not in the vocabulary: it has the tokens 0 to {last}")]
    UnknownToken {
        /// Where it is.
        field: String,
        /// The token.
        token: TokenId,
        /// The largest token of the vocabulary.
        last: u32,
    },
    /// A text does not fit.
    #[error("{field} has {tokens}, and this model takes at most {limit} at once; send it in parts")]
    TooLong {
        /// The text.
        field: String,
        /// Its length.
        tokens: TokenCount,
        /// The longest length.
        limit: u32,
    },
    /// Its deadline has passed, or nobody waits for the answer any more.
    #[error("the request's deadline has passed")]
    GivenUp,
}

impl EmbeddingPreparer<'_> {
    /// Checks a request and makes its tokens.
    pub fn prepare(
        &self,
        request: InferenceRequest,
        answer: Answer,
        arrived: Instant,
    ) -> Result<EmbeddingRequest, RefusedEmbedding> {
        if let Some(wanted) = request.model.as_ref().filter(|wanted| *wanted != self.name) {
            let (loaded, wanted) = (self.name.clone(), wanted.clone());
            return Err(RefusedEmbedding::WrongModel { loaded, wanted });
        }
        let kind = self.model.purpose().kind();
        check_task(kind, &request.task, self.name)?;
        check_fields(&request, self.batch_invariant)?;
        let deadline = request.deadline_ms.map(Duration::from_millis);
        let deadline = deadline.and_then(|left| arrived.checked_add(left));
        let texts = Texts { preparer: self, is_wanted: &|| is_wanted(&answer, deadline) };
        if !(texts.is_wanted)() {
            return Err(RefusedEmbedding::GivenUp);
        }
        let (texts, wanted) = match request.task {
            Task::Embed { inputs } => (texts.inputs(inputs)?, Wanted::Vectors),
            Task::Rerank { query, documents } if kind == ModelKind::Reranking => {
                (texts.pairs(&query, &documents)?, Wanted::Scores)
            }
            Task::Rerank { query, documents } => {
                (texts.query_then(&query, &documents)?, Wanted::CosinesWithFirst)
            }
            Task::Chat(_) | Task::Completion { .. } | Task::Infill { .. } => {
                return Err(RefusedEmbedding::MakesNoText(self.name.clone()));
            }
        };
        Ok(EmbeddingRequest {
            request_id: request.request_id,
            texts,
            wanted,
            arrived,
            deadline,
            answer,
        })
    }

    /// The most tokens of a text.
    fn longest(&self) -> usize {
        self.limits.text_tokens as usize
    }
}

/// The way of the texts of one request.
struct Texts<'a> {
    preparer: &'a EmbeddingPreparer<'a>,
    is_wanted: &'a dyn Fn() -> bool,
}

impl Texts<'_> {
    fn inputs(&self, inputs: Vec<Prompt>) -> Result<Vec<Vec<TokenId>>, RefusedEmbedding> {
        check_count("inputs", inputs.len())?;
        let text = |(index, input)| {
            let field = format!("inputs[{index}]");
            match input {
                Prompt::Text(text) => self.text(&text, field),
                Prompt::Tokens(tokens) => self.fitting(tokens, field),
            }
        };
        inputs.into_iter().enumerate().map(text).collect()
    }

    fn pairs(
        &self,
        query: &str,
        documents: &[String],
    ) -> Result<Vec<Vec<TokenId>>, RefusedEmbedding> {
        check_count("documents", documents.len())?;
        not_empty(query, || "query".to_owned())?;
        check_query(query.len(), documents.len())?;
        let pair = |(index, document): (usize, &String)| {
            not_empty(document, || format!("documents[{index}]"))?;
            let Texts { preparer, is_wanted } = self;
            let tokens =
                preparer.model.query_and_document(query, document, preparer.longest(), is_wanted);
            self.checked(tokens, format!("documents[{index}] with the query"))
        };
        documents.iter().enumerate().map(pair).collect()
    }

    fn query_then(
        &self,
        query: &str,
        documents: &[String],
    ) -> Result<Vec<Vec<TokenId>>, RefusedEmbedding> {
        check_count("documents", documents.len())?;
        let query = std::iter::once(self.text(query, "query".to_owned()));
        let documents = documents.iter().enumerate();
        query.chain(documents.map(|(n, text)| self.text(text, format!("documents[{n}]")))).collect()
    }

    /// The tokens of a text, the model's start and end tokens around it.
    fn text(&self, text: &str, field: String) -> Result<Vec<TokenId>, RefusedEmbedding> {
        not_empty(text, || field.clone())?;
        let Texts { preparer, is_wanted } = self;
        let tokens = preparer.model.tokenize_within(text, false, preparer.longest(), is_wanted);
        self.checked(tokens, field)
    }

    fn checked(
        &self,
        tokens: Result<Vec<TokenId>, NotTokenized>,
        field: String,
    ) -> Result<Vec<TokenId>, RefusedEmbedding> {
        let limit = self.preparer.limits.text_tokens;
        match tokens {
            Ok(tokens) => self.fitting(tokens, field),
            Err(NotTokenized::GivenUp) => Err(RefusedEmbedding::GivenUp),
            Err(NotTokenized::TooLong(tokens)) => {
                Err(RefusedEmbedding::TooLong { field, tokens, limit })
            }
        }
    }

    fn fitting(
        &self,
        tokens: Vec<TokenId>,
        field: String,
    ) -> Result<Vec<TokenId>, RefusedEmbedding> {
        if tokens.is_empty() {
            return Err(RefusedEmbedding::Empty(field));
        }
        let limit = self.preparer.limits.text_tokens;
        if tokens.len() > limit as usize {
            let tokens = TokenCount::Exactly(tokens.len());
            return Err(RefusedEmbedding::TooLong { field, tokens, limit });
        }
        let size = self.preparer.model.vocabulary_size();
        let outside = |token: &&TokenId| !u32::try_from(**token).is_ok_and(|t| t < size);
        match tokens.iter().find(outside) {
            Some(token) => {
                let last = size.saturating_sub(1);
                Err(RefusedEmbedding::UnknownToken { field, token: *token, last })
            }
            None => Ok(tokens),
        }
    }
}

fn check_task(kind: ModelKind, task: &Task, name: &ModelAlias) -> Result<(), RefusedEmbedding> {
    match kind {
        _ if kind.serves(task) => Ok(()),
        ModelKind::Reranking => Err(RefusedEmbedding::OnlyRanks(name.clone())),
        ModelKind::Embedding | ModelKind::Generative => {
            Err(RefusedEmbedding::MakesNoText(name.clone()))
        }
    }
}

/// What only texts have is refused where it asks for something.
fn check_fields(request: &InferenceRequest, batch_invariant: bool) -> Result<(), RefusedEmbedding> {
    let asks = [
        (request.n != 1, "n"),
        (request.first_choice != 0, "first_choice"),
        (!request.resume.is_empty(), "resume"),
        (!request.format.is_text(), "format"),
    ];
    match asks.into_iter().find(|(is_asked, _)| *is_asked) {
        Some((_, field)) => Err(RefusedEmbedding::Meaningless(field)),
        None if request.deterministic && !batch_invariant => {
            Err(RefusedEmbedding::NotDeterministic)
        }
        None => Ok(()),
    }
}

fn check_count(field: &'static str, count: usize) -> Result<(), RefusedEmbedding> {
    match count {
        0 => Err(RefusedEmbedding::Empty(field.to_owned())),
        1..=MAX_TEXTS => Ok(()),
        _ => Err(RefusedEmbedding::TooMany { field, count }),
    }
}

fn check_query(query_bytes: usize, documents: usize) -> Result<(), RefusedEmbedding> {
    if query_bytes.saturating_mul(documents) > MAX_QUERY_BYTES {
        return Err(RefusedEmbedding::LongQuery { query_bytes, documents });
    }
    Ok(())
}

fn not_empty(text: &str, field: impl FnOnce() -> String) -> Result<(), RefusedEmbedding> {
    if text.is_empty() { Err(RefusedEmbedding::Empty(field())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use worker_contract::{Chat, OutputFormat, RequestId};

    use super::*;

    #[test]
    fn a_task_that_the_model_is_not_for_is_refused_with_what_it_is_for() {
        let name: ModelAlias = "m".parse().unwrap();
        let rows = [
            (ModelKind::Embedding, embed(), None),
            (ModelKind::Embedding, rerank(), None),
            (ModelKind::Embedding, chat(), Some("makes vectors, not text")),
            (ModelKind::Embedding, completion(), Some("makes vectors, not text")),
            (ModelKind::Reranking, rerank(), None),
            (ModelKind::Reranking, embed(), Some("scores documents")),
            (ModelKind::Reranking, chat(), Some("scores documents")),
        ];
        for (kind, task, refused) in rows {
            let said = check_task(kind, &task, &name).err().map(|error| error.to_string());
            let as_expected = match (&said, refused) {
                (None, None) => true,
                (Some(said), Some(words)) => said.contains(words),
                _ => false,
            };
            assert!(as_expected, "{kind:?} {task:?}: {said:?}");
        }
    }

    type Change = fn(&mut InferenceRequest);

    #[test]
    fn a_field_that_means_nothing_for_vectors_is_refused_by_its_name() {
        let request = |change: Change| {
            let mut request = InferenceRequest::new(RequestId::random(), embed());
            change(&mut request);
            check_fields(&request, false).err().map(|error| error.to_string())
        };
        assert_eq!(request(|_| {}), None);
        let rows: [(Change, &str); 5] = [
            (|r| r.n = 2, "n means nothing"),
            (|r| r.first_choice = 1, "first_choice means nothing"),
            (|r| r.resume = vec![1], "resume means nothing"),
            (|r| r.format = OutputFormat::JsonObject, "format means nothing"),
            (|r| r.deterministic = true, "cannot promise a deterministic answer"),
        ];
        for (change, words) in rows {
            let said = request(change).expect("it is refused");
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[test]
    fn the_number_of_texts_has_a_limit() {
        assert_eq!(check_count("inputs", 1), Ok(()));
        assert_eq!(check_count("inputs", 2048), Ok(()));
        assert_eq!(check_count("inputs", 0), Err(RefusedEmbedding::Empty("inputs".into())));
        let said = check_count("inputs", 2049).expect_err("it is too many").to_string();
        assert!(said.contains("2049") && said.contains("2048"), "{said}");
    }

    #[test]
    fn a_long_query_is_not_read_with_thousands_of_documents() {
        assert_eq!(check_query(8_192, 2048), Ok(()));
        assert_eq!(check_query(1 << 20, 16), Ok(()));
        for (query_bytes, documents) in [(8_193, 2048), (1 << 20, 17)] {
            let refused = RefusedEmbedding::LongQuery { query_bytes, documents };
            assert_eq!(check_query(query_bytes, documents), Err(refused));
        }
    }

    fn embed() -> Task {
        Task::Embed { inputs: vec![Prompt::Text("x".into())] }
    }

    fn rerank() -> Task {
        Task::Rerank { query: "x".into(), documents: vec!["y".into()] }
    }

    fn chat() -> Task {
        Task::Chat(Chat::from(Vec::new()))
    }

    fn completion() -> Task {
        Task::Completion { prompt: Prompt::Text("x".into()) }
    }
}
