//! What the guard costs: `bench [--quick] [--json FILE] [--svg FILE]`, as root. Standard output is the tables. Exit
//! status 0 if it could be measured, whether the goals are met or not; 2 if it could not.

use std::{
    env, fs,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use ollama_guard_tests::bench::{Options, bench, plot::svg};

fn main() -> ExitCode {
    match measured() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn measured() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("loading programs and network namespaces need root: run `cargo xtask bench`");
    }
    let (mut options, mut json, mut picture) = (Options { quick: false }, None, None);
    let mut arguments = env::args().skip(1);
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--quick" => options.quick = true,
            "--json" => json = Some(arguments.next().context("--json needs a file")?),
            "--svg" => picture = Some(arguments.next().context("--svg needs a file")?),
            _ => bail!("usage: bench [--quick] [--json FILE] [--svg FILE]"),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let report = bench(&options, &say)?;
    if let Some(path) = json {
        fs::write(&path, format!("{:#}\n", report.json())).context(path)?;
    }
    if let Some(path) = picture {
        fs::write(&path, svg(&report.bars)).context(path)?;
    }
    println!("{report}");
    Ok(())
}

/// Nothing can be done if this fails.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
