//! Real daemons on free ports under a temporary home, for tests.
