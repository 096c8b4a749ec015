//! The answer, for programs and for a person.

use std::fmt;

use serde::Serialize;

use super::live::LiveFindings;
use crate::events::text::Printable;

/// Whether everything holds, and what does not.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    /// Whether everything holds, and every interface that should be a door is one.
    pub holds: bool,
    /// The number of the policy that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// "enforce" or "observe".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Every interface that is a door or should be.
    pub doors: Vec<DoorProof>,
    /// What came of real connections, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveFindings>,
    /// What is wrong and is no one door's, a sentence each.
    pub failures: Vec<String>,
    /// What could not be tried or was not, a sentence each.
    pub not_checked: Vec<String>,
}

/// One door.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DoorProof {
    /// The interface.
    pub name: String,
    /// Its number.
    pub ifindex: u32,
    /// Whether it holds.
    pub holds: bool,
    /// Where in the receive path we stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The program of somebody else in the XDP slot, which sees packets before ours and may send
    /// them elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<u32>,
    /// The attach mode in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach: Option<String>,
    /// The program that its link runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program_id: Option<u32>,
    /// The link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_id: Option<u32>,
    /// Packets that were tried on the twin of that program.
    pub packets: usize,
    /// What is wrong, a sentence each; also what is wrong at every door.
    pub failures: Vec<String>,
}

impl VerifyReport {
    /// Draws the conclusion: each door holds if nothing is wrong there, and everything does if
    /// each door does, there is one, and nothing else is wrong.
    #[must_use]
    pub fn concluded(mut self) -> Self {
        for door in &mut self.doors {
            door.holds = door.failures.is_empty();
        }
        self.holds = self.failures.is_empty()
            && !self.doors.is_empty()
            && self.doors.iter().all(|door| door.holds);
        self
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for door in &self.doors {
            writeln!(f, "{door}")?;
        }
        if let Some(live) = &self.live {
            writeln!(
                f,
                "real connections: {}, of which {} got nothing; none of them is counted",
                live.knocks, live.silent
            )?;
        }
        for failure in &self.failures {
            writeln!(f, "problem: {}", Printable(failure))?;
        }
        for omission in &self.not_checked {
            writeln!(f, "not checked: {}", Printable(omission))?;
        }
        if let (true, Some(generation), Some(mode)) = (self.holds, self.generation, &self.mode) {
            return write!(
                f,
                "VERIFIED: every door holds ({}; policy generation {generation}, mode {mode})",
                self.doors.len()
            );
        }
        let broken = self.doors.iter().filter(|door| !door.holds).count();
        match self.doors.len() {
            0 => write!(f, "NOT VERIFIED: there is no door"),
            all if broken > 0 => write!(f, "NOT VERIFIED: {broken} of {all} doors do not hold"),
            _ => write!(f, "NOT VERIFIED"),
        }
    }
}

impl fmt::Display for DoorProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", Printable(&self.name))?;
        if !self.holds {
            return write!(f, "DOES NOT HOLD: {}", Printable(&self.failures.join("; ")));
        }
        f.write_str("holds:")?;
        for part in [&self.hook, &self.attach].into_iter().flatten() {
            write!(f, " {part}")?;
        }
        if let Some(program) = self.program_id {
            write!(f, ", program {program}")?;
        }
        if let Some(foreign) = self.behind {
            write!(f, " behind program {foreign}, which is not ours")?;
        }
        write!(f, ", {} packets as expected", self.packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(name: &str, failures: &[&str]) -> DoorProof {
        DoorProof {
            name: name.into(),
            hook: Some("xdp".into()),
            attach: Some("generic".into()),
            program_id: Some(17),
            packets: 61,
            failures: failures.iter().map(ToString::to_string).collect(),
            ..DoorProof::default()
        }
    }

    fn report(doors: Vec<DoorProof>) -> VerifyReport {
        let mode = Some("enforce".into());
        VerifyReport { generation: Some(5), mode, doors, ..VerifyReport::default() }.concluded()
    }

    #[test]
    fn one_line_for_each_door_and_one_for_the_whole() {
        assert_eq!(
            report(vec![door("eth0", &[])]).to_string(),
            "eth0 holds: xdp generic, program 17, 61 packets as expected\nVERIFIED: every door holds \
             (1; policy generation 5, mode enforce)"
        );
        let broken = report(vec![door("eth0", &[]), door("e\x1b1", &["the link is gone", "b"])]);
        assert!(!broken.holds && broken.doors[0].holds);
        let text = broken.to_string();
        assert!(text.contains("e\\u{1b}1 DOES NOT HOLD: the link is gone; b\n"), "{text}");
        assert!(text.ends_with("NOT VERIFIED: 1 of 2 doors do not hold"), "{text}");
    }

    #[test]
    fn no_door_is_no_proof() {
        let none = report(Vec::new());
        assert!(!none.holds);
        assert!(none.to_string().ends_with("NOT VERIFIED: there is no door"));
    }
}
