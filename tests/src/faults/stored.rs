//! What the file of rules says, read by somebody who is not the guard.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The prefixes of the stored rules, whatever these do. Nobody's, if there is no file.
pub fn prefixes(state_dir: &Path) -> Result<BTreeSet<String>> {
    let text = match fs::read_to_string(state_dir.join("rules.json")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        text => text?,
    };
    let mut lines = text.split_inclusive('\n');
    let head: Value = serde_json::from_str(lines.next().context("a head")?)?;
    ensure!(head["version"] == 3, "{head}");
    let count = |what: &str| head[what].as_u64().with_context(|| format!("{what} in {head}"));
    let mut next = || -> Result<Value> {
        let line = lines.next().context("a line more")?;
        ensure!(line.ends_with('\n'), "it is cut off: {line}");
        Ok(serde_json::from_str(line)?)
    };
    let prefix = |rule: &Value| -> Result<String> {
        Ok(rule["prefix"].as_str().with_context(|| format!("a prefix in {rule}"))?.to_owned())
    };
    let mut prefixes = BTreeSet::new();
    for _ in 0..count("rules")? {
        prefixes.insert(prefix(&next()?)?);
    }
    for _ in 0..count("changes")? {
        let change = next()?;
        for rule in change["remove"].as_array().into_iter().flatten() {
            prefixes.remove(&prefix(rule)?);
        }
        for rule in change["add"].as_array().into_iter().flatten() {
            prefixes.insert(prefix(rule)?);
        }
    }
    Ok(prefixes)
}
