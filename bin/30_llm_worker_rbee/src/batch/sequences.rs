//! What the engine's KV cache holds: which tokens, in which sequences, and which cells they share.
//!
//! A sequence is *running* while a request uses it, then *idle*: its tokens stay, for a later request
//! that begins with them, until their room is wanted. Sequences that share a prefix share its cells,
//! so a cell is free only when no sequence has it. This is bookkeeping alone: whoever changes it does
//! the same to the engine.

use worker_contract::TokenId;

use crate::media::common_prefix;

/// The number of a sequence in the engine.
pub(super) type SequenceId = u32;

/// The number of a cell. These are not the engine's own numbers: only how many are in use counts.
type Cell = u32;

/// What the engine's sequences hold.
#[derive(Debug)]
pub(super) struct Sequences {
    entries: Vec<Entry>,
    /// For each cell, how many sequences have it.
    holders: Vec<u32>,
    /// For each cell, how many of those are running.
    runners: Vec<u32>,
    free_cells: Vec<Cell>,
    used: usize,
    used_by_running: usize,
    clock: u64,
    /// The sequence that grew last: its next cells follow its last ones.
    grew_last: Option<SequenceId>,
}

#[derive(Debug, Default)]
struct Entry {
    tokens: Vec<TokenId>,
    cells: Vec<Cell>,
    /// How many of the tokens were computed as whole chunks of a prompt.
    chunked: usize,
    /// In how many pieces its cells lie, at most.
    pieces: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Free,
    /// Since that tick of the clock.
    Idle(u64),
    Running,
}

impl Sequences {
    /// `count` empty sequences.
    pub(super) fn new(count: u32) -> Self {
        Self {
            entries: (0..count).map(|_| Entry::default()).collect(),
            holders: Vec::new(),
            runners: Vec::new(),
            free_cells: Vec::new(),
            used: 0,
            used_by_running: 0,
            clock: 0,
            grew_last: None,
        }
    }

    /// The tokens that a sequence holds.
    pub(super) fn tokens(&self, id: SequenceId) -> &[TokenId] {
        &self.entries[id as usize].tokens
    }

    /// How many tokens a sequence holds.
    pub(super) fn held(&self, id: SequenceId) -> usize {
        self.tokens(id).len()
    }

    /// How many of a sequence's tokens were computed as whole chunks of a prompt.
    pub(super) fn chunked(&self, id: SequenceId) -> usize {
        self.entries[id as usize].chunked
    }

    /// In how many pieces a sequence lies in the engine, at most: who grows beside others gets a cell here and a
    /// cell there.
    pub(super) fn pieces(&self, id: SequenceId) -> usize {
        self.entries[id as usize].pieces
    }

    pub(super) fn is_idle(&self, id: SequenceId) -> bool {
        matches!(self.entries[id as usize].state, State::Idle(_))
    }

    /// Cells in use, shared ones counted once.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Cells that running sequences use, shared ones counted once.
    pub(super) fn used_by_running(&self) -> usize {
        self.used_by_running
    }

    /// The sequence that begins with the most of `tokens`, and how many that are. Idle ones are
    /// preferred: they can be taken over.
    pub(super) fn longest_prefix(&self, tokens: &[TokenId]) -> Option<(SequenceId, usize)> {
        let lengths = self.held_ids().map(|id| (id, common_prefix(self.tokens(id), tokens)));
        lengths.filter(|(_, length)| *length > 0).max_by_key(|(id, length)| {
            (*length, self.is_idle(*id), std::cmp::Reverse(self.held(*id)))
        })
    }

    /// The longest sequence that `tokens` begins with as a whole.
    pub(super) fn longest_whole(&self, tokens: &[TokenId]) -> Option<(SequenceId, usize)> {
        let whole = self.held_ids().filter(|id| tokens.starts_with(self.tokens(*id)));
        whole.map(|id| (id, self.held(id))).max_by_key(|(id, length)| (*length, self.is_idle(*id)))
    }

    /// The sequences that hold something.
    fn held_ids(&self) -> impl Iterator<Item = SequenceId> {
        (0..).zip(&self.entries).filter(|(_, e)| !e.tokens.is_empty()).map(|(id, _)| id)
    }

    /// A sequence that holds nothing and that nobody runs in.
    pub(super) fn free(&self) -> Option<SequenceId> {
        (0..).zip(&self.entries).find(|(_, e)| e.state == State::Free).map(|(id, _)| id)
    }

    /// The sequence that has been idle for the longest time, other than `kept`.
    pub(super) fn oldest_idle(&self, kept: Option<SequenceId>) -> Option<SequenceId> {
        let idle = (0..).zip(&self.entries).filter_map(|(id, entry)| match entry.state {
            State::Idle(since) if Some(id) != kept => Some((since, id)),
            _ => None,
        });
        idle.min().map(|(_, id)| id)
    }

