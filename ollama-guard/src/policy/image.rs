//! A policy as the kernel's maps hold it.

use std::collections::BTreeMap;

use ollama_guard_common::{Mode, Scope};

use super::{RuleTable, Service};

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
