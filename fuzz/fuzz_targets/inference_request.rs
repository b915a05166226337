//! Any bytes are a request or an error, and a request that is in order means the same after it was
//! written and read again.
#![no_main]

#[expect(dead_code, reason = "the worker uses all of it")]
#[path = "../../bin/30_llm_worker_rbee/src/sampling/defaults.rs"]
mod defaults;

#[expect(dead_code, reason = "the worker uses all of it")]
#[path = "../../bin/30_llm_worker_rbee/src/sampling/constraint/schema.rs"]
mod schema;
#[path = "../../bin/30_llm_worker_rbee/src/sampling/constraint/termination.rs"]
mod termination;

use libfuzzer_sys::fuzz_target;
use worker_contract::{InferenceRequest, OutputFormat};

/// Those of a model that requests are checked against.
const VOCABULARY: u32 = 49_152;
const CONTEXT_LENGTH: u32 = 8192;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = serde_json::from_slice::<InferenceRequest>(bytes) else { return };
    if let Err(error) = defaults::check(&request.sampling, VOCABULARY) {
        assert!(error.to_string().len() < 2000, "{error}");
        return;
    }
    let dry = defaults::Dry::of(&request.sampling, CONTEXT_LENGTH);
    assert!(dry.is_none_or(|dry| dry.last_n <= CONTEXT_LENGTH));
    if let OutputFormat::JsonSchema { schema: wanted } = &request.format {
        let objection = schema::objection(wanted);
        assert!(objection.is_none_or(|text| text.len() < 2000));
    }
    let text = serde_json::to_vec(&request).expect("a request can be written");
    let again: InferenceRequest = serde_json::from_slice(&text).expect("and read again");
    assert_eq!(again, request);
});
