//! System calls made inside a running process, as whoever took it over would make them.
//!
//! The process is stopped by `ptrace`, one of its threads is given a call to make, and its
//! registers are put back afterwards. x86-64 only: on another machine there is no such test.

use std::{os::unix::ffi::OsStrExt, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use libc::user_regs_struct;
use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::wait::until_some;

/// The length of the instruction that makes a call.
const SYSCALL_BYTES: u64 = 2;
/// How far below the thread's stack texts are written: beyond what it may use of it (the red zone
/// of the System V ABI).
const BELOW_THE_STACK: u64 = 8192;
/// The highest number that stands for an error in a call's result.
const MAX_ERRNO: u64 = 4095;
const PATIENCE: Duration = Duration::from_secs(10);

/// The first thread of a process, stopped. Dropping it lets the process go on where it was.
#[derive(Debug)]
pub struct Intruder {
    thread: Pid,
    before: user_regs_struct,
}

impl Intruder {
    /// Stops a process that waits in a system call, as a daemon nearly always does.
    ///
    /// # Errors
    ///
    /// If it may not be traced, or does not wait.
    pub fn enter(thread: Pid) -> Result<Self> {
        ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).context("tracing the daemon")?;
        let before = until_some("the daemon to wait", PATIENCE, || waiting(thread).transpose())??;
        Ok(Self { thread, before })
    }

    /// Makes a call and returns what it returned.
    ///
    /// # Errors
    ///
    /// If the process can't be made to; the call's own error is within.
    pub fn call(&self, number: i64, arguments: [u64; 6]) -> Result<Result<u64, Errno>> {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let registers = user_regs_struct {
            rip: self.before.rip - SYSCALL_BYTES,
            rax: number.cast_unsigned(),
            // No call is under way that the kernel would start again.
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.before
        };
        ptrace::setregs(self.thread, registers)?;
        // Its entry, then its exit.
        for _ in 0..2 {
            ptrace::syscall(self.thread, None)?;
            let stop = waitpid(self.thread, Some(WaitPidFlag::__WALL))?;
            ensure!(matches!(stop, WaitStatus::PtraceSyscall(_)), "the daemon stopped by {stop:?}");
        }
        let result = ptrace::getregs(self.thread)?.rax;
        Ok(match result.wrapping_neg() {
            error @ 1..=MAX_ERRNO => Err(Errno::from_raw(error as i32)),
            _ => Ok(result),
        })
    }

    /// Puts a path where a call can read it, and returns its address. It replaces the last one.
    ///
    /// # Errors
    ///
    /// If the process's memory can't be written.
    pub fn put(&self, path: &Path) -> Result<u64> {
        self.put_bytes(&[path.as_os_str().as_bytes(), &[0]].concat())
    }

    /// The same for any bytes.
    ///
    /// # Errors
    ///
    /// If the process's memory can't be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<u64> {
        let address = (self.before.rsp - BELOW_THE_STACK) & !7;
        for (position, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let place = address + position as u64 * 8;
            ptrace::write(self.thread, place as ptrace::AddressType, i64::from_ne_bytes(word))?;
        }
        Ok(address)
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        // The call that was interrupted is made again.
        let again = user_regs_struct {
            rip: self.before.rip - SYSCALL_BYTES,
            rax: self.before.orig_rax,
            orig_rax: u64::MAX,
            ..self.before
        };
        let back =
            ptrace::setregs(self.thread, again).and_then(|()| ptrace::detach(self.thread, None));
        if let Err(error) = back {
            super::process::complain(&format!("the daemon stays stopped: {error}"));
        }
    }
}

/// Stops a thread. Its registers, if it waits in a call; otherwise it goes on.
fn waiting(thread: Pid) -> Result<Option<user_regs_struct>> {
    ptrace::interrupt(thread)?;
    let stop = waitpid(thread, Some(WaitPidFlag::__WALL))?;
    let registers = ptrace::getregs(thread)?;
    if registers.orig_rax.cast_signed() >= 0 {
        return Ok(Some(registers));
    }
    ptrace::cont(thread, None)
        .with_context(|| format!("letting the daemon go on from {stop:?}"))?;
    Ok(None)
}
