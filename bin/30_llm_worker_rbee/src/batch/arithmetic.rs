//! An engine of arithmetic, for tests of the loop.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use worker_contract::TokenId;

use crate::engine::{BatchEntry, Engine, EngineError, EngineLimits, MediaPart, SavedSequence};
use crate::media::Layout;

/// How many tokens it knows.
pub(super) const VOCABULARY: u32 = 64;

/// A token that it cannot compute.
pub(super) const POISON: TokenId = 63;

/// An engine whose next token depends on every token and image of its sequence, and which insists
/// that positions follow each other. Sequences share cells as those of llama.cpp do.
pub(super) struct Arithmetic {
    limits: EngineLimits,
    sequences: HashMap<u32, Vec<Held>>,
    next_cell: u64,
    rows: Vec<Vec<f32>>,
    /// Cells in use, told to the test.
    pub(super) used: Arc<AtomicUsize>,
    /// Places that were computed, told to the test.
    pub(super) computed: Arc<AtomicUsize>,
}

/// What a cell holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    cell: u64,
    /// A token, or what stands for an embedding.
    content: u32,
    position: u32,
    /// The position of what follows.
    next: u32,
}

impl SavedSequence for Vec<Held> {
    fn bytes(&self) -> usize {
        self.len() * 100
    }
}

impl Arithmetic {
    pub(super) fn new(limits: EngineLimits) -> Self {
        Self {
            limits,
            sequences: HashMap::new(),
            next_cell: 0,
            rows: Vec::new(),
            used: Arc::default(),
            computed: Arc::default(),
        }
    }

    fn add(&mut self, sequence: u32, content: u32, position: u32, next: u32) -> &[Held] {
        self.next_cell += 1;
        let held = self.sequences.entry(sequence).or_default();
        held.push(Held { cell: self.next_cell, content, position, next });
        held
    }

    /// The position of what follows a sequence.
    fn next_position(&self, sequence: u32) -> u32 {
        let held = self.sequences.get(&sequence);
        held.and_then(|held| held.last()).map_or(0, |last| last.next)
    }

    fn take_room(&mut self, places: usize) -> Result<(), EngineError> {
        assert!(places <= self.limits.batch_tokens as usize);
        self.count();
        if self.used.load(Relaxed) + places > self.limits.kv_tokens as usize {
            return Err(EngineError::KvCacheFull);
        }
        self.computed.fetch_add(places, Relaxed);
        Ok(())
    }

    fn count(&self) {
        let cells = self.sequences.values().flatten().map(|held| held.cell);
        self.used.store(cells.collect::<HashSet<_>>().len(), Relaxed);
    }
}

impl Engine for Arithmetic {
    type Saved = Vec<Held>;

    fn limits(&self) -> EngineLimits {
        self.limits
    }

    fn step(&mut self, batch: &[BatchEntry]) -> Result<(), EngineError> {
        if batch.iter().any(|entry| entry.token == POISON) {
            return Err(EngineError::Failed("poison".to_owned()));
        }
        if self.limits.batch_invariant {
            let alone: HashSet<u32> = batch.iter().map(|entry| entry.sequence).collect();
            assert_eq!(alone.len(), 1, "each sequence is computed alone");
        }
        self.take_room(batch.len())?;
        self.rows.clear();
        for entry in batch {
            let position = self.next_position(entry.sequence);
            assert_eq!(position, entry.position, "positions follow each other");
            let token = u32::try_from(entry.token).expect("an image is no token");
            let held = self.add(entry.sequence, token, position, position + 1);
            let content: Vec<u32> = held.iter().map(|held| held.content).collect();
            // Mostly the last tokens decide, so that texts repeat themselves and guesses hit.
            let recent = &content[content.len().saturating_sub(3)..];
            let decides = if hash(recent).is_multiple_of(4) { &content } else { recent };
            let next = 1 + hash(decides) % 26;
            let logit = |token: u32| if u64::from(token) == next { 5.0 } else { 0.0 };
            self.rows.push(if entry.wants_logits {
                (0..VOCABULARY).map(logit).collect()
            } else {
                Vec::new()
            });
        }
        self.count();
        Ok(())
    }

    fn step_media(&mut self, part: MediaPart<'_>) -> Result<(), EngineError> {
        let MediaPart { media, places, position, sequence } = part;
        let is_all = places.len() == media.tokens as usize;
        assert!(is_all || !media.whole, "a part of what must be computed at once");
        let held = self.sequences.get(&sequence).map_or(&[][..], |held| &held[..]);
        let before = held
            .len()
            .checked_sub(places.start)
            .map_or(0, |start| start.checked_sub(1).map_or(0, |last| held[last].next));
        assert_eq!(before, position, "an image begins where the text before it ends");
        self.take_room(places.len())?;
        self.rows.clear();
        for place in places {
            let content = media.embeddings[place].to_bits();
            let offset = u32::try_from(place).unwrap();
            match media.layout {
                Layout::Line => {
                    self.add(sequence, content, position + offset, position + offset + 1);
                }
                Layout::Planes { length, .. } => {
                    self.add(sequence, content, position, position + length);
                }
            }
        }
        self.count();
        Ok(())
    }

    fn logits(&self, row: usize) -> &[f32] {
        assert!(!self.rows[row].is_empty(), "logits were asked for");
        &self.rows[row]
    }

    fn forget(&mut self, sequence: u32) {
        self.sequences.remove(&sequence);
        self.count();
    }

    fn truncate(&mut self, sequence: u32, position: u32) -> bool {
        if !self.limits.has_parts {
            return false;
        }
        if let Some(held) = self.sequences.get_mut(&sequence) {
            held.retain(|held| held.position < position);
        }
        self.count();
        true
    }

    fn share(&mut self, from: u32, to: u32, position: u32) {
        let mut shared = self.sequences[&from].clone();
        shared.retain(|held| held.position < position);
        assert!(self.sequences.insert(to, shared).is_none_or(|held| held.is_empty()));
        self.count();
    }

    fn has_beginning(&self, _sequence: u32) -> bool {
        true
    }

    fn save(&self, sequence: u32) -> Option<Vec<Held>> {
        self.sequences.get(&sequence).cloned()
    }

    fn restore(&mut self, sequence: u32, saved: &Vec<Held>) -> bool {
        assert!(self.sequences.get(&sequence).is_none_or(Vec::is_empty));
        for held in saved {
            self.add(sequence, held.content, held.position, held.next);
        }
        self.count();
        true
    }
}

fn hash(content: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
