//! How the answer of a worker is told: in the events of the worker's contract, or in OpenAI's words, which
//! are translated. Pure but for the time at which something came.

use axum::http::StatusCode;
use http1_client::Head;
use tokio::time::Instant;
use worker_contract::{ErrorDetail, ErrorKind, InferenceEvent};

use super::failure::Trouble;
use super::reason::Reason;
use super::size::{MAX_ALL, MAX_TEXT, too_much};
use super::sse::{Event, EventCutter, MAX_EVENT, TooLong};
use super::worker::Leg;
use crate::attached::{Fault, Told, Translator, compresses, wordless};
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
    /// In OpenAI's chunks, if that is how it begins, of which this much has come: its head does not say.
    Untold(Option<Box<Translator>>, Vec<u8>),
}

/// How a stream begins,
const DATA: &[u8] = b"data:";
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
                let text = begun.trim_ascii_start();
                if text.len() < DATA.len() && begun.len() < MOST_BLANKS {
                    return Ok(());
                }
                let translator = translator.take().filter(|_| text.starts_with(DATA));
                cutter.feed(begun);
                *self = Self::Chunks(translator.ok_or_else(neither)?);
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
                lacking(&fault, code, "it does not serve this endpoint".into())
            }
            Fault::Failed(words) => {
                Self::garbage(Reason::of_stranger(words, "it sent an error in place of an answer"))
            }
            Fault::OtherModel { .. } => {
                lacking(&fault, "model_not_found", fault.to_string().into())
            }
            Fault::Fewer { .. } => Self::Fewer(fault.to_string()),
            Fault::NoAnswer | Fault::Incomplete { .. } => Self::garbage(fault.to_string()),
        }
    }
}

/// A server lacks what is asked for, as it says in an answer.
fn lacking(fault: &Fault, code: &str, recorded: Box<str>) -> Trouble {
    let message = format!("the server was asked, and {fault}");
    let detail = ErrorDetail { code: Some(code.to_owned()), ..wordless(message) };
    Trouble::Lacking { status: StatusCode::NOT_FOUND, detail, recorded }
}

#[cfg(test)]
mod tests {
    use super::*;

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
