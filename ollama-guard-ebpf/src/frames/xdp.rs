//! A packet at the XDP hook.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use ollama_guard_common::{Frame, Mode, Reason, Start, parse::Packed};

use super::{Arrived, MAX_OFFSET, blurred, far, found, known, packed, reason};
use crate::{
    learn::count,
    maps::{LOAD_BYTES, REPORT},
    policy::{LivePolicy, wanted},
    report::submit,
};

/// A packet at the XDP hook, possibly in several buffers.
pub struct XdpFrame<'a> {
    context: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    /// Wraps the context that the kernel calls with.
    #[inline(always)]
    pub const fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }

    /// Bytes outside the first buffer: headers may lie there with header split, jumbo frames and
    /// drivers that put page borders in odd places.
    #[inline(always)]
    fn load_far<T: Copy>(&self, offset: usize) -> Option<T> {
        if LOAD_BYTES.load() != 1 {
            return None;
        }
        far(|to: *mut T| {
            // SAFETY: the context is the kernel's, and there is room for a `T`.
            unsafe {
                bpf_xdp_load_bytes(
                    self.context.ctx,
                    offset as u32,
                    to.cast(),
                    size_of::<T>() as u32,
                )
            }
        })
    }
}

impl XdpFrame<'_> {
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

impl XdpFrame<'_> {
    /// The interface that a test run wants its packet to come from: metadata in front of it. Never for a
    /// program that is attached: a driver could have put anything there.
    #[inline(always)]
    fn pretended(&self) -> Option<u32> {
        if REPORT.load() != 0 {
            return None;
        }
        let start = self.context.metadata();
        if start + size_of::<u32>() > self.context.data() {
            return None;
        }
        // SAFETY: the bytes at `start` lie before the packet, which was compared just above; the verifier
        // proves the same again before it lets the program run.
        Some(unsafe { (start as *const u32).read_unaligned() })
    }
}

impl Frame for XdpFrame<'_> {
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
extern "C" fn og_xdp_link(context: *mut xdp_md, selection: u64) -> u64 {
    packed(&XdpFrame::new(&XdpContext::new(context)), Start::Link, selection)
}

/// The same for frames that start at the IP header.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_xdp_network(context: *mut xdp_md, selection: u64) -> u64 {
    packed(&XdpFrame::new(&XdpContext::new(context)), Start::Network, selection)
}

/// [`Arrived::decide`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_xdp_decide(context: *mut xdp_md, packet: u64, pairs: u32, selection: u64) -> u32 {
    reason(&XdpFrame::new(&XdpContext::new(context)), packet, pairs, selection)
}

/// [`Arrived::wanted`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_xdp_wanted(context: *mut xdp_md, selection: u64, target: u32) -> u64 {
    wanted(XdpFrame::new(&XdpContext::new(context)).door(), selection, target)
}

/// [`submit`] as a function of its own. Returns 1 if the event is in the ring.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_xdp_submit(context: *mut xdp_md, packet: u64, mode: u32) -> u32 {
    submit(&XdpFrame::new(&XdpContext::new(context)), Packed::from_number(packet), mode).into()
}

/// [`count`] as a function of its own. Returns 1 if the source has a place.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_xdp_learn(context: *mut xdp_md, packet: u64, mode: u32) -> u32 {
    count(&XdpFrame::new(&XdpContext::new(context)), Packed::from_number(packet), mode).into()
}

impl Arrived for XdpFrame<'_> {
    #[inline(always)]
    fn locate_ours(&self, start: Start, policy: &LivePolicy<'_, Self>) -> Option<Packed> {
        let (context, selection) = (self.context.ctx, policy.selection().0);
        found(match start {
            Start::Link => og_xdp_link(context, selection),
            // Nothing is on its way to a socket yet.
            Start::Network | Start::Packet => og_xdp_network(context, selection),
        })
    }

    #[inline(always)]
    fn decide(&self, packet: Packed, pairs: u32, policy: &LivePolicy<'_, Self>) -> Reason {
        known(og_xdp_decide(self.context.ctx, packet.number(), pairs, policy.selection().0))
    }

    #[inline(always)]
    fn wanted(&self, selection: u64, target: u32) -> u64 {
        og_xdp_wanted(self.context.ctx, selection, target)
    }

    #[inline(always)]
    fn submit(&self, packet: Packed, mode: Mode) -> bool {
        og_xdp_submit(self.context.ctx, packet.number(), mode as u32) == 1
    }

    #[inline(always)]
    fn learn(&self, packet: Packed, mode: Mode) {
        og_xdp_learn(self.context.ctx, packet.number(), mode as u32);
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        match self.pretended() {
            Some(ifindex) => ifindex,
            // Volatile, so that the compiler does not make one read of both ways: the verifier would not
            // have it.
            None => {
                // SAFETY: a field of the context, which is the kernel's.
                let place = unsafe { &raw const (*self.context.ctx).ingress_ifindex };
                // SAFETY: as above.
                unsafe { place.read_volatile() }
            }
        }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        if LOAD_BYTES.load() == 1 {
            // SAFETY: the context is the one that the kernel passed to this program.
            (unsafe { bpf_xdp_get_buff_len(self.context.ctx) }) as u32
        } else {
            (self.context.data_end() - self.context.data()) as u32
        }
    }
}
