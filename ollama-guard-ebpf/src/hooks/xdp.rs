//! XDP: before the network stack, NAT and the host's firewall.
//!
//! Each program exists for both kinds of devices, and with and without multi-buffer awareness:
//! drivers at a jumbo MTU refuse a program without it, and kernels before 5.18 one with it.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::xdp,
    programs::XdpContext,
};
use ollama_guard_common::Start;

use super::Actions;
use crate::frames::xdp::XdpFrame;

const ACTIONS: Actions = Actions { drop: XDP_DROP, pass: XDP_PASS };

#[xdp]
fn og_link(context: XdpContext) -> u32 {
    run(&context, Start::Link)
}

#[xdp(frags)]
fn og_link_frags(context: XdpContext) -> u32 {
    run(&context, Start::Link)
}

#[xdp]
fn og_network(context: XdpContext) -> u32 {
    run(&context, Start::Network)
}

#[xdp(frags)]
fn og_net_frags(context: XdpContext) -> u32 {
    run(&context, Start::Network)
}

#[inline(always)]
fn run(context: &XdpContext, start: Start) -> u32 {
    super::run(&XdpFrame::new(context), start, &ACTIONS)
}
