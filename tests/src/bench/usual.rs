//! What a short run usually finds, kept in the repository, so that a run of CI sees a collapse. The bounds
//! are wide, twice what is usual or aimed at: machines are noisy, and growth that is slow is seen by counted
//! instructions (`tests/paths.txt`, `tests/budget.txt`), which know no noise.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result};

use super::report::{Goal, Report};

/// How many times what is usual is a collapse.
const COLLAPSE: f64 = 2.0;

const HEAD: &str = "# What `cargo xtask bench --quick` usually finds: written by it with --record, and compared with\n\
                    # by `cargo xtask test`, which fails at twice as much, or half as much where more is better.\n";

/// What was found, as the file has it.
#[must_use]
pub fn written(report: &Report) -> String {
    let mut text = HEAD.to_owned();
    for goal in &report.goals {
        let _ = writeln!(text, "{} | {:.3}", goal.what, goal.found);
    }
    text
}

/// What has collapsed, a line each; nothing if all is as usual.
///
/// # Errors
///
/// If the file can't be understood.
pub fn collapsed(report: &Report, file: &str) -> Result<Vec<String>> {
    let mut usual = BTreeMap::new();
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        let (what, found) =
            line.rsplit_once(" | ").with_context(|| format!("no figure: {line}"))?;
        usual.insert(what, found.parse::<f64>().with_context(|| line.to_owned())?);
    }
    let mut lines = Vec::new();
    for goal in &report.goals {
        match usual.remove(&*goal.what) {
            None => {
                lines.push(format!("{}: {:.3}, and nothing is recorded", goal.what, goal.found))
            }
            Some(usual) if is_collapse(goal, usual) => {
                lines.push(format!("{}: {:.3}, and usually {usual:.3}", goal.what, goal.found));
            }
            Some(_) => {}
        }
    }
    lines.extend(usual.keys().map(|what| format!("{what}: recorded, and not measured")));
    Ok(lines)
}

fn is_collapse(goal: &Goal, usual: f64) -> bool {
    if goal.at_most {
        goal.found > COLLAPSE * usual.max(goal.limit)
    } else {
        goal.found < usual.min(goal.limit) / COLLAPSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(time: f64, speed: f64) -> Report {
        let mut report = Report::default();
        report.at_most("time, ms", 10.0, time);
        report.at_least("speed", 0.9, speed);
        report
    }

    #[test]
    fn twice_as_much_as_is_usual_or_aimed_at_is_a_collapse() -> Result<()> {
        let file = written(&report(4.0, 1.0));
        assert!(collapsed(&report(19.0, 0.5), &file)?.is_empty());
        assert_eq!(collapsed(&report(21.0, 0.5), &file)?.len(), 1);
        assert_eq!(collapsed(&report(21.0, 0.4), &file)?.len(), 2);
        // What does not reach its goal has as much room.
        let file = written(&report(40.0, 1.0));
        assert!(collapsed(&report(79.0, 1.0), &file)?.is_empty());
        assert_eq!(collapsed(&report(81.0, 1.0), &file)?.len(), 1);
        Ok(())
    }

    #[test]
    fn what_is_measured_and_what_is_recorded_is_the_same() -> Result<()> {
        let mut more = report(4.0, 1.0);
        more.at_most("new", 1.0, 1.0);
        assert_eq!(collapsed(&more, &written(&report(4.0, 1.0)))?.len(), 1);
        assert_eq!(collapsed(&report(4.0, 1.0), &written(&more))?.len(), 1);
        assert!(collapsed(&more, "nonsense").is_err());
        Ok(())
    }
}
