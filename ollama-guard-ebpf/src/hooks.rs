//! The entry programs.

pub mod tc;
pub mod xdp;

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
};
use aya_log_ebpf::error;
use ollama_guard_common::{Mode, Reason, Start, Verdict, abi::test_run_return, judge_plainly};

use crate::{frames::Arrived, maps::REPORT, policy::LivePolicy, report::report};

/// What a hook returns to drop a packet, and to let it pass.
struct Actions {
    drop: u32,
    pass: u32,
}

/// Judge, report, translate.
#[inline(always)]
fn run(context: &impl EbpfContext, frame: &impl Arrived, start: Start, actions: &Actions) -> u32 {
    let policy = LivePolicy::select();
    let judgement = match judge_plainly(frame, start, &policy) {
        Some(judgement) => judgement,
        None => frame.judge_carefully(start, &policy),
    };

    if judgement.reason == Reason::NotGuarded {
        return if REPORT.load() == 0 {
            test_run_return(XDP_PASS, Reason::NotGuarded)
        } else {
            actions.pass
        };
    }
    let mode = policy.mode();
    let is_dropped = matches!((judgement.verdict(), mode), (Verdict::Drop, Mode::Enforce));
    if REPORT.load() == 0 {
        // The same numbers at every hook: they are for user space, not for the kernel.
        return test_run_return(if is_dropped { XDP_DROP } else { XDP_PASS }, judgement.reason);
    }
    if judgement.reason == Reason::RulesAbsent {
        error!(context, "the rules of the selected policy slot are missing: dropping");
    }
    report(frame, &judgement, mode);
    if is_dropped { actions.drop } else { actions.pass }
}
