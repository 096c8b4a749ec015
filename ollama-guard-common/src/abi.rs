//! The contract between the kernel and the user side: names, capacities and layouts.
//!
//! Only plain integers and byte arrays cross the boundary, with explicit padding. Everything is
//! in host byte order but for addresses, which are in network byte order. Any change here that a
//! running older side would misread raises [`ABI_VERSION`], which names the pin directory: pinned
//! state of another version is never reinterpreted.

mod doors;
mod rules;
mod selection;
mod services;
mod sources;

use bytemuck::{Pod, Zeroable};

pub use self::{
    doors::{DOOR_PLACES, door_number, door_places, door_word},
    rules::{DECLARED_RULE_BLOCKS, RULE_BLOCK_WORDS, RuleBlock, RuleSet, THE_SERVICE, rule_blocks},
    selection::Selection,
    services::{
        MAX_PAIRS, MAX_SERVICES, PORT_BYTES, PORT_PLACES, SERVICE_NAME_BYTES, ServiceCounters,
        ServiceName, guarded_by, guardian_in, port_at, port_place,
    },
    sources::{DEFAULT_PLACES, MOST_PLACES, SourceBook, SourceKey, SourceRecord},
};

use crate::verdict::{Mode, Reason};

/// The version of everything in this module.
pub const ABI_VERSION: u32 = 6;

/// Names of the maps, as the object declares them and as they are pinned.
///
/// The kernel keeps the first 15 bytes, so all are shorter.
pub mod maps {
    /// `Array<PolicyTable, 1>` that can be mapped into memory: which policy slot is in force,
    /// and what each holds but for its rules. One lookup for all of it.
    pub const POLICY: &str = "OG_POLICY";
    /// `ArrayOfMaps<Array<RuleBlock>, SLOTS>`: the rules of each slot, see [`crate::trie`]. The
    /// arrays are frozen: once filled, nobody can write to one any more.
    pub const RULES: &str = "OG_RULES";
    /// `HashMap<[u8; 16], u32, MAX_ADDRESSES>`: this host's own addresses, IPv4 as IPv4-mapped IPv6
    /// addresses. The values mean nothing. Looked at only with `Scope::Local`.
    pub const ADDRESSES: &str = "OG_ADDRESSES";
    /// `Array<u64, DOOR_PLACES>` that can be mapped into memory: the door numbers of interfaces. See
    /// [`super::door_places`].
    pub const DOORS: &str = "OG_DOORS";
    /// `PerCpuArray<DoorCounters, MAX_DOORS>`: counters by door number.
    pub const COUNTERS: &str = "OG_COUNTERS";
    /// `PerCpuArray<ServiceCounters, MAX_SERVICES>`: counters by the number of a service.
    pub const SERVICES: &str = "OG_SERVICES";
    /// `PerCpuArray<Books, 1>`: what became of the events.
    pub const BOOKS: &str = "OG_BOOKS";
    /// `PerCpuArray<u64, 1>`: how many events each CPU may still try to submit. The program takes one
    /// away for each, user space adds to it. Nothing but the budget depends on it, so a write of one
    /// side that undoes one of the other is no harm.
    pub const ALLOWANCE: &str = "OG_ALLOWANCE";
    /// `RingBuf`: [`super::DropEvent`] records.
    pub const EVENTS: &str = "OG_EVENTS";
    /// `ArrayOfMaps<HashMap<SourceKey, SourceRecord>, 1>`: empty but while somebody learns. See
    /// [`super::globals::LEARN`].
    pub const SOURCES: &str = "OG_SOURCES";

    /// Every pinned map.
    pub const ALL: [&str; 10] =
        [POLICY, RULES, ADDRESSES, DOORS, COUNTERS, SERVICES, BOOKS, ALLOWANCE, EVENTS, SOURCES];
}

/// Names of the entry programs. Each exists for both starts; at XDP with and without multi-buffer.
pub mod programs {
    /// For devices with an Ethernet header.
    pub const LINK: &str = "og_link";
    /// The same, aware of multi-buffer frames (kernel 5.18 and newer).
    pub const LINK_FRAGS: &str = "og_link_frags";
    /// For devices whose frames start at the IP header.
    pub const NETWORK: &str = "og_network";
    /// The same, aware of multi-buffer frames.
    pub const NETWORK_FRAGS: &str = "og_net_frags";
    /// At TC ingress, for devices with an Ethernet header.
    pub const TC_LINK: &str = "og_tc_link";
    /// At TC ingress, for devices whose frames start at the IP header.
    pub const TC_NETWORK: &str = "og_tc_network";
    /// At the ingress of a cgroup: the inner door.
    pub const INNER: &str = "og_inner";
}

