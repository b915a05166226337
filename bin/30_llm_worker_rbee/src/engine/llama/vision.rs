//! Images for a text model: llama.cpp's projector (`mtmd`), which turns them into embeddings.
//!
//! A picture is cut and scaled as the projector wants it, which can make several chunks of it with text
//! between them, and each chunk is encoded on its own. Encoding is slow and needs nothing of the
//! model's context: it is done by whoever prepares a request, one chunk at a time.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use llama_cpp_sys_2 as sys;
use sha2::{Digest as _, Sha256};
use worker_contract::{DeviceId, TokenId};

use super::context::{BATCH_TOKENS, default_threads};
use super::devices::{NoSuchDevice, gpus};
use super::engine_log;
use super::host_memory;
use super::inspect::{InspectError, check_file};
use super::memory_need::Bytes;
use super::model::Model;
use super::raw;
use super::runtime::Runtime;
use crate::media::{Layout, Place};

/// The architecture that projector files name.
const ARCHITECTURE: &str = "clip";

/// What is loaded, and where to.
#[derive(Debug, Clone)]
pub struct VisionSettings<'a> {
    /// The projector's GGUF file.
    pub file: &'a Path,
    /// What computes it.
    pub device: DeviceId,
    /// Threads of the processor; `None` for all physical cores.
    pub threads: Option<u32>,
}

/// A projector cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VisionError {
    /// The file is at fault.
    #[error(transparent)]
    File(#[from] InspectError),
    /// It is a GGUF file of another kind.
    #[error("{path} is no projector: its architecture is {found}, not {ARCHITECTURE}")]
    NotAProjector {
        /// The file.
        path: String,
        /// What it says that it is.
        found: String,
    },
    /// The device does not exist.
    #[error(transparent)]
    Device(#[from] NoSuchDevice),
    /// There is not enough memory.
    #[error("the projector {path} needs {} and {} are free", Bytes(*needed), Bytes(*free))]
    Memory {
        /// The file.
        path: String,
        /// Its size, in bytes.
        needed: u64,
        /// What is free, in bytes.
        free: u64,
    },
    /// llama.cpp refused it.
    #[error("llama.cpp cannot use the projector {path} with this model: {reason}")]
    Refused {
        /// The file.
        path: String,
        /// llama.cpp's words.
        reason: String,
    },
    /// It is for something else.
    #[error("the projector {0} is not for images")]
    NotForImages(String),
}

/// A picture could not be turned into what the model takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The prompt does not show all pictures: its template dropped one.
    #[error("the model's chat template does not show all images of this conversation")]
    NotShown,
    /// The projector could not cut or scale one.
    #[error("an image could not be prepared: {0}")]
    Unprepared(String),
    /// It would have to be computed at once, and is too large for that.
    #[error(
        "an image takes {tokens} tokens, and this model must compute them at once, at most {most}; send a smaller one"
    )]
    TooLarge {
        /// What it takes.
        tokens: usize,
        /// The most.
        most: u32,
    },
    /// The engine failed.
    #[error("an image could not be encoded: {0}")]
    Failed(String),
}

/// A decoded picture: rows of red, green and blue bytes.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Its width in pixels.
    pub width: u32,
    /// Its height in pixels.
    pub height: u32,
    /// Three bytes a pixel.
    pub rgb: Vec<u8>,
    /// The SHA-256 of what it was decoded from.
    pub digest: [u8; 32],
}

/// A projector that is ready.
#[derive(Debug)]
pub struct Vision {
    context: NonNull<sys::mtmd_context>,
    /// What encodes; the projector does one thing at a time.
    encoder: Mutex<()>,
    marker: String,
    /// Floats of one embedding.
    width: usize,
    has_planes: bool,
    /// llama.cpp's context points to it.
    _model: Arc<Model>,
}

// SAFETY: llama.cpp says that tokenizing with a shared context is thread-safe, and what is not, encoding
// and reading its result, is done under the lock.
unsafe impl Send for Vision {}
// SAFETY: as above.
unsafe impl Sync for Vision {}

/// A prompt cut into text and chunks of pictures.
#[derive(Debug)]
pub struct Chunks {
    chunks: NonNull<sys::mtmd_input_chunks>,
}

// SAFETY: it is a list that only its owner reads.
unsafe impl Send for Chunks {}

/// A piece of a prompt.
#[derive(Debug)]
pub enum Chunk<'a> {
    /// Tokens of text.
    Text(Vec<TokenId>),
    /// A picture, or a part of one.
    Image(ImageChunk<'a>),
}

