//! What the kernel says that it holds, by `bpftool` and `ip`: not our own account of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use ollama_guard::dataplane::Hook;
use serde_json::Value;

use super::{Namespace, run, until};

const LIMIT: Duration = Duration::from_secs(10);

/// How the names of our programs and maps begin. The kernel names the map of a program's frozen
/// globals `.rodata`; such maps are found by their program.
const NAME_PREFIXES: [&str; 2] = ["og_", "OG_"];

/// The kernel's objects with our names, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Programs.
    pub programs: BTreeMap<u64, String>,
    /// Maps with our names, and those that our programs use.
    pub maps: BTreeMap<u64, String>,
    /// Links of our programs.
    pub links: BTreeSet<u64>,
}

impl Objects {
    /// All that there are now, of every guard on this machine.
    ///
    /// # Errors
    ///
    /// If `bpftool` fails.
    pub fn now() -> Result<Self> {
        let mut objects = Self::default();
        let mut used = BTreeSet::new();
        for program in listed("prog")? {
            let (id, name) = identity(&program)?;
            if is_ours(&name) {
                objects.programs.insert(id, name);
                let ids = program["map_ids"].as_array().map(Vec::as_slice).unwrap_or_default();
                used.extend(ids.iter().filter_map(Value::as_u64));
            }
        }
        for map in listed("map")? {
            let (id, name) = identity(&map)?;
            if is_ours(&name) || used.contains(&id) {
                objects.maps.insert(id, name);
            }
        }
        for link in listed("link")? {
            let program = link["prog_id"].as_u64().unwrap_or(0);
            if objects.programs.contains_key(&program) {
                objects.links.insert(link["id"].as_u64().context("a link without an id")?);
            }
        }
        Ok(objects)
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.programs.retain(|id, _| !other.programs.contains_key(id));
        self.maps.retain(|id, _| !other.maps.contains_key(id));
        self.links.retain(|id| !other.links.contains(id));
        self
    }

    /// What is both here and in `other`.
    #[must_use]
    pub fn within(mut self, other: &Self) -> Self {
        self.programs.retain(|id, _| other.programs.contains_key(id));
        self.maps.retain(|id, _| other.maps.contains_key(id));
        self.links.retain(|id| other.links.contains(id));
        self
    }

    /// Waits until none of these programs and maps is left in the kernel; links may go on.
    ///
    /// # Errors
    ///
    /// If some are left after `limit`; the message says which.
    pub fn until_gone_but_links(&self, limit: Duration) -> Result<()> {
        let left = || -> Result<Self> {
            let mut left = Self::now()?.within(self);
            left.links.clear();
            Ok(left)
        };
        until("old programs and maps to be gone", limit, || {
            left().is_ok_and(|left| left.is_empty())
        })
        .with_context(|| format!("left: {:?}", left()))
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty() && self.links.is_empty()
    }
}

/// Version and patch level of the running kernel: (6, 18).
///
/// For tests alone, which compare with what was measured on a release. Production code asks for
/// features.
///
/// # Panics
///
/// If the kernel's release does not begin with two numbers.
#[must_use]
pub fn kernel_release() -> (u32, u32) {
    let name = nix::sys::utsname::uname().expect("uname(2) does not fail");
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse().ok());
    number().zip(number()).unwrap_or_else(|| panic!("the release {release} has no two numbers"))
}

/// The hook at TC on this kernel: Linux has TCX since 6.6, and before it filters of the clsact
/// queueing discipline.
#[must_use]
pub fn hook_at_tc() -> Hook {
    if kernel_release() >= (6, 6) { Hook::Tcx } else { Hook::Clsact }
}

/// The id of the XDP program on an interface, as the kernel tells over netlink.
///
/// # Errors
///
/// If `ip` fails.
pub fn xdp_program_id(namespace: &Namespace, interface: &str) -> Result<Option<u64>> {
    let output = run(
        Command::new("ip").args(["-n", namespace.name(), "-j", "-d", "link", "show", interface]),
        LIMIT,
    )?;
    let links: Value = serde_json::from_str(output.expect_success()?)?;
    Ok(links[0]["xdp"]["prog"]["id"]
        .as_u64()
        .or_else(|| links[0]["xdp"]["attached"][0]["prog"]["id"].as_u64()))
}

/// Files below a pin directory.
///
/// # Errors
///
/// If a directory can't be read. One that does not exist holds nothing.
pub fn pins(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    if !directory.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(pins(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn listed(kind: &str) -> Result<Vec<Value>> {
    let output = run(Command::new("bpftool").args(["--json", kind, "show"]), LIMIT)
        .context("`bpftool` is needed (package bpftool)")?;
    let list: Value = serde_json::from_str(output.expect_success()?)
        .with_context(|| format!("reading what bpftool says of {kind}"))?;
    Ok(list.as_array().cloned().unwrap_or_default())
}

fn identity(object: &Value) -> Result<(u64, String)> {
    let id = object["id"].as_u64().context("an object without an id")?;
    Ok((id, object["name"].as_str().unwrap_or_default().to_owned()))
}

fn is_ours(name: &str) -> bool {
    NAME_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
