//! A packet at the inner door: on its way to a socket, whatever brought it there.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use ollama_guard_common::{Frame, Mode, Reason, Start, abi::DOOR_INNER, parse::Packed};

use super::{Arrived, found, known, packed, reason, skb::SkbFrame};
use crate::{
    learn::count,
    policy::{LivePolicy, wanted},
    report::submit,
};

/// A packet that a socket is about to be given: behind tunnels, reassembly and NAT. It starts at the IP header
/// (`__cgroup_bpf_run_filter_skb`, kernel/bpf/cgroup.c).
pub struct InnerFrame<'a> {
    buffer: SkbFrame<'a>,
    skb: *mut __sk_buff,
}

impl<'a> InnerFrame<'a> {
    /// Wraps the context that the kernel calls with.
    #[inline(always)]
    pub const fn new(context: &'a TcContext) -> Self {
        Self { buffer: SkbFrame::new(context), skb: context.skb.skb }
    }
}

impl Frame for InnerFrame<'_> {
    #[inline(always)]
    fn blur(&self, offset: usize) -> usize {
        self.buffer.blur(offset)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.buffer.load(offset)
    }

    #[inline(always)]
    fn load_near<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.buffer.load_near(offset)
    }

    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        self.buffer.load_words(offset)
    }
}

/// [`Arrived::locate_ours`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_inner_packet(context: *mut __sk_buff, selection: u64) -> u64 {
    packed(&InnerFrame::new(&TcContext::new(context)), Start::Packet, selection)
}

/// [`Arrived::decide`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_inner_decide(
    context: *mut __sk_buff,
    packet: u64,
    pairs: u32,
    selection: u64,
) -> u32 {
    reason(&InnerFrame::new(&TcContext::new(context)), packet, pairs, selection)
}

/// [`Arrived::wanted`]. Without the packet, which it would have no use for: the linker takes away what is not
/// used, and the verifier wants it to be there all the same.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_inner_wanted(selection: u64, target: u32) -> u64 {
    wanted(DOOR_INNER, selection, target)
}

/// [`submit`] as a function of its own. Returns 1 if the event is in the ring.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_inner_submit(context: *mut __sk_buff, packet: u64, mode: u32) -> u32 {
    submit(&InnerFrame::new(&TcContext::new(context)), Packed::from_number(packet), mode).into()
}

/// [`count`] as a function of its own. Returns 1 if the source has a place.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_inner_learn(context: *mut __sk_buff, packet: u64, mode: u32) -> u32 {
    count(&InnerFrame::new(&TcContext::new(context)), Packed::from_number(packet), mode).into()
}

impl Arrived for InnerFrame<'_> {
    const IS_INNER: bool = true;

    #[inline(always)]
    fn locate_ours(&self, _: Start, policy: &LivePolicy<'_, Self>) -> Option<Packed> {
        found(og_inner_packet(self.skb, policy.selection().0))
    }

    #[inline(always)]
    fn decide(&self, packet: Packed, pairs: u32, policy: &LivePolicy<'_, Self>) -> Reason {
        known(og_inner_decide(self.skb, packet.number(), pairs, policy.selection().0))
    }

    #[inline(always)]
    fn wanted(&self, selection: u64, target: u32) -> u64 {
        og_inner_wanted(selection, target)
    }

    #[inline(always)]
    fn submit(&self, packet: Packed, mode: Mode) -> bool {
        og_inner_submit(self.skb, packet.number(), mode as u32) == 1
    }

    #[inline(always)]
    fn learn(&self, packet: Packed, mode: Mode) {
        og_inner_learn(self.skb, packet.number(), mode as u32);
    }

    /// Of the network namespace that the socket is in.
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.buffer.ifindex()
    }

    #[inline(always)]
    fn door(&self) -> u32 {
        DOOR_INNER
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.buffer.length()
    }
}
