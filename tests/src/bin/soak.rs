//! Everything at once: `soak [--minutes N] [--seed S]`, as root. Standard output is what came of
//! it. Exit status 0 if all was as it should be, 1 if not, 2 if it could not go on.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use ollama_guard_tests::{
    oracle::fresh_seed,
    soak::{Options, soak},
};

fn main() -> ExitCode {
    let played = options().and_then(|options| {
        say(&format!("soak: seed {}", options.seed));
        soak(&options, &say)
    });
    match played {
        Ok(report) => {
            println!("{report}");
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            say(&format!("soak: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Nothing can be done if this fails.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn options() -> Result<Options> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and XDP need root: run `cargo xtask soak`");
    }
    let mut options = Options { seed: fresh_seed(), length: Duration::from_secs(60) };
    let mut arguments = env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--minutes" => {
                let minutes: u32 = value.parse().context("--minutes N")?;
                options.length = Duration::from_secs(60) * minutes;
            }
            "--seed" => options.seed = value.parse().context("--seed S")?,
            _ => bail!("usage: soak [--minutes N] [--seed S]"),
        }
    }
    Ok(options)
}
