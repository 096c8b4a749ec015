//! The `ollama-guard` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use ollama_guard::{
    cli::{Cli, TROUBLE, log},
    dataplane::memory,
};

fn main() -> ExitCode {
    // Wrong usage ends here, with exit status 2.
    let cli = Cli::parse();
    log::init(cli.log_format());
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
