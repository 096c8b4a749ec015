//! What of the past was asked for.

use std::fs;

use super::Entry;
use crate::events::{Bounds, Line};

/// Picks the lines within a window. What is missing is told where events are that are wanted.
#[derive(Clone, Debug)]
pub struct Selector {
    bounds: Bounds,
    boot_id: String,
    unwritten: u64,
    damaged: u64,
    /// Whether the last event was within; `None` before the first one.
    is_within: Option<bool>,
}

/// The kernel's name for this start of the host.
#[must_use]
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

impl Selector {
    /// For a window, and the start of the host by which it is measured.
    #[must_use]
    pub const fn new(bounds: Bounds, boot_id: String) -> Self {
        Self { bounds, boot_id, unwritten: 0, damaged: 0, is_within: None }
    }

    /// Adds to `lines` what of this entry is wanted.
    pub fn take(&mut self, entry: Entry, lines: &mut Vec<Line>) {
        match entry {
            Entry::Unwritten(count) => self.unwritten += count,
            Entry::Damaged(count) => self.damaged += count,
            Entry::Event { begin, event, .. } => {
                let is_this_boot = begin.is_some_and(|begin| begin.boot_id == self.boot_id);
                let is_within = self.bounds.cover(&event, is_this_boot);
                self.tell_gaps(is_within, lines);
                if is_within {
                    lines.push(Line::Event(event));
                }
            }
        }
    }

    /// The end of the past; behind it come events that are within or not.
    pub fn finish(mut self, lines: &mut Vec<Line>) {
        let is_within = self.is_within.is_none();
        self.tell_gaps(is_within, lines);
    }

    /// Tells what is missing between two events of which one is wanted.
    fn tell_gaps(&mut self, is_within: bool, lines: &mut Vec<Line>) {
        let is_wanted = is_within || self.is_within == Some(true);
        let (unwritten, damaged) =
            (std::mem::take(&mut self.unwritten), std::mem::take(&mut self.damaged));
        self.is_within = Some(is_within);
        if is_wanted && unwritten > 0 {
            lines.push(Line::Unwritten { unwritten });
        }
        if is_wanted && damaged > 0 {
            lines.push(Line::Damaged { damaged });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::events::{
        Clock, Event, Window, event::tests::knock, history::Begin, window::Moment,
    };

    fn picked(entries: &[&str]) -> Vec<String> {
        let now = Clock::pair(100_000 * 1_000_000, "2026-03-01T12:00:00Z".parse().unwrap());
        let window = Window { since: "50s".parse::<Moment>().ok(), until: "10s".parse().ok() };
        let mut selector = Selector::new(window.at(now), "this".to_owned());
        let mut lines = Vec::new();
        for entry in entries {
            let (kind, number) = entry.split_at(1);
            let number: u64 = number.parse().unwrap();
            let event = Arc::new(Event { boot_ms: number * 1000, ..knock("192.0.2.1") });
            let begin = |boot_id: &str| {
                let time = jiff::Timestamp::UNIX_EPOCH;
                Some(Arc::new(Begin { boot_id: boot_id.into(), boot_ms: 0, time }))
            };
            let entry = match kind {
                "e" => Entry::Event { begin: begin("this"), number, event },
                "o" => Entry::Event { begin: begin("other"), number, event },
                "u" => Entry::Unwritten(number),
                _ => Entry::Damaged(number),
            };
            selector.take(entry, &mut lines);
        }
        selector.finish(&mut lines);
        let shown = lines.into_iter().map(|line| match line {
            Line::Event(event) => format!("e{}", event.boot_ms / 1000),
            Line::Unwritten { unwritten } => format!("u{unwritten}"),
            Line::Damaged { damaged } => format!("d{damaged}"),
            Line::Missed { .. } => unreachable!(),
        });
        shown.collect()
    }

    #[test]
    fn what_is_within_is_picked_with_the_gaps_around_it() {
        let all = ["u1", "e10", "d2", "u3", "e60", "u4", "e70", "d5", "e95", "u6", "d7"];
        assert_eq!(picked(&all), ["u3", "d2", "e60", "u4", "e70", "d5"]);
        assert_eq!(picked(&["e60", "u8"]), ["e60", "u8"]);
        assert_eq!(picked(&["u1", "d2", "u3"]), ["u4", "d2"], "nothing but gaps");
    }

    #[test]
    fn events_of_another_start_of_the_host_are_measured_by_the_wall_clock() {
        // They show noon, which is not before ten seconds ago.
        assert!(picked(&["o60"]).is_empty());
    }
}