/// Names of the frozen globals, which are set once before a program is loaded.
pub mod globals {
    /// `u32`: 1 in a program that is attached, 0 in its twin for test runs, which counts nothing,
    /// reports nothing and returns the reason beside the action (see
    /// [`super::test_run_reason`]).
    pub const REPORT: &str = "REPORT";
    /// `u32`: 1 if `bpf_xdp_load_bytes` exists (kernel 5.18 and newer).
    pub const LOAD_BYTES: &str = "LOAD_BYTES";
    /// `u32`: 1 in a program that also counts packets for guarded ports by their source, in
    /// [`super::maps::SOURCES`]. It judges as any other.
    pub const LEARN: &str = "LEARN";
}

/// Policy slots: the one in force, the one that comes back if it is not confirmed, and the one that the next
/// policy is built in. A power of two, so that a number is made to fit without a division.
pub const SLOTS: u32 = 4;

/// Addresses of this host that fit.
pub const MAX_ADDRESSES: u32 = 8192;

/// Doors with counters of their own.
pub const MAX_DOORS: u32 = 256;
/// The door number of packets from an interface that is not in [`maps::DOORS`].
pub const DOOR_UNKNOWN: u32 = 0;
/// The door number where the counts of interfaces that are gone are kept. No packet is counted
/// there.
pub const DOOR_DEPARTED: u32 = 1;
/// The door number of packets at the inner door: on their way to a socket, in whichever network namespace.
/// Interfaces have other numbers in each of these, so none says which door of this host it was.
pub const DOOR_INNER: u32 = 2;
/// What the inner door is called among the doors. The blank is why no interface can have this name.
pub const INNER_NAME: &str = "inner door";
/// The name of its hook.
pub const INNER_HOOK: &str = "cgroup";
/// The first number that is given to an interface.
pub const FIRST_DOOR: u32 = 3;
/// The index of the loopback interface, in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
pub const LOOPBACK: u32 = 1;

/// Bytes of the event ring: 16,384 records.
pub const EVENT_RING_BYTES: u32 = 1 << 20;
/// Bytes of a record in the ring: an eight-byte header (kernel `BPF_RINGBUF_HDR_SZ`) and the event.
pub const EVENT_RECORD_BYTES: usize = 8 + size_of::<DropEvent>();

/// What a policy slot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SlotInfo {
    /// The policy's number: the first one is 1, and each change adds one.
    pub generation: u64,
    /// A fingerprint of everything else here, of the ports and of the rules, as user space wrote
    /// them. The program does not look at it.
    pub digest: u64,
    /// [`Mode`] as a number: of packets in doubt, and of the one service if there is one.
    pub mode: u32,
    /// One bit for each protocol with a guarded port, at [`Protocol::index`].
    pub protocols: u32,
    /// Different IPv4 prefixes in the rules.
    pub prefixes_v4: u32,
    /// Different IPv6 prefixes in the rules.
    pub prefixes_v6: u32,
    /// Prefixes of both families that there is room for. See [`rule_blocks`].
    pub capacity: u32,
    /// Guarded ports.
    pub ports: u32,
    /// [`Scope`](crate::Scope) as a number.
    pub scope: u32,
    /// Words of the array of rules that are in use.
    pub words: u32,
    /// One bit for each number that a service has.
    pub services: u32,
    /// One bit for each service whose mode is [`Mode::Observe`].
    pub observed: u32,
    /// One bit for each service that the source of a packet in doubt has to be allowed to reach.
    pub doubted: u32,
    /// Bits of a rule set for one class of doors: above every number of a service.
    pub stride: u32,
    /// The entry that the IPv4 trie begins with: see [`crate::trie::entry4`].
    pub root4: u64,
    /// The entry that the IPv6 trie begins with: see [`crate::trie::entry6`].
    pub root6: [u64; 2],
    /// How most IPv4 strangers are settled: see [`crate::trie::first4`].
    pub first4: [u64; 2],
    /// How most IPv6 strangers are settled: see [`crate::trie::first6`].
    pub first6: [u64; 3],
}

/// The value of [`maps::POLICY`]. Aligned to cache lines by its place in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PolicyTable {
    /// A [`Selection`]: written by one store, and read once for each packet.
    pub selection: u64,
    /// Until when the policy in force is on trial: nanoseconds of `CLOCK_BOOTTIME`. Of a meaning only if
    /// [`Selection::is_on_trial`].
    pub trial_until: u64,
    /// The [`Selection`] that is in force from then on.
    pub before_trial: u64,
    /// How the inner door carries verdicts out: [`INNER_OBSERVES`], and anything else is as the policy says.
    pub inner: u64,
    /// Nothing.
    pub reserved: [u64; 4],
    /// What each slot holds.
    pub slots: [SlotInfo; SLOTS as usize],
    /// The names of the services of each slot, by their numbers. The program does not look at them.
    pub names: [[ServiceName; MAX_SERVICES]; SLOTS as usize],
    /// By door number, in each slot: where the bits of a rule set begin that stand for the class of the
    /// door. The first class is that of doors about which nothing is known.
    pub classes: [[u8; MAX_DOORS as usize]; SLOTS as usize],
    /// By port, in each slot, two in a byte: [`guarded_by`] its service, or 0. See [`port_place`].
    pub ports: [[u8; PORT_BYTES]; SLOTS as usize],
}

