//! How the decision reads a packet at each hook.

pub mod inner;
pub mod skb;
pub mod xdp;

use ollama_guard_common::{
    Frame, Mode, Reason, Start, decide, frame::MAX_BLURRED, locate_ours, parse::Packed,
};

use crate::{
    doors,
    maps::{OG_SCRATCH, SCRATCH_WORDS},
    policy::LivePolicy,
};

/// The largest offset that the decision can ask for, and more: 14 bytes of Ethernet, eight VLAN
/// tags, an IPv6 header, 2,048 bytes of extension headers and one more header of 2,048 bytes. The
/// verifier wants a bound before it lets an offset touch a packet pointer.
const MAX_OFFSET: usize = 8191;

/// A packet that has come in through a door.
pub trait Arrived: Frame {
    /// Whether this is the inner door, behind everything that this host does to packets.
    const IS_INNER: bool = false;

    /// The interface.
    fn ifindex(&self) -> u32;

    /// The number of the door, below the number of doors that fit.
    #[inline(always)]
    fn door(&self) -> u32 {
        doors::number(self.ifindex())
    }

    /// Bytes of the whole frame, over all buffers.
    fn length(&self) -> u32;

    /// [`ollama_guard_common::locate_ours`] as a function of its own.
    fn locate_ours(&self, start: Start, policy: &LivePolicy<'_, Self>) -> Option<Packed>
    where
        Self: Sized;

    /// [`ollama_guard_common::decide`] as a function of its own.
    fn decide(&self, packet: Packed, pairs: u32, policy: &LivePolicy<'_, Self>) -> Reason
    where
        Self: Sized;

    /// [`wanted`](crate::policy::wanted) as a function of its own, because few policies need it.
    fn wanted(&self, selection: u64, target: u32) -> u64;

    /// [`crate::report::submit`] as a function of its own, because a flood rarely gets there.
    fn submit(&self, packet: Packed, mode: Mode) -> bool;

    /// [`crate::learn::count`] as a function of its own, which most programs have no use for.
    fn learn(&self, packet: Packed, mode: Mode);
}

/// [`Frame::blur`] at every hook: sends an offset through a map, of whose contents the verifier
/// knows nothing.
#[inline(always)]
fn blurred(offset: usize) -> usize {
    let Some(scratch) = OG_SCRATCH.get_ptr_mut(0) else {
        return MAX_OFFSET + 1;
    };
    let scratch: *mut u64 = scratch.cast();
    // SAFETY: this CPU's own element, live as long as the program runs.
    unsafe { scratch.write_volatile(offset as u64) };
    // SAFETY: as above. Volatile, so that the value really goes through the map.
    let offset = unsafe { scratch.read_volatile() };
    offset as usize & MAX_BLURRED
}

/// Has the kernel copy bytes to where there is more room than on the stack. `copy` returns 0 if it has
/// written all of a `T`, which is plain integers.
#[inline(always)]
fn far<T: Copy>(copy: impl FnOnce(*mut T) -> i64) -> Option<T> {
    const { assert!(size_of::<T>() <= SCRATCH_WORDS * 8 && align_of::<T>() <= 8) };
    let scratch: *mut T = OG_SCRATCH.get_ptr_mut(0)?.cast();
    if copy(scratch) != 0 {
        return None;
    }
    // SAFETY: this CPU's own element, which has room for it, and the kernel has written all of it.
    Some(unsafe { scratch.read() })
}

// What the functions of every hook do: with the selection of the policy as a number, and with packets
// packed.

/// [`locate_ours`]. 0 if the packet is not for a guarded port.
#[inline(always)]
fn packed(frame: &impl Arrived, start: Start, selection: u64) -> u64 {
    let Some(policy) = LivePolicy::of(frame, selection) else {
        return Packed::UNKNOWN.number();
    };
    match locate_ours(frame, start, &policy) {
        Some(packet) => packet.pack().number(),
        None => 0,
    }
}

/// [`decide`]. The reason's number.
#[inline(always)]
fn reason(frame: &impl Arrived, packet: u64, pairs: u32, selection: u64) -> u32 {
    let packet = Packed::from_number(packet).unpack();
    match LivePolicy::of(frame, selection) {
        Some(policy) => decide(frame, &packet, pairs, &policy) as u32,
        None => Reason::RulesAbsent as u32,
    }
}

/// What [`packed`] said.
#[inline(always)]
const fn found(number: u64) -> Option<Packed> {
    if number == 0 { None } else { Some(Packed::from_number(number)) }
}

/// What [`reason`] said.
#[inline(always)]
const fn known(number: u32) -> Reason {
    match Reason::from_number(number as u8) {
        Some(reason) => reason,
        None => Reason::RulesAbsent,
    }
}
