//! A machine of its own that a real systemd boots: a Debian in a directory, in a container, on the network of
//! a bed's server.
//!
//! Each boot gets a BPF file system of its own, which is unmounted when the machine is off: so pins are gone
//! after a reboot, as they are on a real one, with the links that hung on them.
//!
//! Needs root, `systemd-nspawn` (systemd-container), and a directory that `cargo xtask package-test` makes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::bed::{Finished, Namespace, Process, run, start, until, until_some};

/// How long a boot, a shutdown or a command may take.
const BOOT: Duration = Duration::from_secs(120);
const COMMAND: Duration = Duration::from_secs(120);
/// What is in the environment of a command.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the guard needs and a container is not given by itself.
const CALLS: &str = "bpf landlock_create_ruleset landlock_add_rule landlock_restrict_self";

/// A machine, which is on or off.
#[derive(Debug)]
pub struct Machine<'bed> {
    namespace: &'bed Namespace,
    directory: PathBuf,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    process: Process,
    /// The process id of its init, as the host sees it.
    init: i32,
    _pins: Pins,
}

/// A BPF file system, for as long as the machine is on.
#[derive(Debug)]
struct Pins(PathBuf);

impl<'bed> Machine<'bed> {
    /// A copy of a Debian, which is to be this machine's. `work` is made for it, and is the caller's to
    /// remove.
    ///
    /// # Errors
    ///
    /// If it can't be copied.
    pub fn copied_from(base: &Path, work: &Path, namespace: &'bed Namespace) -> Result<Self> {
        let directory = work.join("root");
        fs::create_dir_all(work)?;
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--reflink=auto"]).arg(base).arg(&directory);
        run(&mut copy, COMMAND)?.expect_success()?;
        // Without one, the first boot enables every unit that there is.
        fs::write(directory.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n")?;
        Ok(Self { namespace, directory, running: None })
    }

    /// A path of the machine as the host sees it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }

    /// Writes a file.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path(path);
        fs::create_dir_all(path.parent().context("it has a directory")?)?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Switches it on, and waits until everything is started that is to be.
    ///
    /// # Errors
    ///
    /// If it does not come up; the message holds its console.
    pub fn boot(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "it is on");
        let pins = Pins::mount(self.directory.with_file_name("bpf"))?;
        let console = self.console();
        let output = fs::File::create(&console)?;
        let mut command = Command::new("systemd-nspawn");
        command.arg("--quiet").arg("--directory").arg(&self.directory);
        command.args(["--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off"]);
        command.arg(format!("--network-namespace-path={}", self.namespace.path().display()));
        command.arg("--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON");
        command.arg(format!("--system-call-filter={CALLS}"));
        command.arg(format!("--bind={}:/sys/fs/bpf", pins.0.display())).arg("--boot");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut process = start(&mut command)?;
        let pid = process.pid().as_raw();
        let init = until_some("the machine's init", BOOT, || {
            if !process.is_running() {
                return Some(None);
            }
            descendants(pid).into_iter().find(|pid| is_init(*pid)).map(Some)
        })?;
        let said = || fs::read_to_string(&console).unwrap_or_default();
        let init = init.with_context(|| format!("it did not start: {}", said()))?;
        self.running = Some(Running { process, init, _pins: pins });
        until("the machine to be up", BOOT, || {
            let state = self.run("systemctl is-system-running --wait");
            state.is_ok_and(|state| ["running\n", "degraded\n"].contains(&state.stdout.as_str()))
        })
        .with_context(said)
    }

    /// Switches it off.
    ///
    /// # Errors
    ///
    /// If it does not go.
    pub fn power_off(&mut self) -> Result<()> {
        self.run("systemctl poweroff")?;
        let mut running = self.running.take().context("it is off")?;
        running.process.wait(BOOT)?;
        Ok(())
    }

    /// Runs a command line of the shell in it, as root.
    ///
    /// # Errors
    ///
    /// If it is off, or the command takes too long. A bad exit code is no error here.
    pub fn run(&self, line: &str) -> Result<Finished> {
        let running = self.running.as_ref().context("it is off")?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", running.init));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd=/", "--"]);
        command.args(["env", "-i", PATH, "LC_ALL=C.UTF-8", "sh", "-c", line]);
        run(&mut command, COMMAND)
    }

    /// Runs a command line that has to succeed, and gives what it printed.
    ///
    /// # Errors
    ///
    /// If it does not succeed.
    pub fn done(&self, line: &str) -> Result<String> {
        Ok(self.run(line)?.expect_success()?.to_owned())
    }

    fn console(&self) -> PathBuf {
        self.directory.with_file_name("console.log")
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Killing its init takes all of its processes along, which killing the container's keeper does not.
        // Nothing more can be done here if it fails.
        if let Some(running) = self.running.take() {
            let _ = kill(Pid::from_raw(running.init), Signal::SIGKILL);
        }
    }
}

impl Pins {
    fn mount(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .context("mounting a BPF file system")?;
        Ok(Self(path))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Nothing more can be done here if it fails.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The children of a process, and theirs.
fn descendants(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let own = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    own.flat_map(|child| std::iter::once(child).chain(descendants(child))).collect()
}

/// Whether a process is the first of a namespace of its own, and the init that is meant.
fn is_init(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let first = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name == "systemd\n" && first.is_some_and(|pids| pids.split_whitespace().last() == Some("1"))
}
