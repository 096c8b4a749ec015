//! The main job, to watch: `demo --binary PATH`, as root.
//!
//! In network namespaces of its own: a stand-in for Ollama's HTTP API, a friend, two strangers,
//! and the real guard. Each step prints what it did and saw; the summary says whether every line
//! held, and so does the exit status: 0 if all did, 1 if one did not, 2 if the demo could not go
//! on, 130 if it was interrupted. It ends by itself, and nothing of it stays behind.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use ollama_guard_tests::{
    bed::guard_binary,
    demo::{Interrupt, Stage, play},
};

fn main() -> ExitCode {
    let binary = match binary() {
        Ok(binary) => binary,
        Err(error) => return trouble(&error),
    };
    // Before anything exists that would have to be cleaned up.
    let interrupt = match Interrupt::watch() {
        Ok(interrupt) => interrupt,
        Err(error) => return trouble(&error),
    };
    let mut stage = Stage::new(interrupt);
    let played = play(&mut stage, &binary);
    if stage.is_interrupted() {
        stage.say("\ninterrupted: what the demo had built has been removed");
        return ExitCode::from(130);
    }
    stage.summarise();
    match played {
        Ok(()) if stage.every_line_held() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => trouble(&error),
    }
}

fn trouble(error: &anyhow::Error) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "demo: {error:#}");
    ExitCode::from(2)
}

fn binary() -> Result<PathBuf> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let binary = match arguments.as_slice() {
        [] => guard_binary()?,
        [flag, path] if flag == "--binary" => PathBuf::from(path)
            .canonicalize()
            .with_context(|| format!("{path}: build it with `cargo xtask build`"))?,
        _ => bail!("usage: demo [--binary PATH]"),
    };
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and XDP need root: run `cargo xtask demo`, which asks for it");
    }
    Ok(binary)
}
