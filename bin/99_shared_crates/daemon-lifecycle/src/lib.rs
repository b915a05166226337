//! How a daemon of rbee is found, started, watched and stopped.
