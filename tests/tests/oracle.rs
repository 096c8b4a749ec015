//! The kernel as the oracle: frames made by chance, with a seed of their own for each run, sent to
//! real listeners without and with the guard. `cargo xtask fuzz oracle` does the same for longer.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use ollama_guard_tests::oracle::{Options, fixture, fresh_seed, replay, run};

/// Frames of one run.
const FRAMES: usize = 100_000;

/// Where cases are kept that were found to disagree.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_guard_answers_as_the_kernel_and_the_model_say() -> Result<()> {
    let options = Options { seed: fresh_seed(), frames: FRAMES, seconds: 0, keep: fixtures() };
    println!("oracle: seed {:#018x}", options.seed);
    let report = run(&options)?;
    println!("{report}");
    ensure!(report.is_clean(), "found with the seed {:#x}: see above", options.seed);
    ensure!(report.frames() >= FRAMES, "only {} frames", report.frames());
    // A run in which nobody would have been let in, or in which nobody was, shows nothing.
    ensure!(report.knocks() > FRAMES / 50, "only {} knocks were answered", report.knocks());
    ensure!(report.served() > FRAMES / 500, "only {} friends were served", report.served());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn cases_that_once_disagreed_agree() -> Result<()> {
    let kept = fixture::read_all(&fixtures())?;
    ensure!(!kept.is_empty(), "the fixtures of the tree are not where they were");
    let (names, cases): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
    let findings = replay(&cases)?;
    ensure!(findings.is_empty(), "of {}: {findings:?}", names.join(", "));
    Ok(())
}
