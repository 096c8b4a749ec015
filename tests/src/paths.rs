//! What each kind of packet costs the program, counted and not timed: instructions and map accesses on
//! its way, by a machine of our own that runs the very object that the kernel gets.
//!
//! * [`program`]: the object's instructions and maps, with a policy in them.
//! * [`machine`]: runs them, for one packet.
//! * [`Record`]: the committed counts, `tests/paths.txt`.
//!
//! The kernel writes a lookup in an array as about eight instructions of its own; here it is a call.

pub mod machine;
pub mod program;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// The committed record.
const COMMITTED: &str = include_str!("../paths.txt");
/// The growth that is let pass, in percent: another compiler puts things in another order.
const TOLERATED: u32 = 10;

/// What one packet costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Instructions, those of called functions included.
    pub instructions: u32,
    /// The maps that were looked into, in order.
    pub lookups: Vec<String>,
}

/// What packets cost, by what they are.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record(pub BTreeMap<String, Path>);

impl Record {
    /// The committed one.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn committed() -> Result<Self> {
        Self::parse(COMMITTED)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut record = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let path = || -> Option<(String, Path)> {
                let mut fields = line.split('|').map(str::trim);
                let what = fields.next()?.to_owned();
                let instructions = fields.next()?.parse().ok()?;
                let lookups = fields.next()?.split_whitespace().map(str::to_owned).collect();
                Some((what, Path { instructions, lookups }))
            };
            let (what, path) = path().with_context(|| format!("tests/paths.txt: {line}"))?;
            record.0.insert(what, path);
        }
        Ok(record)
    }

    /// A line of the record.
    #[must_use]
    pub fn line(what: &str, path: &Path) -> String {
        format!("{what:<42} | {:>4} | {}", path.instructions, path.lookups.join(" "))
    }

    /// What has grown by more than a tenth or looks into other maps, or is on one side only: one
    /// line each.
    #[must_use]
    pub fn grown(&self, found: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, now) in &found.0 {
            let Some(then) = self.0.get(what) else {
                lines.push(format!("{what} is not in the record"));
                continue;
            };
            if now.instructions * 100 > then.instructions * (100 + TOLERATED) {
                let (now, then) = (now.instructions, then.instructions);
                lines.push(format!("{what}: {now} instructions, {then} are recorded"));
            }
            if now.lookups != then.lookups {
                let (now, then) = (now.lookups.join(" "), then.lookups.join(" "));
                lines.push(format!("{what}: looks into {now}, and {then} is recorded"));
            }
        }
        let gone = self.0.keys().filter(|what| !found.0.contains_key(*what));
        lines.extend(gone.map(|what| format!("{what} is recorded and was not counted")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_and_other_maps_are_found() {
        let then = Record::parse("# told\na | 100 | OG_A OG_B\nb | 10 |\n").unwrap();
        let line = Record::line("a", &then.0["a"]);
        assert_eq!(Record::parse(&line).unwrap().0["a"], then.0["a"]);
        assert!(then.grown(&then).is_empty());
        let now = Record::parse("a | 111 | OG_B OG_A\nc | 1 |\n").unwrap();
        let told = then.grown(&now).join("\n");
        assert_eq!(told.lines().count(), 4, "{told}");
        assert!(then.grown(&Record::parse("a | 110 | OG_A OG_B\nb | 9 |").unwrap()).is_empty());
    }
}
