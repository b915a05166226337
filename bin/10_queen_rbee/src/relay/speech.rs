//! How the answer of a worker is told: in the events of the worker's contract, or in OpenAI's words, which
//! are translated. Pure but for the time at which something came.

use axum::http::StatusCode;
use http1_client::Head;
use tokio::time::Instant;
use worker_contract::{ErrorDetail, ErrorKind, InferenceEvent};

use super::failure::Trouble;
use super::reason::Reason;
use super::size::{MAX_ALL, MAX_TEXT, too_much};
use super::sse::{Event, EventCutter, MARK, MAX_EVENT, TooLong};
use super::worker::Leg;
use crate::attached::{Fault, HIVES_SERVE, Told, Translator, compresses, wordless};
use crate::registry::Target;

/// How a worker tells its answer.
#[derive(Debug)]
pub(super) enum Speech {
    /// In the events of the worker's contract.
    Contract,
    /// In OpenAI's chunks.
    Chunks(Box<Translator>),
    /// In one piece, of which this much has come.
    Whole(Box<Translator>, Vec<u8>),
    /// In OpenAI's chunks or in one piece, as it begins, of which this much has come: its head does not say.
    Untold(Option<Box<Translator>>, Vec<u8>),
}

/// How an answer may begin, and whether it is a stream then,
const BEGINNINGS: [(&[u8], bool); 4] =
    [(b"data:", true), (b"event:", true), (b":", true), (b"{", false)];
/// and how many bytes may be blank before.
const MOST_BLANKS: usize = 1024;

impl Speech {
    /// How the answer to a request is told, by its head.
    pub(super) fn of(
        head: &Head,
        leg: &Leg<'_>,
        target: &Target,
        sent_at: Instant,
    ) -> Result<Self, Trouble> {
        let kind = head.header("content-type");
        let is = |wanted: &str| kind.is_some_and(|kind| is_of(kind, wanted));
        let is_stream = is("text/event-stream");
        if target.server.is_none() {
            let wrong = || Trouble::garbage("its answer is not text/event-stream");
            return if is_stream { Ok(Self::Contract) } else { Err(wrong()) };
        }
        if let Some(reason) = compresses(head.header("content-encoding")) {
            return Err(Trouble::garbage(reason));
        }
        let prefilled = leg.prefill.map_or(0, |prefill| prefill.tokens);
        let begun = sent_at.into_std();
        let only_of = target.server.as_ref().filter(|server| server.names_its_model);
        let translator = Translator::new(leg.request, leg.prompt_bytes, prefilled, begun)
            .only_of(only_of.map(|server| server.model.as_str()));
        if is_stream {
            return Ok(Self::Chunks(Box::new(translator)));
        }
        if is("application/json") {
            return Ok(Self::Whole(Box::new(translator), Vec::new()));
        }
        if kind.is_none() || is("text/plain") {
            return Ok(Self::Untold(Some(Box::new(translator)), Vec::new()));
        }
        Err(neither())
    }

    /// What cuts it into events, of which those of a server may be as long as a whole answer: some write a picture
    /// into one.
    pub(super) fn cutter(&self) -> EventCutter {
        match self {
            Self::Contract => EventCutter::new(MAX_EVENT),
            Self::Chunks(_) | Self::Whole(..) | Self::Untold(..) => EventCutter::new(MAX_TEXT),
        }
    }

