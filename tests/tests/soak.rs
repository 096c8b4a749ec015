//! One minute of everything at once. `cargo xtask soak --minutes N` does the same for longer.

use std::time::Duration;

use anyhow::{Result, ensure};
use ollama_guard_tests::{
    oracle::fresh_seed,
    soak::{Options, soak},
};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_minute_of_everything_at_once_leaks_nothing_and_lets_nobody_in() -> Result<()> {
    let options = Options { seed: fresh_seed(), length: Duration::from_secs(60) };
    println!("soak: seed {}", options.seed);
    let report = soak(&options, &|line| println!("{line}"))?;
    println!("{report}");
    ensure!(report.is_clean(), "with the seed {}: see above", options.seed);
    Ok(())
}
