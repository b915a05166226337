//! The embeddings of images that were seen lately.

use std::collections::VecDeque;
use std::sync::Arc;

/// Embeddings by the digest of their image, within a limit of memory; what was used longest ago goes
/// first.
#[derive(Debug)]
pub(super) struct EmbeddingCache {
    /// Used last at the back.
    entries: VecDeque<([u8; 32], Arc<[f32]>)>,
    bytes: usize,
    most_bytes: usize,
}

impl EmbeddingCache {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, most_bytes }
    }

    pub(super) fn get(&mut self, digest: &[u8; 32]) -> Option<Arc<[f32]>> {
        let index = self.entries.iter().position(|(known, _)| known == digest)?;
        let entry = self.entries.remove(index)?;
        let embeddings = Arc::clone(&entry.1);
        self.entries.push_back(entry);
        Some(embeddings)
    }

    pub(super) fn keep(&mut self, digest: [u8; 32], embeddings: Arc<[f32]>) {
        if self.get(&digest).is_some() || size_of_val(&*embeddings) > self.most_bytes {
            return;
        }
        self.bytes += size_of_val(&*embeddings);
        self.entries.push_back((digest, embeddings));
        while self.bytes > self.most_bytes {
            let Some((_, oldest)) = self.entries.pop_front() else { break };
            self.bytes -= size_of_val(&*oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let mut cache = EmbeddingCache::new(3 * 40);
        let image = |name: u8| ([name; 32], Arc::from([f32::from(name); 10]));
        for name in 1..=3 {
            let (digest, embeddings) = image(name);
            cache.keep(digest, embeddings);
        }
        assert!(cache.get(&[1; 32]).is_some());
        let (digest, embeddings) = image(4);
        cache.keep(digest, embeddings);
        assert_eq!(cache.get(&[2; 32]), None);
        assert_eq!(cache.get(&[1; 32]).as_deref(), Some(&[1.0; 10][..]));
        assert_eq!(cache.bytes, 3 * 40);
    }

    #[test]
    fn what_is_larger_than_all_the_room_is_not_kept() {
        let mut cache = EmbeddingCache::new(8);
        cache.keep([1; 32], Arc::from([0.0; 3]));
        assert_eq!(cache.get(&[1; 32]), None);
        assert_eq!(cache.bytes, 0);
    }
}
