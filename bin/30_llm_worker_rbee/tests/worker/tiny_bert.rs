//! A BERT of one layer with a classification head, small enough to be computed by hand: for what
//! reranking models do, where no real one is at hand. The format: GGUF, version 3
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).

use std::path::Path;

const WIDTH: usize = 64;
const CONTEXT: usize = 32;
const WORDS: [&str; 10] = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "\u{2581}red",
    "\u{2581}blue",
    "\u{2581}green",
    "\u{2581}fox",
    "\u{2581}house",
];
const CLS: usize = 2;
const SEP: usize = 3;
const BIAS: f32 = 0.25;
const NORM_EPSILON: f32 = 1e-12;

/// Writes the model.
pub fn write(path: &Path) {
    std::fs::write(path, file()).expect("the file can be written");
}

/// The score that the model gives to a document of known words.
///
/// Queries and keys are zero, so that every token attends to all alike; values and the attention's
/// output are passed on unchanged; the feed-forward part adds nothing.
pub fn score(query: &str, document: &str) -> f32 {
    let mut tokens = vec![CLS];
    tokens.extend(ids(query));
    tokens.push(SEP);
    tokens.extend(ids(document));
    tokens.push(SEP);
    let (words, positions) = (table(WORDS.len(), 1), table(CONTEXT, 2));
    let inputs: Vec<Vec<f32>> = tokens
        .iter()
        .enumerate()
        .map(|(position, token)| normed(&added(&words[*token], &positions[position])))
        .collect();
    let mut mean = vec![0.0; WIDTH];
    for input in &inputs {
        mean = added(&mean, input);
    }
    let count = f32::from(u16::try_from(inputs.len()).expect("few tokens"));
    for x in &mut mean {
        *x /= count;
    }
    let first = normed(&normed(&added(&inputs[0], &mean)));
    let head = &table(1, 3)[0];
    first.iter().zip(head).map(|(x, w)| x * w).sum::<f32>() + BIAS
}

fn ids(text: &str) -> impl Iterator<Item = usize> {
    text.split(' ').map(|word| {
        let marked = format!("\u{2581}{word}");
        WORDS.iter().position(|known| *known == marked).expect("a known word")
    })
}

fn added(one: &[f32], other: &[f32]) -> Vec<f32> {
    one.iter().zip(other).map(|(x, y)| x + y).collect()
}

fn normed(vector: &[f32]) -> Vec<f32> {
    let count = f32::from(u16::try_from(vector.len()).expect("a small width"));
    let mean = vector.iter().sum::<f32>() / count;
    let variance = vector.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count;
    vector.iter().map(|x| (x - mean) / (variance + NORM_EPSILON).sqrt()).collect()
}

/// Rows of numbers between -1 and 1 that look random.
fn table(rows: usize, seed: u32) -> Vec<Vec<f32>> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).expect("16 bits")) / 32_768.0 - 1.0
    };
    (0..rows).map(|_| (0..WIDTH).map(|_| next()).collect()).collect()
}

fn file() -> Vec<u8> {
    let width = u64::try_from(WIDTH).expect("a small width");
    let rows = |n: usize| vec![width, u64::try_from(n).expect("a small number")];
    let zeros = vec![0.0; WIDTH];
    let ones = vec![1.0; WIDTH];
    let nothing = vec![0.0; WIDTH * WIDTH];
    let mut identity = nothing.clone();
    (0..WIDTH).for_each(|n| identity[n * WIDTH + n] = 1.0);
    let mut tensors: Vec<(String, Vec<u64>, Vec<f32>)> = vec![
        ("token_embd.weight".into(), rows(WORDS.len()), table(WORDS.len(), 1).concat()),
        ("position_embd.weight".into(), rows(CONTEXT), table(CONTEXT, 2).concat()),
        ("token_types.weight".into(), rows(1), zeros.clone()),
        ("cls.output.weight".into(), rows(1), table(1, 3).concat()),
        ("cls.output.bias".into(), vec![1], vec![BIAS]),
    ];
    for name in ["token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"] {
        tensors.push((format!("{name}.weight"), vec![width], ones.clone()));
        tensors.push((format!("{name}.bias"), vec![width], zeros.clone()));
    }
    for (name, matrix) in [
        ("attn_q", &nothing),
        ("attn_k", &nothing),
        ("attn_v", &identity),
        ("attn_output", &identity),
        ("ffn_up", &nothing),
        ("ffn_down", &nothing),
    ] {
        tensors.push((format!("blk.0.{name}.weight"), rows(WIDTH), matrix.clone()));
        tensors.push((format!("blk.0.{name}.bias"), vec![width], zeros.clone()));
    }

    let keys = keys();
    let mut head = Bytes(b"GGUF".to_vec());
    head.u32(3);
    head.u64(tensors.len());
    head.u64(keys.len());
    head.0.extend(keys.into_iter().flat_map(|key| key.0));
    let mut data = Vec::new();
    for (name, dimensions, values) in tensors {
        head.text(&name);
        head.u32(u32::try_from(dimensions.len()).expect("one or two"));
        for dimension in dimensions {
            head.0.extend(dimension.to_le_bytes());
        }
        head.u32(0); // F32
        head.u64(data.len());
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    head.0.resize(head.0.len().next_multiple_of(32), 0);
    head.0.extend(data);
    head.0
}

fn keys() -> Vec<Bytes> {
    let number = |key: &str, value: usize| {
        let mut bytes = Bytes::key(key, 4);
        bytes.u32(u32::try_from(value).expect("a small number"));
        bytes
    };
    let text = |key: &str, value: &str| {
        let mut bytes = Bytes::key(key, 8);
        bytes.text(value);
        bytes
    };
    let mut epsilon = Bytes::key("bert.attention.layer_norm_epsilon", 6);
    epsilon.0.extend(NORM_EPSILON.to_le_bytes());
    let mut causal = Bytes::key("bert.attention.causal", 7);
    causal.0.push(0);
    let mut words = Bytes::key("tokenizer.ggml.tokens", 9);
    words.u32(8);
    words.u64(WORDS.len());
    for word in WORDS {
        words.text(word);
    }
    let mut kinds = Bytes::key("tokenizer.ggml.token_type", 9);
    kinds.u32(5);
    kinds.u64(WORDS.len());
    for word in WORDS {
        kinds.u32(if word.starts_with('[') { 3 } else { 1 });
    }
    vec![
        text("general.architecture", "bert"),
        number("bert.context_length", CONTEXT),
        number("bert.embedding_length", WIDTH),
        number("bert.block_count", 1),
        number("bert.feed_forward_length", WIDTH),
        number("bert.attention.head_count", 1),
        epsilon,
        causal,
        number("bert.pooling_type", 4),
        text("tokenizer.ggml.model", "bert"),
        number("tokenizer.ggml.token_type_count", 1),
        words,
        kinds,
        number("tokenizer.ggml.bos_token_id", CLS),
        number("tokenizer.ggml.seperator_token_id", SEP),
        number("tokenizer.ggml.unknown_token_id", 1),
        number("tokenizer.ggml.padding_token_id", 0),
        number("tokenizer.ggml.mask_token_id", 4),
    ]
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn key(name: &str, kind: u32) -> Self {
        let mut bytes = Self(Vec::new());
        bytes.text(name);
        bytes.u32(kind);
        bytes
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: usize) {
        self.0.extend(u64::try_from(value).expect("64 bits are enough").to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len());
        self.0.extend(text.as_bytes());
    }
}
