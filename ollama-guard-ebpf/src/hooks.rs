//! The entry programs.

pub mod tc;
pub mod xdp;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use ollama_guard_common::{Mode, Reason, Start, Verdict, abi::test_run_return, judge_with};

use crate::{
    frames::Arrived,
    maps::REPORT,
    policy::LivePolicy,
    report::{og_log_absent, report},
};

/// What a hook returns to drop a packet, and to let it pass.
struct Actions {
    drop: u32,
    pass: u32,
}

/// Judge, report, translate.
#[inline(always)]
fn run(frame: &impl Arrived, start: Start, actions: &Actions) -> u32 {
    let Some(policy) = LivePolicy::select() else {
        return actions.drop;
    };
    let reason = judge_with(frame, start, &policy, || match frame.locate_ours(start, &policy) {
        Some(packet) => frame.decide(packet, &policy),
        None => Reason::NotGuarded,
    });
    if reason == Reason::NotGuarded && REPORT.load() != 0 {
        return actions.pass;
    }
    let mode = policy.mode();
    let is_dropped = matches!((reason.verdict(), mode), (Verdict::Drop, Mode::Enforce));
    if REPORT.load() == 0 {
        // The same numbers at every hook: they are for user space, not for the kernel.
        return test_run_return(if is_dropped { XDP_DROP } else { XDP_PASS }, reason);
    }
    if reason == Reason::RulesAbsent {
        og_log_absent(policy.slot());
    }
    report(frame, start, reason, &policy);
    if is_dropped { actions.drop } else { actions.pass }
}
