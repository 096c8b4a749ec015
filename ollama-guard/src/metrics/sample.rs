//! What one scrape shows, as values.

use jiff::Timestamp;
use ollama_guard_common::Mode;

use crate::{
    dataplane::{
        AttachMode, Hook,
        counters::{BookTotals, Counts},
        ring::RingBooks,
        snapshot::RuleTotals,
    },
    policy::{Effect, Family},
};

/// Everything that is known of the guard at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which ollama-guard this is.
    pub build: Build,
    /// When the daemon started.
    pub started: Timestamp,
    /// Its configuration.
    pub configuration: Configuration,
    /// How often something was not as it should be and was put right.
    pub repairs: u64,
    /// What is in the kernel. `None` if that can't be read.
    pub kernel: Option<Kernel>,
}

/// Which ollama-guard this is.
#[derive(Clone, Debug)]
pub struct Build {
    /// Its version.
    pub version: &'static str,
    /// The commit that it was built from.
    pub revision: &'static str,
    /// The layout of the pins.
    pub layout: String,
    /// SHA-256 of the kernel program, in hexadecimal digits.
    pub object: String,
}

/// The daemon's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// Whether what was read last is in force.
    pub is_accepted: bool,
    /// When it was read last.
    pub read: Timestamp,
    /// Since when what is in force is.
    pub since: Timestamp,
}

/// What is in the kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Whether every door that should be covered is, and drops.
    pub enforcing: bool,
    /// How much is wrong, in sentences of `status`.
    pub problems: usize,
    /// "enforce" or "observe".
    pub mode: String,
    /// The number of the policy in force.
    pub generation: u64,
    /// Prefixes in force, and how many fit.
    pub prefixes: RuleTotals,
    /// The rules, as they are written: several may say the same prefix.
    pub rules: Vec<RuleCount>,
    /// Packets of all interfaces, those that are gone included.
    pub packets: Counts,
    /// Every guarded service.
    pub services: Vec<Service>,
    /// Every interface.
    pub doors: Vec<Door>,
    /// Packets of interfaces that are gone, and of those that have no counters of their own.
    pub elsewhere: Counts,
    /// What became of the events, by mode.
    pub books: [(Mode, BookTotals); Mode::COUNT],
    /// The ring of events.
    pub ring: RingBooks,
}

/// How many rules of one kind there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleCount {
    /// Of which family.
    pub family: Family,
    /// What they do.
    pub effect: Effect,
    /// How many.
    pub count: u64,
}

/// One guarded service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// "enforce" or "observe".
    pub mode: String,
    /// What was counted there.
    pub packets: Counts,
}

/// One interface.
#[derive(Clone, Debug)]
pub struct Door {
    /// Its name.
    pub name: String,
    /// Its number.
    pub ifindex: u32,
    /// Whether it is covered; `None` if it is left alone on purpose.
    pub is_covered: Option<bool>,
    /// Where our program stands.
    pub hook: Option<Hook>,
    /// The XDP attach mode in force.
    pub attach: Option<AttachMode>,
    /// The program of somebody else in front of ours.
    pub behind: Option<u32>,
    /// The program that its link runs.
    pub program: Option<u32>,
    /// What was counted there.
    pub packets: Option<Counts>,
}
