//! A process under ptrace(2): every system call that it makes about kernel objects, netlink or
//! its own files is seen before the kernel sees it, and one of them can be made to fail.
//!
//! Why not `strace -e inject`: it counts calls for each thread and knows only their numbers, and a
//! daemon that refills a budget ten times a second never makes the same call at the same number.
//! Here a call is aimed at by what it does ([`super::call`]), counted over all threads since the
//! fault was armed. A call that is made to fail is never made: its number is taken away, and its
//! result written, as strace does.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Write,
    process::{ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::call::{self, Descriptors, Places, Registers};
use crate::bed::until_some;

/// What is to happen to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error, without being made.
    Error(Errno),
    /// The process is killed in its place.
    Kill,
}

/// One call among those of the same kind, counted from 0 since the fault was armed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// What the call does.
    pub call: String,
    /// How many of the same kind come before it.
    pub position: usize,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this exit status.
    Exit(i32),
    /// By a signal.
    Signal(Signal),
}

/// A process under the tracer. Dropping it kills it.
#[derive(Debug)]
pub struct Traced {
    pid: Pid,
    state: Arc<Mutex<State>>,
    tracer: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct State {
    armed: Option<(Target, Fault)>,
    /// Whether the armed fault has happened.
    hit: bool,
    /// Calls since the last arming or clearing, by kind.
    counts: BTreeMap<String, usize>,
    end: Option<End>,
}

impl Traced {
    /// Starts a command, with a fault armed from its first call on.
    ///
    /// # Errors
    ///
    /// If it can't be started or traced.
    pub fn start(
        command: &Command,
        places: &Places,
        output: &File,
        fault: Option<(Target, Fault)>,
    ) -> Result<Self> {
        // It waits for a line, so that the tracer is there before the program is.
        let mut waiting = Command::new("sh");
        waiting.args(["-c", "read -r _; exec \"$@\"", "sh"]).arg(command.get_program());
        waiting.args(command.get_args());
        waiting.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        let state = Arc::new(Mutex::new(State { armed: fault, ..State::default() }));
        let (tell, told) = std::sync::mpsc::channel();
        let tracer = {
            let (state, places) = (Arc::clone(&state), places.clone());
            // A tracee belongs to one thread: that one starts it and waits for it.
            thread::Builder::new().name("tracer".into()).spawn(move || {
                match Tracer::start(waiting, places, state) {
                    Ok(tracer) => {
                        let _ = tell.send(Ok(tracer.leader));
                        tracer.run()
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                        Ok(())
                    }
                }
            })?
        };
        let pid = told.recv().context("the tracer has ended")??;
        Ok(Self { pid, state, tracer: Some(tracer) })
    }

    /// Arms a fault; calls are counted from here.
    pub fn arm(&self, target: &Target, fault: Fault) {
        let mut state = self.state();
        state.counts.clear();
        state.hit = false;
        state.armed = Some((target.clone(), fault));
    }

    /// Takes the fault back, if it has not happened yet, and counts from here.
    pub fn disarm(&self) {
        let mut state = self.state();
        state.armed = None;
        state.counts.clear();
    }

    /// Whether the fault that was armed last has happened.
    #[must_use]
    pub fn was_hit(&self) -> bool {
        self.state().hit
    }

    /// The calls since the last arming or disarming, by kind.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, usize> {
        self.state().counts.clone()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.state().end
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not come in time.
    pub fn wait(&self, limit: Duration) -> Result<End> {
        until_some("the end of a traced process", limit, || self.end())
    }

    /// Kills it, if it still runs.
    pub fn kill(&mut self) {
        {
            let state = self.state();
            if state.end.is_none() {
                // The state is locked, so that the process id is still its own.
                let _ = kill(self.pid, Signal::SIGKILL);
            }
        }
        if let Some(tracer) = self.tracer.take() {
            // What went wrong in there shows in what the case expects.
            let _ = tracer.join();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a thread is in the middle of.
enum Inside {
    /// A call that is made as it is.
    Plain(Registers),
    /// A call that was taken away.
    Failing(Errno),
}

struct Tracer {
    leader: Pid,
    /// Lets the program begin.
    line: Option<ChildStdin>,
    state: Arc<Mutex<State>>,
    inside: HashMap<Pid, Inside>,
    descriptors: Descriptors,
}

impl Tracer {
    fn start(mut command: Command, places: Places, state: Arc<Mutex<State>>) -> Result<Self> {
        let mut child = command.spawn().context("starting a program to be traced")?;
        let leader = Pid::from_raw(child.id().cast_signed());
        let line = child.stdin.take();
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        let seized = ptrace::seize(leader, options).and_then(|()| ptrace::interrupt(leader));
        if let Err(error) = seized {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error).context("tracing needs root, and no other tracer");
        }
        let descriptors = Descriptors::new(leader, places);
        Ok(Self { leader, line, state, inside: HashMap::new(), descriptors })
    }

    fn run(mut self) -> Result<()> {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(Pid::from_raw(-1), Some(flags)) {
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(()),
                Err(error) => bail!("waiting for a traced process: {error}"),
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid, End::Exit(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.ended(pid, End::Signal(signal)),
                Ok(WaitStatus::PtraceSyscall(thread)) => {
                    // A thread that was killed meanwhile has no registers: its end comes next.
                    let _ = self.at_call(thread);
                    let _ = ptrace::syscall(thread, None);
                }
                Ok(WaitStatus::PtraceEvent(thread, ..)) => {
                    let _ = ptrace::syscall(thread, None);
                    if let Some(mut line) = self.line.take() {
                        writeln!(line).context("letting the program begin")?;
                    }
                }
                Ok(WaitStatus::Stopped(thread, signal)) => {
                    let _ = ptrace::syscall(thread, signal);
                }
                Ok(_) => {}
            }
        }
    }

    fn ended(&mut self, pid: Pid, end: End) {
        self.inside.remove(&pid);
        if pid == self.leader {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).end = Some(end);
        }
    }

    fn at_call(&mut self, thread: Pid) -> Result<()> {
        let registers = call::registers(thread)?;
        match self.inside.remove(&thread) {
            // The end of a call that began before the tracer came.
            None if !registers.is_entry() => {}
            None => {
                let inside = self.entering(thread, registers)?;
                self.inside.insert(thread, inside);
            }
            Some(Inside::Failing(errno)) => call::fail_with(thread, errno)?,
            Some(Inside::Plain(entered)) => self.descriptors.returned(&entered, &registers),
        }
        Ok(())
    }

    fn entering(&mut self, thread: Pid, registers: Registers) -> Result<Inside> {
        let Some(what) = self.descriptors.describe(&registers) else {
            return Ok(Inside::Plain(registers));
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = state.counts.entry(what.clone()).or_default();
        let position = *count;
        *count += 1;
        let fault = match &state.armed {
            Some((target, fault)) if target.call == what && target.position == position => *fault,
            _ => return Ok(Inside::Plain(registers)),
        };
        state.armed = None;
        state.hit = true;
        match fault {
            Fault::Error(errno) => {
                call::take_away(thread)?;
                Ok(Inside::Failing(errno))
            }
            Fault::Kill => {
                kill(self.leader, Signal::SIGKILL)?;
                Ok(Inside::Plain(registers))
            }
        }
    }
}
