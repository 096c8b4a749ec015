//! The user side of `ollama-guard`.

pub mod doors;
