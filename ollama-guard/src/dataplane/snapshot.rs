//! What the kernel holds now, read from the pins: with or without a daemon.

use std::net::IpAddr;

use aya::programs::ProgramInfo;
use ollama_guard_common::{
    Mode, Scope, Standing, Start,
    abi::{ABI_VERSION, MAX_PAIRS, guarded_by, port_at, port_place},
};
use serde::{Deserialize, Serialize};

use super::{
    DataplaneError, PinDir, Result, contents,
    counters::{self, AllCounts, BookTotals, Counts},
    inner::{self, InnerState},
    links::{self, Hook, LinkState},
    maps::Maps,
    pins,
    readback::Readback,
    ring::{self, RingBooks},
    table::{self, Slot},
};
use crate::policy::{Effect, MapImage, Port, Prefix, ServiceImage};

/// The state of the guard in the kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The layout version of the pins.
    pub abi_version: u32,
    /// The number of the policy in force.
    pub generation: u64,
    /// Until when it is on trial, in nanoseconds of the boot clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<u64>,
    /// "enforce" or "observe"; with services of either sort "enforce", as for packets in doubt.
    pub mode: String,
    /// "all" or "local".
    pub scope: String,
    /// The guarded ports, read from the table that the program reads.
    pub ports: Vec<String>,
    /// The services that these belong to.
    #[serde(default)]
    pub services: Vec<ServiceState>,
    /// The rules in force.
    pub rules: RuleTotals,
    /// The pinned links.
    pub links: Vec<LinkState>,
    /// The link of the inner door.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner: Option<InnerState>,
    /// Whether the inner door drops nothing, whatever the policy says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inner_observes: bool,
    /// The pinned programs.
    pub programs: Vec<ProgramState>,
    /// Packets for guarded ports, and undecidable ones.
    pub counters: AllCounts,
    /// What became of the events of drops.
    pub books: BookTotals,
    /// The same for packets that would have been dropped in observe mode.
    pub observed_books: BookTotals,
    /// The ring of events.
    pub ring: RingBooks,
}

/// Something that is guarded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceState {
    /// Its name.
    pub name: String,
    /// "enforce" or "observe".
    pub mode: String,
    /// Its ports.
    pub ports: Vec<String>,
    /// Packets for these, since there are several services; `None` while it is the only one. Packets in
    /// doubt are for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

/// The rules in force, in different prefixes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RuleTotals {
    /// IPv4 prefixes.
    pub v4: u32,
    /// IPv6 prefixes.
    pub v6: u32,
    /// How many fit, of both families together.
    pub capacity: u32,
    /// Whether ports and rules in force are what the daemon wrote, and the tables the pinned ones.
    pub intact: bool,
}

/// A pinned entry program and its twin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgramState {
    /// Where it runs: "xdp", or "tcx" for TCX and clsact.
    pub hook: Hook,
    /// Where its frames start: "link" or "network".
    pub start: String,
    /// The kernel's id.
    pub id: u32,
    /// The hash of its instructions.
    pub tag: String,
    /// Whether its twin for test runs has the same instructions.
    pub twin_matches: bool,
    /// The kernel's id of the variant that learns: it has the same instructions, and links run it for
    /// a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_id: Option<u32>,
}

impl ProgramState {
    /// Whether a program is this one, or its variant that learns.
    #[must_use]
    pub fn is(&self, id: u32) -> bool {
        self.id == id || self.learning_id == Some(id)
    }
}

impl Snapshot {
    /// Reads everything. Changes nothing.
    pub fn read(pins: &PinDir) -> Result<Self> {
        super::probe::check_kept_capabilities()?;
        pins.require_current()?;
        let directory = pins.current();
        let maps = Maps::open(&directory)?;
        let slot = maps.selected_slot();
        let trial = maps.trial();
        let content = Slot::read(maps.policy(), slot);
        let info = content.info;
        let counters = counters::read(&maps)?;
        let books = counters::read_books(&maps)?;
        Ok(Self {
            abi_version: ABI_VERSION,
            generation: info.generation,
            trial: trial.map(|trial| trial.until),
            mode: Mode::from_number(info.mode).name().into(),
            scope: Scope::from_number(info.scope).name().into(),
            ports: ports(&content, None),
            services: services(&maps, &content)?,
            rules: RuleTotals {
                v4: info.prefixes_v4,
                v6: info.prefixes_v6,
                capacity: info.capacity,
                intact: contents::read(&maps, &directory, None)?.is_intact(),
            },
            links: links::list(pins)?,
            inner: inner::state(pins)?,
            inner_observes: table::inner_observes(maps.policy()),
            programs: programs(pins)?,
            books: counters::totals(&books, &counters, Mode::Enforce),
            observed_books: counters::totals(&books, &counters, Mode::Observe),
            counters,
            ring: ring::positions(&directory)?,
        })
    }

