//! Counting packets by source, in the variant of the programs that is put in place while somebody
//! learns who uses a port. In any other variant nothing of this is left: [`LEARN`] is frozen before the
//! verifier looks.
//!
//! As with all reporting, the verdict comes first, and nothing here can change it.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{ArrayOfMaps, HashMap},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
    macros::btf_map,
};
use ollama_guard_common::{
    Mode, Reason, Ruling, Start, Verdict,
    abi::{SourceBook, SourceKey, SourceRecord},
    parse::Packed,
    traits,
};

use crate::{frames::Arrived, maps::LEARN, policy::LivePolicy};

/// The table. How many places it has, user space says when it makes one.
type Sources = HashMap<SourceKey, SourceRecord, 1>;

#[btf_map]
pub static OG_SOURCES: ArrayOfMaps<Sources, 1> = ArrayOfMaps::new();

/// Counts a packet that is for a guarded port, or could be, under its source.
#[inline(always)]
pub fn learn<A: Arrived>(frame: &A, start: Start, ruling: Ruling, policy: &LivePolicy<'_, A>) {
    let Ruling { reason, terms } = ruling;
    // For another host: whom the rules would let in there is nobody's question.
    if LEARN.load() == 0 || reason == Reason::NotForThisHost {
        return;
    }
    if let Some(packet) = frame.locate_ours(start, policy) {
        frame.learn(packet.with_reason(reason), terms.mode);
    }
}

/// Counts a packet with its reason in it. Answers whether its source has a place.
#[inline(always)]
pub fn count<A: Arrived>(frame: &A, packet: Packed, mode: u32) -> bool {
    // Some kernels look at functions that nobody calls (before 6.8).
    if LEARN.load() == 0 {
        return false;
    }
    let packet = packet.unpack();
    if !packet.has_network {
        return false;
    }
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u16;
    let Some(ends) = packet.network.ends(frame) else {
        return false;
    };
    // At once: an address that is taken apart later is one of which half was never written, to verifiers that do not
    // see that the same family decides (before 6.3 they refuse to read it).
    let mut key = SourceKey::of(&ends.source, cpu);
    if A::IS_INNER {
        key = key.at_inner_door();
    }
    let Some(sources) = OG_SOURCES.get(0) else {
        return false;
    };
    let length = frame.length();
    let is_allowed = packet.reason.verdict() == Verdict::Pass;
    let is_delivered = is_allowed || Mode::from_number(mode) == Mode::Observe;
    let traits = traits::of(frame, &packet, length as usize, is_delivered);
    // SAFETY: as above.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let Some(record) = place(sources, &key, now) else {
        turn_away(sources, cpu);
        return false;
    };
    // SAFETY: a live element of this CPU's own: nobody removes any, and a program at these hooks is not
    // interrupted by another on the same CPU (softirqs do not nest).
    let record = unsafe { &mut *record };
    if is_allowed {
        record.allowed += 1;
    } else {
        record.refused += 1;
    }
    record.bytes += u64::from(length);
    record.last_ns = now;
    record.traits |= traits;
    true
}

/// The place of a source on this CPU, which is made if there is room.
#[inline(always)]
fn place(sources: &Sources, key: &SourceKey, now: u64) -> Option<*mut SourceRecord> {
    if let Some(record) = sources.get_ptr_mut(key) {
        return Some(record);
    }
    let empty = SourceRecord { first_ns: now, last_ns: now, ..SourceRecord::default() };
    sources.insert(key, empty, BPF_NOEXIST.into()).ok()?;
    sources.get_ptr_mut(key)
}

/// Counts a packet whose source found no place.
#[inline(always)]
fn turn_away(sources: &Sources, cpu: u16) {
    // There from the beginning, one for each CPU.
    if let Some(book) = sources.get_ptr_mut(SourceKey::book(cpu)) {
        let book: *mut SourceBook = book.cast();
        // SAFETY: a live element of this CPU's own, as above, of the same size and alignment.
        unsafe { (*book).homeless += 1 };
    }
}
