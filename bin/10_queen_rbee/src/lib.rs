//! The brain of rbee: every decision, and one OpenAI-compatible endpoint.
