//! The clock of the kernel's programs: `CLOCK_BOOTTIME`, which nobody sets, and which goes on while the
//! machine sleeps.

#![forbid(unsafe_code)]

use std::{fs, sync::OnceLock};

use nix::{errno::Errno, time::ClockId};

/// Nanoseconds since the machine was started, as `bpf_ktime_get_boot_ns` has them.
///
/// # Errors
///
/// If the kernel has no such clock.
pub fn now() -> Result<u64, Errno> {
    let boot = ClockId::CLOCK_BOOTTIME.now()?;
    let seconds = u64::try_from(boot.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(boot.tv_nsec()).unwrap_or(0);
    let boot_ns = seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    Ok(boot_ns.saturating_sub_signed(own_offset()))
}

/// Nanoseconds that this process's boot-time clock is ahead of the one that the kernel stamps
/// records by: not 0 in a time namespace, which a process does not leave.
fn own_offset() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        // Kernels before 5.6 have neither the file nor the namespaces.
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        boot_offset(&offsets).unwrap_or(0)
    })
}

/// The offset of the boot-time clock: `boottime SECONDS NANOSECONDS` (time_namespaces(7)).
fn boot_offset(offsets: &str) -> Option<i64> {
    let mut fields =
        offsets.lines().find_map(|line| line.strip_prefix("boottime"))?.split_whitespace();
    let seconds: i64 = fields.next()?.parse().ok()?;
    let nanoseconds: i64 = fields.next()?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_namespace_is_seen() {
        let offsets = "monotonic           7         0\nboottime         -600 500000000\n";
        assert_eq!(boot_offset(offsets), Some(-599_500_000_000));
        assert_eq!(boot_offset(""), None);
    }
}