/// A picture, or a part of one, before it is encoded.
#[derive(Debug)]
pub struct ImageChunk<'a> {
    chunk: NonNull<sys::mtmd_input_chunk>,
    /// What it is made of.
    pub digest: [u8; 32],
    /// How many embeddings it gives.
    pub tokens: u32,
    /// How they are laid out.
    pub layout: Layout,
    /// Whether they must be computed at once.
    pub whole: bool,
    _chunks: std::marker::PhantomData<&'a Chunks>,
}

impl Vision {
    /// Loads a projector for a model.
    pub fn load(
        runtime: &Runtime,
        model: &Arc<Model>,
        settings: &VisionSettings<'_>,
    ) -> Result<Self, VisionError> {
        let path = settings.file.display().to_string();
        let refused = |reason: String| VisionError::Refused { path: path.clone(), reason };
        let header = check_file(settings.file)?;
        let found = header.text("general.architecture").unwrap_or("not given");
        if found != ARCHITECTURE {
            return Err(VisionError::NotAProjector { path, found: found.to_owned() });
        }
        check_memory(settings, &path)?;
        let file = settings.file.to_str().and_then(|file| CString::new(file).ok());
        let file = file.ok_or_else(|| refused("its path is no plain text".to_owned()))?;
        let gpu = gpus(runtime, &[settings.device])?.first().copied();
        let marker = marker();
        let c_marker = CString::new(marker.as_str()).map_err(|error| refused(error.to_string()))?;
        let threads = settings.threads.unwrap_or_else(default_threads);
        engine_log::forget_errors();
        // SAFETY: the parameters' pointers outlive the call, which copies what it keeps of them; the
        // model is kept as long as the context.
        let context = unsafe {
            let mut params = sys::mtmd_context_params_default();
            params.use_gpu = gpu.is_some();
            params.device = gpu.map_or(std::ptr::null_mut(), |gpu| sys::ggml_backend_dev_get(gpu));
            params.print_timings = false;
            params.n_threads = i32::try_from(threads).unwrap_or(i32::MAX);
            params.media_marker = c_marker.as_ptr();
            params.warmup = false;
            sys::mtmd_init_from_file(file.as_ptr(), raw::model_pointer(&model.llama), params)
        };
        let context = NonNull::new(context).ok_or_else(|| {
            refused(engine_log::last_errors().unwrap_or_else(|| "it does not say why".to_owned()))
        })?;
        // SAFETY: the context lives, and the model too.
        let (sees, has_planes, width) = unsafe {
            (
                sys::mtmd_support_vision(context.as_ptr()),
                sys::mtmd_decode_use_mrope(context.as_ptr()),
                sys::llama_model_n_embd_inp(raw::model_pointer(&model.llama)),
            )
        };
        let vision = Self {
            context,
            encoder: Mutex::new(()),
            marker,
            width: usize::try_from(width).unwrap_or(0),
            has_planes,
            _model: Arc::clone(model),
        };
        if sees { Ok(vision) } else { Err(VisionError::NotForImages(path)) }
    }

    /// What stands for a picture in a prompt. Nobody can guess it.
    #[must_use]
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// Cuts a prompt, with a marker for each picture, into what the model takes.
    ///
    /// `with_start`: the model's start token is put in front, if it wants one.
    pub fn cut(
        &self,
        prompt: &str,
        with_start: bool,
        pictures: &[Picture],
    ) -> Result<Chunks, EncodeError> {
        let unprepared = |reason: &str| EncodeError::Unprepared(reason.to_owned());
        let bitmaps =
            pictures.iter().enumerate().map(|(number, picture)| Bitmap::new(number, picture));
        let bitmaps: Option<Vec<Bitmap>> = bitmaps.collect();
        let bitmaps = bitmaps.ok_or_else(|| unprepared("its size is not that of its pixels"))?;
        let pointers: Vec<_> =
            bitmaps.iter().map(|bitmap| bitmap.0.as_ptr().cast_const()).collect();
        // SAFETY: it takes nothing and gives a list, which the result owns.
        let chunks = NonNull::new(unsafe { sys::mtmd_input_chunks_init() })
            .ok_or_else(|| unprepared("there is no memory"))?;
        let chunks = Chunks { chunks };
        let text = sys::mtmd_input_text {
            text: prompt.as_ptr().cast(),
            text_len: prompt.len(),
            add_special: with_start,
            parse_special: true,
        };
        engine_log::forget_errors();
        // SAFETY: the context and the list live; text and bitmaps outlive the call, which copies them.
        let status = unsafe {
            sys::mtmd_tokenize(
                self.context.as_ptr(),
                chunks.chunks.as_ptr(),
                &raw const text,
                pointers.as_ptr().cast_mut(),
                pointers.len(),
            )
        };
        match status {
            0 => Ok(chunks),
            1 => Err(EncodeError::NotShown),
            _ => Err(EncodeError::Unprepared(reason())),
        }
    }

