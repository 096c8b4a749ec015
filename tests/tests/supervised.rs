//! The daemon under a service manager: what it says, when, and when it falls silent. The manager is the
//! test, on a socket of its own; systemd itself starts the unit in `cargo xtask package-test`.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use ollama_guard_tests::{
    bed::{
        Bed, Guard, GuardSetup, Process, SERVER_DOOR, Standin, only_the_friend_is_served, start,
        until,
    },
    policy::{FRIEND4, FRIEND6, GUARDED},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// After so long without a sign of life the manager would kill it.
const WATCHDOG: Duration = Duration::from_secs(2);

/// The manager's end of the socket.
struct Manager {
    path: PathBuf,
    told: Receiver<String>,
}

impl Manager {
    fn beside(guard: &Guard<'_>) -> Result<Self> {
        let path = guard.file("notify");
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        let (send, told) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                if text.lines().any(|line| send.send(line.to_owned()).is_err()) {
                    return;
                }
            }
        });
        Ok(Self { path, told })
    }

    /// Starts the guard's daemon as the manager does.
    fn start(&self, guard: &Guard<'_>) -> Result<Process> {
        let log = fs::File::options().create(true).append(true).open(guard.file("daemon.log"))?;
        let mut command = guard.run_command();
        command.env("NOTIFY_SOCKET", &self.path);
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        start(command.stdout(log.try_clone()?).stderr(log))
    }

    /// The next thing that is said that starts so.
    fn hear(&self, wanted: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            let line = self.told.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.with_context(|| format!("nobody says {wanted}"))?;
            if line.starts_with(wanted) {
                return Ok(line);
            }
        }
    }

    /// Whether nothing is said for so long.
    fn hears_nothing(&self, limit: Duration) -> bool {
        // What was said before.
        while self.told.try_recv().is_ok() {}
        self.told.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
    }
}

fn guard<'bed>(bed: &'bed Bed, more: &[&str]) -> Result<Guard<'bed>> {
    let setup = GuardSetup::of(SERVER_DOOR).attach("generic").allow(FRIEND4).allow(FRIEND6);
    setup.arguments(more).prepare(&bed.server.namespace)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn it_is_ready_when_the_guard_holds_and_says_farewell() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = guard(&bed, &[])?;
    let manager = Manager::beside(&guard)?;
    let mut daemon = manager.start(&guard)?;
    manager.hear("READY=1", PATIENCE)?;
    only_the_friend_is_served(&bed)?;
    // What was tried before anybody was told.
    let log = guard.log();
    assert!(log.contains("ready") && log.contains("doors=1"), "{log}");
    assert!(!log.contains("packets=0"), "{log}");
    assert_eq!(manager.hear("STATUS=", PATIENCE)?, "STATUS=enforcing on 1 interface; policy 1");
    guard.done(&["allow", "add", "198.51.100.7"])?;
    assert_eq!(manager.hear("STATUS=", PATIENCE)?, "STATUS=enforcing on 1 interface; policy 2");
    daemon.signal(Signal::SIGTERM)?;
    manager.hear("STOPPING=1", PATIENCE)?;
    assert_eq!(daemon.wait(PATIENCE)?.code(), Some(0));
    only_the_friend_is_served(&bed)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn observing_is_told_loudly() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &["--observe"])?;
    let manager = Manager::beside(&guard)?;
    let _daemon = manager.start(&guard)?;
    manager.hear("READY=1", PATIENCE)?;
    let status = manager.hear("STATUS=", PATIENCE)?;
    assert!(status.contains("OBSERVING, nothing is dropped"), "{status}");
    Ok(())
}

/// A thread that does not run, whatever it waits for. Dropped, it goes on.
struct Halted(Pid);

impl Halted {
    fn named(daemon: &Process, name: &str) -> Result<Self> {
        let tasks = format!("/proc/{}/task", daemon.pid());
        for task in fs::read_dir(tasks)? {
            let task = task?;
            if fs::read_to_string(task.path().join("comm"))?.trim() != name {
                continue;
            }
            let thread = task.file_name().to_string_lossy().parse()?;
            let thread = Pid::from_raw(thread);
            ptrace::seize(thread, Options::empty())?;
            ptrace::interrupt(thread)?;
            waitpid(thread, Some(WaitPidFlag::__WALL))?;
            return Ok(Self(thread));
        }
        anyhow::bail!("the daemon has no thread {name}")
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn it_is_alive_only_while_the_guards_own_thread_answers() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &[])?;
    let manager = Manager::beside(&guard)?;
    let mut daemon = manager.start(&guard)?;
    manager.hear("READY=1", PATIENCE)?;
    for _ in 0..3 {
        manager.hear("WATCHDOG=1", WATCHDOG)?;
    }
    // The rest of the daemon goes on: it takes connections, and hears signals.
    let halted = Halted::named(&daemon, "guard")?;
    thread::sleep(WATCHDOG / 2);
    ensure!(manager.hears_nothing(WATCHDOG), "it says that it lives");
    ensure!(daemon.is_running());
    drop(halted);
    manager.hear("WATCHDOG=1", WATCHDOG * 2)?;
    // And all of it.
    daemon.signal(Signal::SIGSTOP)?;
    // What it was about to say when it was stopped is still on its way.
    thread::sleep(WATCHDOG / 2);
    ensure!(manager.hears_nothing(WATCHDOG), "it says that it lives");
    daemon.signal(Signal::SIGCONT)?;
    manager.hear("WATCHDOG=1", WATCHDOG * 2)?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_manager_that_has_gone_is_no_reason_to_end() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &[])?;
    let manager = Manager::beside(&guard)?;
    fs::remove_file(&manager.path)?;
    let mut daemon = manager.start(&guard)?;
    until("the daemon to say so", PATIENCE, || {
        guard.log().contains("the service manager can't be told")
    })?;
    ensure!(daemon.is_running());
    assert_eq!(guard.cli(&["status"])?.code, Some(0));
    Ok(())
}
