//! What the daemon gives up once it has started, so that whoever takes it over gets little.
//!
//! Three walls, each of which stands without the others, and on every thread:
//!
//! * **Capabilities**: of all that root has, `CAP_BPF` and `CAP_NET_ADMIN` are kept, which doors
//!   and policies need for as long as the daemon runs. `CAP_PERFMON` was for loading programs.
//!   None comes back: also the bounding set is emptied, and `no_new_privs` is set.
//! * **Landlock**, where the kernel has it: no file is written, made, renamed or removed but beneath
//!   the directories that the daemon keeps, and none is executed. Beneath the one of the pins,
//!   files are made and removed, but not written: that one has to lie above the mount point of the
//!   BPF file system, so that pins can be made again in a file system that is mounted anew. Root without capabilities still
//!   owns root's files, and one of those is soon run by somebody. Reading is not limited: the
//!   configuration, the user database and the host's resolver may read anywhere.
//!   From Linux 6.7 on, no TCP port is bound but the one of the metrics: nobody who takes the daemon over
//!   can pass for another server, Ollama first of all. And no connection is made by TCP but to name servers
//!   (port 53).
//! * **seccomp**: a list of what is refused, and not of what is allowed; see [`calls`].
//!
//! A wall that can't be put up is an error in the log, and the daemon goes on: it filters all the
//! same, and a filter that nobody tends is worse. What a wall refuses later is an error of the
//! operation that wanted it, which says so; nothing is killed, and nothing is opened.
//!
//! To let the daemon do more: a capability into [`kept`], a directory into [`Needs`], a call out of
//! the list in [`calls`].

mod calls;

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::config::Config;

/// How long the worker threads may take to get to it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The port of name servers: those whose answers are long are asked by TCP.
const NAME_SERVERS: u16 = 53;

/// What the daemon still has to be able to do.
pub(super) struct Needs {
    /// The directories in which it writes.
    pub(super) writes: Vec<PathBuf>,
    /// The directory beneath which it makes and removes pins.
    pub(super) pins: PathBuf,
    /// The TCP port at which it listens, if it does.
    pub(super) port: Option<u16>,
}

impl Needs {
    /// What is written for as long as the daemon runs: rules and audit log, the socket's name at the
    /// end, and pins; and where it listens.
    pub(super) fn of(config: &Config) -> Self {
        let paths = &config.paths;
        let above = |path: &Path| match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => ".".into(),
        };
        let writes = vec![paths.state_dir.clone(), above(&paths.socket)];
        // Above the directory that the pins' directory is in: that is where a BPF file system is
        // mounted.
        let mounts = above(&paths.pin_dir);
        let pins = if above(&mounts) == Path::new("/") { mounts } else { above(&mounts) };
        let port = config.metrics.address().map(|address| address.port());
        Self { writes, pins, port }
    }
}

