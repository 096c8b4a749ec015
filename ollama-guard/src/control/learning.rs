//! `POST /v1/learn`: what is asked for, and the lines of the answer.

use ollama_guard_common::abi::{DEFAULT_PLACES, MOST_PLACES};
use serde::{Deserialize, Serialize};

use crate::policy::proposal::{Entry, Summary};

/// The longest session, in seconds: a week.
pub const MOST_SECONDS: u32 = 7 * 24 * 60 * 60;

/// Counts who is at the guarded ports, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnRequest {
    /// How long.
    pub seconds: u32,
    /// Sources that there is to be room for; one that comes in by several CPUs takes several places.
    #[serde(default = "default_places")]
    pub sources: u32,
}

const fn default_places() -> u32 {
    DEFAULT_PLACES
}

impl LearnRequest {
    /// What is wrong with it, if anything: what to ask for instead.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if !(1..=MOST_SECONDS).contains(&self.seconds) {
            let seconds = self.seconds;
            return Some(format!(
                "{seconds} seconds is no time to learn: from 1 second to a week ({MOST_SECONDS} s)"
            ));
        }
        if !(1..=MOST_PLACES).contains(&self.sources) {
            let sources = self.sources;
            return Some(format!("no room for {sources} sources: from 1 to {MOST_PLACES}"));
        }
        None
    }
}

/// One line of the answer, as JSON. Only an answer that ends with [`LearnLine::Done`] is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LearnLine {
    /// While it lasts.
    Progress(Progress),
    /// A part of the proposal.
    Entry(Entry),
    /// The end of the proposal.
    Done(Summary),
    /// There is no proposal, and why.
    Failed(String),
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Until the end.
    pub seconds_left: u32,
    /// Sources seen so far.
    pub sources: u64,
    /// Their packets.
    pub packets: u64,
    /// Packets of sources that there was no room for.
    pub homeless: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_names_a_time_and_may_name_the_room() {
        let request: LearnRequest = serde_json::from_value(json!({"seconds": 60})).unwrap();
        assert_eq!((request.sources, request.problem()), (DEFAULT_PLACES, None));
        assert!(serde_json::from_value::<LearnRequest>(json!({"seconds": 60, "x": 1})).is_err());
        for (seconds, sources) in [(0, 9), (MOST_SECONDS + 1, 9), (9, 0), (9, MOST_PLACES + 1)] {
            assert!(LearnRequest { seconds, sources }.problem().is_some());
        }
    }

    #[test]
    fn a_line_says_what_it_is() {
        let progress = Progress { seconds_left: 9, sources: 1, packets: 2, homeless: 0 };
        let line = serde_json::to_value(LearnLine::Progress(progress)).unwrap();
        assert_eq!(line["progress"]["seconds_left"], 9);
    }
}
