//! A packet at the TC hook, or on its way to a socket: a socket buffer.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes, programs::TcContext};
use ollama_guard_common::{Frame, Mode, Reason, Start, parse::Packed};

use super::{Arrived, MAX_OFFSET, blurred, far, found, known, packed, reason};
use crate::{
    learn::count,
    policy::{LivePolicy, wanted},
    report::submit,
};

/// A packet at the TC hook. It starts with the link header where the device has one: the kernel
/// goes back to it before it runs the program (`sch_handle_ingress`, net/core/dev.c).
///
/// The outermost VLAN tag is not in it: the kernel, or the network card, has moved it into the
/// buffer's metadata (`skb_vlan_untag`). It is no part of the decision.
pub struct SkbFrame<'a> {
    context: &'a TcContext,
}

impl<'a> SkbFrame<'a> {
    /// Wraps the context that the kernel calls with.
    #[inline(always)]
    pub const fn new(context: &'a TcContext) -> Self {
        Self { context }
    }

    /// Bytes outside the linear part.
    #[inline(always)]
    fn load_far<T: Copy>(&self, offset: usize) -> Option<T> {
        let skb = self.context.skb.skb.cast();
        far(|to: *mut T| {
            // SAFETY: the context is the kernel's, and there is room for a `T`.
            unsafe { bpf_skb_load_bytes(skb, offset as u32, to.cast(), size_of::<T>() as u32) }
        })
    }
}

impl SkbFrame<'_> {
    /// What is at hand in the first buffer. `T` is plain integers.
    #[inline(always)]
    fn near<T: Copy>(&self, offset: usize) -> Option<T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.context.data() + offset;
        if start + size_of::<T>() > self.context.data_end() {
            return None;
        }
        // SAFETY: the bytes at `start` lie before `data_end`, which was compared just above;
        // the verifier proves the same again before it lets the program run.
        Some(unsafe { (start as *const T).read_unaligned() })
    }
}

impl Frame for SkbFrame<'_> {
    #[inline(always)]
    fn blur(&self, offset: usize) -> usize {
        blurred(offset)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        match self.load_near(offset) {
            Some(bytes) => Some(bytes),
            None => self.load_far(offset),
        }
    }

    #[inline(always)]
    fn load_near<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        const { assert!(N >= 2) };
        self.near(offset)
    }

    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let words: [u64; N] = match self.near(offset) {
            Some(words) => words,
            None => self.load_far(offset)?,
        };
        Some(words.map(u64::from_be))
    }
}

/// [`Arrived::locate_ours`] for frames that start at an Ethernet header.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_skb_link(context: *mut __sk_buff, selection: u64) -> u64 {
    packed(&SkbFrame::new(&TcContext::new(context)), Start::Link, selection)
}

/// The same for frames that start at the IP header.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_skb_network(context: *mut __sk_buff, selection: u64) -> u64 {
    packed(&SkbFrame::new(&TcContext::new(context)), Start::Network, selection)
}

/// [`Arrived::decide`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_skb_decide(
    context: *mut __sk_buff,
    packet: u64,
    pairs: u32,
    selection: u64,
) -> u32 {
    reason(&SkbFrame::new(&TcContext::new(context)), packet, pairs, selection)
}

/// [`Arrived::wanted`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_skb_wanted(context: *mut __sk_buff, selection: u64, target: u32) -> u64 {
    wanted(SkbFrame::new(&TcContext::new(context)).door(), selection, target)
}

/// [`submit`] as a function of its own. Returns 1 if the event is in the ring.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_skb_submit(context: *mut __sk_buff, packet: u64, mode: u32) -> u32 {
    submit(&SkbFrame::new(&TcContext::new(context)), Packed::from_number(packet), mode).into()
}

/// [`count`] as a function of its own. Returns 1 if the source has a place.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_skb_learn(context: *mut __sk_buff, packet: u64, mode: u32) -> u32 {
    count(&SkbFrame::new(&TcContext::new(context)), Packed::from_number(packet), mode).into()
}

impl Arrived for SkbFrame<'_> {
    #[inline(always)]
    fn locate_ours(&self, start: Start, policy: &LivePolicy<'_, Self>) -> Option<Packed> {
        let (context, selection) = (self.context.skb.skb, policy.selection().0);
        found(match start {
            Start::Link => og_skb_link(context, selection),
            // Nothing is on its way to a socket yet.
            Start::Network | Start::Packet => og_skb_network(context, selection),
        })
    }

    #[inline(always)]
    fn decide(&self, packet: Packed, pairs: u32, policy: &LivePolicy<'_, Self>) -> Reason {
        known(og_skb_decide(self.context.skb.skb, packet.number(), pairs, policy.selection().0))
    }

    #[inline(always)]
    fn wanted(&self, selection: u64, target: u32) -> u64 {
        og_skb_wanted(self.context.skb.skb, selection, target)
    }

    #[inline(always)]
    fn submit(&self, packet: Packed, mode: Mode) -> bool {
        og_skb_submit(self.context.skb.skb, packet.number(), mode as u32) == 1
    }

    #[inline(always)]
    fn learn(&self, packet: Packed, mode: Mode) {
        og_skb_learn(self.context.skb.skb, packet.number(), mode as u32);
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is the one that the kernel passed to this program.
        unsafe { (*self.context.skb.skb).ifindex }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.context.len()
    }
}
