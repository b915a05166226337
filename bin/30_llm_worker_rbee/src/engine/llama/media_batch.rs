//! A part of an image as a batch of llama.cpp's.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_sys_2 as sys;

use super::raw;
use crate::engine::{EngineError, MediaPart};
use crate::media::{Layout, Place};

/// How many numbers a position on planes has: llama.cpp's `n_pos_per_embd` for M-RoPE.
const PLANES: usize = 4;

/// Computes a part of an image.
pub(super) fn decode(
    context: &mut LlamaContext<'_>,
    part: &MediaPart<'_>,
) -> Result<(), EngineError> {
    let failed = |reason: String| EngineError::Failed(reason);
    let pointer = raw::context_pointer(context)
        .ok_or_else(|| failed("llama.cpp's context is out of reach".to_owned()))?
        .as_ptr();
    let media = part.media;
    let width = media.embeddings.len() / media.tokens.max(1) as usize;
    let places = part.places.start * width..part.places.end * width;
    let count = part.places.len();
    let Some(embeddings) = media.embeddings.get(places).filter(|floats| !floats.is_empty()) else {
        return Err(failed("an image has fewer embeddings than it should".to_owned()));
    };
    let mut positions = positions(part);
    let mut sequence = i32::try_from(part.sequence).unwrap_or(i32::MAX);
    let mut sequences = vec![&raw mut sequence; count];
    let mut sequence_counts = vec![1_i32; count];
    let mut logits = vec![0_i8; count];
    let batch = sys::llama_batch {
        n_tokens: i32::try_from(count).unwrap_or(i32::MAX),
        token: std::ptr::null_mut(),
        embd: embeddings.as_ptr().cast_mut(),
        pos: positions.as_mut_ptr(),
        n_seq_id: sequence_counts.as_mut_ptr(),
        seq_id: sequences.as_mut_ptr(),
        logits: logits.as_mut_ptr(),
    };
    // SAFETY: the context is borrowed exclusively. The batch's lists are as long as it says (the
    // embeddings times the model's width, which they were made for; the positions as its kind of RoPE
    // has them), outlive the call, and llama.cpp only reads them.
    let status = unsafe {
        if media.whole {
            sys::llama_set_causal_attn(pointer, false);
        }
        let status = sys::llama_decode(pointer, batch);
        if media.whole {
            sys::llama_set_causal_attn(pointer, true);
        }
        status
    };
    match status {
        0 => Ok(()),
        1 => Err(EngineError::KvCacheFull),
        status => Err(failed(format!("llama.cpp could not compute an image: status {status}"))),
    }
}

/// The positions of a part's places, plane after plane.
fn positions(part: &MediaPart<'_>) -> Vec<i32> {
    let int = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    match &part.media.layout {
        Layout::Line => {
            let place = |place| part.position + u32::try_from(place).unwrap_or(u32::MAX);
            part.places.clone().map(place).map(int).collect()
        }
        Layout::Planes { places, .. } => {
            let at = |place| match place {
                Place::Relative(offset) => int(part.position + offset),
                Place::Absolute(position) => int(position),
            };
            let places = &places[part.places.clone()];
            (0..PLANES).flat_map(|plane| places.iter().map(move |p| at(p[plane]))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Media;

    fn media(layout: Layout) -> Media {
        Media { digest: [0; 32], embeddings: [].into(), tokens: 4, layout, whole: false }
    }

    #[test]
    fn positions_go_on_from_the_image_s_first_one() {
        let media = media(Layout::Line);
        let part = MediaPart { media: &media, places: 1..3, position: 10, sequence: 0 };
        assert_eq!(positions(&part), [11, 12]);
    }

    #[test]
    fn positions_on_planes_come_plane_after_plane() {
        let place = |row, column| {
            [Place::Relative(0), Place::Relative(row), Place::Relative(column), Place::Absolute(0)]
        };
        let places = vec![place(0, 0), place(0, 1), place(1, 0), place(1, 1)];
        let media = media(Layout::Planes { places, length: 2 });
        let part = MediaPart { media: &media, places: 1..4, position: 10, sequence: 0 };
        assert_eq!(positions(&part), [10, 10, 10, 10, 11, 11, 11, 10, 11, 0, 0, 0]);
    }
}