    /// Takes bytes in.
    pub(super) fn feed(&mut self, cutter: &mut EventCutter, bytes: &[u8]) -> Result<(), Trouble> {
        match self {
            Self::Contract | Self::Chunks(_) => cutter.feed(bytes),
            Self::Whole(translator, body) => {
                let most = if translator.is_of_items() { MAX_ALL } else { MAX_TEXT };
                if body.len() + bytes.len() > most {
                    return Err(Trouble::TooMuch(too_much(most)));
                }
                body.extend_from_slice(bytes);
            }
            Self::Untold(translator, begun) => {
                begun.extend_from_slice(bytes);
                let begun = begun.as_slice();
                let text = begun.strip_prefix(MARK).unwrap_or(begun).trim_ascii_start();
                let begins = BEGINNINGS.iter().find(|(beginning, _)| text.starts_with(beginning));
                let may_begin = MARK.starts_with(begun)
                    || BEGINNINGS.iter().any(|(beginning, _)| beginning.starts_with(text));
                if begins.is_none() && may_begin && begun.len() < MOST_BLANKS {
                    return Ok(());
                }
                let begins = begins.map(|(_, is_stream)| *is_stream);
                *self = match (begins, translator.take()) {
                    (Some(true), Some(translator)) => {
                        cutter.feed(begun);
                        Self::Chunks(translator)
                    }
                    (Some(false), Some(translator)) => Self::Whole(translator, text.to_vec()),
                    _ => return Err(neither()),
                };
            }
        }
        Ok(())
    }

    /// The next that is told in what has come; `None` where more is needed.
    pub(super) fn take(&mut self, cutter: &mut EventCutter) -> Result<Option<Told>, Trouble> {
        match self {
            Self::Contract => {
                let too_long = |error: TooLong| Trouble::garbage(error.to_string());
                let parsed = cutter.next(|event| InferenceEvent::from_json(event.data));
                // What it sent is not told: it could be text of the answer.
                let wrong = |_| Trouble::garbage("it sent what is no inference event");
                let event = parsed.map_err(too_long)?.transpose().map_err(wrong)?;
                Ok(event.map(Told::Event))
            }
            Self::Chunks(translator) => loop {
                if let Some(told) = translator.pop()? {
                    return Ok(Some(told));
                }
                let now = Instant::now().into_std();
                let read = |event: Event<'_>| match translator.event(event.data, now) {
                    // So some keep a connection alive.
                    Err(Fault::NoAnswer) if event.is_other => Ok(()),
                    taken => taken,
                };
                let taken = match cutter.next(read) {
                    Ok(None) => return Ok(None),
                    Ok(Some(taken)) => taken.map_err(Trouble::from),
                    Err(TooLong(most)) => Err(Trouble::TooMuch(too_much(most))),
                };
                // What comes after the end of all its answers takes nothing away from them.
                if let Err(trouble) = taken
                    && !translator.ends_here(now)
                {
                    return Err(trouble);
                }
            },
            Self::Whole(translator, _) => Ok(translator.pop()?),
            Self::Untold(..) => Ok(None),
        }
    }

    /// The connection has ended. Whether that makes the answer complete.
    pub(super) fn closed(&mut self) -> Result<bool, Trouble> {
        let now = Instant::now().into_std();
        match self {
            Self::Contract => Ok(false),
            Self::Chunks(translator) => Ok(translator.closed(now)),
            Self::Whole(translator, body) => {
                translator.whole(body, now)?;
                Ok(true)
            }
            Self::Untold(..) => Err(neither()),
        }
    }

    /// Whether all that is missing of the answer is what was used for it, and that it is over.
    pub(super) fn lacks_only_farewell(&self) -> bool {
        matches!(self, Self::Chunks(translator) if translator.lacks_only_farewell())
    }

    /// Nothing more is waited for. Whether all was there that matters: then its end is what is told next.
    pub(super) fn is_over(&mut self) -> bool {
        let now = Instant::now().into_std();
        match self {
            Self::Chunks(translator) => translator.ends_here(now),
            Self::Contract | Self::Whole(..) | Self::Untold(..) => false,
        }
    }
}

fn neither() -> Trouble {
    Trouble::garbage("its answer is neither text/event-stream nor JSON")
}

