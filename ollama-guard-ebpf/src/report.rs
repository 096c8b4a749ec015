//! Counters and drop events.
//!
//! Everything here happens after the verdict and has no part in it. In a flood it costs a few
//! reads of per-CPU memory: once a CPU's allowance is used up there is no clock read, no record
//! and no wake-up.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use ollama_guard_common::{
    Judgement, Mode, Network, Verdict,
    abi::{Books, DOOR_UNKNOWN, DropEvent},
};

use crate::{
    frames::Arrived,
    maps::{OG_ALLOWANCE, OG_BOOKS, OG_COUNTERS, OG_DOORS, OG_EVENTS},
};

/// Wake the reader only when it has caught up (`bpf_ringbuf_submit`, flags 0).
const ADAPTIVE_WAKE_UP: u64 = 0;

/// Counts a judgement, and tells user space about it if it is a drop.
#[inline(always)]
pub fn report(frame: &impl Arrived, judgement: &Judgement, mode: Mode) {
    let ifindex = frame.ifindex();
    count(ifindex, judgement, mode);
    if judgement.verdict() == Verdict::Drop {
        tell(frame, ifindex, judgement, mode);
    }
}

#[inline(always)]
fn count(ifindex: u32, judgement: &Judgement, mode: Mode) {
    let door = match OG_DOORS.get_ptr(ifindex) {
        // SAFETY: a pointer to a live hash element. The worst that a concurrent removal can do is
        // to let this packet count for another door.
        Some(door) => unsafe { *door },
        None => DOOR_UNKNOWN,
    };
    if let Some(counters) = OG_COUNTERS.get_ptr_mut(door) {
        // SAFETY: this CPU's own element, and a program at these hooks is not interrupted by
        // another on the same CPU (softirqs do not nest).
        let counters = unsafe { &mut *counters };
        counters.packets[mode as usize][judgement.reason.index()] += 1;
    }
}

#[inline(always)]
fn tell(frame: &impl Arrived, ifindex: u32, judgement: &Judgement, mode: Mode) {
    let Some(books) = OG_BOOKS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own element, as above.
    let books = unsafe { &mut *books };
    let allowance = OG_ALLOWANCE.get(0).copied().unwrap_or(0);
    if tried(books) >= allowance {
        books.modes[mode as usize].suppressed += 1;
        return;
    }
    let Some(mut record) = OG_EVENTS.reserve(0) else {
        books.modes[mode as usize].lost += 1;
        return;
    };
    record.write(describe(frame, ifindex, judgement, mode));
    record.submit(ADAPTIVE_WAKE_UP);
    books.modes[mode as usize].submitted += 1;
}

/// How many events this CPU has tried to submit since the books were made.
#[inline(always)]
const fn tried(books: &Books) -> u64 {
    let [enforce, observe] = &books.modes;
    enforce.submitted + enforce.lost + observe.submitted + observe.lost
}

#[inline(always)]
fn describe(frame: &impl Arrived, ifindex: u32, judgement: &Judgement, mode: Mode) -> DropEvent {
    let mut event = DropEvent {
        // SAFETY: a helper without arguments.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        source: [0; 16],
        destination: [0; 16],
        ifindex,
        length: frame.length(),
        source_port: 0,
        destination_port: 0,
        family: 0,
        protocol: judgement.protocol.map_or(0, |protocol| protocol.number()),
        reason: judgement.reason as u8,
        mode: mode as u8,
    };
    match judgement.network {
        Some(Network::V4(header)) => {
            if let Some([a, b, c, d, e, f, g, h]) = frame.load::<8>(header + 12) {
                event.family = 4;
                event.source[..4].copy_from_slice(&[a, b, c, d]);
                event.destination[..4].copy_from_slice(&[e, f, g, h]);
            }
        }
        Some(Network::V6(header)) => {
            if let (Some(source), Some(destination)) =
                (frame.load(header + 8), frame.load(header + 24))
            {
                event.family = 6;
                event.source = source;
                event.destination = destination;
            }
        }
        None => {}
    }
    if let Some([a, b, c, d]) = judgement.transport.and_then(|ports| frame.load(ports)) {
        event.source_port = u16::from_be_bytes([a, b]);
        event.destination_port = u16::from_be_bytes([c, d]);
    }
    event
}
