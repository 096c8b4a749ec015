//! What one source says, before the sources are laid over each other.

use std::{collections::BTreeSet, path::PathBuf};

use ollama_guard_common::{Mode, Scope};

use super::{
    AttachChoice, Config, Control, DEFAULT_CAPACITY, DEFAULT_EVENTS_PER_SECOND, DEFAULT_PIN_DIR,
    DEFAULT_SOCKET, DEFAULT_STATE_DIR, Interfaces, Paths, Pattern, Service, advice,
    interface::union,
};
use crate::policy::{Port, Rule};

/// What one source says. What it does not mention is `None` or empty.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) mode: Option<Mode>,
    pub(super) interfaces: Option<Interfaces>,
    pub(super) exclude: Vec<Pattern>,
    pub(super) attach: Option<AttachChoice>,
    pub(super) scope: Option<Scope>,
    pub(super) name: Option<String>,
    pub(super) ports: BTreeSet<Port>,
    pub(super) rules: Vec<Rule>,
    pub(super) capacity: Option<u32>,
    pub(super) events_per_second: Option<u32>,
    pub(super) group_may_edit: Option<bool>,
    pub(super) pin_dir: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) follows_host: bool,
    pub(super) debug_kernel: bool,
    pub(super) warnings: Vec<String>,
}

impl Layer {
    /// This source over a weaker one: single values go before its values, lists add up.
    pub(super) fn over(self, weaker: Self) -> Self {
        Self {
            mode: self.mode.or(weaker.mode),
            interfaces: match self.interfaces {
                Some(mine) => Some(mine.over(weaker.interfaces)),
                None => weaker.interfaces,
            },
            exclude: union(weaker.exclude, self.exclude),
            attach: self.attach.or(weaker.attach),
            scope: self.scope.or(weaker.scope),
            name: self.name.or(weaker.name),
            ports: &weaker.ports | &self.ports,
            rules: [weaker.rules, self.rules].concat(),
            capacity: self.capacity.or(weaker.capacity),
            events_per_second: self.events_per_second.or(weaker.events_per_second),
            group_may_edit: self.group_may_edit.or(weaker.group_may_edit),
            pin_dir: self.pin_dir.or(weaker.pin_dir),
            state_dir: self.state_dir.or(weaker.state_dir),
            socket: self.socket.or(weaker.socket),
            follows_host: self.follows_host || weaker.follows_host,
            debug_kernel: self.debug_kernel || weaker.debug_kernel,
            warnings: [weaker.warnings, self.warnings].concat(),
        }
    }

    /// The defaults for what nobody mentioned, and the warnings about the whole.
    pub(super) fn finish(self, files: Vec<PathBuf>, main_file: Option<PathBuf>) -> Config {
        let ports = if self.ports.is_empty() { BTreeSet::from([Port::OLLAMA]) } else { self.ports };
        let mut warnings = self.warnings;
        let rules = advice::without_repetitions(self.rules, &mut warnings);
        advice::warn(&rules, &mut warnings);
        Config {
            mode: self.mode.unwrap_or(Mode::Enforce),
            interfaces: self.interfaces.unwrap_or_default(),
            exclude: self.exclude,
            attach: self.attach.unwrap_or_default(),
            scope: self.scope.unwrap_or_default(),
            service: Service { name: self.name.unwrap_or_else(|| "ollama".to_owned()), ports },
            rules,
            capacity: self.capacity.unwrap_or(DEFAULT_CAPACITY),
            events_per_second: self.events_per_second.unwrap_or(DEFAULT_EVENTS_PER_SECOND),
            control: Control { group_may_edit: self.group_may_edit.unwrap_or(false) },
            paths: Paths {
                pin_dir: self.pin_dir.unwrap_or_else(|| DEFAULT_PIN_DIR.into()),
                state_dir: self.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
                socket: self.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            },
            files,
            main_file,
            follows_host: self.follows_host,
            debug_kernel: self.debug_kernel,
            warnings,
        }
    }
}
