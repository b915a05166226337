//! Any bytes are a request or an error, and a request that is in order means the same after it was
//! written and read again.
#![no_main]

#[expect(dead_code, reason = "the worker uses all of it")]
#[path = "../../bin/30_llm_worker_rbee/src/sampling/defaults.rs"]
mod defaults;

use libfuzzer_sys::fuzz_target;
use worker_contract::InferenceRequest;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = serde_json::from_slice::<InferenceRequest>(bytes) else { return };
    if let Err(error) = defaults::check(&request.sampling) {
        assert!(error.to_string().len() < 2000, "{error}");
        return;
    }
    // A number beyond its type's range is read as infinity, which JSON cannot write.
    if format!("{:?}", request.sampling).contains("inf") {
        return;
    }
    let text = serde_json::to_vec(&request).expect("a request can be written");
    let again: InferenceRequest = serde_json::from_slice(&text).expect("and read again");
    assert_eq!(again, request);
});
