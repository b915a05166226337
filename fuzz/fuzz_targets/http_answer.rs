//! Bytes that come from a worker or from somebody else's server: read without a panic, and alike however
//! they are cut.
#![no_main]

use http1_client::{AnswerReader, Malformed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The first byte says how the others are cut.
    let Some((step, bytes)) = input.split_first() else { return };
    let step = usize::from(*step).max(1);
    let (whole, cut) = (read(bytes, bytes.len().max(1)), read(bytes, step));
    // How much of the body came before the fault depends on the cuts.
    if let (Ok(whole), Ok(cut)) = (whole, cut) {
        assert_eq!(whole, cut);
    }
});

/// The body, whether it is whole, and whether the connection can be used again.
fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, bool, bool), Malformed> {
    let (mut reader, mut body) = (AnswerReader::default(), Vec::new());
    for piece in bytes.chunks(step) {
        reader.feed(piece, &mut |part| body.extend_from_slice(part))?;
    }
    Ok((body, reader.is_ended(), reader.is_kept()))
}
