//! XDP: before the network stack, NAT and the host's firewall.
//!
//! Each program exists for both kinds of devices, and with and without multi-buffer awareness:
//! drivers at a jumbo MTU refuse a program without it, and kernels before 5.18 one with it.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::xdp,
    programs::XdpContext,
};
use aya_log_ebpf::error;
use ollama_guard_common::{Mode, Reason, Start, Verdict, abi::test_run_return, judge};

use crate::{frames::xdp::XdpFrame, maps::REPORT, policy::LivePolicy, report::report};

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

/// Judge, report, translate.
#[inline(always)]
fn run(context: &XdpContext, start: Start) -> u32 {
    let frame = XdpFrame::new(context);
    let policy = LivePolicy::select();
    let judgement = judge(&frame, start, &policy);

    if judgement.reason == Reason::NotGuarded {
        return if REPORT.load() == 0 {
            test_run_return(XDP_PASS, Reason::NotGuarded)
        } else {
            XDP_PASS
        };
    }
    let mode = policy.mode();
    let action = match (judgement.verdict(), mode) {
        (Verdict::Drop, Mode::Enforce) => XDP_DROP,
        (Verdict::Drop, Mode::Observe) | (Verdict::Pass, _) => XDP_PASS,
    };
    if REPORT.load() == 0 {
        return test_run_return(action, judgement.reason);
    }
    if judgement.reason == Reason::RulesAbsent {
        error!(context, "the rules of the selected policy slot are missing: dropping");
    }
    report(context, &frame, &judgement, mode);
    action
}