    /// The program that links of a hook and a start should run, or whose variant they run.
    #[must_use]
    pub fn program(&self, hook: Hook, start: Start) -> Option<&ProgramState> {
        let is_tc = |hook| matches!(hook, Hook::Tcx | Hook::Clsact);
        self.programs.iter().find(|program| {
            let same = program.hook == hook || is_tc(program.hook) && is_tc(hook);
            same && program.start == start_name(start)
        })
    }
}

/// The largest prefix around an address that the rules in force say one thing about, and what they
/// say about access to a port by way of an interface. `None` if they say nothing about it.
pub fn matching_rule(
    pins: &PinDir,
    source: IpAddr,
    port: Port,
    ifindex: Option<u32>,
) -> Result<Option<(String, Effect)>> {
    let Some(Readback { image, .. }) = Readback::read(pins)? else { return Ok(None) };
    let Some((prefix, set)) = image.rules.around(source) else { return Ok(None) };
    let effect = match set.standing(wanted(&image, port, ifindex)) {
        Standing::Allowed => Effect::Allow,
        Standing::Denied => Effect::Deny,
        Standing::NotListed | Standing::RulesAbsent => return Ok(None),
    };
    let text =
        Prefix::try_from(prefix).map_or_else(|_| prefix.to_string(), |prefix| prefix.to_string());
    Ok(Some((text, effect)))
}

/// The bit of a rule set for a port, by way of an interface.
fn wanted(image: &MapImage, port: Port, ifindex: Option<u32>) -> u32 {
    let place = port_place(port.protocol, port.number) as u32;
    let shift = ifindex.and_then(|ifindex| image.doors.get(&ifindex)).copied().unwrap_or(0);
    let number = image.ports.iter().find(|(at, _)| *at == place).map(|(_, number)| *number);
    match number {
        Some(number) => 1 << ((shift + u32::from(number)) % MAX_PAIRS),
        None => image.doubted << (shift % MAX_PAIRS),
    }
}

/// The guarded ports: of one service, or of all.
fn ports(content: &Slot, of: Option<u8>) -> Vec<String> {
    let meant = |guardian: u8| of.is_none_or(|number| guardian == guarded_by(number));
    let meant = content.ports.iter().filter(|(_, guardian)| meant(*guardian));
    let port = |&(place, _): &(u32, u8)| {
        let (protocol, number) = port_at(place as usize)?;
        Some(Port { protocol, number }.to_string())
    };
    meant.filter_map(port).collect()
}

fn services(maps: &Maps, content: &Slot) -> Result<Vec<ServiceState>> {
    let is_apart = content.services.len() > 1;
    let state = |(&number, service): (&u8, &ServiceImage)| {
        Ok(ServiceState {
            name: service.name.clone(),
            mode: service.mode.name().into(),
            ports: ports(content, Some(number)),
            counts: is_apart.then(|| counters::read_service(maps, number)).transpose()?,
        })
    };
    content.services.iter().map(state).collect()
}

fn programs(pins: &PinDir) -> Result<Vec<ProgramState>> {
    let directory = pins.current();
    let mut states = Vec::new();
    for (hook, start) in pins::PROGRAMS {
        let info = |name| {
            let path = directory.join(name);
            ProgramInfo::from_pin(&path)
                .map_err(|error| DataplaneError::ForeignPin { path, problem: error.to_string() })
        };
        let name = pins::program_name(hook, start);
        // A daemon from before this hook has not pinned any.
        if hook != Hook::Xdp && !directory.join(name).exists() {
            continue;
        }
        let program = info(name)?;
        let twin = info(pins::twin_name(hook, start))?;
        // Lost pins are the daemon's to mend, and `verify` tells of them.
        let learning = info(pins::learning_name(hook, start)).ok();
        states.push(ProgramState {
            hook,
            start: start_name(start).into(),
            id: program.id(),
            tag: format!("{:016x}", program.tag().swap_bytes()),
            twin_matches: program.tag() == twin.tag(),
            // One with other instructions is nobody's variant.
            learning_id: learning.filter(|one| one.tag() == program.tag()).map(|one| one.id()),
        });
    }
    Ok(states)
}

const fn start_name(start: Start) -> &'static str {
    match start {
        Start::Link => "link",
        Start::Network => "network",
        Start::Packet => "packet",
    }
}