    /// The pieces of a prompt, in order.
    pub fn pieces<'a>(&self, chunks: &'a Chunks) -> Result<Vec<Chunk<'a>>, EncodeError> {
        let mut pieces = Vec::new();
        let (mut last_id, mut part) = (String::new(), 0_u32);
        for index in 0..chunks.len() {
            // SAFETY: the index is within the list, which owns the chunk and is borrowed.
            let chunk = unsafe { sys::mtmd_input_chunks_get(chunks.chunks.as_ptr(), index) };
            let Some(chunk) = NonNull::new(chunk.cast_mut()) else { continue };
            if let Some(tokens) = text_tokens(chunk) {
                pieces.push(Chunk::Text(tokens));
                continue;
            }
            let id = chunk_id(chunk);
            part = if id == last_id { part + 1 } else { 0 };
            pieces.push(Chunk::Image(self.image_chunk(chunk, &id, part)?));
            last_id = id;
        }
        Ok(pieces)
    }

    fn image_chunk<'a>(
        &self,
        chunk: NonNull<sys::mtmd_input_chunk>,
        id: &str,
        part: u32,
    ) -> Result<ImageChunk<'a>, EncodeError> {
        // SAFETY: the chunk lives; each call reads it.
        let (tokens, length, whole) = unsafe {
            (
                sys::mtmd_input_chunk_get_n_tokens(chunk.as_ptr()),
                sys::mtmd_input_chunk_get_n_pos(chunk.as_ptr()),
                sys::mtmd_decode_use_non_causal(self.context.as_ptr(), chunk.as_ptr()),
            )
        };
        if whole && tokens > BATCH_TOKENS as usize {
            return Err(EncodeError::TooLarge { tokens, most: BATCH_TOKENS });
        }
        let layout = if self.has_planes {
            let places = places(chunk, tokens).ok_or_else(|| {
                EncodeError::Failed("it is laid out in a way that is not known".to_owned())
            })?;
            Layout::Planes { places, length: u32::try_from(length).unwrap_or(0) }
        } else {
            Layout::Line
        };
        let content = id.split_once('/').map_or(id, |(_, digest)| digest);
        let digest = Sha256::new().chain_update(content).chain_update(part.to_le_bytes());
        Ok(ImageChunk {
            chunk,
            digest: digest.finalize().into(),
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            layout,
            whole,
            _chunks: std::marker::PhantomData,
        })
    }

    /// The embeddings of a chunk. Takes a while.
    pub fn encode(&self, image: &ImageChunk<'_>) -> Result<Arc<[f32]>, EncodeError> {
        let _one_at_a_time = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        engine_log::forget_errors();
        // SAFETY: the context lives, and nobody else encodes with it; the chunk lives as long as its list,
        // which `image` borrows.
        let (status, embeddings) = unsafe {
            let status = sys::mtmd_encode_chunk(self.context.as_ptr(), image.chunk.as_ptr());
            (status, sys::mtmd_get_output_embd(self.context.as_ptr()))
        };
        if status != 0 || embeddings.is_null() {
            return Err(EncodeError::Failed(reason()));
        }
        let floats = self.width * image.tokens as usize;
        // SAFETY: mtmd.h gives this size for what was encoded last; it stays until the next encoding,
        // which waits for the lock.
        let embeddings = unsafe { std::slice::from_raw_parts(embeddings, floats) };
        Ok(Arc::from(embeddings))
    }
}

impl Drop for Vision {
    fn drop(&mut self) {
        // SAFETY: it is owned, and nobody uses it any more.
        unsafe { sys::mtmd_free(self.context.as_ptr()) }
    }
}

impl Chunks {
    fn len(&self) -> usize {
        // SAFETY: the list lives.
        unsafe { sys::mtmd_input_chunks_size(self.chunks.as_ptr()) }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // SAFETY: it is owned, and nobody uses it any more.
        unsafe { sys::mtmd_input_chunks_free(self.chunks.as_ptr()) }
    }
}

