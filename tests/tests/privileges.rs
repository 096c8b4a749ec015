//! P10: the daemon with as little as it can, and what is left of it once it has started.
//!
//! Beside these tests, every other test program that starts a daemon is run a second time with
//! daemon and command line as an ordinary user with three capabilities (`cargo xtask test`).

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::unistd::Pid;
use ollama_guard_tests::{
    bed::{
        Bed, GuardSetup, RunsAs, SERVER_DOOR, SERVICE_CAPABILITIES, Standin,
        only_the_friend_is_served, xdp_program_id,
    },
    policy::{FRIEND4, FRIEND6, GUARDED},
};

const PATIENCE: Duration = Duration::from_secs(30);

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;
/// What a daemon keeps once it has started.
const KEPT: u64 = CAP_BPF | CAP_NET_ADMIN;

fn guard_for_the_friend(user: RunsAs) -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4).allow(FRIEND6).runs_as(user)
}

/// The names of capabilities in a text, in order.
fn named(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("CAP_")).collect()
}

/// Each of the three is needed, and its absence is named before anything is touched.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_missing_capability_is_named_and_nothing_is_attached() -> Result<()> {
    let bed = Bed::new()?;
    let without = |missing: &[&str]| {
        let left = SERVICE_CAPABILITIES.into_iter().filter(|name| !missing.contains(name));
        RunsAs::Service(left.collect())
    };
    for missing in [&["bpf"][..], &["net_admin"], &["perfmon"], &SERVICE_CAPABILITIES] {
        let guard = guard_for_the_friend(without(missing)).prepare(&bed.server.namespace)?;
        let refused = guard.run_to_the_end(PATIENCE)?;
        assert_eq!(refused.code, Some(2), "{missing:?}: {refused:?}");
        let said = refused.stderr.split_once("missing ").context("no `missing`")?.1;
        let (list, _) = said.split_once(": run as root").context("no way out")?;
        let expected: Vec<String> =
            missing.iter().map(|name| format!("CAP_{}", name.to_uppercase())).collect();
        assert_eq!(named(list), expected, "{refused:?}");
        assert_eq!(xdp_program_id(&bed.server.namespace, SERVER_DOOR)?, None, "{missing:?}");
        assert!(!guard.pin_dir().exists(), "{missing:?}");
    }
    Ok(())
}

/// What a thread may do, as the kernel says in its `status`.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    permitted: u64,
    effective: u64,
    inheritable: u64,
    ambient: u64,
    bounding: u64,
    no_new_privileges: u64,
    seccomp: u64,
}

fn threads(pid: Pid) -> Result<Vec<Standing>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that has ended meanwhile is none.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        let word = |name: &str| -> Result<&str> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(line.with_context(|| format!("no {name} in {status}"))?.trim())
        };
        let mask = |name| Ok::<_, anyhow::Error>(u64::from_str_radix(word(name)?, 16)?);
        found.push(Standing {
            permitted: mask("CapPrm")?,
            effective: mask("CapEff")?,
            inheritable: mask("CapInh")?,
            ambient: mask("CapAmb")?,
            bounding: mask("CapBnd")?,
            no_new_privileges: word("NoNewPrivs")?.parse()?,
            seccomp: word("Seccomp")?.parse()?,
        });
    }
    Ok(found)
}

/// The kernel's own account, of every thread, before and after the daemon has been used.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_running_daemon_has_given_up_what_it_does_not_need() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    for user in [RunsAs::Root, RunsAs::service()] {
        // An ordinary user can't empty the bounding set, nor use what is left in it.
        let bounding = if user == RunsAs::Root { KEPT } else { KEPT | CAP_PERFMON };
        let expected = Standing {
            permitted: KEPT,
            effective: KEPT,
            inheritable: 0,
            ambient: 0,
            bounding,
            no_new_privileges: 1,
            seccomp: 2,
        };
        let guard = guard_for_the_friend(user.clone()).start(&bed.server.namespace)?;
        let pid = guard.pid().context("a daemon")?;
        let check = || -> Result<usize> {
            let threads = threads(pid)?;
            for thread in &threads {
                assert_eq!(thread, &expected, "{user:?}");
            }
            Ok(threads.len())
        };
        let first = check()?;
        assert!(first > 2, "only {first} threads");
        for edit in 0..3 {
            guard.done(&["allow", "add", &format!("198.51.100.{edit}")])?;
            guard.done(&["allow", "list"])?;
        }
        guard.status()?;
        guard.done(&["events"])?;
        check()?;
        only_the_friend_is_served(&bed)?;
        assert!(
            guard.log().contains("confined: keeps CAP_BPF and CAP_NET_ADMIN"),
            "{}",
            guard.log()
        );
        assert!(!guard.log().contains("not confined"), "{}", guard.log());
        guard.done(&["detach"])?;
        assert!(!guard.pin_dir().exists(), "{user:?}");
    }
    Ok(())
}