/// Whether a content type is the one that is wanted, whatever its case and its parameters.
fn is_of(kind: &str, wanted: &str) -> bool {
    let essence = kind.split_once(';').map_or(kind, |(essence, _)| essence);
    essence.trim().eq_ignore_ascii_case(wanted)
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(detail) => Self::Refused { status: StatusCode::BAD_REQUEST, detail },
            // Whose fault it is nobody knows, as where it answers with a 500.
            Fault::InDoubt(detail) => Self::Refused {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                detail: ErrorDetail { kind: ErrorKind::ServerError, ..detail },
            },
            Fault::NoEndpoint(_) => {
                let code = "unsupported_by_server";
                let recorded = "it does not serve this endpoint".into();
                lacking(&fault, code, Some(HIVES_SERVE), recorded)
            }
            Fault::Failed(words) => {
                Self::garbage(Reason::of_stranger(words, "it sent an error in place of an answer"))
            }
            Fault::OtherModel { .. } => {
                lacking(&fault, "model_not_found", None, fault.to_string().into())
            }
            Fault::Fewer { .. } => Self::Fewer(fault.to_string()),
            Fault::NoAnswer | Fault::Incomplete { .. } => Self::garbage(fault.to_string()),
        }
    }
}

/// A server lacks what is asked for, as it says in an answer.
fn lacking(fault: &Fault, code: &str, hint: Option<&str>, recorded: Box<str>) -> Trouble {
    let message = format!("the server was asked, and {fault}");
    let (code, hint) = (Some(code.to_owned()), hint.map(str::to_owned));
    let detail = ErrorDetail { code, hint, ..wordless(message) };
    Trouble::Lacking { status: StatusCode::NOT_FOUND, detail, recorded }
}

#[cfg(test)]
mod tests {
    use worker_contract::{InferenceRequest, Prompt, RequestId, Task};

    use super::*;

    #[test]
    fn how_an_answer_is_told_whose_head_does_not_say_shows_its_beginning() {
        let chunk = r#"data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#;
        let stream = format!("{chunk}\n\ndata: [DONE]\n\n");
        let whole = r#"{"choices":[{"index":0,"text":"Hi","finish_reason":"stop"}]}"#;
        for (before, body, is_one) in [
            ("", stream.as_str(), true),
            ("\n", stream.as_str(), true),
            ("\u{feff}", stream.as_str(), true),
            (": wait\n\n", stream.as_str(), true),
            ("event: message\n", stream.as_str(), true),
            ("", whole, true),
            ("\u{feff}\n ", whole, true),
            ("It works!", stream.as_str(), false),
            ("date: today\n", stream.as_str(), false),
            ("", "dat", false),
        ] {
            let body = [before, body].concat();
            for length in [1, body.len()] {
                let told = told(body.as_bytes().chunks(length));
                assert_eq!(told.as_deref(), is_one.then_some("Hi"), "{body} by {length}");
            }
        }
    }

    /// The text of an answer that comes in these pieces; `None` if it is none.
    fn told<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<String> {
        let task = Task::Completion { prompt: Prompt::Text("a".into()) };
        let request = InferenceRequest::new(RequestId::random(), task);
        let translator = Translator::new(&request, 0, 0, Instant::now().into_std());
        let mut speech = Speech::Untold(Some(Box::new(translator)), Vec::new());
        let mut cutter = speech.cutter();
        for piece in pieces {
            speech.feed(&mut cutter, piece).ok()?;
        }
        if let Speech::Whole(..) | Speech::Untold(..) = &speech {
            speech.closed().ok()?;
        }
        let mut text = String::new();
        while let Some(told) = speech.take(&mut cutter).ok()? {
            if let Told::Event(InferenceEvent::Delta(delta)) = told {
                text.push_str(&delta.text);
            }
        }
        Some(text)
    }

    #[test]
    fn a_content_type_is_known_whatever_its_case_and_parameters() {
        for (kind, expected) in [
            ("text/event-stream", true),
            ("Text/Event-Stream", true),
            ("text/event-stream; charset=utf-8", true),
            (" TEXT/EVENT-STREAM ;charset=utf-8", true),
            ("text/event-streams", false),
            ("text/html; text/event-stream", false),
            ("", false),
        ] {
            assert_eq!(is_of(kind, "text/event-stream"), expected, "{kind}");
        }
    }
}
