//! The report for a person.

use std::fmt::{self, Write as _};

use ollama_guard_common::Scope;

use super::{BookTotals, DoorState, DoorStatus, Rejected, Repair, StatusReport};
use crate::events::text::Printable;

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match (self.enforcing, self.mode.as_str()) {
            (true, _) => "ENFORCING",
            (false, "observe") if self.problems.is_empty() => "OBSERVING: nothing is dropped",
            (false, _) => "NOT ENFORCING",
        };
        writeln!(f, "{word}")?;
        for problem in &self.problems {
            writeln!(f, "  problem: {}", Printable(problem))?;
        }
        write!(f, "policy   generation {}, mode {}", self.generation, self.mode)?;
        // Everybody's is the rule.
        if self.scope == Scope::Local.name() {
            write!(f, ", scope local: only packets for this host's own addresses are judged")?;
        }
        writeln!(f)?;
        writeln!(f, "ports    {}", self.ports.join(", "))?;
        let rules = &self.rules;
        writeln!(
            f,
            "rules    {} IPv4 and {} IPv6 prefixes of {} each",
            rules.v4, rules.v6, rules.capacity
        )?;
        match (self.daemon.running, self.daemon.pid) {
            (true, Some(pid)) => writeln!(f, "daemon   running, process {pid}")?,
            (true, None) => writeln!(f, "daemon   running")?,
            (false, _) if self.daemon.hangs => writeln!(
                f,
                "daemon   does not answer here: the filter goes on; name its socket with --socket, \
                 or restart it"
            )?,
            (false, _) => writeln!(
                f,
                "daemon   not running: the filter goes on, but edits and events need one"
            )?,
        }
        if let Some(configuration) = &self.daemon.configuration {
            let files: Vec<_> =
                configuration.files.iter().map(|path| path.display().to_string()).collect();
            let files = if files.is_empty() { "no file".to_owned() } else { files.join(", ") };
            writeln!(f, "config   {}, since {:.0}", Printable(&files), configuration.since)?;
        }
        if let Some(Rejected { at, problems }) = self.rejected() {
            writeln!(f, "CONFIGURATION REJECTED at {at:.0}; what was in force before still is:")?;
            for line in problems.lines() {
                writeln!(f, "  {}", Printable(line))?;
            }
        }
        for Repair { at, what } in &self.daemon.repairs {
            writeln!(f, "repaired {at:.0}: {}", Printable(what))?;
        }
        write_doors(f, &self.doors)?;
        writeln!(f, "counters")?;
        if self.counters.is_empty() {
            writeln!(f, "  no packet for a guarded port so far")?;
        }
        for (reason, counts) in &self.counters {
            write!(f, "  {reason:<28} {:>12}", counts.enforce)?;
            if counts.observe > 0 {
                write!(f, "  and {} in observe mode", counts.observe)?;
            }
            writeln!(f)?;
        }
        write_book(f, "events of drops", &self.books.enforce)?;
        if self.books.observe.dropped > 0 {
            write_book(f, "events of would-be drops", &self.books.observe)?;
        }
        write!(f, "  unread in the ring           {:>12}", self.ring.unread)
    }
}

fn write_doors(f: &mut fmt::Formatter<'_>, doors: &[DoorStatus]) -> fmt::Result {
    writeln!(f, "doors")?;
    for door in doors {
        let mut line = format!("  {:<16}", Printable(&door.name).to_string());
        match (door.state, door.attach, door.hook) {
            (DoorState::Covered, Some(mode), _) => write!(line, "covered, {mode}")?,
            (DoorState::Covered, None, Some(hook)) => write!(line, "covered, {hook}")?,
            (DoorState::Covered, None, None) => line.push_str("covered"),
            (DoorState::NotCovered, ..) => line.push_str("not covered"),
        }
        if let Some(foreign) = door.behind {
            write!(line, ", behind XDP program {foreign}, which is not ours")?;
        }
        match (door.program_id, door.link_id) {
            (Some(program), Some(link)) => write!(line, " (program {program}, link {link})")?,
            (Some(program), None) => write!(line, " (program {program})")?,
            (None, _) => {}
        }
        if let Some(reason) = &door.reason {
            write!(line, ": {}", Printable(reason))?;
        }
        writeln!(f, "{line}")?;
    }
    Ok(())
}

fn write_book(f: &mut fmt::Formatter<'_>, title: &str, book: &BookTotals) -> fmt::Result {
    writeln!(f, "{title}")?;
    writeln!(f, "  packets                      {:>12}", book.dropped)?;
    writeln!(f, "  submitted                    {:>12}", book.submitted)?;
    writeln!(f, "  suppressed by the budget     {:>12}", book.suppressed)?;
    writeln!(f, "  lost because the ring was full {:>10}", book.lost)
}
