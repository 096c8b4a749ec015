//! A packet at the XDP hook.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use ollama_guard_common::{Frame, Judgement, Mode, Start, judge_carefully};

use super::{Arrived, MAX_OFFSET, blurred};
use crate::{maps::LOAD_BYTES, policy::LivePolicy, report::submit};

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
    fn load_far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if LOAD_BYTES.load() != 1 {
            return None;
        }
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the context is the kernel's, and the buffer holds the N bytes that are asked for.
        let status = unsafe {
            bpf_xdp_load_bytes(self.context.ctx, offset as u32, bytes.as_mut_ptr().cast(), N as u32)
        };
        if status == 0 {
            // SAFETY: on success the kernel has written all N bytes.
            return Some(unsafe { bytes.assume_init() });
        }
        None
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
extern "C" fn og_xdp_link(context: *mut xdp_md, selection: u64) -> u64 {
    let context = XdpContext::new(context);
    let frame = XdpFrame::new(&context);
    judge_carefully(&frame, Start::Link, &LivePolicy::of(selection)).pack()
}

/// The same for frames that start at the IP header.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_xdp_network(context: *mut xdp_md, selection: u64) -> u64 {
    let context = XdpContext::new(context);
    let frame = XdpFrame::new(&context);
    judge_carefully(&frame, Start::Network, &LivePolicy::of(selection)).pack()
}

/// [`submit`] as a function of its own. Returns 1 if the event is in the ring.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn og_xdp_submit(context: *mut xdp_md, judgement: u64, mode: u32) -> u32 {
    submit(&XdpFrame::new(&XdpContext::new(context)), judgement, mode).into()
}

impl Arrived for XdpFrame<'_> {
    #[inline(always)]
    fn judge_carefully(&self, start: Start, policy: &LivePolicy) -> Judgement {
        let (context, selection) = (self.context.ctx, policy.selection());
        Judgement::unpack(match start {
            Start::Link => og_xdp_link(context, selection),
            Start::Network => og_xdp_network(context, selection),
        })
    }

    #[inline(always)]
    fn submit(&self, judgement: u64, mode: Mode) -> bool {
        og_xdp_submit(self.context.ctx, judgement, mode as u32) == 1
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.context.ingress_ifindex() as u32
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
