//! What a guard holds at a quiet point.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
};

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::bed::Status;

/// What must be the same at every quiet point, and the memory, which need not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Open descriptors of the daemon.
    pub descriptors: usize,
    /// Files beneath the pin directory.
    pub pins: usize,
    /// Programs that the daemon holds.
    pub programs: usize,
    /// Maps that the daemon holds.
    pub maps: usize,
    /// Links that the daemon holds.
    pub links: usize,
    /// Covered doors.
    pub doors: usize,
    /// Memory of the maps that the daemon holds, in bytes, as the kernel counts it.
    pub map_bytes: u64,
    /// Anonymous resident memory of the daemon, in bytes: what is mapped from files comes and goes
    /// with the page cache.
    pub anonymous: u64,
}

impl Sample {
    /// Of a daemon. Whatever of a guard is in the kernel is held by its descriptors or by a pin.
    pub(super) fn take(daemon: Pid, pins: usize, status: &Status) -> Result<Self> {
        let held = Held::by(daemon)?;
        Ok(Self {
            descriptors: held.descriptors,
            pins,
            programs: held.programs.len(),
            maps: held.maps.len(),
            links: held.links.len(),
            doors: status.doors()?.iter().filter(|door| door.is_covered).count(),
            map_bytes: held.maps.values().sum(),
            anonymous: anonymous(daemon)?,
        })
    }

    /// Whether what must be equal is.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.equal_part() == other.equal_part()
    }

    /// The same sample as far as it must be equal.
    fn equal_part(&self) -> Self {
        Self { anonymous: 0, map_bytes: 0, ..self.clone() }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, pins, programs, maps, links, doors, .. } = self;
        write!(
            f,
            "{descriptors} descriptors, {programs} programs, {maps} maps, {links} links, \
             {pins} pins, {doors} doors"
        )
    }
}

/// `RssAnon` of `/proc/PID/status` (proc(5)).
fn anonymous(daemon: Pid) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{daemon}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>().context("RssAnon")?;
    Ok(kilobytes * 1024)
}

/// What descriptors of a process stand for.
#[derive(Default)]
pub(super) struct Held {
    pub(super) descriptors: usize,
    pub(super) programs: BTreeSet<u64>,
    /// With the memory of each.
    pub(super) maps: BTreeMap<u64, u64>,
    pub(super) links: BTreeSet<u64>,
}

impl Held {
    /// By `/proc/PID/fdinfo` (`bpf_map_show_fdinfo` and its like, kernel/bpf/syscall.c).
    pub(super) fn by(daemon: Pid) -> Result<Self> {
        let mut held = Self::default();
        let directory = format!("/proc/{daemon}/fdinfo");
        for entry in fs::read_dir(&directory).with_context(|| directory.clone())? {
            // A descriptor may be closed meanwhile.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let number = |key: &str| {
                text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok())
            };
            held.descriptors += 1;
            if let Some(id) = number("link_id:") {
                // It also tells the program that it holds.
                held.links.insert(id);
            } else if let Some(id) = number("map_id:") {
                held.maps.insert(id, number("memlock:").unwrap_or_default());
            } else if let Some(id) = number("prog_id:") {
                held.programs.insert(id);
            }
        }
        Ok(held)
    }
}

/// What of the equal part was not equal: a sentence for the first sample that differs.
pub(super) fn differences(name: &str, samples: &[Sample]) -> Option<String> {
    let first = samples.first()?.equal_part();
    let (round, other) =
        samples.iter().enumerate().find(|(_, sample)| sample.equal_part() != first)?;
    Some(format!("{name}: at first {first}; after round {round}: {other}"))
}

/// Medians of the first and the last third of the samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thirds {
    /// Of the first third, in bytes.
    pub first: u64,
    /// Of the last.
    pub last: u64,
}

impl Thirds {
    /// From the first third to the last, in percent.
    #[must_use]
    pub fn growth(&self) -> f64 {
        (self.last as f64 / self.first as f64 - 1.0) * 100.0
    }
}

impl fmt::Display for Thirds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first / 1024, self.last / 1024);
        write!(
            f,
            "{first} KiB in the first third, {last} KiB in the last ({:+.2} %)",
            self.growth()
        )
    }
}

pub(super) fn thirds(samples: &[Sample], of: impl Fn(&Sample) -> u64) -> Thirds {
    let memory: Vec<u64> = samples.iter().map(of).collect();
    let third = memory.len() / 3;
    Thirds { first: median(&memory[..third]), last: median(&memory[memory.len() - third..]) }
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(anonymous: u64, links: usize) -> Sample {
        Sample {
            descriptors: 30,
            pins: 20,
            programs: 16,
            maps: 22,
            links,
            doors: 1,
            map_bytes: 1 << 20,
            anonymous,
        }
    }

    #[test]
    fn growth_is_told_from_the_medians_of_the_thirds() {
        let samples: Vec<_> =
            [100, 900, 100, 100, 100, 100, 105, 105, 1].map(|bytes| sample(bytes, 2)).into();
        let thirds = thirds(&samples, |sample| sample.anonymous);
        assert_eq!((thirds.first, thirds.last), (100, 105));
        assert!((thirds.growth() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn memory_may_differ_and_links_may_not() {
        assert_eq!(differences("one", &[sample(1, 2), sample(2, 2)]), None);
        let found = differences("one", &[sample(1, 2), sample(1, 2), sample(1, 3)]);
        assert!(
            found.is_some_and(|found| found.contains("after round 2") && found.contains("3 links"))
        );
    }
}
