//! The HTTP edge that every daemon of rbee has.
