//! What the operator wants, finished and typed: a [`Config`] out of three sources.
//!
//! # What this room promises
//!
//! * A flag goes before the environment (`OLLAMA_GUARD_*`), that before the file, that before the
//!   default. Lists add up: `--allow` is added to what the file allows.
//! * [`load`] returns a configuration without a mistake, or every mistake that it found in any of
//!   the sources at once, each with its place and what to write instead. Nothing is guessed, and
//!   nothing unknown is passed over: a misspelt key is a mistake.
//! * A file that anybody but root or the caller could have written is not believed.
//! * [`RuleStore`] keeps the rules that were added by command. A change lasts once it is answered, and
//!   a damaged file is an error, never an empty list.
//! * [`LastGood`] keeps the files of the configuration that was last in force, for the day that they can't
//!   be used.
//!
//! # What is deliberately not here
//!
//! Interfaces and the kernel: a [`Pattern`] is matched elsewhere. Nothing is opened but the
//! configuration's files and the state directory, and nothing is written but there.

#![forbid(unsafe_code)]

mod advice;
mod answers;
#[cfg(test)]
mod broken_files;
mod bytes;
mod difference;
mod document;
mod environment;
mod file;
mod files;
mod fingerprint;
mod inner;
mod inner_note;
mod interface;
mod last_good;
mod layer;
mod metrics;
mod mode_store;
mod names;
mod overrides;
mod problem;
mod rule_store;
mod services;
mod state_file;
mod surroundings;
mod transcript;
mod trusted_file;
mod unconfirmed;
mod value;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use jiff::Timestamp;
use ollama_guard_common::{Mode, Scope};

use self::files::Files;
use crate::policy::{NameRule, Port, Rule, Service};

pub use crate::policy::{Pattern, PatternError};

pub use self::{
    answers::{AnswerStore, LastAnswer},
    bytes::Bytes,
    difference::Difference,
    environment::{Environment, ProcessEnvironment},
    fingerprint::Fingerprint,
    inner::Inner,
    inner_note::InnerNote,
    interface::Interfaces,
    last_good::{Kept, LastGood, LastGoodError},
    metrics::{DEFAULT_METRICS_PORT, Metrics},
    mode_store::{ModeStore, SaidMode, WrittenMode},
    overrides::Overrides,
    problem::{Place, Problem, Problems},
    rule_store::{RuleStore, StoreError, Undo},
    surroundings::{HostMember, Nowhere, Surroundings},
    transcript::Transcript,
    trusted_file::FileError,
    unconfirmed::Unconfirmed,
};

/// Where the configuration is looked for if nobody names a file. It may be absent.
pub const DEFAULT_CONFIG: &str = "/etc/ollama-guard/config.toml";
/// Where programs, maps and links are pinned by default.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/ollama-guard";
/// Where the daemon keeps what must outlive it by default.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/ollama-guard";
/// Where the daemon listens for commands by default.
pub const DEFAULT_SOCKET: &str = "/run/ollama-guard/control.sock";
/// Different prefixes that fit by default.
pub const DEFAULT_CAPACITY: u32 = 65_536;
/// The largest capacity: the room for so many prefixes takes 68 MiB of kernel memory, and twice that
/// while rules change.
pub const MAX_CAPACITY: u32 = 4_194_304;
/// Different host names that may be in rules, of the configuration and added by command.
pub const MAX_NAMES: usize = 256;
/// Drop events a second, of all CPUs together, by default.
pub const DEFAULT_EVENTS_PER_SECOND: u32 = 1000;
/// The most drop events a second that may be asked for.
pub const MAX_EVENTS_PER_SECOND: u32 = 1_000_000;

/// Bytes of events of the past that are kept by default.
pub const DEFAULT_EVENTS_KEEP: Bytes = Bytes(16 << 20);
/// The fewest bytes of events that may be kept, beside none at all.
pub const MIN_EVENTS_KEEP: Bytes = Bytes(256 << 10);
/// The most bytes of events that may be kept.
pub const MAX_EVENTS_KEEP: Bytes = Bytes(1 << 30);

/// The longest time that a change may be on trial.
pub const MAX_CONFIRM: Duration = Duration::from_hours(1);

