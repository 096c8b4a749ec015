//! The user side of `ollama-guard`: a library with a thin binary.

pub mod audit_log;
pub mod cli;
pub mod control;
pub mod events;
