//! What this process may do and what this kernel can do, asked and never guessed from versions.

use std::fs;

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_helper_supported, is_map_supported, is_program_supported},
};
use aya_obj::generated::bpf_func_id;

use super::{DataplaneError, Result};

/// What the running kernel offers beyond the minimum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// Multi-buffer programs and `bpf_xdp_load_bytes` (both 5.18).
    pub(super) multi_buffer: bool,
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks privileges and the minimum, then asks for the rest.
pub(super) fn features() -> Result<Features> {
    check_capabilities()?;
    let lacks = |feature| DataplaneError::KernelTooOld { feature, release: release() };
    if !matches!(is_program_supported(ProgramType::Xdp), Ok(true)) {
        return Err(lacks("XDP"));
    }
    for (kind, feature) in [
        (MapType::LpmTrie, "LPM tries"),
        (MapType::ArrayOfMaps, "arrays of maps"),
        (MapType::RingBuf, "BPF ring buffer"),
    ] {
        if !matches!(is_map_supported(kind), Ok(true)) {
            return Err(lacks(feature));
        }
    }
    let load_bytes = is_helper_supported(ProgramType::Xdp, bpf_func_id::BPF_FUNC_xdp_load_bytes);
    Ok(Features { multi_buffer: matches!(load_bytes, Ok(true)) })
}

/// Names what is missing, before the kernel's bare EPERM does.
pub fn check_capabilities() -> Result<()> {
    let missing = missing_privileges();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DataplaneError::Privileges { missing: missing.join(", ") })
}

/// The capabilities that this process lacks.
#[must_use]
pub fn missing_privileges() -> Vec<&'static str> {
    missing_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        // Without procfs there is nothing to check: the kernel will say it.
        .unwrap_or(u64::MAX);
    let has = |capability: u32| effective & 1 << capability != 0;
    // CAP_SYS_ADMIN stands in for the two younger ones (`bpf_capable`, include/linux/capability.h).
    [(CAP_BPF, "CAP_BPF"), (CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|&(capability, _)| {
            !has(capability) && (capability == CAP_NET_ADMIN || !has(CAP_SYS_ADMIN))
        })
        .map(|(_, name)| name)
        .collect()
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
        assert_eq!(missing_capabilities("CapEff:\t000001ffffffffff\n"), [""; 0]);
        assert_eq!(
            missing_capabilities("CapEff:\t0000000000000000\n"),
            ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]
        );
        // Before 5.8 there is only CAP_SYS_ADMIN.
        assert_eq!(missing_capabilities("CapEff:\t0000000000200000\n"), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities("CapEff:\t0000008000001000\n"), ["CAP_PERFMON"]);
    }
}
