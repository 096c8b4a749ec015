//! What became of each stage.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// What became of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran, and nothing was wrong.
    Passed,
    /// It ran and found something, or could not run.
    Failed(String),
    /// It was left out on purpose, which makes nothing fail.
    LeftOut(String),
    /// It could not be tried because of an earlier failure.
    Blocked(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(reason) => write!(f, "FAILED   {reason}"),
            Self::LeftOut(reason) => write!(f, "skipped  {reason}"),
            Self::Blocked(reason) => write!(f, "SKIPPED  {reason}"),
        }
    }
}

struct Row {
    stage: String,
    verdict: Verdict,
    time: Duration,
}

/// The stages in the order they ran.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Runs a stage under a heading and adds its row; whether it passed.
    pub fn run(&mut self, stage: &str, work: impl FnOnce() -> anyhow::Result<()>) -> bool {
        println!("\n=== {stage}");
        let start = Instant::now();
        let result = work();
        let passed = result.is_ok();
        self.row(stage, result, start.elapsed());
        passed
    }

    /// Adds the row of a stage that ran elsewhere, behind what it has said.
    pub fn ended(&mut self, stage: &str, said: &str, result: anyhow::Result<()>, time: Duration) {
        println!("\n=== {stage}\n{said}");
        self.row(stage, result, time);
    }

    fn row(&mut self, stage: &str, result: anyhow::Result<()>, time: Duration) {
        if let Err(error) = &result {
            println!("{stage}: {error:#}");
        }
        let verdict = result.map_or_else(|error| failed(&error), |()| Verdict::Passed);
        self.rows.push(Row { stage: stage.to_owned(), verdict, time });
    }

    /// Prepares a stage: adds a row only if that fails.
    pub fn quiet(&mut self, stage: &str, work: impl FnOnce() -> anyhow::Result<()>) -> bool {
        println!("\n=== {stage}");
        work().inspect_err(|error| self.push(stage, failed(error))).is_ok()
    }

    /// A stage left out on purpose.
    pub fn left_out(&mut self, stage: &str, reason: &str) {
        self.push(stage, Verdict::LeftOut(reason.to_owned()));
    }

    /// A stage that could not be tried; always `false`, which is whether it passed.
    pub fn blocked(&mut self, stage: &str, reason: &str) -> bool {
        self.push(stage, Verdict::Blocked(reason.to_owned()));
        false
    }

    /// A row without work.
    pub fn push(&mut self, stage: &str, verdict: Verdict) {
        self.rows.push(Row { stage: stage.to_owned(), verdict, time: Duration::ZERO });
    }

    /// Whether everything passed that was not left out on purpose.
    pub fn is_good(&self) -> bool {
        let good = |row: &Row| matches!(row.verdict, Verdict::Passed | Verdict::LeftOut(_));
        !self.rows.is_empty() && self.rows.iter().all(good)
    }
}

fn failed(error: &anyhow::Error) -> Verdict {
    // The whole text stands above the table; one line of it is enough here.
    let text = format!("{error:#}");
    Verdict::Failed(text.lines().next().unwrap_or_default().to_owned())
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.stage.len()).max().unwrap_or(0);
        for Row { stage, verdict, time } in &self.rows {
            writeln!(f, "{stage:width$}  {:>6.1} s  {verdict}", time.as_secs_f64())?;
        }
        let count = |wanted: fn(&Verdict) -> bool| {
            self.rows.iter().filter(|row| wanted(&row.verdict)).count()
        };
        let total: Duration = self.rows.iter().map(|row| row.time).sum();
        write!(
            f,
            "{} passed, {} failed, {} skipped, {:.0} s",
            count(|verdict| *verdict == Verdict::Passed),
            count(|verdict| matches!(verdict, Verdict::Failed(_))),
            count(|verdict| matches!(verdict, Verdict::LeftOut(_) | Verdict::Blocked(_))),
            total.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_is_left_out_on_purpose_is_good_and_what_is_blocked_is_not() {
        let mut table = Table::default();
        assert!(!table.is_good(), "nothing ran");
        assert!(table.run("build", || Ok(())));
        table.left_out("demo", "--quick");
        assert!(table.is_good());
        assert!(!table.blocked("demo", "nothing was built"));
        assert!(!table.is_good());
    }

    #[test]
    fn a_failure_is_a_row_with_its_first_line() {
        let mut table = Table::default();
        assert!(!table.run("lint", || Err(anyhow!("clippy\nand much more"))));
        assert!(!table.is_good());
        let text = table.to_string();
        assert!(text.contains("FAILED   clippy\n"), "{text}");
        assert!(text.ends_with("0 passed, 1 failed, 0 skipped, 0 s"), "{text}");
    }
}
