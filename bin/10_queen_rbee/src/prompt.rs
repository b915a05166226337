//! The beginning of a prompt as a chain of digests, by which requests that begin alike know each
//! other. The queen has no tokenizer; a worker's KV cache holds tokens of a text, and texts that are
//! alike up to a byte are alike up to a token.

use twox_hash::XxHash3_64;
use worker_contract::{Chat, InferenceRequest, Prompt, Task};

/// The bytes of a block, about 32 tokens.
pub const BLOCK_BYTES: usize = 128;
/// The most blocks that are looked at: 1 MiB of text.
const MAX_BLOCKS: usize = 8192;

/// The digests of a prompt's blocks. Each depends on all blocks before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptChain {
    blocks: Vec<u64>,
    bytes: u32,
}

impl PromptChain {
    /// The chain of a request. What makes vectors has none: nothing of it is kept.
    #[must_use]
    pub fn of(request: &InferenceRequest) -> Self {
        let model = request.model.as_ref().map_or("", |model| model.as_str());
        let mut writer = Writer::new(XxHash3_64::oneshot(model.as_bytes()));
        match &request.task {
            Task::Chat(chat) => write_chat(chat, &mut writer),
            Task::Completion { prompt: Prompt::Text(text) } => writer.write(text.as_bytes()),
            Task::Completion { prompt: Prompt::Tokens(tokens) } => {
                for token in tokens {
                    writer.write(&token.to_le_bytes());
                }
            }
            Task::Infill { prefix, suffix } => {
                writer.field(prefix);
                writer.field(suffix);
            }
            Task::Embed { .. } | Task::Rerank { .. } => {}
        }
        writer.end()
    }

    /// The chain of a prompt of which nothing is known but its length.
    #[must_use]
    pub fn of_length(bytes: u32) -> Self {
        Self { blocks: Vec::new(), bytes }
    }

    /// The digests, from the first block on. What does not fill a block has none.
    #[must_use]
    pub fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    /// The length of the prompt.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.bytes
    }
}

/// Functions come first, as they do in chat templates.
fn write_chat(chat: &Chat, writer: &mut Writer) {
    if !chat.tools.is_empty() {
        writer.field(&serde_json::to_string(&chat.tools).unwrap_or_default());
    }
    for message in &chat.messages {
        writer.write(&[message.role as u8]);
        writer.field(message.name.as_deref().unwrap_or_default());
        writer.field(&message.content);
        message.images.iter().for_each(|image| writer.field(&image.data));
        for call in &message.tool_calls {
            writer.field(&call.name);
            writer.field(&call.arguments);
        }
    }
}

struct Writer {
    chain: PromptChain,
    last: u64,
    block: [u8; BLOCK_BYTES],
    filled: usize,
}

impl Writer {
    fn new(seed: u64) -> Self {
        Self { chain: PromptChain::default(), last: seed, block: [0; BLOCK_BYTES], filled: 0 }
    }

    /// A text with its end.
    fn field(&mut self, text: &str) {
        self.write(text.as_bytes());
        self.write(&[0]);
    }

    fn write(&mut self, mut bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.chain.bytes = self.chain.bytes.saturating_add(length);
        while !bytes.is_empty() && self.chain.blocks.len() < MAX_BLOCKS {
            if self.filled == 0 && bytes.len() >= BLOCK_BYTES {
                let (block, rest) = bytes.split_at(BLOCK_BYTES);
                self.push(XxHash3_64::oneshot_with_seed(self.last, block));
                bytes = rest;
                continue;
            }
            let part = bytes.len().min(BLOCK_BYTES - self.filled);
            self.block[self.filled..self.filled + part].copy_from_slice(&bytes[..part]);
            self.filled += part;
            bytes = &bytes[part..];
            if self.filled == BLOCK_BYTES {
                self.filled = 0;
                self.push(XxHash3_64::oneshot_with_seed(self.last, &self.block));
            }
        }
    }

    fn push(&mut self, digest: u64) {
        self.last = digest;
        self.chain.blocks.push(digest);
    }

    fn end(self) -> PromptChain {
        self.chain
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use worker_contract::{ChatMessage, RequestId, Role};

    use super::*;

    #[test]
    fn a_conversation_begins_with_its_own_beginning() {
        let long = "word ".repeat(100);
        let first = [(Role::System, long.as_str()), (Role::User, "Hi")];
        let second = [first[0], first[1], (Role::Assistant, "Ho"), (Role::User, &long)];
        let (first, second) = (chat(&first), chat(&second));
        assert_eq!(first.blocks(), &second.blocks()[..first.blocks().len()]);
        assert!(first.blocks().len() >= 3 && second.bytes() > first.bytes());
        let other = chat(&[(Role::User, long.as_str()), (Role::User, "Hi")]);
        assert_ne!(first.blocks()[0], other.blocks()[0], "another role");
    }

    #[test]
    fn a_prompt_of_any_size_has_a_bounded_chain() {
        let text = "x".repeat(4 << 20);
        let chain = completion(&text);
        assert_eq!((chain.blocks().len(), chain.bytes()), (MAX_BLOCKS, 4 << 20));
    }

    proptest! {
        #[test]
        fn two_prompts_share_as_many_blocks_as_they_share_bytes(
            shared in "[ab]{0,600}", first in "[ab]{0,300}", second in "[ab]{0,300}",
        ) {
            let (one, two) = (format!("{shared}{first}"), format!("{shared}{second}"));
            let bytes = one.bytes().zip(two.bytes()).take_while(|(a, b)| a == b).count();
            let (one, two) = (completion(&one), completion(&two));
            let blocks = one.blocks().iter().zip(two.blocks()).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(blocks, bytes / BLOCK_BYTES);
        }
    }

    fn completion(text: &str) -> PromptChain {
        let prompt = Prompt::Text(text.into());
        PromptChain::of(&InferenceRequest::new(RequestId::random(), Task::Completion { prompt }))
    }

    fn chat(messages: &[(Role, &str)]) -> PromptChain {
        let messages: Vec<_> =
            messages.iter().map(|(role, text)| ChatMessage::text(*role, *text)).collect();
        let task = Task::Chat(messages.into());
        PromptChain::of(&InferenceRequest::new(RequestId::random(), task))
    }
}
