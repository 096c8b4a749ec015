//! What one source says, before the sources are laid over each other.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use ollama_guard_common::{Mode, Scope};

use super::{
    AttachChoice, Bytes, Config, Control, DEFAULT_CAPACITY, DEFAULT_EVENTS_KEEP,
    DEFAULT_EVENTS_PER_SECOND, DEFAULT_PIN_DIR, DEFAULT_SOCKET, DEFAULT_STATE_DIR, Inner,
    Interfaces, Metrics, Paths, Pattern, Place, Problem, advice, interface::union, names, services,
};
use crate::policy::{Limits, NameRule, Port, Rule};

/// What one source says. What it does not mention is `None` or empty.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) mode: Option<Mode>,
    /// Whether `mode` goes before what a weaker source said about one service.
    pub(super) is_mode_of_all: bool,
    pub(super) interfaces: Option<Interfaces>,
    pub(super) exclude: Vec<Pattern>,
    pub(super) attach: Option<AttachChoice>,
    pub(super) scope: Option<Scope>,
    pub(super) inner: Inner,
    pub(super) services: Vec<services::Said>,
    /// Ports of the one service, and where they are written.
    pub(super) ports: BTreeMap<Port, Place>,
    pub(super) rules: Vec<Rule>,
    pub(super) names: Vec<NameRule>,
    pub(super) capacity: Option<u32>,
    pub(super) events_per_second: Option<u32>,
    pub(super) metrics: Option<Metrics>,
    pub(super) events_keep: Option<Bytes>,
    pub(super) confirm: Option<Duration>,
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
    pub(super) fn over(self, mut weaker: Self) -> Self {
        if self.is_mode_of_all && self.mode.is_some() {
            weaker.services.iter_mut().for_each(|service| service.mode = None);
        }
        for service in self.services {
            services::add(&mut weaker.services, service);
        }
        weaker.ports.extend(self.ports);
        Self {
            mode: self.mode.or(weaker.mode),
            is_mode_of_all: self.is_mode_of_all,
            interfaces: match self.interfaces {
                Some(mine) => Some(mine.over(weaker.interfaces)),
                None => weaker.interfaces,
            },
            exclude: union(weaker.exclude, self.exclude),
            attach: self.attach.or(weaker.attach),
            scope: self.scope.or(weaker.scope),
            inner: self.inner.over(weaker.inner),
            services: weaker.services,
            ports: weaker.ports,
            rules: [weaker.rules, self.rules].concat(),
            names: [weaker.names, self.names].concat(),
            capacity: self.capacity.or(weaker.capacity),
            events_per_second: self.events_per_second.or(weaker.events_per_second),
            metrics: self.metrics.or(weaker.metrics),
            events_keep: self.events_keep.or(weaker.events_keep),
            confirm: self.confirm.or(weaker.confirm),
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
    pub(super) fn finish(
        self,
        files: Vec<PathBuf>,
        main_file: Option<PathBuf>,
        problems: &mut Vec<Problem>,
    ) -> Config {
        let mode = self.mode.unwrap_or(Mode::Enforce);
        let services = services::finish(self.services, &self.ports, mode, problems);
        let (mut rules, mut names) = (self.rules, self.names);
        if services.len() == 1 {
            let of_names = names.iter_mut().map(|rule| &mut rule.limits);
            let limits = rules.iter_mut().map(|rule| &mut rule.limits).chain(of_names);
            limits.for_each(forget_service);
        }
        let mut warnings = self.warnings;
        let rules = advice::without_repetitions(rules, &mut warnings);
        let names = advice::names_without_repetitions(names, &mut warnings);
        names::check(&names, problems);
        advice::warn(&rules, &mut warnings);
        let metrics = self.metrics.unwrap_or_default();
        warnings.extend(metrics.warning());
        Config {
            interfaces: self.interfaces.unwrap_or_default(),
            exclude: self.exclude,
            attach: self.attach.unwrap_or_default(),
            scope: self.scope.unwrap_or_default(),
            inner: self.inner,
            services,
            rules,
            names,
            capacity: self.capacity.unwrap_or(DEFAULT_CAPACITY),
            events_per_second: self.events_per_second.unwrap_or(DEFAULT_EVENTS_PER_SECOND),
            metrics,
            events_keep: self.events_keep.unwrap_or(DEFAULT_EVENTS_KEEP),
            confirm: self.confirm.filter(|time| !time.is_zero()),
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

/// Of the one service that there is, a rule is for everything.
fn forget_service(limits: &mut Option<Arc<Limits>>) {
    if let Some(old) = limits
        && old.service.is_some()
    {
        *limits = Limits::new(None, old.on.clone());
    }
}
