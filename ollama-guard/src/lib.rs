//! The rooms of `ollama-guard`.

pub mod dataplane;
pub mod policy;
