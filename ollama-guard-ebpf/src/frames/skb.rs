//! A packet at the TC hook: a socket buffer.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes, programs::TcContext};
use ollama_guard_common::{Frame, Judgement, Mode, Start, judge_carefully};

use super::{Arrived, MAX_OFFSET, blurred};
use crate::{policy::LivePolicy, report::submit};

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
    fn load_far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the context is the kernel's, and the buffer holds the N bytes that are asked for.
        let status = unsafe {
            bpf_skb_load_bytes(
                self.context.skb.skb.cast(),
                offset as u32,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        if status == 0 {
            // SAFETY: on success the kernel has written all N bytes.
            return Some(unsafe { bytes.assume_init() });
        }
        None
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
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.context.data() + offset;
        if start + N > self.context.data_end() {
            return None;
        }
        // SAFETY: the N bytes at `start` lie before `data_end`, which was compared just above;
        // the verifier proves the same again before it lets the program run.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }
}

/// [`judge_carefully`] as a function of its own: which policy is selected, and the judgement packed.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_skb_link(context: *mut __sk_buff, selection: u64) -> u64 {
    let context = TcContext::new(context);
    let frame = SkbFrame::new(&context);
    judge_carefully(&frame, Start::Link, &LivePolicy::of(selection)).pack()
}

/// The same for frames that start at the IP header.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_skb_network(context: *mut __sk_buff, selection: u64) -> u64 {
    let context = TcContext::new(context);
    let frame = SkbFrame::new(&context);
    judge_carefully(&frame, Start::Network, &LivePolicy::of(selection)).pack()
}

/// [`submit`] as a function of its own. Returns 1 if the event is in the ring.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_skb_submit(context: *mut __sk_buff, judgement: u64, mode: u32) -> u32 {
    submit(&SkbFrame::new(&TcContext::new(context)), judgement, mode).into()
}

impl Arrived for SkbFrame<'_> {
    #[inline(always)]
    fn judge_carefully(&self, start: Start, policy: &LivePolicy) -> Judgement {
        let (context, selection) = (self.context.skb.skb, policy.selection());
        Judgement::unpack(match start {
            Start::Link => og_skb_link(context, selection),
            Start::Network => og_skb_network(context, selection),
        })
    }

    #[inline(always)]
    fn submit(&self, judgement: u64, mode: Mode) -> bool {
        og_skb_submit(self.context.skb.skb, judgement, mode as u32) == 1
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
