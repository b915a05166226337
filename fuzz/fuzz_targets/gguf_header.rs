//! Any bytes are a header or an error: no panic, no memory beyond the input's, no time.
#![no_main]

#[path = "../../bin/30_llm_worker_rbee/src/gguf/mod.rs"]
pub mod gguf;

#[path = "../../bin/30_llm_worker_rbee/src/gguf/sample.rs"]
mod sample;

use gguf::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: write_seed(), |bytes: &[u8]| {
    let size = bytes.len() as u64;
    match Header::read(bytes, size) {
        Ok(header) => {
            let data: u64 = header.tensors.iter().map(|tensor| tensor.bytes).sum();
            assert!(data <= size, "the tensors of an accepted file are in the file");
            if let Err(error) = header.check_model() {
                assert_is_short(&error);
            }
            let _ = header.summary(size);
        }
        Err(error) => assert_is_short(&error),
    }
    // A size that is told from outside can be wrong.
    let _ = Header::read(bytes, u64::MAX);
});

/// Writes a valid file to where `RBEE_FUZZ_SEED` says, before libFuzzer reads what it starts from.
fn write_seed() {
    if let Some(path) = std::env::var_os("RBEE_FUZZ_SEED") {
        std::fs::write(path, sample::model()).expect("the seed can be written");
    }
}

/// An error is for a person, whatever is in the file.
fn assert_is_short(error: &gguf::GgufError) {
    let text = error.to_string();
    assert!(text.len() < 2000 && !text.contains(char::is_control), "{text:?}");
}
