//! Models that see, of a few thousand random weights: what they say means nothing, and depends on
//! every token and pixel.

use std::path::{Path, PathBuf};

use crate::gguf::{Tensor, Value, write};

/// Width of the text models, and of what the projectors give.
const WIDTH: u64 = 64;
const FEED_FORWARD: u64 = 128;
const LAYERS: u64 = 2;
const HEADS: u32 = 4;

/// Width of the projectors' own layers.
const SIGHT: u64 = 32;
const PATCH: u64 = 14;
/// The side of what a projector of a fixed size sees, in pixels: four patches.
const SIDE: u64 = 56;

/// How a model sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// As LLaVA: an image is a row of 16 tokens.
    Row,
    /// As Gemma 3: the tokens of an image look at each other, whatever their order.
    Whole,
    /// As Qwen2-VL: an image has the tokens that its size asks for, on a plane.
    Plane,
}

/// A text model and its projector, written into a folder.
pub fn write_pair(folder: &Path, sight: Sight) -> (PathBuf, PathBuf) {
    let (model, projector) = (folder.join("tiny.gguf"), folder.join("mmproj.gguf"));
    let architecture = if sight == Sight::Plane { "qwen2vl" } else { "llama" };
    write_text_model(&model, architecture);
    write_projector(&projector, sight);
    (model, projector)
}

fn write_text_model(file: &Path, architecture: &'static str) {
    let mut seed = 7;
    let vocabulary = vocabulary();
    let words = vocabulary.len() as u64;
    let mut tensors = vec![
        Tensor::noise("token_embd.weight", [WIDTH, words], 1.0, &mut seed),
        Tensor::noise("output.weight", [WIDTH, words], 1.0, &mut seed),
        ones("output_norm.weight", WIDTH),
    ];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}");
        for part in ["attn_norm.weight", "ffn_norm.weight"] {
            tensors.push(ones(name(part), WIDTH));
        }
        for part in ["attn_q", "attn_k", "attn_v"] {
            tensors.push(Tensor::noise(name(part) + ".weight", [WIDTH, WIDTH], 0.5, &mut seed));
            if architecture == "qwen2vl" {
                tensors.push(Tensor::noise(name(part) + ".bias", [WIDTH], 0.5, &mut seed));
            }
        }
        for (part, shape) in [
            ("attn_output.weight", [WIDTH, WIDTH]),
            ("ffn_gate.weight", [WIDTH, FEED_FORWARD]),
            ("ffn_up.weight", [WIDTH, FEED_FORWARD]),
            ("ffn_down.weight", [FEED_FORWARD, WIDTH]),
        ] {
            tensors.push(Tensor::noise(name(part), shape, 0.5, &mut seed));
        }
    }
    let kinds = vocabulary.iter().map(|word| match word.as_str() {
        "<unk>" => 2,
        "<s>" | "</s>" => 3,
        _ => 6,
    });
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    let of = |key: &str| format!("{architecture}.{key}");
    let header = [
        ("general.architecture".to_owned(), Value::Text(architecture)),
        (of("context_length"), Value::Count(4096)),
        (of("embedding_length"), count(WIDTH)),
        (of("block_count"), count(LAYERS)),
        (of("feed_forward_length"), count(FEED_FORWARD)),
        (of("attention.head_count"), Value::Count(HEADS)),
        (of("attention.layer_norm_rms_epsilon"), Value::Number(1e-5)),
        (of("rope.dimension_sections"), Value::Integers(vec![2, 3, 3, 0])),
        ("tokenizer.ggml.model".to_owned(), Value::Text("llama")),
        ("tokenizer.ggml.scores".to_owned(), Value::Numbers(vec![0.0; vocabulary.len()])),
        ("tokenizer.ggml.token_type".to_owned(), Value::Integers(kinds.collect())),
        ("tokenizer.ggml.tokens".to_owned(), Value::Texts(vocabulary)),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::Count(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::Count(2)),
        ("tokenizer.chat_template".to_owned(), Value::Text(template)),
    ];
    write(file, &header, &tensors);
}

