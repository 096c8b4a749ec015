//! System calls in words: `MAP_CREATE OG_POLICY`, `sendto RTM_GETLINK`, `rename PINS/next`.
//!
//! Calls with the same words are of one kind: those of a loop, and those of the four loads of the
//! object. Paths are told from the guard's own directories; calls on other files are not ours.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use nix::{errno::Errno, unistd::Pid};

/// The registers of a call that matter here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    number: i64,
    arguments: [u64; 6],
    result: i64,
}

impl Registers {
    /// Whether a call is about to be made: until it is, this is its result (`do_syscall_64` and
    /// `entry_SYSCALL_64`, arch/x86/entry).
    pub(super) const fn is_entry(&self) -> bool {
        self.result == -(libc::ENOSYS as i64)
    }
}

/// The guard's own directories, and what they are called in the words of a call.
#[derive(Clone, Debug)]
pub struct Places {
    places: Vec<(PathBuf, &'static str)>,
}

impl Places {
    /// Names for directories; the first that fits counts.
    #[must_use]
    pub fn new(places: &[(&Path, &'static str)]) -> Self {
        Self { places: places.iter().map(|&(path, name)| (path.to_owned(), name)).collect() }
    }

    /// The words for a path in one of them.
    fn name(&self, path: &str) -> Option<String> {
        self.places.iter().find_map(|(place, name)| {
            let rest = Path::new(path).strip_prefix(place).ok()?.to_str()?;
            Some(if rest.is_empty() {
                (*name).to_owned()
            } else {
                format!("{name}/{}", general(rest))
            })
        })
    }
}

/// Without the number of an interface at the end, which differs from bed to bed.
fn general(path: &str) -> String {
    match path.split_once("links/xdp-") {
        Some((head, _)) => format!("{head}links/xdp-N"),
        None => path.to_owned(),
    }
}

/// What the descriptors of a process stand for, as far as its calls told.
pub(super) struct Descriptors {
    leader: Pid,
    places: Places,
    names: HashMap<u64, String>,
    memory: Option<File>,
}

const AF_UNIX: u64 = libc::AF_UNIX as u64;
const AF_NETLINK: u64 = libc::AF_NETLINK as u64;

impl Descriptors {
    pub(super) fn new(leader: Pid, places: Places) -> Self {
        Self { leader, places, names: HashMap::new(), memory: None }
    }

    /// The words for a call that is about to be made, if it is one of interest.
    pub(super) fn describe(&mut self, call: &Registers) -> Option<String> {
        let [first, second, third, ..] = call.arguments;
        match call.number {
            libc::SYS_close => {
                // Before the kernel gives the number to somebody else.
                self.names.remove(&first);
                None
            }
            libc::SYS_execve => {
                // Another program, with memory of its own.
                self.memory = None;
                None
            }
            libc::SYS_bpf => Some(self.bpf(first, second, third as usize)),
            libc::SYS_socket if first == AF_NETLINK => Some("socket netlink".into()),
            libc::SYS_bind => match self.names.get(&first).map(String::as_str) {
                Some("netlink") => Some("bind netlink".into()),
                Some("unix") => Some("bind control socket".into()),
                _ => None,
            },
            libc::SYS_listen => Some("listen control socket".into()),
            libc::SYS_sendto if self.is_netlink(first) => {
                let head = self.bytes(second, 16);
                Some(format!("sendto {}", message(&head)))
            }
            libc::SYS_sendmsg if self.is_netlink(first) => Some("sendmsg netlink".into()),
            libc::SYS_recvfrom if self.is_netlink(first) => Some("recvfrom netlink".into()),
            libc::SYS_recvmsg if self.is_netlink(first) => Some("recvmsg netlink".into()),
            libc::SYS_mmap => {
                let name = self.names.get(&call.arguments[4])?;
                let is_map = name.starts_with("OG_") || name.starts_with("AYA_");
                is_map.then(|| format!("mmap {name}"))
            }
            libc::SYS_mkdir => self.on_path("mkdir", first),
            libc::SYS_rmdir => self.on_path("rmdir", first),
            libc::SYS_unlink => self.on_path("unlink", first),
            libc::SYS_rename => self.on_path("rename", first),
            libc::SYS_mkdirat => self.on_path_at("mkdir", first, second),
            libc::SYS_unlinkat => self.on_path_at("unlink", first, second),
            libc::SYS_renameat | libc::SYS_renameat2 => self.on_path_at("rename", first, second),
            libc::SYS_openat if third & (libc::O_CREAT | libc::O_WRONLY) as u64 != 0 => {
                self.on_path_at("create", first, second)
            }
            libc::SYS_openat if third & libc::O_DIRECTORY as u64 != 0 => {
                self.on_path_at("open directory", first, second)
            }
            libc::SYS_flock => self.on_descriptor("flock", first),
            libc::SYS_fsync | libc::SYS_fdatasync => self.on_descriptor("fsync", first),
            libc::SYS_write | libc::SYS_pwrite64 => self.on_descriptor("write", first),
            libc::SYS_ftruncate => self.on_descriptor("truncate", first),
            _ => None,
        }
    }

    /// Learns from a call that was made.
    pub(super) fn returned(&mut self, call: &Registers, now: &Registers) {
        let Ok(descriptor) = u64::try_from(now.result) else { return };
        let [first, second, third, ..] = call.arguments;
        match call.number {
            libc::SYS_bpf => {
                // MAP_CREATE, PROG_LOAD, OBJ_GET, LINK_CREATE return descriptors.
                if matches!(first, 0 | 5 | 7 | 28) {
                    let words = self.bpf(first, second, third as usize);
                    let name = words.split_once(' ').map_or("", |(_, name)| name);
                    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
                    self.names.insert(descriptor, name);
                }
            }
            libc::SYS_socket => {
                let name = match first {
                    AF_NETLINK => "netlink",
                    AF_UNIX => "unix",
                    _ => "socket",
                };
                self.names.insert(descriptor, name.into());
            }
            libc::SYS_fcntl if matches!(second, 0 | 1030) => {
                // F_DUPFD, F_DUPFD_CLOEXEC
                if let Some(name) = self.names.get(&first).cloned() {
                    self.names.insert(descriptor, name);
                }
            }
            libc::SYS_openat | libc::SYS_open | libc::SYS_accept4 => {
                self.names.remove(&descriptor);
            }
            _ => {}
        }
    }

    fn is_netlink(&self, descriptor: u64) -> bool {
        self.names.get(&descriptor).is_some_and(|name| name == "netlink")
    }

    /// `bpf(2)`: offsets in `union bpf_attr` (include/uapi/linux/bpf.h).
    fn bpf(&mut self, command: u64, attributes: u64, size: usize) -> String {
        let attributes = self.bytes(attributes, size.min(160));
        let word = |at: usize| {
            attributes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let text = |at: usize| {
            let bytes = attributes.get(at..at + 16).unwrap_or_default();
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let object = |this: &Self, at: usize| {
            this.names.get(&u64::from(word(at))).cloned().unwrap_or_else(|| "?".into())
        };
        match command {
            0 => {
                let name = text(28);
                let family = match word(4) {
                    20 => " (IPv6)",
                    _ => " (IPv4)",
                };
                match name.as_str() {
                    "" => format!("MAP_CREATE probe-type-{}", word(0)),
                    "standalone_lpm_" => format!("MAP_CREATE rules{family}"),
                    _ => format!("MAP_CREATE {name}"),
                }
            }
            1 => format!("MAP_LOOKUP_ELEM {}", object(self, 0)),
            2 => format!("MAP_UPDATE_ELEM {}", object(self, 0)),
            3 => format!("MAP_DELETE_ELEM {}", object(self, 0)),
            4 => format!("MAP_GET_NEXT_KEY {}", object(self, 0)),
            5 => match text(48).as_str() {
                "" => format!("PROG_LOAD probe-type-{}", word(0)),
                name => format!("PROG_LOAD {name}"),
            },
            6 | 7 => {
                let path = self.text(long(0));
                let path = self.places.name(&path).unwrap_or(path);
                format!("{} {path}", if command == 6 { "OBJ_PIN" } else { "OBJ_GET" })
            }
            10 => format!("PROG_TEST_RUN {}", object(self, 0)),
            15 => format!("OBJ_GET_INFO_BY_FD {}", object(self, 0)),
            16 => "PROG_QUERY".into(),
            18 if word(16) > 1000 => "BTF_LOAD object".into(),
            18 => "BTF_LOAD probe".into(),
            22 => format!("MAP_FREEZE {}", object(self, 0)),
            24 => format!("MAP_LOOKUP_BATCH {}", object(self, 40)),
            26 => format!("MAP_UPDATE_BATCH {}", object(self, 40)),
            28 if word(8) == 37 => "LINK_CREATE xdp".into(),
            28 => format!("LINK_CREATE attach-type-{}", word(8)),
            29 => format!("LINK_UPDATE {}", object(self, 0)),
            other => format!("BPF_{other}"),
        }
    }

    fn on_path(&mut self, verb: &str, path: u64) -> Option<String> {
        let path = self.text(path);
        Some(format!("{verb} {}", self.places.name(&path)?))
    }

    fn on_path_at(&mut self, verb: &str, directory: u64, path: u64) -> Option<String> {
        let mut path = self.text(path);
        if !path.starts_with('/') {
            let directory = self.path_of(directory)?;
            path = format!("{directory}/{path}");
        }
        Some(format!("{verb} {}", self.places.name(&path)?))
    }

    fn on_descriptor(&self, verb: &str, descriptor: u64) -> Option<String> {
        Some(format!("{verb} {}", self.places.name(&self.path_of(descriptor)?)?))
    }

    fn path_of(&self, descriptor: u64) -> Option<String> {
        let link = format!("/proc/{}/fd/{}", self.leader, descriptor as u32);
        fs::read_link(link).ok()?.to_str().map(str::to_owned)
    }

    fn text(&mut self, address: u64) -> String {
        let mut bytes = self.bytes(address, 256);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn bytes(&mut self, address: u64, length: usize) -> Vec<u8> {
        if self.memory.is_none() {
            self.memory = File::open(format!("/proc/{}/mem", self.leader)).ok();
        }
        let mut bytes = vec![0; length];
        let read = match &self.memory {
            Some(memory) => memory.read_at(&mut bytes, address).unwrap_or(0),
            None => 0,
        };
        bytes.truncate(read);
        bytes
    }
}

/// The type of a netlink message.
fn message(head: &[u8]) -> String {
    match head.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]])) {
        Some(libc::RTM_GETLINK) => "RTM_GETLINK".into(),
        Some(libc::RTM_GETQDISC) => "RTM_GETQDISC".into(),
        Some(libc::RTM_NEWQDISC) => "RTM_NEWQDISC".into(),
        Some(libc::RTM_GETTFILTER) => "RTM_GETTFILTER".into(),
        Some(libc::RTM_NEWTFILTER) => "RTM_NEWTFILTER".into(),
        Some(other) => format!("netlink-{other}"),
        None => "netlink".into(),
    }
}

/// The registers of a thread that stands before or behind a call.
#[cfg(target_arch = "x86_64")]
pub(super) fn registers(thread: Pid) -> Result<Registers> {
    let all = nix::sys::ptrace::getregs(thread)?;
    Ok(Registers {
        number: all.orig_rax.cast_signed(),
        arguments: [all.rdi, all.rsi, all.rdx, all.r10, all.r8, all.r9],
        result: all.rax.cast_signed(),
    })
}

/// Makes a call that is about to be made one that does not exist.
#[cfg(target_arch = "x86_64")]
pub(super) fn take_away(thread: Pid) -> Result<()> {
    let mut all = nix::sys::ptrace::getregs(thread)?;
    all.orig_rax = u64::MAX;
    Ok(nix::sys::ptrace::setregs(thread, all)?)
}

/// Gives a call that was made this error.
#[cfg(target_arch = "x86_64")]
pub(super) fn fail_with(thread: Pid, errno: Errno) -> Result<()> {
    let mut all = nix::sys::ptrace::getregs(thread)?;
    all.rax = i64::from(-(errno as i32)).cast_unsigned();
    Ok(nix::sys::ptrace::setregs(thread, all)?)
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn registers(_: Pid) -> Result<Registers> {
    anyhow::bail!("only the registers of x86-64 are known here")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn take_away(_: Pid) -> Result<()> {
    anyhow::bail!("only the registers of x86-64 are known here")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn fail_with(_: Pid, _: Errno) -> Result<()> {
    anyhow::bail!("only the registers of x86-64 are known here")
}
