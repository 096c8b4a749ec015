//! Where the answers come from.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Sample;

/// Knows what is to be told. The daemon implements it; every answer may be asked for often.
pub trait Source: Send + Sync + 'static {
    /// What a scrape shows.
    fn sample(&self) -> BoxFuture<'_, Arc<Sample>>;

    /// Parts of the daemon that do not live any more, a sentence each. Never waits.
    fn ailments(&self) -> Vec<String>;

    /// Whether every door holds.
    fn readiness(&self) -> BoxFuture<'_, Arc<Readiness>>;
}

/// Whether every door holds, by the check of `ollama-guard verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What does not hold, a sentence each.
    pub failures: Vec<String>,
    /// What is only observed, for the operator wants it so, a sentence each.
    pub observed: Vec<String>,
    /// What does not hold anything up and is to be known, a sentence each.
    pub notes: Vec<String>,
}