fn write_projector(file: &Path, sight: Sight) {
    let mut seed = 11;
    let kernel = [PATCH, PATCH, 3, SIGHT];
    let patches = (SIDE / PATCH) * (SIDE / PATCH);
    let mut tensors = vec![
        Tensor::noise("v.patch_embd.weight", kernel, 0.1, &mut seed),
        ones("v.post_ln.weight", SIGHT),
        zeros("v.post_ln.bias", SIGHT),
    ];
    let mut noise = |name: &str, shape: &[u64]| {
        tensors.push(Tensor::noise(name, shape, 0.4, &mut seed));
    };
    match sight {
        Sight::Row => {
            noise("v.class_embd", &[SIGHT]);
            noise("v.position_embd.weight", &[SIGHT, patches + 1]);
            noise("mm.0.weight", &[SIGHT, WIDTH]);
            noise("mm.0.bias", &[WIDTH]);
            noise("mm.2.weight", &[WIDTH, WIDTH]);
            noise("mm.2.bias", &[WIDTH]);
        }
        Sight::Whole => {
            noise("v.position_embd.weight", &[SIGHT, patches]);
            noise("mm.input_projection.weight", &[WIDTH, SIGHT]);
            noise("mm.soft_emb_norm.weight", &[SIGHT]);
        }
        Sight::Plane => {
            noise("v.patch_embd.weight.1", &kernel);
            noise("mm.0.weight", &[SIGHT * 4, SIGHT * 4]);
            noise("mm.0.bias", &[SIGHT * 4]);
            noise("mm.2.weight", &[SIGHT * 4, WIDTH]);
            noise("mm.2.bias", &[WIDTH]);
        }
    }
    for layer in 0..LAYERS {
        let name = |part: &str| format!("v.blk.{layer}.{part}");
        for part in ["ln1", "ln2"] {
            tensors.push(ones(name(part) + ".weight", SIGHT));
            tensors.push(zeros(name(part) + ".bias", SIGHT));
        }
        for (part, from, to) in [
            ("attn_q", SIGHT, SIGHT),
            ("attn_k", SIGHT, SIGHT),
            ("attn_v", SIGHT, SIGHT),
            ("attn_out", SIGHT, SIGHT),
            ("ffn_up", SIGHT, SIGHT * 2),
            ("ffn_down", SIGHT * 2, SIGHT),
        ] {
            tensors.push(Tensor::noise(name(part) + ".weight", [from, to], 0.4, &mut seed));
            tensors.push(Tensor::noise(name(part) + ".bias", [to], 0.4, &mut seed));
        }
    }
    let kind = match sight {
        Sight::Row => "mlp",
        Sight::Whole => "gemma3",
        Sight::Plane => "qwen2vl_merger",
    };
    let header = [
        ("general.architecture", Value::Text("clip")),
        ("general.type", Value::Text("mmproj")),
        ("clip.has_vision_encoder", Value::Yes),
        ("clip.projector_type", Value::Text(kind)),
        ("clip.use_gelu", Value::Yes),
        ("clip.vision.image_size", count(SIDE)),
        ("clip.vision.patch_size", count(PATCH)),
        ("clip.vision.embedding_length", count(SIGHT)),
        ("clip.vision.feed_forward_length", count(SIGHT * 2)),
        ("clip.vision.block_count", count(LAYERS)),
        ("clip.vision.projection_dim", count(WIDTH)),
        ("clip.vision.projector.scale_factor", Value::Count(2)),
        ("clip.vision.attention.head_count", Value::Count(2)),
        ("clip.vision.attention.layer_norm_epsilon", Value::Number(1e-5)),
        ("clip.vision.image_mean", Value::Numbers(vec![0.5; 3])),
        ("clip.vision.image_std", Value::Numbers(vec![0.5; 3])),
    ];
    write(file, &header, &tensors);
}

/// Every byte is a token.
fn vocabulary() -> Vec<String> {
    let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>"));
    ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain(bytes).collect()
}

fn ones(name: impl Into<String>, length: u64) -> Tensor {
    constant(name.into(), length, 1.0)
}

fn zeros(name: impl Into<String>, length: u64) -> Tensor {
    constant(name.into(), length, 0.0)
}

fn constant(name: String, length: u64, value: f32) -> Tensor {
    let values = vec![value; usize::try_from(length).unwrap()];
    Tensor { name, shape: vec![length], values }
}

fn count(number: u64) -> Value {
    Value::Count(u32::try_from(number).unwrap())
}