/// llama.cpp's copy of a picture.
struct Bitmap(NonNull<sys::mtmd_bitmap>);

impl Bitmap {
    /// The id tells the pictures of a prompt apart: `NUMBER/DIGEST`.
    fn new(number: usize, picture: &Picture) -> Option<Self> {
        let Picture { width, height, rgb, digest } = picture;
        if u64::from(*width) * u64::from(*height) * 3 != rgb.len() as u64 {
            return None;
        }
        let mut id = format!("{number}/");
        for byte in digest {
            // Writing into a text does not fail.
            let _ = write!(id, "{byte:02x}");
        }
        let id = CString::new(id).ok()?;
        // SAFETY: there are as many bytes as width and height say; both calls copy what they are given.
        unsafe {
            let bitmap = NonNull::new(sys::mtmd_bitmap_init(*width, *height, rgb.as_ptr()))?;
            sys::mtmd_bitmap_set_id(bitmap.as_ptr(), id.as_ptr());
            Some(Self(bitmap))
        }
    }
}

impl Drop for Bitmap {
    fn drop(&mut self) {
        // SAFETY: it is owned, and nobody uses it any more.
        unsafe { sys::mtmd_bitmap_free(self.0.as_ptr()) }
    }
}

/// The projector's weights must fit into memory.
fn check_memory(settings: &VisionSettings<'_>, path: &str) -> Result<(), VisionError> {
    let needed = std::fs::metadata(settings.file).map_or(0, |file| file.len());
    let free = host_memory::available();
    match free {
        // The host's memory holds it on the way to a GPU too; that one's own is llama.cpp's to judge.
        Some(free) if needed > free => {
            Err(VisionError::Memory { path: path.to_owned(), needed, free })
        }
        _ => Ok(()),
    }
}

/// The tokens of a chunk of text; `None` for another kind.
fn text_tokens(chunk: NonNull<sys::mtmd_input_chunk>) -> Option<Vec<TokenId>> {
    // SAFETY: the chunk lives; the tokens are its own, as many as it says.
    unsafe {
        if sys::mtmd_input_chunk_get_type(chunk.as_ptr()) != sys::MTMD_INPUT_CHUNK_TYPE_TEXT {
            return None;
        }
        let mut count = 0;
        let tokens = sys::mtmd_input_chunk_get_tokens_text(chunk.as_ptr(), &raw mut count);
        if tokens.is_null() || count == 0 {
            return Some(Vec::new());
        }
        Some(std::slice::from_raw_parts(tokens, count).to_vec())
    }
}

fn chunk_id(chunk: NonNull<sys::mtmd_input_chunk>) -> String {
    // SAFETY: the chunk lives; its id is a C string of its own, or null.
    unsafe {
        let id = sys::mtmd_input_chunk_get_id(chunk.as_ptr());
        if id.is_null() { String::new() } else { CStr::from_ptr(id).to_string_lossy().into_owned() }
    }
}

/// Where the places of a picture are on the planes of M-RoPE, in llama.cpp's order of them: time, row,
/// column, depth.
fn places(chunk: NonNull<sys::mtmd_input_chunk>, tokens: usize) -> Option<Vec<[Place; 4]>> {
    // SAFETY: the chunk lives, and the picture is its own.
    let image = unsafe { sys::mtmd_input_chunk_get_tokens_image(chunk.as_ptr()) };
    if image.is_null() {
        return None;
    }
    // SAFETY: the picture lives, and the index is below its number of places.
    let at = |first, index| unsafe {
        let at = sys::mtmd_image_tokens_get_decoder_pos(image, first, index);
        [at.t, at.y, at.x, at.z]
    };
    // What moves with the first position is relative to it.
    let place = |from_zero: u32, from_one: u32| match from_one.wrapping_sub(from_zero) {
        1 => Place::Relative(from_zero),
        _ => Place::Absolute(from_zero),
    };
    let places = (0..tokens).map(|index| {
        let (zero, one) = (at(0, index), at(1, index));
        std::array::from_fn(|plane| place(zero[plane], one[plane]))
    });
    Some(places.collect())
}

fn reason() -> String {
    engine_log::last_errors().unwrap_or_else(|| "llama.cpp does not say why".to_owned())
}

/// A text that is in no prompt by chance or malice.
fn marker() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let random = || RandomState::new().hash_one(0_u8);
    format!("<__media_{:016x}{:016x}__>", random(), random())
}
