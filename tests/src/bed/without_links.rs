//! A kernel that refuses every BPF link, as one does that has none for a hook.

use std::{panic::resume_unwind, thread};

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// `BPF_LINK_CREATE` (include/uapi/linux/bpf.h).
const BPF_LINK_CREATE: u64 = 28;

/// Works on a thread where `bpf(BPF_LINK_CREATE)` fails with `EINVAL`, also for the processes that
/// it starts. What kind of link is asked for stands in memory, where such a filter can't look:
/// there are none at XDP either.
///
/// # Errors
///
/// If the kernel takes no such filter, and what the work fails with.
pub fn without_links<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let refused = thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<T> {
            apply_filter(&filter()?).context("setting a seccomp filter")?;
            work()
        });
        worker.join()
    });
    refused.unwrap_or_else(|panic| resume_unwind(panic))
}

fn filter() -> Result<BpfProgram> {
    let (argument, length) = (0, SeccompCmpArgLen::Dword);
    let is_creation = SeccompCondition::new(argument, length, SeccompCmpOp::Eq, BPF_LINK_CREATE)?;
    let rules = [(libc::SYS_bpf, vec![SeccompRule::new(vec![is_creation])?])];
    let filter = SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EINVAL as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}
