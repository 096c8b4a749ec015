//! What the environment says: one variable for each setting, lists separated by commas.
//!
//! A variable that is empty counts as not set. Variables that are not listed here are passed over:
//! Kubernetes sets some of our prefix by itself for a service that is called `ollama-guard`.

use std::{
    borrow::Borrow,
    collections::HashMap,
    ffi::{OsStr, OsString},
    hash::Hash,
    path::PathBuf,
};

use super::{Place, Problem, inner, layer::Layer, metrics, overrides::Said, value};
use crate::policy::{Effect, Origin, clipped};

const CONFIG: &str = "OLLAMA_GUARD_CONFIG";
const MODE: &str = "OLLAMA_GUARD_MODE";
const INTERFACES: &str = "OLLAMA_GUARD_INTERFACES";
const EXCLUDE: &str = "OLLAMA_GUARD_EXCLUDE";
const PORTS: &str = "OLLAMA_GUARD_PORTS";
const ALLOW: &str = "OLLAMA_GUARD_ALLOW";
const DENY: &str = "OLLAMA_GUARD_DENY";
const ATTACH: &str = "OLLAMA_GUARD_ATTACH";
const SCOPE: &str = "OLLAMA_GUARD_SCOPE";
const INNER: &str = "OLLAMA_GUARD_INNER";
const CAPACITY: &str = "OLLAMA_GUARD_CAPACITY";
const EVENTS_PER_SECOND: &str = "OLLAMA_GUARD_EVENTS_PER_SECOND";
const METRICS: &str = "OLLAMA_GUARD_METRICS";
const EVENTS_KEEP: &str = "OLLAMA_GUARD_EVENTS_KEEP";
const PIN_DIR: &str = "OLLAMA_GUARD_PIN_DIR";
const STATE_DIR: &str = "OLLAMA_GUARD_STATE_DIR";
const SOCKET: &str = "OLLAMA_GUARD_SOCKET";

/// Where variables come from.
pub trait Environment {
    /// The variable's value, if it is set.
    fn variable(&self, name: &str) -> Option<OsString>;
}

/// The environment that this process was started with.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

impl<K: Borrow<str> + Eq + Hash, V: AsRef<OsStr>> Environment for HashMap<K, V> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.get(name).map(|value| value.as_ref().to_owned())
    }
}

/// The configuration file that the environment names.
pub(super) fn config_path(environment: &dyn Environment) -> Option<PathBuf> {
    set(environment, CONFIG).map(PathBuf::from)
}

/// What the environment says. `anyone` is what the flag of that name says.
pub(super) fn layer(
    environment: &dyn Environment,
    anyone: bool,
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut text = |name| text(environment, name, problems);
    let (mode, attach, scope) = (text(MODE), text(ATTACH), text(SCOPE));
    let (capacity, events_per_second) = (text(CAPACITY), text(EVENTS_PER_SECOND));
    let listen = text(METRICS);
    let events_keep = text(EVENTS_KEEP);
    let [interfaces, exclude, ports, allow, deny] =
        [INTERFACES, EXCLUDE, PORTS, ALLOW, DENY].map(|name| items(text(name)));
    let [pin_dir, state_dir, socket, inside] =
        [PIN_DIR, STATE_DIR, SOCKET, INNER].map(|name| set(environment, name));

    let mut said = Said { origin: Origin::Environment.into(), anyone, problems };
    let (mut rules, mut names) = (Vec::new(), Vec::new());
    let to = (&mut rules, &mut names);
    said.rules(Place::Variable(ALLOW), Effect::Allow, &allow, to);
    let to = (&mut rules, &mut names);
    said.rules(Place::Variable(DENY), Effect::Deny, &deny, to);
    Layer {
        mode: said.one(Place::Variable(MODE), mode.as_deref(), value::mode),
        is_mode_of_all: true,
        interfaces: said.interfaces(Place::Variable(INTERFACES), &interfaces),
        exclude: exclude
            .iter()
            .filter_map(|text| {
                said.one(Place::Variable(EXCLUDE), Some(text.as_str()), value::pattern)
            })
            .collect(),
        attach: said.one(Place::Variable(ATTACH), attach.as_deref(), value::attach),
        scope: said.one(Place::Variable(SCOPE), scope.as_deref(), value::scope),
        inner: said
            .one(Place::Variable(INNER), inside.as_deref(), inner::inner)
            .unwrap_or_default(),
        ports: said.ports(Place::Variable(PORTS), &ports).collect(),
        rules,
        names,
        capacity: said
            .one(Place::Variable(CAPACITY), capacity.as_deref(), |text| value::capacity(text, 10)),
        events_per_second: said.one(
            Place::Variable(EVENTS_PER_SECOND),
            events_per_second.as_deref(),
            |text| value::events_per_second(text, 10),
        ),
        metrics: said.one(Place::Variable(METRICS), listen.as_deref(), metrics::metrics),
        events_keep: said.one(
            Place::Variable(EVENTS_KEEP),
            events_keep.as_deref(),
            value::events_keep,
        ),
        pin_dir: said.one(Place::Variable(PIN_DIR), pin_dir.as_deref(), value::path),
        state_dir: said.one(Place::Variable(STATE_DIR), state_dir.as_deref(), value::path),
        socket: said.one(Place::Variable(SOCKET), socket.as_deref(), value::socket),
        ..Layer::default()
    }
}

fn set(environment: &dyn Environment, name: &str) -> Option<OsString> {
    environment.variable(name).filter(|value| !value.is_empty())
}

fn text(
    environment: &dyn Environment,
    name: &'static str,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    match set(environment, name)?.into_string() {
        Ok(text) => Some(text),
        Err(value) => {
            let shown = clipped(&value.to_string_lossy());
            let message = format!("\"{shown}\" is not UTF-8 text: write it in plain letters");
            problems.push(Problem { place: Place::Variable(name), message });
            None
        }
    }
}

/// The items of a list, without the white space around them.
fn items(list: Option<String>) -> Vec<String> {
    let list = list.unwrap_or_default();
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(str::to_owned).collect()
}
