//! `--version`: which ollama-guard this is, and with `--verbose` which kernel program it carries.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;
use ollama_guard_common::abi::ABI_VERSION;

use crate::dataplane::{self, sha256};

/// Number and commit.
pub(super) const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("OLLAMA_GUARD_COMMIT"), ")");

/// Which ollama-guard this is.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Print the version
    #[arg(short = 'V', long)]
    version: bool,

    /// With --version: also the kernel program's hash, to compare with a build of your own
    #[arg(long, requires = "version")]
    verbose: bool,
}

impl VersionArgs {
    /// Prints the version.
    pub(super) fn print(&self) -> anyhow::Result<ExitCode> {
        let mut text = format!("ollama-guard {VERSION}\n");
        if self.verbose {
            text.push_str(&details(dataplane::embedded_object()));
        }
        super::written(io::stdout().write_all(text.as_bytes()))
    }
}

/// A line for each thing that decides whether two binaries do the same in the kernel.
fn details(object: &[u8]) -> String {
    let mut text = String::new();
    // Writing into a string can't fail.
    let _ = match object {
        [] => writeln!(text, "kernel object  none: this binary can't guard anything"),
        _ => writeln!(text, "kernel object  sha256:{}, {} bytes", sha256(object), object.len()),
    };
    let _ = writeln!(text, "layout         {ABI_VERSION}");
    let _ = writeln!(text, "built for      {} {}", std::env::consts::ARCH, std::env::consts::OS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_without_a_kernel_object_says_so() {
        assert!(details(&[]).contains("none"));
        assert!(details(b"abc").contains("sha256:ba7816bf") && details(b"abc").contains("3 bytes"));
    }
}
