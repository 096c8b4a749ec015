//! The user side of `ollama-guard`.

pub mod config;
pub mod dataplane;
pub mod doors;
pub mod policy;
