//! The `ollama-guard` command.

#![forbid(unsafe_code)]

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use ollama_guard::{
    cli::{Cli, TROUBLE},
    dataplane::memory,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Wrong usage ends here, with exit status 2.
    let cli = Cli::parse();
    init_log();
    memory::keep_little();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::anyhow!("cannot start the runtime: {error}")),
    };
    match runtime.block_on(cli.execute()) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Standard error, so that output can be piped; `OLLAMA_GUARD_LOG` sets levels
/// (`debug`, `ollama_guard::control=trace`).
fn init_log() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("OLLAMA_GUARD_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

#[expect(clippy::print_stderr, reason = "the last word of a failed command")]
fn fail(error: &anyhow::Error) -> ExitCode {
    // Many errors say their cause in their own words: it is not said twice.
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("ollama-guard: {text}");
    ExitCode::from(TROUBLE)
}