/// In [`PolicyTable::inner`]: the inner door drops nothing, whatever the policy says. Only this number means
/// that: a damaged value can not open a port.
pub const INNER_OBSERVES: u64 = 1;

/// Packets for guarded ports and undecidable packets at one door on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DoorCounters {
    /// By [`Mode`] at the time and by [`Reason`].
    pub packets: [[u64; Reason::SLOTS]; Mode::COUNT],
    /// By [`Mode`]: of those that were to be dropped, the ones whose event was not tried because the
    /// allowance was used up. Here, and not in the [`Book`], for a flood's sake.
    pub suppressed: [u64; Mode::COUNT],
}

/// What became of the events of one mode on one CPU.
///
/// Whenever no packet is in flight, the sum of the two and of what was suppressed
/// ([`DoorCounters::suppressed`]) is the number of packets that were to be dropped in that mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Book {
    /// Put into the ring.
    pub submitted: u64,
    /// Tried, and the ring was full.
    pub lost: u64,
}

/// The books of every mode on one CPU, indexed by [`Mode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Books {
    /// By [`Mode`].
    pub modes: [Book; Mode::COUNT],
}

/// One packet that was dropped, or would have been in observe mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DropEvent {
    /// Nanoseconds since boot, suspended time included (`CLOCK_BOOTTIME`).
    pub boot_ns: u64,
    /// Source address in network byte order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// The interface that the packet arrived on. At the inner door, one of the network namespace that its
    /// socket is in.
    pub ifindex: u32,
    /// Bytes of the frame as the program saw it, its link header included where there is one.
    pub length: u32,
    /// Source port, host byte order; 0 if the ports could not be read.
    pub source_port: u16,
    /// Destination port, host byte order; 0 if the ports could not be read.
    pub destination_port: u16,
    /// 4, 6, or 0 if the addresses could not be read.
    pub family: u8,
    /// The protocol's number in the IP header, or 0 if it is not known.
    pub protocol: u8,
    /// [`Reason`] as a number.
    pub reason: u8,
    /// [`Mode`] as a number, and [`AT_INNER_DOOR`].
    pub mode: u8,
}

/// In [`DropEvent::mode`]: it was the inner door that decided.
pub const AT_INNER_DOOR: u8 = 1 << 7;

impl DropEvent {
    /// The mode, and whether it was the inner door that decided.
    #[must_use]
    pub const fn decided(&self) -> (Mode, bool) {
        let mode = Mode::from_number((self.mode & !AT_INNER_DOOR) as u32);
        (mode, self.mode & AT_INNER_DOOR != 0)
    }
}

/// What the twin of an entry program returns, at every hook: the action in the low eight bits
/// (`XDP_DROP` 1, `XDP_PASS` 2), the reason above them. At the inner door a program may return 0 or 1 only,
/// so its twin leaves this number in the packet's mark.
#[inline(always)]
#[must_use]
pub const fn test_run_return(action: u32, reason: Reason) -> u32 {
    action | (reason as u32) << 8
}

/// The action and the reason in a twin's return value. `None` for a number that is no reason.
#[must_use]
pub const fn test_run_reason(value: u32) -> Option<(u32, Reason)> {
    match Reason::from_number((value >> 8) as u8) {
        Some(reason) => Some((value & 0xff, reason)),
        None => None,
    }
}

// The layouts, pinned down: a change here is a change of the ABI.
const _: () = {
    assert!(size_of::<SlotInfo>() == 128);
    assert!(size_of::<PolicyTable>() == 64 + 4 * (128 + 15 * 32 + 256 + PORT_BYTES));
    assert!(core::mem::offset_of!(PolicyTable, slots) == 64);
    assert!(rule_blocks(1_000_000) as usize * size_of::<RuleBlock>() <= 16_000_000 + (4 << 20));
    assert!(size_of::<DoorCounters>() == 528);
    assert!(size_of::<ServiceCounters>() == 512);
    assert!(size_of::<Books>() == 32);
    assert!(size_of::<DropEvent>() == 56);
    assert!(core::mem::offset_of!(PolicyTable, inner) == 24);
    assert!(core::mem::offset_of!(DropEvent, ifindex) == 40);
    assert!(core::mem::offset_of!(DropEvent, mode) == 55);
    assert!(EVENT_RECORD_BYTES == 64);
    assert!((EVENT_RING_BYTES as usize).is_multiple_of(EVENT_RECORD_BYTES));
    let mut position = 0;
    while position < maps::ALL.len() {
        assert!(maps::ALL[position].len() <= 15);
        position += 1;
    }
};
