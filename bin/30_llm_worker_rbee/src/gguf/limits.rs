//! What a header may ask for. Each limit is far above what models need, and low enough that reading
//! what obeys it costs little.

/// The oldest version that is read: in version 1 counts have 32 bits, and llama.cpp refuses it.
pub const OLDEST_VERSION: u32 = 2;

/// The newest version that is read; there is no later one.
pub const NEWEST_VERSION: u32 = 3;

/// All of the header, from the file's first byte to the end of the tensor list. The largest
/// vocabularies, with their merges, take about 20 MiB.
pub const MAX_HEADER_BYTES: u64 = 128 << 20;

/// Keys. Models have about 40; those that name all their ancestors have hundreds.
pub const MAX_KEYS: u64 = 4096;

/// A key's length, by the format's definition.
pub const MAX_KEY_BYTES: u64 = 65_535;

/// Tensors. Models have up to a few thousand: some hundred layers with a dozen each.
pub const MAX_TENSORS: u64 = 65_536;

/// A tensor name's length: ggml's `GGML_MAX_NAME` with the NUL at its end.
pub const MAX_TENSOR_NAME_BYTES: u64 = 63;

/// A tensor's dimensions: ggml's `GGML_MAX_DIMS`.
pub const MAX_DIMENSIONS: u32 = 4;

/// One text. The longest in use is a whole `tokenizer.json`.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// A text that is kept in memory; longer ones are read past. Also the longest chat template: those
/// of models have up to some ten thousand bytes.
pub const MAX_KEPT_TEXT_BYTES: u64 = 1 << 20;

/// An array's elements. The longest in use are merges, about 500,000. Arrays in arrays are refused:
/// llama.cpp does not read them.
pub const MAX_ARRAY_ELEMENTS: u64 = 1 << 24;

/// Arrays of whole numbers up to this length are kept: those with a number for each layer.
pub const MAX_KEPT_ELEMENTS: u64 = MAX_LAYERS;

/// Tokens of a vocabulary. The largest in use have about 260,000.
pub const MAX_VOCABULARY: u64 = 1 << 21;

/// Alignment of tensors at least: llama.cpp maps tensors to where they lie in the file, and ends the
/// process when one is not at a multiple of 32 (ggml's `TENSOR_ALIGNMENT`).
pub const MIN_ALIGNMENT: u64 = 32;

/// Alignment of tensors at most: a large page of some machines.
pub const MAX_ALIGNMENT: u64 = 65_536;

/// Alignment where the file names none, by the format's definition.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Layers: llama.cpp's `LLAMA_MAX_LAYERS`, beyond which it ends the process.
pub const MAX_LAYERS: u64 = 512;

/// Experts: llama.cpp's `LLAMA_MAX_EXPERTS`, beyond which it ends the process.
pub const MAX_EXPERTS: u64 = 1024;

/// Attention heads of a layer. Models have up to a few hundred.
pub const MAX_HEADS: u64 = 65_536;

/// A width: of embeddings, of feed-forward layers, of all heads together. Models have up to some ten
/// thousand; llama.cpp multiplies two of them in 32 bits at places.
pub const MAX_WIDTH: u64 = 1 << 24;

/// A context's length: positions are signed numbers of 32 bits.
pub const MAX_CONTEXT: u64 = i32::MAX as u64;
