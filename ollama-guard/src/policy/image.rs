//! A policy as the kernel's maps hold it.

use std::{collections::BTreeMap, net::IpAddr};

use ollama_guard_common::{
    Mode, Scope, Standing,
    abi::{MAX_PAIRS, RuleSet, port_place},
};

use super::{Port, RuleTable, Service};

/// A policy as the kernel's maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapImage {
    /// Whether verdicts about packets in doubt are carried out.
    pub mode: Mode,
    /// Whose packets are decided on.
    pub scope: Scope,
    /// The services, by number.
    pub services: BTreeMap<u8, ServiceImage>,
    /// The guarded ports, by their place in the table of ports (see
    /// [`ollama_guard_common::abi::port_place`]), each with the number
    /// of its service.
    pub ports: Vec<(u32, u8)>,
    /// One bit for each protocol with a guarded port, at `Protocol::index`.
    pub protocols: u32,
    /// Whether services or doors have to be told apart.
    pub is_apart: bool,
    /// One bit for each service that a packet in doubt wants.
    pub doubted: u32,
    /// Bits of a rule set for one class of doors.
    pub stride: u32,
    /// By the index of an interface: where the bits of its class begin, if not at 0.
    pub doors: BTreeMap<u32, u32>,
    /// Different prefixes in the rules: IPv4 and IPv6.
    pub prefixes: (u32, u32),
    /// What the rules say, in the form that the program reads.
    pub rules: RuleTable,
    /// Different prefixes, of both families together, that there is room for.
    pub capacity: u32,
}

impl MapImage {
    /// Whether packets of a source to a port are dropped, by whichever of the doors they come in.
    #[must_use]
    pub fn shuts_out(&self, source: IpAddr, port: Port) -> bool {
        let place = port_place(port.protocol, port.number) as u32;
        let Some((_, number)) = self.ports.iter().find(|(at, _)| *at == place) else {
            return false;
        };
        if self.services.get(number).is_some_and(|service| service.mode == Mode::Observe) {
            return false;
        }
        let set = self.rules.find(source).unwrap_or(RuleSet::NONE);
        let mut shifts = std::iter::once(0).chain(self.doors.values().copied());
        !shifts.any(|shift| {
            let pair = 1 << ((shift + u32::from(*number)) % MAX_PAIRS);
            set.standing(pair) == Standing::Allowed
        })
    }
}

/// A service as the kernel's maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceImage {
    /// Its name.
    pub name: String,
    /// Whether verdicts about its packets are carried out.
    pub mode: Mode,
}

impl ServiceImage {
    pub(super) fn of(service: &Service) -> Self {
        Self { name: service.name.to_string(), mode: service.mode }
    }
}