/// Why a wall could not be put up.
#[derive(Debug, thiserror::Error)]
enum ConfineError {
    /// A capability could not be given up.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// Landlock refused the rules.
    #[error("cannot limit what is written: {0}")]
    Landlock(#[from] RulesetError),
    /// A directory can't be opened.
    #[error("cannot limit what is written: {0}")]
    Directory(#[from] landlock::PathFdError),
    /// A descriptor can't be copied.
    #[error("cannot limit what is written: {0}")]
    Copy(#[from] std::io::Error),
    /// seccomp refused the filter.
    #[error("cannot limit system calls: {0}")]
    Calls(#[from] seccompiler::Error),
    /// The filter can't be built.
    #[error("cannot build the filter of system calls: {0}")]
    Filter(#[from] seccompiler::BackendError),
}

/// Puts up the walls, on this thread and on every worker of the runtime. Threads that are started
/// later are born within.
///
/// Must be called on the thread that starts all others, with nothing else running on the workers.
pub(super) async fn confine(needs: &Needs) {
    let troubles = Arc::new(Mutex::new(HashSet::new()));
    let report = |error: ConfineError| _ = lock(&troubles).insert(error.to_string());
    let walls = match Walls::build(needs) {
        Ok(walls) => Arc::new(walls),
        Err(error) => {
            report(error);
            Arc::new(Walls { kept: kept(), files: None })
        }
    };
    let (behind, noted) = (Arc::clone(&walls), Arc::clone(&troubles));
    let all = on_every_worker(move || {
        if let Err(error) = behind.put_up() {
            lock(&noted).insert(error.to_string());
        }
    });
    if !all.await {
        lock(&troubles).insert("some threads did not get to it in time".into());
    }
    // The calls last, on all threads at once: the other walls are made of calls.
    let landlock = match walls.put_up() {
        Ok(status) => status,
        Err(error) => {
            report(error);
            RulesetStatus::NotEnforced
        }
    };
    if let Err(error) = calls::refuse() {
        report(error);
    }
    for thread in unconfined(&walls.kept) {
        lock(&troubles).insert(format!("the thread {thread} has more capabilities than it needs"));
    }
    say(&walls, landlock, needs);
    for trouble in lock(&troubles).iter() {
        tracing::error!("not confined as it should be: {trouble}; filtering does not depend on it");
    }
}

fn say(walls: &Walls, landlock: RulesetStatus, needs: &Needs) {
    let mut names: Vec<_> = walls.kept.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    let writes: Vec<_> = needs.writes.iter().map(|path| path.display().to_string()).collect();
    let files = match landlock {
        RulesetStatus::NotEnforced => {
            "files can't be limited, for want of Landlock in this kernel".into()
        }
        _ => format!(
            "writes beneath {} only, and pins beneath {}",
            writes.join(" and "),
            needs.pins.display()
        ),
    };
    let binds = match needs.port {
        Some(port) => format!("binds TCP port {port} only"),
        None => "binds no TCP port".into(),
    };
    let ports = match limits_ports() {
        true => format!("{binds}, and connects by TCP to port {NAME_SERVERS} only"),
        false => "TCP ports can't be limited, for want of Linux 6.7".into(),
    };
    tracing::info!("confined: keeps {} of its capabilities; {files}; {ports}", names.join(" and "));
}

/// Whether Landlock knows of ports here.
fn limits_ports() -> bool {
    let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    required
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)
        .and_then(Ruleset::create)
        .is_ok()
}

/// What is put up on each thread.
struct Walls {
    kept: CapsHashSet,
    files: Option<RulesetCreated>,
}

impl Walls {
    fn build(needs: &Needs) -> Result<Self, ConfineError> {
        // What later kernels can limit beyond this is nothing that the daemon has a use for.
        let writing = AccessFs::from_write(ABI::V3);
        // Where the kernel knows ports, and it is one wall less where it does not. Names can be added at any
        // time, so that the port of their servers is open whether there are any or not.
        let mut files = Ruleset::default()
            .handle_access(writing | AccessFs::Execute)?
            .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
            .create()?
            .add_rule(NetPort::new(NAME_SERVERS, AccessNet::ConnectTcp))?;
        if let Some(port) = needs.port {
            files = files.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
        }
        // Making and removing is all that pins take: nothing is ever written into one.
        let pinning =
            AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::RemoveFile | AccessFs::RemoveDir;
        files = files.add_rule(PathBeneath::new(PathFd::new(&needs.pins)?, pinning))?;
        for path in &needs.writes {
            files = files.add_rule(PathBeneath::new(PathFd::new(path)?, writing))?;
        }
        Ok(Self { kept: kept(), files: Some(files) })
    }

    /// On the calling thread. Returns how far the kernel knows Landlock.
    fn put_up(&self) -> Result<RulesetStatus, ConfineError> {
        // The bounding set first: giving it up takes a capability. Whoever lacks that, as the
        // service's user does, can't use the set either: nothing that it runs may gain any.
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
            for capability in caps::read(None, CapSet::Bounding)?.difference(&self.kept) {
                caps::drop(None, CapSet::Bounding, *capability)?;
            }
        }
        caps::clear(None, CapSet::Ambient)?;
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &self.kept)?;
        caps::set(None, CapSet::Permitted, &self.kept)?;
        match &self.files {
            // Sets `no_new_privs` as well.
            Some(files) => Ok(files.try_clone()?.restrict_self()?.ruleset),
            None => Ok(RulesetStatus::NotEnforced),
        }
    }
}

/// The capabilities that the daemon needs for as long as it runs, of those that it has.
fn kept() -> CapsHashSet {
    let has = |capability: &Capability| {
        caps::has_cap(None, CapSet::Permitted, *capability).unwrap_or_default()
    };
    // CAP_SYS_ADMIN stands in for CAP_BPF where a container's runtime does not know that one.
    let maps = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN].into_iter().find(has);
    maps.into_iter().chain([Capability::CAP_NET_ADMIN]).filter(has).collect()
}

/// Has every worker thread of the runtime do some work: one that has done it waits for the
/// others, so that none does it twice. Returns whether all have.
async fn on_every_worker(work: impl Fn() + Clone + Send + 'static) -> bool {
    let runtime = Handle::current();
    let workers = match runtime.runtime_flavor() {
        RuntimeFlavor::CurrentThread => 0,
        _ => runtime.metrics().num_workers(),
    };
    let gate = Arc::new((Mutex::new(0_usize), Condvar::new()));
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let (gate, work) = (Arc::clone(&gate), work.clone());
            runtime.spawn(async move {
                work();
                let (done, all_done) = &*gate;
                let mut count = lock(done);
                *count += 1;
                all_done.notify_all();
                // Blocks the thread, which is the point.
                drop(all_done.wait_timeout_while(count, PATIENCE, |count| *count < workers));
            })
        })
        .collect();
    for task in tasks {
        // A panic is a worker that is missing in the count.
        let _ = task.await;
    }
    *lock(&gate.0) == workers
}

