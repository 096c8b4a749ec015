//! The processes of this host, from `/proc`.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::facts::NotSeen;
use crate::doors::sockets::{self, Socket, State};

/// The inode of the first PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
/// Bytes of a process's name that the kernel keeps (`TASK_COMM_LEN` without the closing zero).
const COMM_BYTES: usize = 15;

/// One process.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// The kernel's name for it.
    pub(super) comm: String,
    /// Its command line.
    pub(super) arguments: Vec<String>,
    /// Its network namespace; `None` if we may not look.
    pub(super) namespace: Option<u64>,
    /// The sockets that it holds.
    pub(super) sockets: HashSet<u64>,
}

/// All of them, and the sockets of this network namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Processes {
    pub(super) all: Vec<Process>,
    /// The network namespace that we look at.
    pub(super) namespace: Option<u64>,
    /// The TCP sockets of it.
    pub(super) sockets: Vec<Socket>,
    holders: HashMap<u64, Vec<usize>>,
}

impl Process {
    /// Whether this is its name, by the kernel's word or by its own.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let clipped = name.get(..COMM_BYTES).unwrap_or(name);
        self.comm == clipped || self.base_name() == Some(name)
    }

    /// The file name of its first argument. nginx and others write a title there: `nginx: master
    /// process ...`.
    fn base_name(&self) -> Option<&str> {
        let first = self.arguments.first()?.split([' ', ':']).next()?;
        first.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// Its name and number, for people.
    pub(super) fn title(&self) -> String {
        format!("{} (process {})", self.comm, self.pid)
    }

    /// A path as this process sees it.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        let from = if path.starts_with('/') { "root" } else { "cwd" };
        Path::new("/proc").join(self.pid.to_string()).join(from).join(path.trim_start_matches('/'))
    }

    /// The value that follows one of these options: `-c FILE` or `--config=FILE`.
    pub(super) fn option(&self, names: &[&str]) -> Option<&str> {
        // A title has everything in one argument.
        let words: Vec<_> = self.arguments.iter().flat_map(|one| one.split(' ')).collect();
        words.iter().enumerate().find_map(|(at, word)| match word.split_once('=') {
            Some((name, value)) if names.contains(&name) => Some(value),
            _ if names.contains(word) => words.get(at + 1).copied(),
            _ => None,
        })
    }
}

impl Processes {
    /// Those in the network namespace that we look at.
    pub(super) fn here(&self) -> impl Iterator<Item = &Process> {
        self.all.iter().filter(|one| one.namespace.is_some() && one.namespace == self.namespace)
    }

    /// Those that hold a socket.
    pub(super) fn holders(&self, inode: u64) -> impl Iterator<Item = &Process> {
        self.holders.get(&inode).into_iter().flatten().map(|&at| &self.all[at])
    }

