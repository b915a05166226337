//! What is kept of texts and values that come in any size. An executor gets its operation whole, and who follows a
//! job its result: it is the memory and the file of all jobs that must not grow with them.

use rbee_operations::JobEvent;
use serde_json::{Value, json};
use worker_contract::cut_visibly;

use crate::JobError;
use crate::event_log::Event;
use crate::job::to_json;

/// How long a text may be that tells how a job ended.
const TEXT_BYTES: usize = 8 << 10;
/// How large an operation may be, as JSON;
const DETAIL_BYTES: usize = 8 << 10;
/// and how long the texts in one that is larger.
const DETAIL_TEXT_BYTES: usize = 1 << 10;
/// How large an event may be that is on disk, or is all that is left of its job in memory.
const EVENT_BYTES: usize = 32 << 10;

/// A text that tells how a job ended.
pub(crate) fn text(text: String) -> String {
    cut_visibly(text, TEXT_BYTES)
}

/// Why a job failed.
pub(crate) fn error(JobError { code, message, hint, stored }: JobError) -> JobError {
    let stored = stored.map(|stored| Box::new(error(*stored)));
    JobError { code: text(code), message: text(message), hint: hint.map(text), stored }
}

/// What a job is asked to do: where it is too large, with long texts cut, so that it still shows what is concerned;
/// where that does not help, only its size.
pub(crate) fn detail(mut detail: Value) -> Value {
    let bytes = detail.to_string().len();
    if bytes <= DETAIL_BYTES {
        return detail;
    }
    shorten(&mut detail);
    if detail.to_string().len() <= DETAIL_BYTES {
        detail
    } else {
        json!({"too_large_bytes": bytes})
    }
}

/// An event; where it is too large, without its data. `None` where it is too large and no event of ours.
pub(crate) fn event(event: &Event) -> Option<Event> {
    let bytes = event.json.len();
    if bytes <= EVENT_BYTES {
        return Some(event.clone());
    }
    let mut told: JobEvent = serde_json::from_slice(&event.json).ok()?;
    told.message = text(told.message);
    if told.data.take().is_some() {
        told.message = format!("{} (its data is not kept: {bytes} bytes)", told.message);
    }
    (told.code, told.hint) = (told.code.map(text), told.hint.map(text));
    Some(Event { json: to_json(&told), private: event.private })
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => *text = cut_visibly(std::mem::take(text), DETAIL_TEXT_BYTES),
        Value::Array(values) => values.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rbee_operations::EventLevel;

    use super::*;

    #[test]
    fn an_operation_that_is_too_large_still_says_what_it_concerns_if_its_texts_are_to_blame() {
        let import = |path: &str| json!({"ModelImport": {"hive_id": "nas", "path": path}});
        let long_but_fine = import(&"x".repeat(5000));
        assert_eq!(detail(long_but_fine.clone()), long_but_fine);
        let kept = detail(import(&"x".repeat(1 << 20)));
        assert_eq!(kept, import(&format!("{}…", "x".repeat(DETAIL_TEXT_BYTES))));
        let many = json!({"files": vec!["x".repeat(100); 1000]});
        assert_eq!(detail(many.clone()), json!({"too_large_bytes": many.to_string().len()}));
    }

    #[test]
    fn an_event_that_is_too_large_keeps_all_but_its_data() {
        let told = |data: &str, hint: &str| JobEvent {
            event: "model_list".to_owned(),
            message: "2 models".to_owned(),
            level: EventLevel::Info,
            at: "2026-11-23T18:00:00.000Z".to_owned(),
            data: Some(json!({"models": data})),
            code: None,
            hint: Some(hint.to_owned()),
        };
        let made = |told: &JobEvent| Event { json: to_json(told), private: false };
        let small = made(&told("m", "look"));
        assert_eq!(event(&small), Some(small));
        let large = made(&told(&"m".repeat(EVENT_BYTES), &"look".repeat(TEXT_BYTES)));
        let kept = event(&large).unwrap();
        assert!(kept.json.len() < EVENT_BYTES, "{}", kept.json.len());
        let kept: JobEvent = serde_json::from_slice(&kept.json).unwrap();
        let bytes = large.json.len();
        assert_eq!(kept.message, format!("2 models (its data is not kept: {bytes} bytes)"));
        assert_eq!((kept.event.as_str(), kept.data), ("model_list", None));
        let foreign = Bytes::from("x".repeat(EVENT_BYTES + 1));
        assert_eq!(event(&Event { json: foreign, private: false }), None);
    }
}
