//! API tokens: made, listed, revoked and verified.
