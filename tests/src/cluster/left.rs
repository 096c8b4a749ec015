//! What the guard has in the node's kernel, by the kernel's numbers: to see at the end that nothing of it is left.
//!
//! Other guards may be at work on this machine, in other namespaces: theirs are not counted.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;
use serde_json::Value;

use super::node::Node;
use crate::bed::{Objects, run};

const LIMIT: Duration = Duration::from_secs(10);

/// Adds what is pinned on the node at this moment.
///
/// # Errors
///
/// If the pins can't be read.
pub(super) fn see(node: &Node<'_>, seen: &mut Objects) -> Result<()> {
    for pin in node.pinned()? {
        if let Some(link) = asked("link", &pin)? {
            seen.links.extend(link["id"].as_u64());
        } else if let Some(map) = asked("map", &pin)? {
            seen.maps.extend(map["id"].as_u64().map(|id| (id, name(&map))));
        } else if let Some(program) = asked("prog", &pin)? {
            seen.programs.extend(program["id"].as_u64().map(|id| (id, name(&program))));
            let maps = program["map_ids"].as_array().cloned().unwrap_or_default();
            seen.maps.extend(maps.iter().filter_map(|id| Some((id.as_u64()?, String::new()))));
        }
    }
    Ok(())
}

fn name(object: &Value) -> String {
    object["name"].as_str().unwrap_or_default().to_owned()
}

/// What `bpftool` says of a pin, if it is of this kind.
fn asked(kind: &str, pin: &Path) -> Result<Option<Value>> {
    let mut bpftool = Command::new("bpftool");
    let said = run(bpftool.args(["--json", kind, "show", "pinned"]).arg(pin), LIMIT)?;
    let told = serde_json::from_str(&said.stdout).ok();
    Ok(told.filter(|told: &Value| said.succeeded() && told["id"].is_u64()))
}
