//! A program in a terminal of its own, and what a person would see there.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    num::NonZeroU16,
    os::fd::OwnedFd,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::unistd::Pid;
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use super::{
    process::{Process, start},
    wait::until,
};

/// A program in a terminal. Dropping it hangs up.
pub struct Screen {
    keyboard: File,
    /// The terminal's own end, so that its settings can be looked at.
    line: OwnedFd,
    before: Termios,
    seen: Arc<Mutex<Seen>>,
    process: Process,
}

struct Seen {
    terminal: vt100::Parser,
    bytes: Vec<u8>,
}

impl Screen {
    /// Starts a command in a new terminal of this size.
    ///
    /// # Errors
    ///
    /// If there is no terminal, or the command can't be started.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).context("making a terminal")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let line = rustix::fs::open(
            Path::new(name.to_str()?),
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        tcsetwinsize(&line, size(columns, rows))?;
        let before = tcgetattr(&line)?;
        // A session of its own, whose terminal this is.
        let mut within = Command::new("setsid");
        within.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within.env("TERM", "xterm-256color");
        within.stdin(line.try_clone()?).stdout(line.try_clone()?).stderr(line.try_clone()?);
        let process = start(&mut within)?;
        let terminal = vt100::Parser::new(at_least_one(rows), at_least_one(columns), 0);
        let seen = Arc::new(Mutex::new(Seen { terminal, bytes: Vec::new() }));
        let keyboard = File::from(master);
        watch(keyboard.try_clone()?, Arc::clone(&seen));
        Ok(Self { keyboard, line, before, seen, process })
    }

    /// What is to be seen now.
    #[must_use]
    pub fn text(&self) -> String {
        lock(&self.seen).terminal.screen().contents()
    }

    /// Every byte that the program has written.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.seen).bytes.clone()
    }

    /// Waits until this is to be seen.
    ///
    /// # Errors
    ///
    /// If it does not come; the message has what is there instead.
    pub fn wait_for(&self, words: &str, limit: Duration) -> Result<()> {
        until(&format!("{words:?} on the screen"), limit, || self.text().contains(words))
            .with_context(|| format!("the screen:\n{}", self.text()))
    }

    /// Presses keys.
    ///
    /// # Errors
    ///
    /// If the terminal is gone.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("pressing a key")
    }

    /// Gives the terminal another size, of which the kernel tells the program.
    ///
    /// # Errors
    ///
    /// If the terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        lock(&self.seen).terminal.screen_mut().set_size(at_least_one(rows), at_least_one(columns));
        tcsetwinsize(&self.line, size(columns, rows)).context("resizing the terminal")
    }

    /// The process of the program itself.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn pid(&self) -> Result<Pid> {
        let parent = self.process.pid();
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(&path).context(path)?;
        let child = children.split_whitespace().next().context("the program has ended")?;
        Ok(Pid::from_raw(child.parse()?))
    }

    /// Waits for the end of the program, and gives its exit code.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn end(&mut self, limit: Duration) -> Result<Option<i32>> {
        let status = self.process.wait(limit);
        Ok(status.with_context(|| format!("the screen:\n{}", self.text()))?.code())
    }

    /// Whether the terminal is as it was before: its settings, the usual screen, the cursor.
    #[must_use]
    pub fn is_as_before(&self) -> bool {
        let is_usual = {
            let seen = lock(&self.seen);
            let screen = seen.terminal.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        };
        let settings = |termios: &Termios| {
            (termios.input_modes, termios.output_modes, termios.control_modes, termios.local_modes)
        };
        let now = tcgetattr(&self.line).map(|now| settings(&now));
        is_usual && now.is_ok_and(|now| now == settings(&self.before))
    }
}

/// Keeps what the program writes, until nobody can write any more.
fn watch(mut terminal: File, seen: Arc<Mutex<Seen>>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match terminal.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    let mut seen = lock(&seen);
                    seen.terminal.process(&buffer[..count]);
                    seen.bytes.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The other end is closed.
                Err(_) => break,
            }
        }
    });
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

const fn at_least_one(cells: u16) -> NonZeroU16 {
    match NonZeroU16::new(cells) {
        Some(cells) => cells,
        None => NonZeroU16::MIN,
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
