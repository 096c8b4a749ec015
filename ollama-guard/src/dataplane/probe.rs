//! What this process may do and what this kernel can do, asked and never guessed from versions.

use std::{io, os::fd::AsFd as _};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_helper_supported, is_map_supported, is_program_supported},
};
use aya_obj::generated::bpf_func_id;
use caps::{CapSet, Capability, CapsHashSet};

use super::{DataplaneError, Result, sys, test_run::SHORTEST_FRAME};

/// What the running kernel offers beyond the minimum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// Multi-buffer programs and `bpf_xdp_load_bytes` (both 5.18).
    pub(super) multi_buffer: bool,
    /// Programs for what the sockets of a cgroup receive (`CONFIG_CGROUP_BPF`).
    pub(super) cgroups: bool,
}

/// What it takes to load programs and to attach them.
const LOADING: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Checks privileges and the minimum, then asks for the rest.
pub(super) fn features() -> Result<Features> {
    check_capabilities()?;
    let lacks = |feature| DataplaneError::KernelTooOld { feature, release: release() };
    if !matches!(is_program_supported(ProgramType::Xdp), Ok(true)) {
        // The capabilities are there, so that the kernel itself would not say this.
        return Err(match sys::load_smallest_xdp() {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => DataplaneError::BpfRefused,
            _ => lacks("XDP"),
        });
    }
    for (kind, feature) in
        [(MapType::ArrayOfMaps, "arrays of maps"), (MapType::RingBuf, "BPF ring buffer")]
    {
        if !matches!(is_map_supported(kind), Ok(true)) {
            return Err(lacks(feature));
        }
    }
    // Last of the minimum: it asks with a program, which the first question was about.
    if !takes_context()? {
        return Err(lacks("test runs with a context (BPF_PROG_TEST_RUN with ctx_in)"));
    }
    let load_bytes = is_helper_supported(ProgramType::Xdp, bpf_func_id::BPF_FUNC_xdp_load_bytes);
    let cgroups = is_program_supported(ProgramType::CgroupSkb);
    Ok(Features {
        multi_buffer: matches!(load_bytes, Ok(true)),
        cgroups: matches!(cgroups, Ok(true)),
    })
}

/// Whether a test run takes a context, which says on which interface the packet comes in and how
/// much of it lies in the first buffer: the proof that the filter works is made of such runs.
/// Older kernels answer `EINVAL` (`bpf_prog_test_run_xdp`, net/bpf/test_run.c).
///
/// It stands for more: kernels without it (before 5.15) also charge maps to `RLIMIT_MEMLOCK`
/// (before 5.11), which a process with our three capabilities can't raise.
fn takes_context() -> Result<bool> {
    let failed = |cause: io::Error| DataplaneError::TestRun {
        program: "the probe of two instructions",
        cause: cause.to_string(),
    };
    let program = sys::load_smallest_xdp().map_err(failed)?;
    let frame = [0; SHORTEST_FRAME];
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress.
    let context = [0, SHORTEST_FRAME as u32, 0, 0, 0, 0];
    match sys::test_run_with_context(program.as_fd(), &frame, &context) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Names what is missing of what starting takes, before the kernel's bare EPERM does.
pub fn check_capabilities() -> Result<()> {
    check(&LOADING)
}

/// The same for what a running daemon keeps and what the commands take, which load no programs.
pub fn check_kept_capabilities() -> Result<()> {
    check(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN])
}

fn check(needed: &[Capability]) -> Result<()> {
    let missing = missing_capabilities(needed, &effective());
    if missing.is_empty() {
        return Ok(());
    }
    let names =
        |list: &[Capability]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(DataplaneError::Privileges { missing: names(&missing), needed: names(needed) })
}

/// The names of the capabilities that this process lacks to start a guard.
#[must_use]
pub fn missing_privileges() -> Vec<String> {
    missing_capabilities(&LOADING, &effective()).iter().map(ToString::to_string).collect()
}

/// Asked of the kernel and not of procfs, which may not be mounted. Should it not answer, it will
/// refuse in its own words.
fn effective() -> CapsHashSet {
    caps::read(None, CapSet::Effective).unwrap_or_else(|_| caps::all())
}

fn missing_capabilities(needed: &[Capability], effective: &CapsHashSet) -> Vec<Capability> {
    // CAP_SYS_ADMIN stands in for the two younger ones (`bpf_capable`, include/linux/capability.h).
    let has = |capability: Capability| {
        let stand_in =
            (capability != Capability::CAP_NET_ADMIN).then_some(Capability::CAP_SYS_ADMIN);
        effective.contains(&capability) || stand_in.is_some_and(|one| effective.contains(&one))
    };
    needed.iter().copied().filter(|&capability| !has(capability)).collect()
}

fn release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_else(|_| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        let needed = [CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON];
        let missing = |has: &[Capability]| {
            missing_capabilities(&needed, &has.iter().copied().collect::<CapsHashSet>())
        };
        assert_eq!(missing(&needed), []);
        assert_eq!(missing(&[]), needed);
        // Before 5.8 there is only CAP_SYS_ADMIN.
        assert_eq!(missing(&[CAP_SYS_ADMIN]), [CAP_NET_ADMIN]);
        assert_eq!(missing(&[CAP_BPF, CAP_NET_ADMIN]), [CAP_PERFMON]);
    }
}
