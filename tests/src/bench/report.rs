//! What came of it: tables for people, and whether the goals are met.

use std::fmt;

use serde_json::{Value, json};

use super::plot::Bars;

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order in which they were measured.
    pub tables: Vec<Table>,
    /// Whether what was aimed at is reached.
    pub goals: Vec<Goal>,
    /// What is drawn.
    pub bars: Vec<Bars>,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its heading.
    pub title: String,
    /// What it shows, in which unit.
    pub note: String,
    /// The heads of the columns.
    pub head: Vec<String>,
    /// The rows, with as many cells.
    pub rows: Vec<Vec<String>>,
}

/// A goal, and how it stands.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What was measured.
    pub what: String,
    /// The most, or the least, that it is to be.
    pub limit: f64,
    /// Whether the limit is the most.
    pub at_most: bool,
    /// What was found.
    pub found: f64,
}

impl Goal {
    /// Whether it is reached.
    #[must_use]
    pub fn is_met(&self) -> bool {
        if self.at_most { self.found <= self.limit } else { self.found >= self.limit }
    }
}

impl Report {
    /// Adds a goal that is a most.
    pub fn at_most(&mut self, what: impl Into<String>, limit: f64, found: f64) {
        self.goals.push(Goal { what: what.into(), limit, at_most: true, found });
    }

    /// Adds a goal that is a least.
    pub fn at_least(&mut self, what: impl Into<String>, limit: f64, found: f64) {
        self.goals.push(Goal { what: what.into(), limit, at_most: false, found });
    }

    /// Everything, for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let tables = self.tables.iter().map(|table| {
            json!({ "title": table.title, "note": table.note, "head": table.head, "rows": table.rows })
        });
        let goals = self.goals.iter().map(|goal| {
            json!({
                "what": goal.what, "limit": goal.limit, "at_most": goal.at_most,
                "found": goal.found, "met": goal.is_met(),
            })
        });
        json!({ "tables": tables.collect::<Vec<_>>(), "goals": goals.collect::<Vec<_>>() })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### The goals\n\n| what | goal | found | |\n| --- | --- | --- | --- |")?;
        for goal in &self.goals {
            let (sign, met) = (if goal.at_most { "≤" } else { "≥" }, goal.is_met());
            let met = if met { "met" } else { "**not met**" };
            writeln!(f, "| {} | {sign} {} | {:.3} | {met} |", goal.what, goal.limit, goal.found)?;
        }
        for table in &self.tables {
            writeln!(f, "\n### {}\n\n{}\n", table.title, table.note)?;
            writeln!(f, "| {} |", table.head.join(" | "))?;
            writeln!(f, "|{}", " --- |".repeat(table.head.len()))?;
            for row in &table.rows {
                writeln!(f, "| {} |", row.join(" | "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_up_to_its_limit() {
        let mut report = Report::default();
        report.at_most("time", 1.0, 1.0);
        report.at_most("time", 1.0, 1.1);
        report.at_least("speed", 0.9, 0.95);
        report.at_least("speed", 0.9, 0.8);
        let met: Vec<bool> = report.goals.iter().map(Goal::is_met).collect();
        assert_eq!(met, [true, false, true, false]);
        let text = report.to_string();
        assert!(text.contains("| time | ≤ 1 | 1.100 | **not met** |"), "{text}");
    }
}
