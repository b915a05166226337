//! The ways in which a worker takes a request, or goes on with an answer that has begun elsewhere.

use std::ops::BitOr;

/// A set of ways. A worker serves a request when the two have one in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways(u8);

impl Ways {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// After the ids of the tokens that there are, by the model's own vocabulary.
    pub const TOKENS: Self = Self(1);
    /// After the beginning of the assistant's message in a conversation.
    pub const CHAT: Self = Self(2);
    /// After a text that the answer's beginning is put to.
    pub const PROMPT: Self = Self(4);
    /// From the start, with what only rbee promises: grammars, and answers that can be repeated.
    pub const OWN: Self = Self(8);
    /// From the start, and that only.
    pub const BEGIN: Self = Self(16);
    /// From the start, in a form that is held to in completions, too.
    pub const FORM: Self = Self(32);
    /// From the start, with the call of a function that is demanded.
    pub const CALL: Self = Self(64);
    /// All of them: those of rbee's own workers, and of a request that anybody can begin.
    pub const ALL: Self = Self(127);

    /// Whether the two have one in common.
    #[must_use]
    pub fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all of the other are among them.
    #[must_use]
    pub fn hold(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl BitOr for Ways {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
