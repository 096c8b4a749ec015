//! The ingress of a cgroup: behind tunnels, reassembly and NAT, for every socket of the processes in it.
//!
//! At the root of the hierarchy these are all processes of the machine, in whichever container. It sees who
//! knocks on the port that the service really listens on. Every packet of every socket comes by here, so
//! what is none of ours is to be let go with a few steps.

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    macros::cgroup_skb,
    programs::{SkBuffContext, TcContext},
};
use ollama_guard_common::{Start, abi::LOOPBACK};

use super::Actions;
use crate::{
    frames::{Arrived as _, inner::InnerFrame},
    maps::REPORT,
};

const DROP: u32 = 0;
const PASS: u32 = 1;
const ACTIONS: Actions = Actions { drop: DROP, pass: PASS };

#[cgroup_skb(ingress)]
fn og_inner(context: SkBuffContext) -> i32 {
    let skb = context.skb.skb;
    let context = TcContext::new(skb);
    let frame = InnerFrame::new(&context);
    // What never left its network namespace. In a test run a packet comes from there if nothing else is said.
    if REPORT.load() != 0 && frame.ifindex() == LOOPBACK {
        return PASS as i32;
    }
    let answer = super::run(&frame, Start::Packet, &ACTIONS);
    if REPORT.load() == 0 {
        // The verifier lets nothing be returned but 0 and 1.
        // SAFETY: the context is the kernel's, and a program at this hook may write to this field.
        unsafe { (*skb).mark = answer };
        return i32::from(answer & 0xff == XDP_PASS);
    }
    i32::from(answer != DROP)
}
