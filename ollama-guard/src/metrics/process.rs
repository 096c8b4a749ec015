//! What the daemon itself takes, under the names that Prometheus' own libraries have for it.

use std::fs;

use nix::{
    sys::resource::{Resource, UsageWho, getrlimit, getrusage},
    unistd::{SysconfVar, sysconf},
};

/// What this process takes. What cannot be found out, for want of procfs, is `None` and is not told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// Of all threads, in user space and in the kernel.
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_fds: Option<u64>,
    /// The limit; `None` if there is none.
    pub(super) max_fds: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft);
        Self {
            cpu_seconds: cpu_seconds(),
            resident_bytes: resident_bytes(),
            // Without the descriptor that lists them.
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|listed| (listed.count() as u64).saturating_sub(1)),
            max_fds: limit.filter(|limit| *limit != libc::RLIM_INFINITY),
        }
    }
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let seconds = [usage.user_time(), usage.system_time()];
    Some(seconds.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum())
}

/// The second number of `/proc/self/statm` (proc_pid_statm(5)), in pages.
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?;
    Some(pages * page as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_process_takes_something() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.cpu_seconds.is_some() && process.max_fds.unwrap_or(99) > 3);
        let before = process.open_fds.unwrap();
        assert!(before >= 3);
    }
}
