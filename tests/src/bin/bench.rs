//! What the guard costs: `bench [--quick] [--json FILE] [--svg FILE] [--usual FILE | --record-usual FILE]`, as
//! root. Standard output is the tables. Exit status 0 if it could be measured, whether the goals are met or
//! not; 1 if something is far from what is usual; 2 if it could not.

use std::{
    env, fs,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use ollama_guard_tests::bench::{Options, bench, inner::answer_at, plot::svg, usual};

fn main() -> ExitCode {
    match measured() {
        Ok(collapsed) if collapsed.is_empty() => ExitCode::SUCCESS,
        Ok(collapsed) => {
            collapsed.iter().for_each(|line| say(&format!("bench: collapsed: {line}")));
            ExitCode::from(1)
        }
        Err(error) => {
            say(&format!("bench: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Returns what is far from usual.
fn measured() -> Result<Vec<String>> {
    if !nix::unistd::geteuid().is_root() {
        bail!("loading programs and network namespaces need root: run `cargo xtask bench`");
    }
    let (mut options, mut json, mut picture) = (Options { quick: false }, None, None);
    let (mut compare, mut record) = (None, None);
    let mut arguments = env::args().skip(1);
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--quick" => options.quick = true,
            "--json" => json = Some(arguments.next().context("--json needs a file")?),
            "--svg" => picture = Some(arguments.next().context("--svg needs a file")?),
            "--usual" => compare = Some(arguments.next().context("--usual needs a file")?),
            "--record-usual" => {
                record = Some(arguments.next().context("--record-usual needs a file")?);
            }
            // Itself, as the server that it measures.
            "--answer" => {
                let addresses = arguments.next().context("--answer needs addresses")?;
                return answer_at(&addresses).map(|()| Vec::new());
            }
            _ => bail!("{flag} is nothing that this measures with"),
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
    if let Some(path) = record {
        fs::write(&path, usual::written(&report)).context(path)?;
    }
    match compare {
        Some(path) => {
            let file = fs::read_to_string(&path).with_context(|| path.clone())?;
            usual::collapsed(&report, &file).context(path)
        }
        None => Ok(Vec::new()),
    }
}

/// Nothing can be done if this fails.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
