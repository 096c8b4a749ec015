//! Counters and drop events.
//!
//! Everything here happens after the verdict and has no part in it. In a flood it costs a few
//! reads of per-CPU memory: once a CPU's allowance is used up there is no clock read, no record
//! and no wake-up.

use core::{ffi::c_void, ptr};

use aya_ebpf::{EbpfContext, helpers::bpf_ktime_get_boot_ns};
use aya_log_ebpf::error;
use ollama_guard_common::{
    Mode, Network, Ruling, Start, Verdict,
    abi::{AT_INNER_DOOR, DropEvent},
    parse::{Located, Outcome, Packed},
};

use crate::{
    frames::Arrived,
    maps::{MODES_MASK, OG_ALLOWANCE, OG_BOOKS, OG_COUNTERS, OG_EVENTS, OG_SERVICES, REASONS_MASK},
    policy::LivePolicy,
};

/// Wake the reader only when it has caught up (`bpf_ringbuf_submit`, flags 0).
const ADAPTIVE_WAKE_UP: u64 = 0;

/// Counts a decision about a packet that is for a guarded port, or could be, and tells user space
/// about it if it is a drop.
#[inline(always)]
pub fn report<A: Arrived>(frame: &A, start: Start, ruling: Ruling, policy: &LivePolicy<'_, A>) {
    let Some(counters) = OG_COUNTERS.get_ptr_mut(frame.door()) else {
        return;
    };
    // SAFETY: this CPU's own element, and a program at these hooks is not interrupted by
    // another on the same CPU (softirqs do not nest).
    let counters = unsafe { &mut *counters };
    let Ruling { reason, terms } = ruling;
    let mode = (terms.mode as u32 & MODES_MASK.load()) as usize;
    // Always there.
    let index = (reason as u32 & REASONS_MASK.load()) as usize;
    if let Some(count) = counters.packets[mode].get_mut(index) {
        *count += 1;
    }
    // Of a packet in doubt there is no service. What the inner door lets pass has passed another one before,
    // as a rule, and was counted there.
    let is_counted = !A::IS_INNER || reason.verdict() == Verdict::Drop;
    if is_counted
        && policy.selection().is_apart()
        && let Some(counters) = OG_SERVICES.get_ptr_mut(u32::from(terms.service))
    {
        // SAFETY: as above.
        let counters = unsafe { &mut *counters };
        if let Some(count) = counters.packets[mode].get_mut(index) {
            *count += 1;
        }
    }
    if reason.verdict() == Verdict::Drop && !tell(frame, start, ruling, policy) {
        counters.suppressed[mode] += 1;
    }
}

/// Tells about a drop. `false` if the allowance is used up: in a flood, that is nearly always.
#[inline(always)]
fn tell<A: Arrived>(frame: &A, start: Start, ruling: Ruling, policy: &LivePolicy<'_, A>) -> bool {
    let Some(allowance) = OG_ALLOWANCE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own element, as above.
    let allowance = unsafe { &mut *allowance };
    if *allowance == 0 {
        return false;
    }
    let Some(books) = OG_BOOKS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: as above.
    let books = unsafe { &mut *books };
    *allowance -= 1;
    // Found once more instead of kept: only here anybody wants to know.
    let packet = frame.locate_ours(start, policy).unwrap_or(Packed::UNKNOWN);
    let Ruling { reason, terms } = ruling;
    let mode = (terms.mode as u32 & MODES_MASK.load()) as usize;
    let Some(book) = books.modes.get_mut(mode) else { return true };
    match frame.submit(packet.with_reason(reason), terms.mode) {
        true => book.submitted += 1,
        false => book.lost += 1,
    }
    true
}

/// Puts the event of a drop, with its reason in the packet, into the ring. `false` if there is no room.
#[inline(always)]
pub fn submit(frame: &impl Arrived, packet: Packed, mode: u32) -> bool {
    let Some(mut record) = OG_EVENTS.reserve(0) else {
        return false;
    };
    let mode = Mode::from_number(mode);
    record.write(describe(frame, &packet.unpack(), mode));
    record.submit(ADAPTIVE_WAKE_UP);
    true
}

#[inline(always)]
fn describe<A: Arrived>(frame: &A, packet: &Located, mode: Mode) -> DropEvent {
    let hook = if A::IS_INNER { AT_INNER_DOOR } else { 0 };
    let mut event = DropEvent {
        // SAFETY: a helper without arguments.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        source: [0; 16],
        destination: [0; 16],
        ifindex: frame.ifindex(),
        length: frame.length(),
        source_port: 0,
        destination_port: 0,
        family: 0,
        protocol: packet.protocol.map_or(0, |protocol| protocol.number()),
        reason: packet.reason as u8,
        mode: mode as u8 | hook,
    };
    match packet.network {
        _ if !packet.has_network => {}
        Network::V4(header) => {
            if let Some([a, b, c, d, e, f, g, h]) = frame.load::<8>(header + 12) {
                event.family = 4;
                event.source[..4].copy_from_slice(&[a, b, c, d]);
                event.destination[..4].copy_from_slice(&[e, f, g, h]);
            }
        }
        Network::V6(header) => {
            if let (Some(source), Some(destination)) =
                (frame.load(header + 8), frame.load(header + 24))
            {
                event.family = 6;
                event.source = source;
                event.destination = destination;
            }
        }
    }
    if packet.outcome == Outcome::At
        && let Some([a, b, c, d]) = frame.load(packet.transport)
    {
        event.source_port = u16::from_be_bytes([a, b]);
        event.destination_port = u16::from_be_bytes([c, d]);
    }
    event
}

/// Logs what must never happen: the rules of the selected slot are missing. A function of its own,
/// because a log takes much of the stack, which all functions that call each other share. Returns
/// nothing of interest.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn og_log_absent(slot: u32) -> u32 {
    error!(&NoContext, "the rules of policy slot {} are missing: dropping", slot);
    slot
}

/// What a log asks for and makes no use of.
struct NoContext;

impl EbpfContext for NoContext {
    fn as_ptr(&self) -> *mut c_void {
        ptr::null_mut()
    }
}
