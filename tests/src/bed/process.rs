//! Child processes that do not outlive their owner, and commands that do not run for ever.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::wait::until_some;

/// Says that cleaning up failed. Never panics, whatever became of standard error: it is called
/// while a panic unwinds.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A running child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
}

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command.
    pub what: String,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Whether the exit code was 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// The standard output of a command that has to succeed.
    ///
    /// # Errors
    ///
    /// If it did not; the message holds what it said.
    pub fn expect_success(&self) -> Result<&str> {
        anyhow::ensure!(
            self.succeeded(),
            "`{}` ended with {:?}\nstdout: {}\nstderr: {}",
            self.what,
            self.code,
            self.stdout,
            self.stderr,
        );
        Ok(&self.stdout)
    }
}

/// Starts a command as a child that dies with its owner.
///
/// # Errors
///
/// If the program can't be started.
pub fn start(command: &mut Command) -> Result<Process> {
    let what = described(command);
    // A group of its own: an interrupt from the terminal is for us alone, and we end our children
    // in the order that cleans up.
    let child = command.process_group(0).spawn().with_context(|| format!("starting `{what}`"))?;
    Ok(Process { what, child })
}

/// Runs a command to its end.
///
/// # Errors
///
/// If it can't be started or takes longer than `limit`, in which case it is killed. A bad exit
/// code is no error here: see [`Finished::expect_success`].
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    // Files and not pipes: a child that writes much can't block on a reader that waits for it.
    let mut stdout = tempfile::tempfile().context("making a file for the output")?;
    let mut stderr = tempfile::tempfile().context("making a file for the errors")?;
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut process = start(command)?;
    let status = process.wait(limit);
    let (stdout, stderr) = (text(&mut stdout)?, text(&mut stderr)?);
    let status = status.with_context(|| format!("stdout: {stdout}\nstderr: {stderr}"))?;
    Ok(Finished { what: process.what.clone(), code: status.code(), stdout, stderr })
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn described(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

impl Process {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Its standard output, if it was started with a pipe there. Can be taken once.
    pub const fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its standard input, if it was started with a pipe there. Can be taken once.
    pub const fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// If it is not running any more.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        anyhow::ensure!(self.is_running(), "`{}` is not running", self.what);
        kill(self.pid(), signal).with_context(|| format!("sending {signal} to `{}`", self.what))
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of `{}`", self.what);
        until_some(&what, limit, || self.child.try_wait().transpose())?.context(what)
    }

    /// Kills it by SIGKILL and waits for its end.
    ///
    /// # Errors
    ///
    /// If the kernel does not let us.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("killing `{}`", self.what))?;
        self.child.wait().with_context(|| format!("waiting for `{}`", self.what))?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            // Nothing more can be done here if it fails.
            let _ = self.kill();
        }
    }
}
