//! The system calls that a running daemon has no use for, refused by seccomp.
//!
//! A list of what is refused: which calls the C library, the user database's modules and the
//! runtime make is theirs to change with any update, and a list of what is allowed would break the
//! daemon on the next one. The exception is `bpf`, whose commands only this program issues: there
//! the list says what is allowed.
//!
//! Refused with an error and not with death: the caller says what it could not do, and the daemon
//! goes on. The kernel checks the list on every thread, also on those of its workers.

use std::{collections::BTreeMap, process};

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads, sock_filter,
};

use super::ConfineError;

/// Refused whatever the arguments.
const NEVER: &[c_long] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes: their memory, their descriptors, their lives.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    // Namespaces: in a new one, an ordinary user has every capability.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Code in the kernel, and the machine as a whole.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Where holes of the kernel were found, and nothing here needs it.
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Calls that a library tries before it falls back on an older one: they are told to be absent.
/// `clone3` because its flags lie in memory, where seccomp can't look; the `io_uring` family because
/// what is asked for there, seccomp does not see.
const ABSENT: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// The commands of `bpf` that a running daemon issues (`enum bpf_cmd`, include/uapi/linux/bpf.h):
/// maps, pins, links and test runs. Not among them: loading programs, and reaching the objects of
/// others by their number.
const BPF_COMMANDS: &[u64] = &[
    0,  // BPF_MAP_CREATE
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    6,  // BPF_OBJ_PIN
    7,  // BPF_OBJ_GET
    10, // BPF_PROG_TEST_RUN
    15, // BPF_OBJ_GET_INFO_BY_FD
    16, // BPF_PROG_QUERY
    22, // BPF_MAP_FREEZE
    24, // BPF_MAP_LOOKUP_BATCH
    26, // BPF_MAP_UPDATE_BATCH
    27, // BPF_MAP_DELETE_BATCH
    28, // BPF_LINK_CREATE
    29, // BPF_LINK_UPDATE
    34, // BPF_LINK_DETACH
];

/// The address families that sockets may have: the control socket, netlink, and what metrics and
/// name lookups take.
const FAMILIES: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Where `struct seccomp_data` has the call's number (include/uapi/linux/seccomp.h).
const NUMBER_OFFSET: u32 = 0;
/// This bit in a call's number selects the x32 table of x86-64, in which the numbers above mean
/// nothing (`__X32_SYSCALL_BIT`).
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Refuses them from now on, on all threads of the process.
pub(super) fn refuse() -> Result<(), ConfineError> {
    apply_filter_all_threads(&absent())?;
    apply_filter_all_threads(&refused()?)?;
    Ok(())
}

/// The filter of what is refused.
fn refused() -> Result<BpfProgram, ConfineError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        NEVER.iter().map(|&call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_bpf, vec![rule(unless_one_of(0, BPF_COMMANDS))?]);
    let families: Vec<u64> = FAMILIES.iter().map(|&family| family as u64).collect();
    // Of netlink only what interfaces, addresses and routes are told by.
    let other_netlink = vec![
        argument(0, SeccompCmpOp::Eq, libc::AF_NETLINK as u64),
        argument(2, SeccompCmpOp::Ne, libc::NETLINK_ROUTE as u64),
    ];
    rules.insert(libc::SYS_socket, vec![rule(unless_one_of(0, &families))?, rule(other_netlink)?]);
    // A new process, but not a new thread.
    let thread = libc::CLONE_THREAD as u64;
    let process = argument(0, SeccompCmpOp::MaskedEq(thread), 0);
    rules.insert(libc::SYS_clone, vec![rule(vec![process])?]);
    // Signals to others than ourselves.
    let own = u64::from(process::id());
    for call in [libc::SYS_tgkill, libc::SYS_rt_tgsigqueueinfo] {
        rules.insert(call, vec![rule(unless_one_of(0, &[own]))?]);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        ARCHITECTURE,
    )?;
    Ok(BpfProgram::try_from(filter)?)
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;

fn rule(
    conditions: Vec<Result<SeccompCondition, seccompiler::BackendError>>,
) -> Result<SeccompRule, ConfineError> {
    Ok(SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)?)
}

fn argument(
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    // The kernel reads 32 bits of each of these.
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

fn unless_one_of(
    index: u8,
    values: &[u64],
) -> Vec<Result<SeccompCondition, seccompiler::BackendError>> {
    values.iter().map(|&value| argument(index, SeccompCmpOp::Ne, value)).collect()
}

/// The filter of what is told to be absent. The number alone counts here; which architecture's it
/// is, the other filter checks.
fn absent() -> BpfProgram {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let statement = |code: u32, k| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // Skips the answer below unless it compares.
    let unless =
        |compare: u32, k| sock_filter { code: (BPF_JMP | compare | BPF_K) as u16, jt: 0, jf: 1, k };
    let answer = statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let mut program = vec![statement(BPF_LD | BPF_W | BPF_ABS, NUMBER_OFFSET)];
    for &call in ABSENT {
        program.extend([unless(BPF_JEQ, call as u32), answer.clone()]);
    }
    #[cfg(target_arch = "x86_64")]
    program.extend([unless(BPF_JGE, X32), answer]);
    program.push(statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        os::unix::net::UnixStream,
        process::Command,
        sync::{Arc, Mutex},
        thread,
    };

    use nix::{
        errno::Errno,
        sys::{
            signal::{Signal, kill, raise},
            socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
        },
        unistd::getppid,
    };
    use seccompiler::apply_filter;

    use super::*;

    fn open(family: AddressFamily, protocol: Option<SockProtocol>) -> Result<(), Errno> {
        socket(family, SockType::Datagram, SockFlag::empty(), protocol).map(drop)
    }

    #[test]
    fn what_is_refused_fails_and_what_is_needed_works() {
        let thread = thread::spawn(|| {
            apply_filter(&absent()).unwrap();
            apply_filter(&refused().unwrap()).unwrap();
            let refused = Command::new("/bin/true").status().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            assert_eq!(kill(getppid(), None), Err(Errno::EPERM));
            assert_eq!(open(AddressFamily::Alg, None), Err(Errno::EPERM));
            let netfilter = Some(SockProtocol::NetlinkNetFilter);
            assert_eq!(open(AddressFamily::Netlink, netfilter), Err(Errno::EPERM));

            open(AddressFamily::Netlink, Some(SockProtocol::NetlinkRoute)).unwrap();
            open(AddressFamily::Inet6, None).unwrap();
            UnixStream::pair().unwrap();
            raise(Signal::SIGURG).unwrap();
            // Threads are born here too, and within.
            let shared = Arc::new(Mutex::new(0));
            let child = Arc::clone(&shared);
            thread::spawn(move || {
                *child.lock().unwrap() += 1;
                assert!(Command::new("/bin/true").status().is_err());
            })
            .join()
            .unwrap();
            assert_eq!(*shared.lock().unwrap(), 1);
        });
        thread.join().unwrap();
        // The contrast: outside of that thread nothing is refused.
        assert!(Command::new("/bin/true").status().unwrap().success());
    }
}
