//! Images in a conversation: from the bytes that a client sends to what the model takes.
//!
//! Pictures are decoded here, in safe code and within limits; llama.cpp sees pixels only.

mod cache;
mod decode;

use std::sync::{Arc, Mutex, PoisonError};

use worker_contract::{ChatMessage, Role, TokenId};

use self::cache::EmbeddingCache;
pub use self::decode::InvalidImage;
use self::decode::picture;
use crate::engine::llama::{Chunk, EncodeError, Picture, Vision};
use crate::media::{Media, Placed};

/// The most images of one request.
const MOST_IMAGES: usize = 64;

/// How much memory keeps the embeddings of images: a client sends a conversation's images again with
/// each turn.
const CACHE_BYTES: usize = 128 << 20;

/// What sees images for the model.
#[derive(Debug)]
pub struct Eyes {
    vision: Vision,
    cache: Mutex<EmbeddingCache>,
}

/// Images of a request cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// One is at fault.
    #[error("image {index} of messages[{message}]: {source}")]
    Invalid {
        /// The message that has it.
        message: usize,
        /// Its number there.
        index: usize,
        /// What is wrong.
        source: InvalidImage,
    },
    /// It is somebody's who shows none.
    #[error("messages[{0}] has an image, and only the user and functions show images")]
    WrongRole(usize),
    /// There are too many.
    #[error("the conversation has {0} images, and at most {MOST_IMAGES} are taken")]
    TooMany(usize),
    /// They cannot be turned into what the model takes.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The answer must come behind them.
    #[error("the conversation ends with an image; text must follow it")]
    AtTheEnd,
    /// Nobody waits for the answer any more.
    #[error("the request was given up")]
    GivenUp,
}

/// A prompt with images in it.
#[derive(Debug)]
pub struct Seen {
    /// Tokens of text, and numbers below zero where images are.
    pub tokens: Vec<TokenId>,
    /// The images.
    pub media: Vec<Placed>,
}

impl Eyes {
    /// Sees by that projector.
    #[must_use]
    pub fn new(vision: Vision) -> Self {
        Self { vision, cache: Mutex::new(EmbeddingCache::new(CACHE_BYTES)) }
    }

    /// Takes the images out of messages, and leaves a mark where each of them was.
    pub fn take_pictures(&self, messages: &mut [ChatMessage]) -> Result<Vec<Picture>, ImageError> {
        let count = messages.iter().map(|message| message.images.len()).sum();
        if count > MOST_IMAGES {
            return Err(ImageError::TooMany(count));
        }
        let mut pictures = Vec::with_capacity(count);
        for (number, message) in messages.iter_mut().enumerate() {
            let images = std::mem::take(&mut message.images);
            if !images.is_empty() && !matches!(message.role, Role::User | Role::Tool) {
                return Err(ImageError::WrongRole(number));
            }
            let mut shown = String::with_capacity(message.content.len());
            let mut done = 0;
            for (index, image) in images.into_iter().enumerate() {
                let invalid = |source| ImageError::Invalid { message: number, index, source };
                let at = usize::try_from(image.at).unwrap_or(usize::MAX);
                let before = message.content.get(done..at).ok_or(InvalidImage::Place);
                shown.push_str(before.map_err(invalid)?);
                shown.push_str(self.vision.marker());
                done = at;
                pictures.push(picture(&image.data).map_err(invalid)?);
            }
            shown.push_str(&message.content[done..]);
            message.content = shown;
        }
        Ok(pictures)
    }

    /// The bytes of one of these marks.
    #[must_use]
    pub fn mark_bytes(&self) -> usize {
        self.vision.marker().len()
    }

    /// Puts pictures in the place of their marks. `is_wanted` is asked before each of them is encoded,
    /// which takes a while.
    pub fn see(
        &self,
        prompt: &str,
        with_start: bool,
        pictures: &[Picture],
        is_wanted: impl Fn() -> bool,
    ) -> Result<Seen, ImageError> {
        let chunks = self.vision.cut(prompt, with_start, pictures)?;
        let mut seen = Seen { tokens: Vec::new(), media: Vec::new() };
        let mut ends_with_text = false;
        for piece in self.vision.pieces(&chunks)? {
            let image = match piece {
                Chunk::Text(tokens) => {
                    ends_with_text |= !tokens.is_empty();
                    seen.tokens.extend(tokens);
                    continue;
                }
                Chunk::Image(image) => image,
            };
            ends_with_text = false;
            let known = self.cache().get(&image.digest);
            let embeddings = match known {
                Some(embeddings) => embeddings,
                None if !is_wanted() => return Err(ImageError::GivenUp),
                None => {
                    let embeddings = self.vision.encode(&image)?;
                    self.cache().keep(image.digest, Arc::clone(&embeddings));
                    embeddings
                }
            };
            let media = Arc::new(Media {
                digest: image.digest,
                embeddings,
                tokens: image.tokens,
                layout: image.layout,
                whole: image.whole,
            });
            seen.media.push(Placed { at: seen.tokens.len(), media: Arc::clone(&media) });
            seen.tokens.extend(media.ids());
        }
        if ends_with_text { Ok(seen) } else { Err(ImageError::AtTheEnd) }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, EmbeddingCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
