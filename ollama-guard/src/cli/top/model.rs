//! All that the screen shows, from what the daemon says.

use std::time::Instant;

use jiff::Timestamp;

use super::{
    rates::{ByVerdict, Rates},
    strangers::Strangers,
};
use crate::{events::Line, status::StatusReport};

/// What is known of the guard.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) rates: Rates,
    pub(super) strangers: Strangers,
    /// The last one that came.
    pub(super) report: Option<Box<StatusReport>>,
    /// Events that are known to be missing among those of the strangers.
    pub(super) missing: u64,
    /// Since when the daemon does not answer, and what comes instead.
    pub(super) lost: Option<(Timestamp, String)>,
}

/// Something that came from the daemon.
#[derive(Debug)]
pub(super) enum Update {
    /// Its status, and when it came.
    Status(Box<StatusReport>, Instant),
    /// A line of the stream of events.
    Line(Line),
    /// No answer.
    Lost(String),
}

impl Model {
    /// Takes something in, at this time.
    pub(super) fn take(&mut self, update: Update, now: Timestamp) {
        match update {
            Update::Status(report, at) => {
                self.lost = None;
                self.rates.take(ByVerdict::of(&report), at);
                self.report = Some(report);
            }
            Update::Line(Line::Event(event)) => self.strangers.take(&event),
            Update::Line(Line::Missed { missed: count })
            | Update::Line(Line::Unwritten { unwritten: count })
            | Update::Line(Line::Damaged { damaged: count }) => self.missing += count,
            Update::Lost(why) => {
                let since = self.lost.as_ref().map_or(now, |(since, _)| *since);
                self.lost = Some((since, why));
                self.rates.interrupt();
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        cli::top::strangers::{
            Choice,
            tests::{event, time},
        },
        status::ModeCounts,
    };

    /// A report as a daemon sends it, with these counters.
    pub(in crate::cli::top) fn report(counters: &[(&str, u64, u64)]) -> Box<StatusReport> {
        let json = serde_json::json!({
            "enforcing": true, "problems": [], "mode": "enforce", "scope": "all", "generation": 3,
            "ports": ["11434/tcp"],
            "rules": {"v4": 2, "v6": 1, "capacity": 65536, "intact": true},
            "doors": [
                {"name": "lo", "ifindex": 1, "state": "not-covered",
                 "reason": "loopback: only packets of this host itself arrive here"},
                {"name": "eth0", "ifindex": 2, "state": "covered", "hook": "xdp",
                 "attach": "native", "program_id": 7, "link_id": 8,
                 "counts": {"enforce": {"not-listed": 1234, "allowed": 5}, "observe": {}}},
            ],
            "counters": {},
            "books": {
                "enforce": {"dropped": 1234, "submitted": 1200, "suppressed": 34, "lost": 0},
                "observe": {"dropped": 0, "submitted": 0, "suppressed": 0, "lost": 0},
            },
            "ring": {"read": 1200, "unread": 0},
            "programs": [],
            "daemon": {
                "running": true, "pid": 27149, "version": "0.1.0",
                "configuration": {
                    "files": ["/etc/ollama-guard/config.toml"], "since": "2026-03-01T09:00:00Z",
                },
            },
        });
        let mut report: StatusReport = serde_json::from_value(json).unwrap();
        report.counters = counters
            .iter()
            .map(|&(name, enforce, observe)| (name.to_owned(), ModeCounts { enforce, observe }))
            .collect::<BTreeMap<_, _>>();
        Box::new(report)
    }

    #[test]
    fn packets_are_counted_by_what_became_of_them() {
        let counters =
            [("allowed", 7, 2), ("not-listed", 10, 3), ("denied", 5, 0), ("from-the-future", 1, 0)];
        let totals = ByVerdict::of(&report(&counters));
        assert_eq!(totals, ByVerdict { passed: 9, dropped: 16, would_drop: 3 });
    }

    #[test]
    fn a_daemon_that_goes_away_is_said_once_and_comes_back() {
        let (mut model, start) = (Model::default(), Instant::now());
        model.take(Update::Status(report(&[("denied", 1, 0)]), start), time(0));
        model.take(Update::Line(Line::Event(Arc::new(event("192.0.2.9", 0, 3)))), time(0));
        model.take(Update::Lost("gone".into()), time(1));
        model.take(Update::Lost("still gone".into()), time(2));
        assert_eq!(model.lost, Some((time(1), "still gone".into())));
        assert!(model.report.is_some(), "what was last known stays");
        let later = start + Duration::from_secs(60);
        model.take(Update::Status(report(&[("denied", 1000, 0)]), later), time(60));
        assert_eq!(model.lost, None);
        assert_eq!(model.rates.now().dropped, 0.0);
        assert_eq!(model.strangers.chosen(&Choice::default(), time(60)).len(), 1);
    }

    #[test]
    fn what_is_missing_is_counted() {
        let mut model = Model::default();
        for line in [
            Line::Missed { missed: 1 },
            Line::Unwritten { unwritten: 2 },
            Line::Damaged { damaged: 4 },
        ] {
            model.take(Update::Line(line), time(0));
        }
        assert_eq!(model.missing, 7);
    }
}
