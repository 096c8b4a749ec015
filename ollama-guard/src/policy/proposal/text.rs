//! A proposal as a file for `allow replace`: one prefix a line, everything else behind `#`.

use std::fmt;

use super::{Entry, Group, Proposal, Summary};

/// Above each group. What stands there is for somebody who reads the file to decide on it.
const HEADS: [(Group, &str); 8] = [
    (
        Group::Kept,
        "Rules that were added by command before. They stay, as `allow replace` puts this file in \
         their place.",
    ),
    (Group::Local, "Whoever talked from local networks."),
    (
        Group::Public,
        "Whoever talked from anywhere else. A stranger who found the open port talks, too: leave \
         only those that you know.",
    ),
    (Group::Allowed, "Let in already by the configuration, which this file does not change."),
    (
        Group::Limited,
        "Let in at some services or interfaces, and seen nowhere else. Such rules can't stand in this \
         file: `allow replace` takes those away that were added by command; add them again.",
    ),
    (Group::Unclear, "Not proposed: whether they are meant to get in can't be told."),
    (Group::Knocking, "Not proposed: they knocked, and never talked."),
    (Group::Denied, "Not proposed: a deny rule keeps them out."),
];

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_summary(f, &self.summary)?;
        for (group, head) in HEADS {
            let mut entries = self.entries.iter().filter(|entry| entry.group == group).peekable();
            if entries.peek().is_some() {
                writeln!(f, "\n# {head}")?;
            }
            for entry in entries {
                writeln!(f, "{}", Line(entry, &self.summary))?;
            }
            if let Some((entries, packets)) = self.summary.untold.get(&group) {
                writeln!(f, "# and {entries} more, with {packets} packets")?;
            }
        }
        Ok(())
    }
}

fn write_summary(f: &mut fmt::Formatter<'_>, summary: &Summary) -> fmt::Result {
    let Summary { since, until, mode, sources, packets, talked, homeless, .. } = summary;
    if !summary.complete {
        writeln!(
            f,
            "# INCOMPLETE: there was no room for every source, and {homeless} packets are of sources \
             that are not in here.\n# Learn again, with more --sources.\n#"
        )?;
    }
    writeln!(f, "# Proposed by `ollama-guard learn`: who was at the guarded ports")?;
    writeln!(f, "# from {since:.0} to {until:.0}, in mode {mode}.")?;
    writeln!(f, "# {sources} sources with {packets} packets; {talked} of them talked.")?;
    if mode == "enforce" {
        writeln!(
            f,
            "# In this mode a stranger can only knock: who of them is wanted can't be told. Mode \
             observe tells."
        )?;
    }
    writeln!(f, "# Read it, then: ollama-guard allow replace THIS-FILE")
}

struct Line<'a>(&'a Entry, &'a Summary);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(entry, summary) = *self;
        let Entry { group, prefix, sources, note, .. } = entry;
        let packets = entry.packets();
        let note = note.as_deref().unwrap_or_default();
        match group {
            Group::Kept => {
                write!(f, "{prefix}")?;
                if let Some(end) = entry.expires {
                    write!(f, " until {end}")?;
                }
                if note.is_empty() { Ok(()) } else { write!(f, "  # {note}") }
            }
            Group::Local | Group::Public => {
                write!(f, "{prefix}  # learned {}: ", summary.until.strftime("%Y-%m-%d"))?;
                if prefix.contains('/') {
                    write!(f, "{sources} addresses, ")?;
                }
                write!(f, "{packets} packets, {}", Bytes(entry.bytes))?;
                if note.is_empty() { Ok(()) } else { write!(f, "; {note}") }
            }
            Group::Allowed | Group::Limited | Group::Denied => {
                let word = if *sources == 1 { "address" } else { "addresses" };
                write!(f, "# {prefix}: {sources} {word}, {packets} packets ({note})")
            }
            Group::Unclear => write!(f, "# {prefix} {note} ({packets} packets)"),
            Group::Knocking => write!(f, "# {prefix} knocked {packets} times and never talked"),
        }
    }
}

/// A number of bytes, for a person.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [&str; 4] = ["KB", "MB", "GB", "TB"];
        if self.0 < 1000 {
            return write!(f, "{} bytes", self.0);
        }
        let mut value = self.0 as f64 / 1000.0;
        let mut step = 0;
        while value >= 999.95 && step + 1 < STEPS.len() {
            value /= 1000.0;
            step += 1;
        }
        write!(f, "{value:.1} {}", STEPS[step])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_in_words() {
        for (bytes, words) in
            [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (1_234_567, "1.2 MB")]
        {
            assert_eq!(Bytes(bytes).to_string(), words);
        }
        assert_eq!(Bytes(999_950).to_string(), "1.0 MB", "no 1000.0 KB");
        assert!(Bytes(u64::MAX).to_string().ends_with(" TB"));
    }
}
