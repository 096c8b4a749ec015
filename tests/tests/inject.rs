//! A sample of the matrix of faults (`cargo xtask faults` runs all of it): in every phase, system
//! calls of the guard fail or are its last, while strangers knock without a pause.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use anyhow::{Context, Result};
use ollama_guard_tests::{
    bed::{Objects, until},
    faults::{Matrix, Outcome, Phase, Selection},
};

/// Chooses the sample again that failed.
const SEED: &str = "OLLAMA_GUARD_FAULTS_SEED";
/// Cases of a phase.
const MOST: usize = 2;
/// At the same time, each in a bed of its own: most of a case is waiting for the kernel.
const WORKERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(20);

/// Nothing opens, nothing half-applies, nothing is left, and nothing fails without a word.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_fault_ends_in_the_old_policy_or_in_the_new_one() -> Result<()> {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().context(SEED)?,
        Err(_) => RandomState::new().build_hasher().finish() % 1_000_000,
    };
    println!("{SEED}={seed}");
    let before = Objects::now()?;
    let selection = Selection::Sample { seed, most: MOST };
    let matrix = Matrix::play(&Phase::ALL, selection, WORKERS, &|line| println!("{line}"))?;
    for (case, defect) in &matrix.defects {
        println!("{case}: {defect}");
    }
    assert!(matrix.defects.is_empty(), "{} defects, {SEED}={seed}", matrix.defects.len());
    let made = |wanted: Outcome| matrix.outcomes.iter().filter(|(_, it)| *it == wanted).count();
    println!(
        "{} cases: {} refused, {} done",
        matrix.outcomes.len(),
        made(Outcome::Refused),
        made(Outcome::Done)
    );
    assert!(made(Outcome::Refused) > 0, "hardly anything was refused: {:?}", matrix.outcomes);
    // A daemon does some things by the clock: its calls are not the same each time.
    let missed = made(Outcome::NotMade);
    assert!(missed * 2 < matrix.outcomes.len(), "{missed} faults did not happen");
    let left = || -> Result<Objects> { Ok(Objects::now()?.without(&before)) };
    until("nothing of any case to be left in the kernel", PATIENCE, || {
        left().is_ok_and(|left| left.is_empty())
    })
    .with_context(|| format!("left: {:?}", left()))
}