/// Has the daemon connect to a port of its own host, by TCP.
#[cfg(target_arch = "x86_64")]
fn connect(
    intruder: &ollama_guard_tests::bed::Intruder,
    port: u16,
) -> Result<Result<u64, nix::errno::Errno>> {
    let family = libc::AF_INET as u64;
    let made = intruder.call(libc::SYS_socket, [family, libc::SOCK_STREAM as u64, 0, 0, 0, 0])?;
    let socket = made.context("a socket")?;
    let mut address = [0; 16];
    address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    let address = intruder.put_bytes(&address)?;
    let answer = intruder.call(libc::SYS_connect, [socket, address, 16, 0, 0, 0])?;
    let _ = intruder.call(libc::SYS_close, [socket, 0, 0, 0, 0, 0])?;
    Ok(answer)
}

/// Whoever runs code in the daemon can't start programs, reach other processes, load anything into
/// the kernel, or write files but the guard's.
#[cfg(target_arch = "x86_64")]
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_intruder_in_the_daemon_finds_the_ways_out_closed() -> Result<()> {
    use nix::errno::Errno::{self, EACCES, ENOSYS, EPERM};
    use ollama_guard_tests::bed::Intruder;

    let bed = Bed::new()?;
    for user in [RunsAs::Root, RunsAs::service()] {
        let guard = guard_for_the_friend(user.clone()).start(&bed.server.namespace)?;
        let pid = guard.pid().context("a daemon")?;
        // A file that everybody may write to, were it not for the daemon's walls.
        let elsewhere = tempfile::tempdir()?;
        fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o777))?;
        let precious = elsewhere.path().join("precious");
        fs::write(&precious, "before")?;
        fs::set_permissions(&precious, Permissions::from_mode(0o666))?;

        let intruder = Intruder::enter(pid)?;
        let call = |number, arguments: &[u64]| -> Result<Result<u64, Errno>> {
            let mut all = [0; 6];
            all[..arguments.len()].copy_from_slice(arguments);
            intruder.call(number, all)
        };
        // The contrast: this is how a call looks that nobody refuses.
        assert_eq!(call(libc::SYS_getpid, &[])?, Ok(pid.as_raw() as u64));
        assert_eq!(call(libc::SYS_bpf, &[1, 0, 0])?, Err(Errno::EINVAL), "a command of ours");
        // Without the filter, most of these would fail otherwise, or succeed.
        let (own, other) = (pid.as_raw() as u64, process::id().into());
        for (what, number, arguments, expected) in [
            ("a program", libc::SYS_execve, &[0, 0, 0][..], EPERM),
            ("a program by descriptor", libc::SYS_execveat, &[u64::MAX, 0, 0, 0, 0], EPERM),
            ("a process", libc::SYS_clone, &[libc::SIGCHLD as u64, 0, 0, 0, 0], EPERM),
            ("a process the new way", libc::SYS_clone3, &[0, 0], ENOSYS),
            (
                "another process's memory",
                libc::SYS_process_vm_readv,
                &[other, 0, 0, 0, 0, 0],
                EPERM,
            ),
            ("tracing", libc::SYS_ptrace, &[u64::MAX, other, 0, 0], EPERM),
            ("a signal", libc::SYS_kill, &[other, 0], EPERM),
            ("a signal to a thread", libc::SYS_tgkill, &[other, other, 0], EPERM),
            ("another process", libc::SYS_pidfd_open, &[other, 0], EPERM),
            ("a mount", libc::SYS_mount, &[0, 0, 0, 0, 0], EPERM),
            ("a root", libc::SYS_chroot, &[0], EPERM),
            ("a user namespace", libc::SYS_unshare, &[libc::CLONE_NEWUSER as u64], EPERM),
            ("a namespace", libc::SYS_setns, &[u64::MAX, 0], EPERM),
            ("a module", libc::SYS_finit_module, &[u64::MAX, 0, 0], EPERM),
            ("another kernel", libc::SYS_kexec_load, &[0, 0, 0, 0], EPERM),
            ("io_uring", libc::SYS_io_uring_setup, &[1, 0], ENOSYS),
            ("keys", libc::SYS_keyctl, &[0, 0, 0, 0, 0], EPERM),
            ("user faults", libc::SYS_userfaultfd, &[0], EPERM),
            ("perf events", libc::SYS_perf_event_open, &[0, 0, 0, 0, 0], EPERM),
            ("a BPF program", libc::SYS_bpf, &[5, 0, 0], EPERM),
            ("others' BPF programs", libc::SYS_bpf, &[13, 0, 0], EPERM),
            ("all packets", libc::SYS_socket, &[libc::AF_PACKET as u64, 3, 0], EPERM),
            ("forged packets", libc::SYS_socket, &[libc::AF_INET as u64, 3, 255], EPERM),
            ("the host's firewall", libc::SYS_socket, &[libc::AF_NETLINK as u64, 3, 12], EPERM),
            ("the x32 table", libc::SYS_getpid | 0x4000_0000, &[], ENOSYS),
        ] {
            assert_eq!(call(number, arguments)?, Err(expected), "{what}, {user:?}");
        }
        assert_eq!(call(libc::SYS_tgkill, &[own, own, 0])?, Ok(0), "a signal to itself");

        let open = |path: &Path, flags: i32| {
            let address = intruder.put(path)?;
            call(libc::SYS_openat, &[libc::AT_FDCWD as u64, address, flags as u64, 0o600])
        };
        let create = libc::O_WRONLY | libc::O_CREAT;
        assert!(open(&precious, libc::O_RDONLY)?.is_ok(), "reading");
        assert!(open(&guard.state_dir().join("mine"), create)?.is_ok(), "its own directory");
        if guard.log().contains("for want of Landlock") {
            println!(
                "this kernel has no Landlock: what is written is not limited, and the log says so"
            );
        } else {
            assert_eq!(open(&precious, libc::O_WRONLY)?, Err(EACCES), "{user:?}");
            assert_eq!(open(&elsewhere.path().join("new"), create)?, Err(EACCES), "{user:?}");
            let address = intruder.put(&precious)?;
            assert_eq!(call(libc::SYS_unlink, &[address])?, Err(EACCES), "{user:?}");
            assert_eq!(call(libc::SYS_truncate, &[address, 0])?, Err(EACCES), "{user:?}");
        }
        // Nor pass for Ollama: the one port that it may bind is taken, by itself. Nor connect to anybody.
        let bind = |port: u16| -> Result<Result<u64, Errno>> {
            let [high, low] = port.to_be_bytes();
            // struct sockaddr_in of 127.0.0.1.
            let family = (libc::AF_INET as u16).to_ne_bytes();
            let socket_address =
                [family[0], family[1], high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
            let address = intruder.put(Path::new(OsStr::from_bytes(&socket_address)))?;
            let inet = [libc::AF_INET as u64, libc::SOCK_STREAM as u64];
            let socket = call(libc::SYS_socket, &inet)?.context("a socket")?;
            call(libc::SYS_bind, &[socket, address, socket_address.len() as u64])
        };
        if guard.log().contains("TCP ports can't be limited") {
            println!("this kernel's Landlock knows no ports: the log says so");
        } else {
            assert_eq!(bind(GUARDED)?, Err(EACCES), "{user:?}");
            assert_eq!(bind(9434)?, Err(Errno::EADDRINUSE), "{user:?}");
            assert_eq!(connect(&intruder, 1)?, Err(EACCES), "{user:?}");
        }
        // Name servers can be asked: nobody listens there.
        assert_eq!(connect(&intruder, 53)?, Err(Errno::ECONNREFUSED), "{user:?}");
        drop(intruder);
        assert_eq!(fs::read_to_string(&precious)?, "before");
        // It goes on as if nothing had been.
        guard.done(&["allow", "add", "198.51.100.9"])?;
        assert!(guard.status()?.daemon_runs()?);
    }
    Ok(())
}
