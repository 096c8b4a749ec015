//! TC ingress: behind XDP, before the host's firewall, NAT and the routing of the packet.
//!
//! For doors whose XDP slot is somebody else's. A packet that may pass gets `TC_ACT_UNSPEC`: the
//! decision is left to the next program in the chain. The programs are the same for a TCX link and
//! for a clsact filter.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use ollama_guard_common::Start;

use super::Actions;
use crate::frames::skb::SkbFrame;

const ACTIONS: Actions = Actions { drop: TC_ACT_SHOT as u32, pass: TC_ACT_UNSPEC as u32 };

#[classifier]
fn og_tc_link(context: TcContext) -> i32 {
    run(&context, Start::Link)
}

#[classifier]
fn og_tc_network(context: TcContext) -> i32 {
    run(&context, Start::Network)
}

#[inline(always)]
fn run(context: &TcContext, start: Start) -> i32 {
    super::run(&SkbFrame::new(context), start, &ACTIONS) as i32
}
