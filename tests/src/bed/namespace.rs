//! Network namespaces.

use std::{
    fs::File, panic::resume_unwind, path::PathBuf, process::Command, thread, time::Duration,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use super::{
    process::{Finished, complain, run},
    reap::{NAMESPACE_PREFIX, reap_once},
};

/// Says to every guard that a test starts where its inner door is to stand.
pub(super) const INNER_VARIABLE: &str = "OLLAMA_GUARD_INNER";

/// Where `ip netns` keeps its names.
pub(super) const NAMES: &str = "/run/netns";

/// How long an `ip` command may take.
const IP_LIMIT: Duration = Duration::from_secs(10);

/// A network namespace of our own. Dropping it removes it, with every device in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace for this role of this bed. IPv6 is quiet in it: no address checks, no
    /// router solicitations.
    ///
    /// # Errors
    ///
    /// If it can't be made, mostly for want of root.
    pub fn new(bed: usize, role: &str) -> Result<Self> {
        reap_once();
        let name = format!("{NAMESPACE_PREFIX}{}-{bed}-{role}", std::process::id());
        ip(&["netns", "add", &name]).context("making a network namespace needs root")?;
        // From here on, dropping it cleans up.
        let namespace = Self { name };
        namespace.enter(|| -> Result<()> {
            for (knob, value) in
                [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")]
            {
                let path = format!("/proc/sys/net/ipv6/conf/default/{knob}");
                std::fs::write(&path, value).with_context(|| format!("writing {path}"))?;
            }
            Ok(())
        })??;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The namespace that a process is in, under a name of ours. Dropping it takes the name away.
    ///
    /// # Errors
    ///
    /// If there is no such process.
    pub fn of_process(bed: usize, role: &str, pid: i32) -> Result<Self> {
        let name = format!("{NAMESPACE_PREFIX}{}-{bed}-{role}", std::process::id());
        ip(&["netns", "attach", &name, &pid.to_string()])?;
        Ok(Self { name })
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NAMES).join(&self.name)
    }

    /// Runs `ip` on it, with the arguments behind `ip -n NAME`.
    ///
    /// # Errors
    ///
    /// If `ip` fails.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// A command that runs inside. It can be started, or run with [`run`].
    #[must_use]
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program.into());
        // The inner door is in front of every socket of the machine, also of those that have nothing to do
        // with the tests: whoever wants one names a cgroup of its own with a flag, which goes before this.
        command.env(INNER_VARIABLE, "off");
        command
    }

    /// Runs a program inside to its end.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub fn run(&self, program: &str, arguments: &[&str], limit: Duration) -> Result<Finished> {
        run(self.command(program).args(arguments), limit)
    }

    /// Does some work on a thread inside. Sockets that are opened there stay inside, also when
    /// they are handed out.
    ///
    /// # Errors
    ///
    /// If the namespace can't be entered. A panic of the work goes on in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("opening {}", self.name))?;
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("entering {}", self.name))?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            complain(&format!("the namespace {} stays behind: {error:#}", self.name));
        }
    }
}

/// Runs `ip`, which has to succeed.
pub(super) fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments), IP_LIMIT)
        .context("`ip` is needed (package iproute2)")?
        .expect_success()?;
    Ok(())
}
