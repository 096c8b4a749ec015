//! The maps and the frozen globals. Layouts and names: `ollama_guard_common::abi`.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use ollama_guard_common::abi::{
    Books, DECLARED_RULE_BLOCKS, DOOR_PLACES, DoorCounters, DropEvent, EVENT_RING_BYTES,
    MAX_ADDRESSES, MAX_DOORS, PORT_WORDS, RuleBlock, SLOTS, SlotInfo,
};

/// The rules in one slot.
pub type Rules = Array<RuleBlock, DECLARED_RULE_BLOCKS, { BPF_F_MMAPABLE as usize }>;

#[btf_map]
pub static OG_SELECTED: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
pub static OG_SLOT_INFO: Array<SlotInfo, { SLOTS as usize }> = Array::new();
#[btf_map]
pub static OG_PORTS: Array<u64, PORT_WORDS> = Array::new();
#[btf_map]
pub static OG_RULES: ArrayOfMaps<Rules, { SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static OG_ADDRESSES: HashMap<[u8; 16], u32, { MAX_ADDRESSES as usize }> = HashMap::new();
#[btf_map]
pub static OG_DOORS: Array<u64, { DOOR_PLACES as usize }> = Array::new();
#[btf_map]
pub static OG_COUNTERS: PerCpuArray<DoorCounters, { MAX_DOORS as usize }> = PerCpuArray::new();
#[btf_map]
pub static OG_BOOKS: PerCpuArray<Books, 1> = PerCpuArray::new();
#[btf_map]
pub static OG_ALLOWANCE: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
pub static OG_EVENTS: RingBuf<DropEvent, { EVENT_RING_BYTES as usize }> = RingBuf::new();
/// One word for `Frame::blur`. No state: nothing in it outlives a packet, and it is not pinned.
#[btf_map]
pub static OG_SCRATCH: PerCpuArray<u64, 1> = PerCpuArray::new();

/// 1 in a program that is attached, 0 in its twin for test runs.
#[unsafe(no_mangle)]
pub static REPORT: Global<u32> = Global::new(1);
/// 1 if the running kernel has `bpf_xdp_load_bytes`. Without it the verifier must not see the
/// call, so it stands behind a global that is frozen before the program is verified.
#[unsafe(no_mangle)]
pub static LOAD_BYTES: Global<u32> = Global::new(0);
