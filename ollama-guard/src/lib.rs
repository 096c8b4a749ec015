//! The rooms of `ollama-guard`.

pub mod config;
pub mod policy;
