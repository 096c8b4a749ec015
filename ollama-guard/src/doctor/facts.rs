//! What was seen, as plain values.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ollama_guard_common::Scope;
use serde::Serialize;

use super::{
    containers::Published,
    forwarding::ForwardingFacts,
    inner::{InnerDoor, ShutOut},
    interfaces::{Address, InterfaceFacts},
    kernel::KernelFacts,
    listeners::Listener,
    nat::{SourceNat, Translation},
    ollama::OllamaFacts,
    ports::EphemeralPorts,
    proxies::Proxy,
};
use crate::policy::Port;

/// Everything that was seen at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// The guard itself.
    pub guard: GuardFacts,
    /// What the kernel offers, and what this process may do.
    pub kernel: KernelFacts,
    /// Every interface.
    pub interfaces: Vec<InterfaceFacts>,
    /// This host's addresses.
    pub addresses: Vec<Address>,
    /// The TCP listeners that concern the guard.
    pub listeners: Vec<Listener>,
    /// Container ports that a process publishes.
    pub published: Vec<Published>,
    /// Rules that send packets to another port.
    pub translations: Vec<Translation>,
    /// Rules that give packets another source.
    pub source_nat: Vec<SourceNat>,
    /// Processes that hand requests on.
    pub proxies: Vec<Proxy>,
    /// Running Ollama processes and their settings.
    pub ollama: Vec<OllamaFacts>,
    /// The ports of this host's own connections.
    pub ephemeral: EphemeralPorts,
    /// Whether this host passes packets on.
    pub forwarding: ForwardingFacts,
    /// Networks of containers that no rule lets in, where there is an inner door.
    pub shut_out: Vec<ShutOut>,
    /// What could not be looked at.
    pub not_seen: Vec<NotSeen>,
}

/// The guard, from its pins; its ports from the configuration if nothing is loaded.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GuardFacts {
    /// Whether one is loaded.
    pub loaded: bool,
    /// Whether that cannot be seen.
    pub unknown: bool,
    /// Whose packets are decided on.
    #[serde(skip)]
    pub scope: Scope,
    /// The guarded ports.
    pub ports: BTreeSet<Port>,
    /// Interfaces with a living link of ours, by number.
    pub covered: Vec<u32>,
    /// Our programs, by their kernel ids.
    pub programs: Vec<u32>,
    /// This host's own addresses that a rule lets in; only looked up if there is source NAT.
    pub allowed_here: Vec<AllowedAddress>,
    /// The inner door.
    pub inner: InnerDoor,
}

/// An address and the rule that lets it in.
#[derive(Clone, Debug, Serialize)]
pub struct AllowedAddress {
    /// The address.
    pub address: IpAddr,
    /// The rule's prefix.
    pub rule: String,
}

/// Something that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotSeen {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

impl NotSeen {
    pub(super) fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}

impl Facts {
    /// TCP ports behind which something of value listens: the guarded ones, and those of
    /// Ollama-like processes, in whatever network namespace.
    pub(super) fn served(&self) -> BTreeSet<u16> {
        let guarded = tcp(&self.guard.ports);
        let listeners = self.listeners.iter().filter(|one| one.is_ollama && !one.is_loopback());
        guarded.chain(listeners.map(|one| one.port)).collect()
    }

    /// Whether a TCP port is guarded.
    pub(super) fn is_guarded(&self, port: u16) -> bool {
        tcp(&self.guard.ports).any(|guarded| guarded == port)
    }
}

/// The numbers of the TCP ports among these.
pub(super) fn tcp(ports: &BTreeSet<Port>) -> impl Iterator<Item = u16> {
    let is_tcp = |port: &&Port| port.protocol == ollama_guard_common::Protocol::Tcp;
    ports.iter().filter(is_tcp).map(|port| port.number)
}

/// Ports as text: `11434/tcp, 8080/tcp`.
pub(super) fn written(ports: &BTreeSet<Port>) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
