//! What the operator chose, applied to the interfaces that there are.

use super::inner::InnerPlan;
use crate::{
    config::{AttachChoice, Config, Inner, Interfaces, Pattern},
    doors::{self, Door, Interface, Selection},
    status::{InnerChoice, SelectionSource},
};

/// The operator's choice of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    interfaces: Interfaces,
    exclude: Vec<Pattern>,
    attach: AttachChoice,
    inner: Inner,
}

impl Chosen {
    /// Takes the choice from a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            interfaces: config.interfaces.clone(),
            exclude: config.exclude.clone(),
            attach: config.attach,
            inner: config.inner.clone(),
        }
    }

    /// The names and patterns asked for; none for the automatic choice.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match &self.interfaces {
            Interfaces::Auto => Vec::new(),
            Interfaces::Named(patterns) => patterns.iter().map(ToString::to_string).collect(),
        }
    }

    /// The attach mode asked for.
    #[must_use]
    pub const fn attach(&self) -> AttachChoice {
        self.attach
    }

    /// The inner door.
    #[must_use]
    pub const fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Whether interfaces were asked for by name.
    #[must_use]
    pub const fn is_named(&self) -> bool {
        matches!(self.interfaces, Interfaces::Named(_))
    }

    /// Whether an interface is one of those asked for, or may be: by name, or because none is.
    #[must_use]
    pub fn names_or_takes(&self, name: &str) -> bool {
        let is_named = match &self.interfaces {
            Interfaces::Auto => true,
            Interfaces::Named(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
        };
        is_named && !self.excludes(name)
    }

    /// Whether an interface is left out by name.
    #[must_use]
    pub fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|pattern| pattern.matches(name))
    }
}

impl SelectionSource for Chosen {
    fn choose(&self, interfaces: &[Interface]) -> Vec<Door> {
        let excluded = |name: &str| self.excludes(name);
        let matches = |name: &str| match &self.interfaces {
            Interfaces::Auto => true,
            Interfaces::Named(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
        };
        let named: Option<&dyn Fn(&str) -> bool> = match self.interfaces {
            Interfaces::Auto => None,
            Interfaces::Named(_) => Some(&matches),
        };
        doors::choose(interfaces, &Selection { named, excluded: &excluded, attach: self.attach })
    }

    fn missing(&self, interfaces: &[Interface]) -> Vec<String> {
        doors::unmatched(&self.names(), interfaces)
    }

    fn inner(&self) -> InnerChoice {
        InnerPlan::of(&self.inner).choice()
    }
}
