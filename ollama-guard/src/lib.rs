//! The rooms of `ollama-guard`.

pub mod policy;
