//! The frames of the packet table as files, for a fuzzer to start from: `seeds link|network DIR`.

use std::{collections::BTreeSet, env, fs, path::Path};

use anyhow::{Context, Result, bail};
use ollama_guard_common::Start;
use ollama_guard_tests::table::table;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (start, directory) = match arguments.as_slice() {
        [start, directory] if start == "link" => (Start::Link, Path::new(directory)),
        [start, directory] if start == "network" => (Start::Network, Path::new(directory)),
        _ => bail!("usage: seeds link|network DIRECTORY"),
    };
    fs::create_dir_all(directory)
        .with_context(|| format!("could not create {}", directory.display()))?;
    let cases = table();
    let frames: BTreeSet<&[u8]> =
        cases.iter().filter(|case| case.start == start).map(|case| case.frame.as_slice()).collect();
    for (number, frame) in frames.iter().enumerate() {
        let file = directory.join(format!("table-{number:04}"));
        fs::write(&file, frame).with_context(|| format!("could not write {}", file.display()))?;
    }
    Ok(())
}
