//! The maps and the frozen globals. Layouts and names: `ollama_guard_common::abi`.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use ollama_guard_common::{
    Mode, Reason,
    abi::{
        Books, DECLARED_RULE_BLOCKS, DOOR_PLACES, DoorCounters, DropEvent, EVENT_RING_BYTES,
        MAX_ADDRESSES, MAX_DOORS, MAX_SERVICES, PolicyTable, RuleBlock, SLOTS, ServiceCounters,
    },
};

/// The rules in one slot.
pub type Rules = Array<RuleBlock, DECLARED_RULE_BLOCKS, { BPF_F_MMAPABLE as usize }>;

/// Not a variable of the program, whose address would be in the instructions: a loader would write a
/// variable's first value over the policy in force, each time that it loads a program.
#[btf_map]
pub static OG_POLICY: Array<PolicyTable, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
pub static OG_RULES: ArrayOfMaps<Rules, { SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static OG_ADDRESSES: HashMap<[u8; 16], u32, { MAX_ADDRESSES as usize }> = HashMap::new();
#[btf_map]
pub static OG_DOORS: Array<u64, { DOOR_PLACES as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map]
pub static OG_COUNTERS: PerCpuArray<DoorCounters, { MAX_DOORS as usize }> = PerCpuArray::new();
#[btf_map]
pub static OG_SERVICES: PerCpuArray<ServiceCounters, MAX_SERVICES> = PerCpuArray::new();
#[btf_map]
pub static OG_BOOKS: PerCpuArray<Books, 1> = PerCpuArray::new();
#[btf_map]
pub static OG_ALLOWANCE: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
pub static OG_EVENTS: RingBuf<DropEvent, { EVENT_RING_BYTES as usize }> = RingBuf::new();
/// Room beside the stack. No state: nothing in it outlives a packet, and it is not pinned.
#[btf_map]
pub static OG_SCRATCH: PerCpuArray<[u64; SCRATCH_WORDS], 1> = PerCpuArray::new();
/// An IPv6 header, which is the largest that is read at once.
pub const SCRATCH_WORDS: usize = 40 / 8;

/// 1 in a program that is attached, 0 in its twin for test runs.
#[unsafe(no_mangle)]
pub static REPORT: Global<u32> = Global::new(1);
/// 1 if the running kernel has `bpf_xdp_load_bytes`. Without it the verifier must not see the
/// call, so it stands behind a global that is frozen before the program is verified.
#[unsafe(no_mangle)]
pub static LOAD_BYTES: Global<u32> = Global::new(0);
/// 1 in the variant that counts by source: see [`crate::learn`].
#[unsafe(no_mangle)]
pub static LEARN: Global<u32> = Global::new(0);
// Masks that the verifier knows, since they are frozen, and the compiler does not: what is masked with one
// is within a table, as the verifier has to see and the compiler would not leave to be seen.

/// For a pair of ports.
#[unsafe(no_mangle)]
pub static PORTS_MASK: Global<u32> = Global::new((1 << 15) - 1);
/// For a door number.
#[unsafe(no_mangle)]
pub static DOORS_MASK: Global<u32> = Global::new(MAX_DOORS - 1);
/// For an index of a mode's counters.
#[unsafe(no_mangle)]
pub static MODES_MASK: Global<u32> = Global::new(Mode::COUNT as u32 - 1);
/// For an index of the counters of reasons.
#[unsafe(no_mangle)]
pub static REASONS_MASK: Global<u32> = Global::new(Reason::SLOTS as u32 - 1);
