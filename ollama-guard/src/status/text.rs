//! The report for a person.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use jiff::Timestamp;
use ollama_guard_common::{Mode, Reason, Scope};

use super::{
    BookTotals, DoorState, DoorStatus, HistoryStatus, LearningStatus, Rejected, Repair,
    ServiceState, StatusReport,
};
use crate::{
    config::Bytes,
    control::protocol::{LateEnd, TrialView},
    dataplane::{Hook, INNER_NAME},
    events::text::Printable,
    policy::span,
};

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let observed = self.services.iter().filter(|one| one.mode == Mode::Observe.name());
        let observed: Vec<&str> = observed.map(|one| one.name.as_str()).collect();
        let word = match (self.enforcing, self.mode.as_str()) {
            (true, _) => "ENFORCING".to_owned(),
            (false, "observe") if self.problems.is_empty() => {
                "OBSERVING: nothing is dropped".to_owned()
            }
            (false, _) if self.problems.is_empty() && !observed.is_empty() => format!(
                "ENFORCING, BUT NOT FOR {}: nothing is dropped there",
                Printable(&observed.join(", "))
            ),
            (false, _) => "NOT ENFORCING".to_owned(),
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
        match &self.services[..] {
            [] | [_] => writeln!(f, "ports    {}", self.ports.join(", "))?,
            several => write_services(f, several)?,
        }
        let rules = &self.rules;
        writeln!(
            f,
            "rules    {} IPv4 and {} IPv6 prefixes, room for {} in all",
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
        if let Some(LearningStatus { since, until, by }) = &self.daemon.learning {
            let by = Printable(by);
            writeln!(
                f,
                "learning since {since:.0}, until {until:.0}, for {by}: the doors run programs \
                     that also count by source"
            )?;
        }
        if let Some(until) = self.trial_until {
            let left = span(until.as_second() - Timestamp::now().as_second());
            let (what, by) = match &self.daemon.trial {
                Some(TrialView { what, by, .. }) => (what.as_str(), by.as_str()),
                None => ("the policy in force", "a daemon that is gone"),
            };
            let (what, by) = (Printable(what), Printable(by));
            writeln!(
                f,
                "ON TRIAL for another {left}: {what}, by {by}; then what was before comes back, \
                 unless `ollama-guard confirm`"
            )?;
        }
        if let Some(configuration) = &self.daemon.configuration {
            let files: Vec<_> =
                configuration.files.iter().map(|path| path.display().to_string()).collect();
            let files = if files.is_empty() { "no file".to_owned() } else { files.join(", ") };
            writeln!(f, "config   {}, since {:.0}", Printable(&files), configuration.since)?;
            for line in &configuration.modes {
                writeln!(f, "         {}", Printable(line))?;
            }
        }
        if let Some(metrics) = &self.daemon.metrics {
            match metrics.served_at {
                Some(address) => writeln!(f, "metrics  http://{address}/metrics")?,
                None if metrics.trouble.is_none() => writeln!(f, "metrics  off")?,
                None => {}
            }
            if let Some(trouble) = &metrics.trouble {
                let word = if metrics.served_at.is_some() { "NOT MOVED" } else { "NOT SERVED" };
                writeln!(f, "METRICS {word}: {}", Printable(trouble))?;
            }
        }
        if let Some(history) = &self.daemon.history {
            write_history(f, history)?;
        }
        if let Some(Rejected { at, problems, last_good }) = self.rejected() {
            write!(f, "CONFIGURATION REJECTED at {at:.0}; ")?;
            match last_good {
                None => writeln!(f, "what was in force before still is:")?,
                Some(kept) => writeln!(f, "the last good one, of {kept:.0}, is in force:")?,
            }
            for line in problems.lines() {
                writeln!(f, "  {}", Printable(line))?;
            }
        }
        for Repair { at, what } in &self.daemon.repairs {
            writeln!(f, "repaired {at:.0}: {}", Printable(what))?;
        }
        for LateEnd { prefix, effect, expires, late_seconds } in &self.daemon.ended_late {
            let (prefix, late) = (Printable(prefix), span(*late_seconds));
            writeln!(f, "ended    {late} late: {effect} {prefix}, until {expires}")?;
        }
        for name in &self.daemon.names {
            let (effect, standing) = (name.effect, name.standing());
            let mark = if name.is_in_trouble() { "NAME" } else { "name" };
            let limits = name.limits.as_ref().map_or_else(String::new, |on| format!(" {on}"));
            let (name, standing) = (Printable(&name.name), Printable(&standing));
            writeln!(f, "{mark}     {effect} {name}{}: {standing}", Printable(&limits))?;
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
        write_inner(f, &self.doors)?;
        write_book(f, "events of drops", &self.books.enforce)?;
        if self.books.observe.dropped > 0 {
            write_book(f, "events of would-be drops", &self.books.observe)?;
        }
        write!(f, "  unread in the ring           {:>12}", self.ring.unread)
    }
}

fn write_services(f: &mut fmt::Formatter<'_>, services: &[ServiceState]) -> fmt::Result {
    writeln!(f, "services")?;
    for ServiceState { name, mode, ports, counts } in services {
        let counts = counts.clone().unwrap_or_default();
        let allowed = |counts: &BTreeMap<String, u64>| {
            counts.get(Reason::Allowed.name()).copied().unwrap_or_default()
        };
        let passed = allowed(&counts.enforce) + allowed(&counts.observe);
        let dropped = counts.drops(Mode::Enforce);
        let name = Printable(name).to_string();
        write!(f, "  {name:<16}{mode:<9}{}", ports.join(", "))?;
        write!(f, ": {passed} packets allowed, {dropped} dropped")?;
        match counts.drops(Mode::Observe) {
            0 => writeln!(f)?,
            would => writeln!(f, ", {would} would have been dropped")?,
        }
    }
    Ok(())
}

fn write_history(f: &mut fmt::Formatter<'_>, history: &HistoryStatus) -> fmt::Result {
    let HistoryStatus { keep, bytes, oldest, unwritten, trouble } = history;
    if let Some(trouble) = trouble {
        writeln!(f, "history  events are not kept at the moment: {}", Printable(trouble))?;
    } else if *keep == 0 {
        writeln!(f, "history  no events are kept")?;
    } else {
        write!(f, "history  {} of {} of events", Bytes(*bytes), Bytes(*keep))?;
        match oldest {
            Some(oldest) => writeln!(f, ", since {oldest:.0}")?,
            None => writeln!(f)?,
        }
    }
    if *unwritten > 0 {
        writeln!(f, "         {unwritten} events were not kept since the daemon started")?;
    }
    Ok(())
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
        if door.observes {
            line.push_str(", OBSERVES ONLY until `ollama-guard confirm --inner`");
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

/// What the inner door has counted: what passed there is in no sum.
fn write_inner(f: &mut fmt::Formatter<'_>, doors: &[DoorStatus]) -> fmt::Result {
    let inner = doors.iter().find(|door| door.hook == Some(Hook::Cgroup));
    let Some(counts) = inner.and_then(|door| door.counts.as_ref()) else { return Ok(()) };
    let allowed = |counts: &BTreeMap<String, u64>| {
        counts.get(Reason::Allowed.name()).copied().unwrap_or_default()
    };
    let passed = allowed(&counts.enforce) + allowed(&counts.observe);
    let dropped = counts.drops(Mode::Enforce);
    write!(f, "  of which at the {INNER_NAME}: {dropped} dropped")?;
    match counts.drops(Mode::Observe) {
        0 => {}
        would => write!(f, ", {would} would have been")?,
    }
    writeln!(f, "; {passed} more allowed there")
}

fn write_book(f: &mut fmt::Formatter<'_>, title: &str, book: &BookTotals) -> fmt::Result {
    writeln!(f, "{title}")?;
    writeln!(f, "  packets                      {:>12}", book.dropped)?;
    writeln!(f, "  submitted                    {:>12}", book.submitted)?;
    writeln!(f, "  suppressed by the budget     {:>12}", book.suppressed)?;
    writeln!(f, "  lost because the ring was full {:>10}", book.lost)
}
