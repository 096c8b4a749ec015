//! The kernel as the oracle, by hand: `oracle [--seconds N] [--frames N] [--seed S] [--keep DIR]`,
//! as root. Exit status 0 if nothing was found, 1 if something was, 2 if it could not go on.

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use ollama_guard_tests::oracle::{Options, fresh_seed, run};

fn main() -> ExitCode {
    let report = match options().and_then(|options| run(&options)) {
        Ok(report) => report,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "oracle: {error:#}");
            return ExitCode::from(2);
        }
    };
    println!("{report}");
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options() -> Result<Options> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and XDP need root: run `cargo xtask fuzz oracle`");
    }
    let mut options = Options {
        seed: fresh_seed(),
        frames: 100_000,
        seconds: 0,
        keep: PathBuf::from("fixtures/oracle"),
    };
    let mut arguments = env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--frames" => options.frames = value.parse().context("--frames")?,
            "--seconds" => options.seconds = value.parse().context("--seconds")?,
            "--keep" => options.keep = value.into(),
            "--seed" => options.seed = number(&value).context("--seed")?,
            _ => bail!("usage: oracle [--seconds N] [--frames N] [--seed S] [--keep DIR]"),
        }
    }
    Ok(options)
}

fn number(text: &str) -> Result<u64> {
    Ok(match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16)?,
        None => text.parse()?,
    })
}
