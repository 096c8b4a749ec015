//! The user side of `ollama-guard`: a library with a thin binary.

pub mod events;
