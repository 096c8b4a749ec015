//! The services of all sources, put together.

use std::collections::{BTreeMap, BTreeSet};

use ollama_guard_common::{Mode, abi::MAX_SERVICES};

use super::{Place, Problem};
use crate::policy::{Port, Service, quoted};

/// What the service is called that nobody gave a name.
pub(super) const DEFAULT_NAME: &str = "ollama";

/// What the sources said about one service so far.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) name: String,
    /// Where it was first named.
    pub(super) place: Place,
    pub(super) mode: Option<Mode>,
    pub(super) ports: BTreeSet<Port>,
}

/// Adds what a source says to what weaker ones said.
pub(super) fn add(services: &mut Vec<Said>, more: Said) {
    match services.iter_mut().find(|one| one.name == more.name) {
        Some(one) => {
            one.mode = more.mode.or(one.mode);
            one.ports.extend(more.ports);
        }
        None => services.push(more),
    }
}

/// The services. `extra` are ports that flags or the environment add, with their place, and `mode` is that of
/// services which have none of their own.
pub(super) fn finish(
    said: Vec<Said>,
    extra: &BTreeMap<Port, Place>,
    mode: Mode,
    told: &mut Vec<Problem>,
) -> Vec<Service> {
    let (mut services, mut problems) = (said, Vec::new());
    if services.is_empty() {
        let (name, place) = (DEFAULT_NAME.to_owned(), Place::Flag("--port"));
        services.push(Said { name, place, mode: None, ports: BTreeSet::new() });
    }
    let is_alone = services.len() == 1;
    if services.len() > MAX_SERVICES {
        let message = format!("{} services are more than {MAX_SERVICES}", services.len());
        let place = services[MAX_SERVICES].place.clone();
        problems.push(Problem { place, message });
    }
    if is_alone {
        services[0].ports.extend(extra.keys());
    } else if let Some(place) = extra.values().next() {
        let message = "there are several services, and a port is for one: write it under its \
                       [[service]] in the configuration file";
        problems.push(Problem { place: place.clone(), message: message.to_owned() });
    }
    let mut owners: BTreeMap<Port, String> = BTreeMap::new();
    for service in &mut services {
        let name = quoted(&service.name);
        if service.ports.is_empty() {
            if is_alone || service.name == DEFAULT_NAME {
                service.ports.insert(Port::OLLAMA);
            } else {
                let message = format!("the service {name} has no ports: write ports = [\"8080\"]");
                problems.push(Problem { place: service.place.clone(), message });
            }
        }
        for port in &service.ports {
            if let Some(owner) = owners.insert(*port, name.clone()) {
                let message = format!(
                    "{port} is a port of {owner} and of {name}: leave it to one of them, since a \
                     packet is for one service"
                );
                problems.push(Problem { place: service.place.clone(), message });
            }
        }
    }
    let finished = |one: Said| Service {
        name: one.name.into(),
        mode: one.mode.unwrap_or(mode),
        ports: one.ports,
    };
    // Where something can't be read, what is missing here may stand there.
    if told.is_empty() {
        told.append(&mut problems);
    }
    services.into_iter().map(finished).collect()
}