    /// Where a process, or its parent, takes connections from others.
    pub(super) fn open_listeners(&self, process: &Process) -> Vec<std::net::SocketAddr> {
        let family: Vec<_> = self
            .all
            .iter()
            .filter(|one| one.pid == process.pid || one.pid == process.parent && one.pid > 1)
            .collect();
        let mut found: Vec<_> = self
            .sockets
            .iter()
            .filter(|socket| socket.state == State::Listen && !socket.local.ip().is_loopback())
            .filter(|socket| family.iter().any(|one| one.sockets.contains(&socket.inode)))
            .map(|socket| socket.local)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// One process of every other network namespace.
    pub(super) fn other_namespaces(&self) -> Vec<&Process> {
        let mut seen = HashSet::from([self.namespace]);
        self.all
            .iter()
            .filter(|one| one.namespace.is_some() && seen.insert(one.namespace))
            .collect()
    }
}

/// Looks at every process that there is.
pub(super) fn collect(not_seen: &mut Vec<NotSeen>) -> Processes {
    let namespace = fs::metadata("/proc/thread-self/ns/net").ok().map(|one| one.ino());
    let mut processes = Processes { namespace, ..Processes::default() };
    match sockets::read(Path::new("/proc/thread-self/net")) {
        Ok(sockets) => processes.sockets = sockets,
        Err(error) => not_seen.push(NotSeen::new("the TCP sockets (/proc/net/tcp)", error)),
    }
    let entries = match fs::read_dir("/proc") {
        Ok(entries) => entries,
        Err(error) => {
            not_seen.push(NotSeen::new("processes (/proc)", error));
            return processes;
        }
    };
    let mut refused = 0_usize;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids {
        // What is gone in between is passed over.
        if let Some((process, is_complete)) = look(pid) {
            refused += usize::from(!is_complete);
            for &inode in &process.sockets {
                processes.holders.entry(inode).or_default().push(processes.all.len());
            }
            processes.all.push(process);
        }
    }
    if refused > 0 {
        let what = format!("sockets, settings and network namespaces of processes ({refused})");
        not_seen.push(NotSeen::new(what, "they belong to others: run the doctor as root"));
    }
    let pid_namespace = fs::metadata("/proc/self/ns/pid").map(|one| one.ino());
    if pid_namespace.is_ok_and(|inode| inode != FIRST_PID_NAMESPACE) {
        not_seen.push(NotSeen::new(
            "processes outside this container",
            "the doctor runs in a PID namespace: run it on the host",
        ));
    }
    processes
}

/// A process, and whether everything of it could be looked at.
fn look(pid: u32) -> Option<(Process, bool)> {
    let directory = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(directory.join("status")).ok()?;
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    if field("State:")?.starts_with('Z') {
        // It has ended and holds nothing any more; only its parent has not looked yet.
        return None;
    }
    let command_line = fs::read(directory.join("cmdline")).ok()?;
    let mut process = Process {
        pid,
        parent: field("PPid:")?.parse().ok()?,
        comm: field("Name:")?,
        arguments: split(&command_line),
        namespace: None,
        sockets: HashSet::new(),
    };
    let mut is_complete = true;
    let mut may = |result: io::Result<()>| {
        is_complete &= !result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    };
    may(fs::metadata(directory.join("ns/net")).map(|one| process.namespace = Some(one.ino())));
    may(fs::read_dir(directory.join("fd")).map(|entries| {
        let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        process.sockets.extend(targets.filter_map(|target| socket_inode(target.to_str()?)));
    }));
    Some((process, is_complete))
}

/// Strings that each end with a zero: a command line, or an environment.
pub(super) fn split(bytes: &[u8]) -> Vec<String> {
    let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// `socket:[12345]`.
fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(comm: &str, arguments: &[&str]) -> Process {
        let arguments = arguments.iter().map(|&one| one.to_owned()).collect();
        Process { pid: 7, comm: comm.into(), arguments, ..Process::default() }
    }

    #[test]
    fn names_are_the_kernels_clipped_or_the_processs_own() {
        assert!(process("ollama_llama_se", &[]).is_called("ollama_llama_server"));
        assert!(process("x", &["/usr/bin/ollama", "serve"]).is_called("ollama"));
        assert!(process("x", &["nginx: master process nginx -c /a"]).is_called("nginx"));
        assert!(!process("x", &["/usr/bin/less", "ollama"]).is_called("ollama"));
        assert!(!process("", &[]).is_called("ollama"));
    }

    #[test]
    fn options_are_found_in_every_form() {
        let names = ["-c", "--config"];
        assert_eq!(process("x", &["x", "-c", "/a"]).option(&names), Some("/a"));
        assert_eq!(process("x", &["x", "--config=/a"]).option(&names), Some("/a"));
        assert_eq!(process("x", &["nginx: master process nginx -c /a"]).option(&names), Some("/a"));
        assert_eq!(process("x", &["x", "-c"]).option(&names), None);
    }

    #[test]
    fn paths_are_the_processs_own() {
        assert_eq!(process("x", &[]).path("/etc/a"), Path::new("/proc/7/root/etc/a"));
        assert_eq!(process("x", &[]).path("a"), Path::new("/proc/7/cwd/a"));
    }

    #[test]
    fn sockets_are_told_from_other_descriptors() {
        assert_eq!(socket_inode("socket:[123]"), Some(123));
        assert_eq!(socket_inode("pipe:[123]"), None);
        assert_eq!(split(b"a\0b c\0\0"), ["a", "b c"]);
    }

    #[test]
    fn this_process_is_seen_with_its_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let processes = collect(&mut Vec::new());
        let socket = processes.sockets.iter().find(|one| one.local == address).expect("listed");
        assert_eq!(socket.state, State::Listen);
        let holders: Vec<_> = processes.holders(socket.inode).map(|one| one.pid).collect();
        assert_eq!(holders, [std::process::id()]);
        assert!(processes.here().any(|one| one.pid == std::process::id()));
    }
}