/// The threads of this process that have more capabilities than these, by number.
fn unconfined(kept: &CapsHashSet) -> Vec<String> {
    let allowed = kept.iter().fold(0, |mask, capability| mask | capability.bitmask());
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut found = Vec::new();
    for thread in threads {
        // One that has ended meanwhile has none.
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        let permitted = permitted.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        if permitted.is_some_and(|mask| mask & !allowed != 0) {
            found.push(thread.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn every_worker_is_reached_once() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(5).build().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&seen);
        let work = move || lock(&note).push(std::thread::current().id());
        assert!(runtime.block_on(on_every_worker(work)));
        let seen = lock(&seen);
        assert_eq!(seen.len(), 5);
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 5);
    }

    #[test]
    fn files_are_written_in_named_directories_only_none_is_run_and_ports_are_limited() {
        let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let existing = other.path().join("existing");
        fs::write(&existing, "before").unwrap();
        let pins = mine.path().join("pins");
        fs::create_dir(&pins).unwrap();
        fs::write(pins.join("one"), "").unwrap();
        // What lies beneath both would be allowed what either allows.
        let writes = mine.path().join("state");
        fs::create_dir(&writes).unwrap();
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let (mine, others) = (free(), free());
        let needs =
            Needs { writes: vec![writes.clone()], pins: pins.clone(), port: Some(mine.port()) };
        let (inside, outside) = (writes.join("new"), other.path().join("new"));
        // The walls stay up for the thread's whole life.
        let status = std::thread::spawn(move || {
            let status = Walls::build(&needs).unwrap().put_up().unwrap();
            fs::write(&inside, "").unwrap();
            fs::rename(&inside, inside.with_extension("moved")).unwrap();
            fs::rename(pins.join("one"), pins.join("two")).unwrap();
            fs::create_dir(pins.join("more")).unwrap();
            if status != RulesetStatus::NotEnforced {
                fs::write(pins.join("two"), "").unwrap_err();
                fs::write(&outside, "").unwrap_err();
                fs::write(&existing, "after").unwrap_err();
                fs::remove_file(&existing).unwrap_err();
                std::process::Command::new("/bin/true").status().unwrap_err();
            }
            assert_eq!(fs::read_to_string(&existing).unwrap(), "before");
            TcpListener::bind(mine).unwrap();
            if limits_ports() {
                TcpListener::bind(others).unwrap_err();
                TcpListener::bind("127.0.0.1:0").unwrap_err();
            }
            // Somebody may listen at that of name servers, and nobody at the other one.
            let connect = |port| match TcpStream::connect(("127.0.0.1", port)) {
                Ok(_) => None,
                Err(error) => Some(error.kind()),
            };
            assert_ne!(connect(NAME_SERVERS), Some(ErrorKind::PermissionDenied));
            if limits_ports() {
                assert_eq!(connect(1), Some(ErrorKind::PermissionDenied));
            }
            assert!(unconfined_here().is_none());
            status
        });
        // A kernel without Landlock has this one wall less, which the test shows.
        println!("Landlock: {:?}", status.join().unwrap());
    }

    /// The capabilities of the calling thread beyond the kept ones.
    fn unconfined_here() -> Option<CapsHashSet> {
        let has = caps::read(None, CapSet::Permitted).unwrap();
        let more: CapsHashSet = has.difference(&kept()).copied().collect();
        (!more.is_empty()).then_some(more)
    }
}
