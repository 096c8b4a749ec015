//! What flags say.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Place, Problem, inner, layer::Layer, metrics, value};
use crate::policy::{Effect, NameRule, Origin, Port, Rule, Subject, SubjectError};

/// What the operator typed, as typed: it is understood together with the other sources, so that
/// all mistakes are reported at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--config`: the configuration file. May be relative.
    pub config: Option<PathBuf>,
    /// `--interface`, each time it was given.
    pub interfaces: Vec<String>,
    /// `--port`, each time it was given.
    pub ports: Vec<String>,
    /// `--allow`, each time it was given.
    pub allow: Vec<String>,
    /// `--deny`, each time it was given.
    pub deny: Vec<String>,
    /// `--anyone`: an allow rule of flags or environment may let everyone in.
    pub anyone: bool,
    /// `--observe`.
    pub observe: bool,
    /// `--attach`.
    pub attach: Option<String>,
    /// `--scope`.
    pub scope: Option<String>,
    /// `--inner`.
    pub inner: Option<OsString>,
    /// `--capacity`.
    pub capacity: Option<String>,
    /// `--metrics`.
    pub metrics: Option<String>,
    /// `--pin-dir`.
    pub pin_dir: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--debug-kernel`.
    pub debug_kernel: bool,
}

impl Overrides {
    pub(super) fn layer(&self, problems: &mut Vec<Problem>) -> Layer {
        let mut said = Said { origin: Origin::Flag.into(), anyone: self.anyone, problems };
        let (mut rules, mut names) = (Vec::new(), Vec::new());
        let to = (&mut rules, &mut names);
        said.rules(Place::Flag("--allow"), Effect::Allow, &self.allow, to);
        let to = (&mut rules, &mut names);
        said.rules(Place::Flag("--deny"), Effect::Deny, &self.deny, to);
        Layer {
            mode: self.observe.then_some(ollama_guard_common::Mode::Observe),
            is_mode_of_all: true,
            interfaces: said.interfaces(Place::Flag("--interface"), &self.interfaces),
            attach: said.one(Place::Flag("--attach"), self.attach.as_deref(), value::attach),
            scope: said.one(Place::Flag("--scope"), self.scope.as_deref(), value::scope),
            inner: said
                .one(Place::Flag("--inner"), self.inner.as_deref(), inner::inner)
                .unwrap_or_default(),
            ports: said.ports(Place::Flag("--port"), &self.ports).collect(),
            rules,
            names,
            capacity: said.one(Place::Flag("--capacity"), self.capacity.as_deref(), |text| {
                value::capacity(text, 10)
            }),
            metrics: said.one(Place::Flag("--metrics"), self.metrics.as_deref(), metrics::metrics),
            pin_dir: said.one(Place::Flag("--pin-dir"), os(self.pin_dir.as_deref()), value::path),
            state_dir: said.one(
                Place::Flag("--state-dir"),
                os(self.state_dir.as_deref()),
                value::path,
            ),
            socket: said.one(Place::Flag("--socket"), os(self.socket.as_deref()), value::socket),
            debug_kernel: self.debug_kernel,
            ..Layer::default()
        }
    }
}

fn os(path: Option<&Path>) -> Option<&OsStr> {
    path.map(Path::as_os_str)
}

/// Understands text that has no line of its own: of flags and of the environment.
pub(super) struct Said<'p> {
    /// What rules remember.
    pub(super) origin: Arc<Origin>,
    /// Whether everyone may be let in.
    pub(super) anyone: bool,
    /// Where mistakes go.
    pub(super) problems: &'p mut Vec<Problem>,
}

impl Said<'_> {
    /// One value, if it was given and is right.
    pub(super) fn one<S: ?Sized, T>(
        &mut self,
        place: Place,
        written: Option<&S>,
        read: impl FnOnce(&S) -> Result<T, String>,
    ) -> Option<T> {
        match read(written?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problems.push(Problem { place, message });
                None
            }
        }
    }

    pub(super) fn interfaces(
        &mut self,
        place: Place,
        texts: &[impl AsRef<str>],
    ) -> Option<super::Interfaces> {
        value::interfaces(texts.iter().map(AsRef::as_ref), |_, error| {
            self.problems.push(Problem { place: place.clone(), message: error.to_string() });
        })
    }

    pub(super) fn ports(
        &mut self,
        place: Place,
        texts: &[impl AsRef<str>],
    ) -> impl Iterator<Item = (Port, Place)> {
        texts.iter().filter_map(move |text| {
            let port = self.one(place.clone(), Some(text.as_ref()), |text| {
                text.parse::<Port>().map_err(|error| error.to_string())
            });
            Some((port?, place.clone()))
        })
    }

    /// The rules and names of a list, each into its own.
    pub(super) fn rules(
        &mut self,
        place: Place,
        effect: Effect,
        texts: &[impl AsRef<str>],
        (rules, names): (&mut Vec<Rule>, &mut Vec<NameRule>),
    ) {
        let anyone = self.anyone;
        for text in texts {
            let subject = self.one(place.clone(), Some(text.as_ref()), |text| {
                let subject: Subject = text.parse().map_err(|e: SubjectError| e.to_string())?;
                match subject {
                    Subject::Prefix(prefix)
                        if prefix.is_everyone() && effect == Effect::Allow && !anyone =>
                    {
                        Err(value::everyone(prefix, "--anyone"))
                    }
                    subject => Ok(subject),
                }
            });
            let origin = Arc::clone(&self.origin);
            let (limits, comment, expires) = (None, None, None);
            match subject {
                Some(Subject::Prefix(prefix)) => {
                    rules.push(Rule { prefix, effect, limits, comment, origin, expires });
                }
                Some(Subject::Name(name)) => {
                    names.push(NameRule { name, effect, limits, comment, origin, expires });
                }
                None => {}
            }
        }
    }
}
