//! What the audience sees: steps, lines that hold or do not, and the summary.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::Interrupt;

/// Longer than this is no demo.
const LIMIT: Duration = Duration::from_secs(55);

/// The stage and its record.
#[derive(Debug)]
pub struct Stage {
    begin: Instant,
    interrupt: Interrupt,
    step: &'static str,
    lines: Vec<Line>,
}

/// One thing that was claimed and looked at.
#[derive(Debug)]
struct Line {
    step: &'static str,
    claim: String,
    seen: String,
    held: bool,
}

impl Stage {
    /// An empty stage.
    #[must_use]
    pub fn new(interrupt: Interrupt) -> Self {
        Self { begin: Instant::now(), interrupt, step: "", lines: Vec::new() }
    }

    /// Prints a line. A reader that went away is no reason to stop halfway.
    pub fn say(&self, text: &str) {
        let _ = writeln!(io::stdout().lock(), "{text}");
    }

    /// Begins the next step.
    ///
    /// # Errors
    ///
    /// If the demo has been interrupted or has taken too long.
    pub fn step(&mut self, title: &'static str) -> Result<()> {
        self.go_on()?;
        self.step = title;
        self.say(&format!("\n[{:4.1} s] {title}", self.begin.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Whether there is a reason to go on.
    ///
    /// # Errors
    ///
    /// If the demo has been interrupted or has taken too long.
    pub fn go_on(&self) -> Result<()> {
        if self.is_interrupted() {
            bail!("interrupted");
        }
        if self.begin.elapsed() > LIMIT {
            bail!("not over after {LIMIT:?}: is this machine very busy?");
        }
        Ok(())
    }

    /// Records and prints what was claimed, what was seen, and whether that is the same.
    ///
    /// # Errors
    ///
    /// If the demo has been interrupted or has taken too long.
    pub fn line(
        &mut self,
        claim: impl Into<String>,
        seen: impl Into<String>,
        held: bool,
    ) -> Result<()> {
        let (claim, seen) = (claim.into(), seen.into());
        // What an interrupted look saw says nothing.
        self.go_on()?;
        self.say(&format!("  {} {claim}: {seen}", if held { "ok " } else { "NO " }));
        self.lines.push(Line { step: self.step, claim, seen, held });
        Ok(())
    }

    /// Whether somebody wants the demo to end.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.is_wanted()
    }

    /// Whether there were lines and all of them held.
    #[must_use]
    pub fn every_line_held(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(|line| line.held)
    }

    /// Prints the table.
    pub fn summarise(&self) {
        if self.lines.is_empty() {
            return;
        }
        let widest = self.lines.iter().map(|line| line.claim.chars().count()).max().unwrap_or(0);
        self.say("\nSummary");
        let mut step = "";
        for line in &self.lines {
            if line.step != step {
                step = line.step;
                self.say(&format!("  {step}"));
            }
            let mark = if line.held { "ok" } else { "NO" };
            self.say(&format!("    {mark}  {:widest$}  {}", line.claim, line.seen));
        }
        let held = self.lines.iter().filter(|line| line.held).count();
        self.say(&format!(
            "\n{held} of {} lines held, {:.1} s",
            self.lines.len(),
            self.begin.elapsed().as_secs_f64()
        ));
    }
}