/// Everything that the daemon is told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which interfaces are to be guarded.
    pub interfaces: Interfaces,
    /// Interfaces that are not to be guarded, whatever `interfaces` says.
    pub exclude: Vec<Pattern>,
    /// How to attach.
    pub attach: AttachChoice,
    /// Whose packets are decided on.
    pub scope: Scope,
    /// The inner door.
    pub inner: Inner,
    /// What is guarded. Never empty.
    pub services: Vec<Service>,
    /// The rules of the file, then of the environment, then of the flags. None stands twice.
    pub rules: Vec<Rule>,
    /// The names of the same sources. None stands twice.
    pub names: Vec<NameRule>,
    /// Different prefixes that fit: 1 to [`MAX_CAPACITY`].
    pub capacity: u32,
    /// Drop events a second, of all CPUs together: 1 to [`MAX_EVENTS_PER_SECOND`].
    pub events_per_second: u32,
    /// Where metrics are served.
    pub metrics: Metrics,
    /// Bytes of events of the past that are kept: none, or from [`MIN_EVENTS_KEEP`] to
    /// [`MAX_EVENTS_KEEP`].
    pub events_keep: Bytes,
    /// How long a change of the files is on trial, if it is.
    pub confirm: Option<Duration>,
    /// Who may give commands.
    pub control: Control,
    /// Where things are.
    pub paths: Paths,
    /// The files that it was read from.
    pub files: Vec<PathBuf>,
    /// The main one of these, if it was there.
    pub main_file: Option<PathBuf>,
    /// Whether a list names a built-in group, so that it changes with the host.
    pub follows_host: bool,
    /// Whether the kernel programs log what must never happen.
    pub debug_kernel: bool,
    /// What is probably not meant, one sentence each. None of it stops anything.
    pub warnings: Vec<String>,
}

impl Config {
    /// Every guarded port.
    #[must_use]
    pub fn ports(&self) -> BTreeSet<Port> {
        self.services.iter().flat_map(|service| &service.ports).copied().collect()
    }

    /// The services whose verdicts are not carried out.
    pub fn observed(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| service.mode == Mode::Observe)
    }
}

/// How the kernel programs are attached to interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachChoice {
    /// In the driver where that is good, generic elsewhere.
    #[default]
    Auto,
    /// In the driver, or it is an error.
    Native,
    /// Generic everywhere.
    Generic,
}

/// Who may give commands to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Whether members of the group `ollama-guard` may change rules, and not only look.
    pub group_may_edit: bool,
}

/// Where things are. All absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Where programs, maps and links are pinned.
    pub pin_dir: PathBuf,
    /// What must outlive the daemon.
    pub state_dir: PathBuf,
    /// Where the daemon listens for commands.
    pub socket: PathBuf,
}

impl Config {
    /// What there is to say about entries that have ended, a sentence each. They are no longer in force.
    #[must_use]
    pub fn ended(&self, now: Timestamp) -> Vec<String> {
        advice::ended(&self.rules, &self.names, now)
    }
}

impl AttachChoice {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Native, Self::Generic];

    /// The name in configuration and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What came of reading all sources.
#[derive(Debug)]
pub struct Reading {
    /// The files and directories that were read, or looked for, as they were: when they are not so any
    /// more, there may be something else to read.
    pub fingerprint: Fingerprint,
    /// What was in the files.
    pub transcript: Transcript,
    /// The configuration, or every problem of every source at once.
    pub config: Result<Config, Problems>,
}

/// Reads all sources: the flags as the caller parsed them, the environment, the files, and of the host what
/// these name.
///
/// # Errors
///
/// Every problem of every source at once.
pub fn load(
    overrides: &Overrides,
    environment: &dyn Environment,
    surroundings: &dyn Surroundings,
) -> Result<Config, Problems> {
    read(overrides, environment, surroundings).config
}

/// As [`load`], for somebody who reads them again when they change.
#[must_use]
pub fn read(
    overrides: &Overrides,
    environment: &dyn Environment,
    surroundings: &dyn Surroundings,
) -> Reading {
    read_from(Files::default(), overrides, environment, surroundings)
}

/// Where the state is kept, which no file says. `None` if there is a mistake in the flags or the
/// environment.
#[must_use]
pub fn state_dir(overrides: &Overrides, environment: &dyn Environment) -> Option<PathBuf> {
    let mut problems = Vec::new();
    let flags = overrides.layer(&mut problems);
    let variables = environment::layer(environment, overrides.anyone, &mut problems);
    let said = flags.over(variables).state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into());
    problems.is_empty().then_some(said)
}

fn read_from(
    mut files: Files,
    overrides: &Overrides,
    environment: &dyn Environment,
    surroundings: &dyn Surroundings,
) -> Reading {
    let mut problems = Vec::new();
    let flags = overrides.layer(&mut problems);
    let variables = environment::layer(environment, overrides.anyone, &mut problems);
    let named = overrides.config.clone().or_else(|| environment::config_path(environment));
    let may_be_absent = named.is_none();
    let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
    let texts = files.texts(&path, may_be_absent, &mut problems);
    let file = file::layer(&texts, surroundings, &mut files, &mut problems);
    let Files { fingerprint, read, main, transcript, .. } = files;
    let config = flags.over(variables.over(file)).finish(read, main, &mut problems);
    let config = match Problems::new(problems) {
        None => Ok(config),
        Some(problems) => Err(problems),
    };
    Reading { fingerprint, transcript, config }
}

#[cfg(test)]
mod tests;
