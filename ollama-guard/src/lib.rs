//! The user side of `ollama-guard`: a library with a thin binary.

pub mod audit_log;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod doors;
pub mod events;
pub mod guard;
pub mod policy;
pub mod status;
