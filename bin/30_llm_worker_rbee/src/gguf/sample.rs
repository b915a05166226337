//! A small valid GGUF file, and ways to write others: for tests and as a seed for fuzzing.

/// Writes a GGUF file.
#[derive(Default)]
pub(crate) struct Writer {
    keys: u64,
    key_bytes: Vec<u8>,
    tensors: u64,
    tensor_bytes: Vec<u8>,
    data: Vec<u8>,
}

/// The whole of a small model's file: two layers, a vocabulary of four, weights of zeros.
pub(crate) fn model() -> Vec<u8> {
    model_with(|writer| writer)
}

/// The same with more in it; a key that is given twice is there twice.
pub(crate) fn model_with(more: impl FnOnce(Writer) -> Writer) -> Vec<u8> {
    let writer = Writer::default()
        .text("general.architecture", "llama")
        .text("general.name", "Sample")
        .number("llama.context_length", 64)
        .number("llama.embedding_length", 32)
        .number("llama.block_count", 2)
        .number("llama.feed_forward_length", 64)
        .numbers("llama.attention.head_count", &[4, 4])
        .numbers("llama.attention.head_count_kv", &[2, 2])
        .number("llama.rope.dimension_count", 8)
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "a"])
        .floats("tokenizer.ggml.scores", &[0.0; 4])
        .array("tokenizer.ggml.token_type", 5, 4, &[1, 0, 0, 0].repeat(4))
        .number("tokenizer.ggml.bos_token_id", 1)
        .text("tokenizer.chat_template", "{{ messages[0].content }}")
        .tensor("token_embd.weight", &[32, 4], 0, 512)
        .tensor("blk.0.attn_q.weight", &[32, 32], 8, 1088)
        .tensor("output_norm.weight", &[32], 0, 128);
    more(writer).file(3)
}

impl Writer {
    /// A key with a value as its bytes stand in the file.
    pub(crate) fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.keys += 1;
        push_text(&mut self.key_bytes, key);
        self.key_bytes.extend(kind.to_le_bytes());
        self.key_bytes.extend(value);
        self
    }

    pub(crate) fn number(self, key: &str, number: u32) -> Self {
        self.raw(key, 4, &number.to_le_bytes())
    }

    pub(crate) fn text(self, key: &str, text: &str) -> Self {
        let mut bytes = Vec::new();
        push_text(&mut bytes, text);
        self.raw(key, 8, &bytes)
    }

    pub(crate) fn array(self, key: &str, element: u32, length: u64, elements: &[u8]) -> Self {
        let head = [&element.to_le_bytes()[..], &length.to_le_bytes()].concat();
        self.raw(key, 9, &[&head, elements].concat())
    }

    pub(crate) fn numbers(self, key: &str, numbers: &[u32]) -> Self {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.array(key, 4, numbers.len() as u64, &bytes)
    }

    pub(crate) fn floats(self, key: &str, numbers: &[f32]) -> Self {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.array(key, 6, numbers.len() as u64, &bytes)
    }

    pub(crate) fn texts(self, key: &str, texts: &[&str]) -> Self {
        let mut bytes = Vec::new();
        for text in texts {
            push_text(&mut bytes, text);
        }
        self.array(key, 8, texts.len() as u64, &bytes)
    }

    /// A tensor whose data, of `bytes` bytes, follows that of the one before.
    pub(crate) fn tensor(mut self, name: &str, shape: &[u64], kind: u32, bytes: usize) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data.resize(self.data.len() + bytes, 0);
        self.tensor_at(name, shape, kind, offset)
    }

    /// A tensor's entry without data.
    pub(crate) fn tensor_at(mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors += 1;
        push_text(&mut self.tensor_bytes, name);
        self.tensor_bytes.extend(u32::try_from(shape.len()).unwrap_or(u32::MAX).to_le_bytes());
        for length in shape {
            self.tensor_bytes.extend(length.to_le_bytes());
        }
        self.tensor_bytes.extend(kind.to_le_bytes());
        self.tensor_bytes.extend(offset.to_le_bytes());
        self
    }

    pub(crate) fn file(self, version: u32) -> Vec<u8> {
        let (tensors, keys) = (self.tensors, self.keys);
        self.file_with_counts(version, tensors, keys)
    }

    pub(crate) fn file_with_counts(self, version: u32, tensors: u64, keys: u64) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(version.to_le_bytes());
        file.extend(tensors.to_le_bytes());
        file.extend(keys.to_le_bytes());
        file.extend(self.key_bytes);
        file.extend(self.tensor_bytes);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(self.data);
        file
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
