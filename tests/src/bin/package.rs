//! The Debian package in a real Debian: `package BASE PACKAGE NEWER WORK`, as root.

use std::{env, path::PathBuf};

use anyhow::{Result, bail};
use ollama_guard_tests::package::{Props, play};

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [base, package, newer, work] = arguments.as_slice() else {
        bail!("usage: package BASE PACKAGE NEWER WORK: `cargo xtask package-test` has them");
    };
    play(&Props { base, package, newer, work }, &|chapter| println!("package: {chapter}"))
}
