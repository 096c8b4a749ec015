//! The entry programs.

pub mod inner;
pub mod tc;
pub mod xdp;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use ollama_guard_common::{
    Mode, Policy as _, Reason, Ruling, Start, Verdict, Wanted, abi::test_run_return, judge_plainly,
};

use crate::{
    frames::Arrived,
    learn::learn,
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
fn run<A: Arrived>(frame: &A, start: Start, actions: &Actions) -> u32 {
    let Some(policy) = LivePolicy::select(frame) else {
        return actions.drop;
    };
    let ruling = match judge_plainly(frame, start, &policy) {
        Some(ruling) => ruling,
        None => judge_carefully(frame, start, &policy),
    };
    let Ruling { reason, terms } = ruling;
    if reason == Reason::NotGuarded && REPORT.load() != 0 {
        return actions.pass;
    }
    let is_dropped = matches!((reason.verdict(), terms.mode), (Verdict::Drop, Mode::Enforce));
    if REPORT.load() == 0 {
        // The same numbers at every hook: they are for user space, not for the kernel.
        return test_run_return(if is_dropped { XDP_DROP } else { XDP_PASS }, reason);
    }
    if reason == Reason::RulesAbsent {
        og_log_absent(policy.slot());
    }
    learn(frame, start, ruling, &policy);
    report(frame, start, ruling, &policy);
    if is_dropped { actions.drop } else { actions.pass }
}

/// As `ollama_guard_common::judge_carefully`, by way of functions of their own. The verifier looks at their
/// many ways once, and not once for every kind of packet that a program can have found before, and the
/// usual packet's few steps stay few.
#[inline(always)]
fn judge_carefully<A: Arrived>(frame: &A, start: Start, policy: &LivePolicy<'_, A>) -> Ruling {
    let Some(packet) = frame.locate_ours(start, policy) else {
        return Ruling::NOT_GUARDED;
    };
    let Wanted { pairs, terms } = policy.wanted(packet.target());
    Ruling { reason: frame.decide(packet, pairs, policy), terms }
}
