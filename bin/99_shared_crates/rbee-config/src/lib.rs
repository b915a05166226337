//! Where rbee keeps its files, and what its configuration says.