    /// All idle sequences.
    pub(super) fn idle(&self) -> impl Iterator<Item = SequenceId> {
        (0..)
            .zip(&self.entries)
            .filter(|(_, e)| matches!(e.state, State::Idle(_)))
            .map(|(id, _)| id)
    }

    /// A request begins to use a sequence that was free or idle.
    pub(super) fn run(&mut self, id: SequenceId) {
        debug_assert_ne!(self.entries[id as usize].state, State::Running);
        self.entries[id as usize].state = State::Running;
        for index in 0..self.entries[id as usize].cells.len() {
            self.add_runner(self.entries[id as usize].cells[index]);
        }
    }

    /// A request has ended; what it computed stays.
    pub(super) fn rest(&mut self, id: SequenceId) {
        debug_assert_eq!(self.entries[id as usize].state, State::Running);
        for index in 0..self.entries[id as usize].cells.len() {
            self.remove_runner(self.entries[id as usize].cells[index]);
        }
        self.clock += 1;
        let entry = &mut self.entries[id as usize];
        entry.state = if entry.tokens.is_empty() { State::Free } else { State::Idle(self.clock) };
    }

    /// A sequence is emptied; it is free unless it runs.
    pub(super) fn forget(&mut self, id: SequenceId) {
        self.truncate(id, 0);
        let entry = &mut self.entries[id as usize];
        if entry.state != State::Running {
            entry.state = State::Free;
        }
    }

    /// Only the first `length` tokens of a sequence stay.
    pub(super) fn truncate(&mut self, id: SequenceId, length: usize) {
        let is_running = self.entries[id as usize].state == State::Running;
        while self.entries[id as usize].cells.len() > length {
            let entry = &mut self.entries[id as usize];
            entry.tokens.pop();
            if let Some(cell) = entry.cells.pop() {
                if is_running {
                    self.remove_runner(cell);
                }
                self.remove_holder(cell);
            }
        }
        let entry = &mut self.entries[id as usize];
        entry.chunked = entry.chunked.min(length);
        entry.pieces = entry.pieces.min(length);
        if self.grew_last == Some(id) {
            self.grew_last = None;
        }
    }

    /// A running sequence grows by tokens in cells of its own. `as_chunk`: they are one whole chunk
    /// of a prompt that continues whole chunks.
    pub(super) fn append(&mut self, id: SequenceId, tokens: &[TokenId], as_chunk: bool) {
        debug_assert_eq!(self.entries[id as usize].state, State::Running);
        for token in tokens {
            let cell = self.free_cells.pop().unwrap_or_else(|| {
                self.holders.push(0);
                self.runners.push(0);
                Cell::try_from(self.holders.len() - 1).unwrap_or(Cell::MAX)
            });
            self.add_holder(cell);
            self.add_runner(cell);
            let entry = &mut self.entries[id as usize];
            entry.tokens.push(*token);
            entry.cells.push(cell);
        }
        let is_next = self.grew_last.replace(id) == Some(id);
        let entry = &mut self.entries[id as usize];
        entry.pieces += usize::from(!is_next);
        if as_chunk && entry.chunked + tokens.len() == entry.tokens.len() {
            entry.chunked = entry.tokens.len();
        }
    }

    /// An empty running sequence gets the first `length` tokens of another one, in the same cells.
    pub(super) fn share(&mut self, from: SequenceId, to: SequenceId, length: usize) {
        debug_assert!(self.held(to) == 0 && from != to);
        let source = &self.entries[from as usize];
        let (tokens, cells) = (source.tokens[..length].to_vec(), source.cells[..length].to_vec());
        let pieces = source.pieces.min(length);
        for cell in &cells {
            self.add_holder(*cell);
            self.add_runner(*cell);
        }
        let entry = &mut self.entries[to as usize];
        entry.tokens = tokens;
        entry.cells = cells;
        entry.pieces = pieces;
    }

    fn add_holder(&mut self, cell: Cell) {
        let holders = &mut self.holders[cell as usize];
        *holders += 1;
        self.used += usize::from(*holders == 1);
    }

    fn remove_holder(&mut self, cell: Cell) {
        let holders = &mut self.holders[cell as usize];
        *holders -= 1;
        if *holders == 0 {
            self.used -= 1;
            self.free_cells.push(cell);
        }
    }

    fn add_runner(&mut self, cell: Cell) {
        let runners = &mut self.runners[cell as usize];
        *runners += 1;
        self.used_by_running += usize::from(*runners == 1);
    }

