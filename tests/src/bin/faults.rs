//! The matrix of faults: `faults [--phase NAME]... [--sample SEED] [--workers N]`, as root.
//!
//! Standard output is the table of `ollama-guard/docs/faults.md`, standard error what happens. The
//! exit status is 1 if there was a defect, and 2 if the beds do not work.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use ollama_guard_tests::faults::{Matrix, Phase, Selection};

fn main() -> ExitCode {
    match play() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("faults: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Nothing can be done if this fails.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn play() -> Result<bool> {
    let (mut phases, mut selection, mut workers) = (Vec::new(), Selection::All, 2);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--phase" => {
                let phase = Phase::ALL.into_iter().find(|phase| phase.name() == value);
                phases.push(phase.with_context(|| format!("there is no phase {value}"))?);
            }
            "--sample" => {
                let seed = value.parse().context("--sample SEED")?;
                selection = Selection::Sample { seed, most: usize::MAX };
            }
            "--workers" => workers = value.parse().context("--workers N")?,
            _ => bail!("usage: faults [--phase NAME]... [--sample SEED] [--workers N]"),
        }
    }
    if phases.is_empty() {
        phases.extend(Phase::ALL);
    }
    let matrix = Matrix::play(&phases, selection, workers, &say)?;
    writeln!(io::stdout(), "{}", matrix.table()).context("cannot write the table")?;
    say("what refusals said:");
    for words in &matrix.words {
        say(&format!("  {words}"));
    }
    let (good, bad) = (matrix.outcomes.len(), matrix.defects.len());
    say(&format!("\n{good} cases went as they should, {bad} did not"));
    for (case, defect) in &matrix.defects {
        say(&format!("{case}: {defect}"));
    }
    Ok(matrix.defects.is_empty())
}