    fn remove_runner(&mut self, cell: Cell) {
        let runners = &mut self.runners[cell as usize];
        *runners -= 1;
        self.used_by_running -= usize::from(*runners == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn who_grows_beside_others_lies_in_pieces() {
        let mut sequences = Sequences::new(3);
        sequences.run(0);
        sequences.append(0, &[1, 2, 3, 4], false);
        sequences.append(0, &[5], false);
        assert_eq!(sequences.pieces(0), 1);
        sequences.run(1);
        for token in 6..9 {
            sequences.append(1, &[token], false);
            sequences.append(0, &[token], false);
        }
        assert_eq!((sequences.pieces(0), sequences.pieces(1)), (4, 3));
        sequences.run(2);
        sequences.share(0, 2, 2);
        assert_eq!(sequences.pieces(2), 2, "at most");
        sequences.truncate(0, 1);
        sequences.forget(1);
        assert_eq!((sequences.pieces(0), sequences.pieces(1)), (1, 0));
    }

    #[test]
    fn a_shared_prefix_is_counted_once() {
        let mut sequences = Sequences::new(3);
        sequences.run(0);
        sequences.append(0, &[1, 2, 3, 4], false);
        sequences.run(1);
        sequences.share(0, 1, 3);
        sequences.append(1, &[9], false);
        assert_eq!((sequences.used(), sequences.used_by_running()), (5, 5));
        sequences.rest(0);
        assert_eq!((sequences.used(), sequences.used_by_running()), (5, 4));
        sequences.forget(0);
        assert_eq!(sequences.used(), 4, "the other one still has the prefix");
        assert_eq!(sequences.tokens(1), [1, 2, 3, 9]);
    }

    #[test]
    fn the_longest_prefix_wins_and_an_idle_sequence_among_equals() {
        let mut sequences = Sequences::new(4);
        for (id, tokens) in [(0, &[1, 2, 3][..]), (1, &[1, 2, 3]), (2, &[1, 7])] {
            sequences.run(id);
            sequences.append(id, tokens, false);
        }
        sequences.rest(1);
        assert_eq!(sequences.longest_prefix(&[1, 2, 3, 4]), Some((1, 3)));
        assert_eq!(sequences.longest_prefix(&[1, 7, 8]), Some((2, 2)));
        assert_eq!(sequences.longest_prefix(&[5]), None);
        assert_eq!(sequences.longest_whole(&[1, 7, 8]), Some((2, 2)));
        assert_eq!(sequences.longest_whole(&[1, 2]), None, "none ends there");
    }

    #[test]
    fn what_has_been_idle_for_the_longest_time_goes_first() {
        let mut sequences = Sequences::new(3);
        for id in 0..3 {
            sequences.run(id);
            sequences.append(id, &[1], false);
        }
        for id in [2, 0, 1] {
            sequences.rest(id);
        }
        assert_eq!(sequences.oldest_idle(None), Some(2));
        assert_eq!(sequences.oldest_idle(Some(2)), Some(0));
        sequences.run(2);
        sequences.rest(2);
        assert_eq!(sequences.oldest_idle(None), Some(0));
    }

    #[test]
    fn whole_chunks_are_counted_up_to_the_first_gap() {
        let mut sequences = Sequences::new(1);
        sequences.run(0);
        sequences.append(0, &[1, 2], true);
        sequences.append(0, &[3], false);
        sequences.append(0, &[4, 5], true);
        assert_eq!(sequences.chunked(0), 2);
        sequences.truncate(0, 1);
        assert_eq!(sequences.chunked(0), 1);
    }

    proptest! {
        /// Whatever is done, the counts are those of the cells that the sequences really have.
        #[test]
        fn counts_are_those_of_the_distinct_cells(
            steps in prop::collection::vec((0_u8..6, 0_u32..5, 0_u32..5, 1_usize..9), 0..60),
        ) {
            let mut sequences = Sequences::new(5);
            for (what, one, other, number) in steps {
                let is_running = |s: &Sequences, id: u32| s.entries[id as usize].state == State::Running;
                match what {
                    0 if !is_running(&sequences, one) => sequences.run(one),
                    1 if is_running(&sequences, one) => sequences.rest(one),
                    2 if is_running(&sequences, one) => {
                        sequences.append(one, &vec![7; number], false);
                    }
                    3 => sequences.truncate(one, number),
                    4 => sequences.forget(one),
                    5 if is_running(&sequences, one) && sequences.held(one) == 0 && one != other => {
                        let length = number.min(sequences.held(other));
                        sequences.share(other, one, length);
                    }
                    _ => {}
                }
                let cells = |running: bool| -> HashSet<Cell> {
                    let entries = sequences.entries.iter();
                    let wanted = entries.filter(|e| !running || e.state == State::Running);
                    wanted.flat_map(|e| e.cells.iter().copied()).collect()
                };
                prop_assert_eq!(sequences.used(), cells(false).len());
                prop_assert_eq!(sequences.used_by_running(), cells(true).len());
            }
        }
    }
}
