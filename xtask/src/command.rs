//! Running other programs: as the caller, and as root where that is unavoidable.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, IsTerminal as _},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, anyhow, bail};

/// Runs to the end with the caller's own terminal; anything but exit status 0 is an error that
/// names the command.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| could_not_start(command))?;
    if status.success() {
        return Ok(());
    }
    bail!("`{}` failed ({status})", shown(command))
}

/// Runs to the end and returns what was printed on stdout; stderr is the caller's own.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| could_not_start(command))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", shown(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something that is not UTF-8", shown(command)))
}

/// Runs to the end and shows its stdout only if it failed; stderr is the caller's own.
pub fn run_quietly(command: &mut Command) -> anyhow::Result<()> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| could_not_start(command))?;
    if output.status.success() {
        return Ok(());
    }
    print!("{}", String::from_utf8_lossy(&output.stdout));
    bail!("`{}` failed ({})", shown(command), output.status)
}

/// Stdout of a question whose failure is an answer too: `None` if it could not be started or
/// failed. Prints nothing.
pub fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Becomes the other program: its exit status and every signal are then its own. Returns only
/// if that fails.
pub fn exec(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow!(error).context(could_not_start(command))
}

fn could_not_start(command: &Command) -> String {
    format!("could not start `{}`", shown(command))
}

/// The command as one would type it, for messages.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args());
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The path of a program, or `None`. Looks into the system directories too, which an ordinary
/// user's `PATH` often lacks.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// How this process may do what only root may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elevation {
    /// It is root.
    Root,
    /// By `sudo`, which may ask for a password on the terminal.
    Sudo,
    /// Not at all.
    Impossible,
}

impl Elevation {
    /// Finds out without asking anybody anything.
    pub fn detect() -> Self {
        if is_root() {
            return Self::Root;
        }
        if find_program("sudo").is_none() {
            return Self::Impossible;
        }
        let without_password = ask(Command::new("sudo").args(["-n", "true"])).is_some();
        if without_password || io::stdin().is_terminal() { Self::Sudo } else { Self::Impossible }
    }

    /// A command that runs as root, with nothing of the caller's environment but `env` under
    /// sudo; `None` where that is impossible.
    pub fn command(self, program: impl AsRef<OsStr>, env: &[(&str, &OsStr)]) -> Option<Command> {
        match self {
            Self::Root => {
                let mut command = Command::new(program);
                command.envs(env.iter().copied());
                Some(command)
            }
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("--");
                if !env.is_empty() {
                    // sudo drops the environment, and may forbid to keep parts of it.
                    command.arg("env");
                }
                for (name, value) in env {
                    let mut pair = OsStr::new(name).to_os_string();
                    pair.push("=");
                    pair.push(value);
                    command.arg(pair);
                }
                command.arg(program);
                Some(command)
            }
            Self::Impossible => None,
        }
    }

    /// Like [`Self::command`], or an error that says what cannot be done and how it can.
    pub fn require(
        self,
        what: &str,
        program: impl AsRef<OsStr>,
        env: &[(&str, &OsStr)],
    ) -> anyhow::Result<Command> {
        self.command(program, env).with_context(|| {
            format!(
                "{what}: this needs root, and you are neither root nor may use sudo here; call me as root"
            )
        })
    }
}

/// Whether the effective user is root: `/proc/self` belongs to it.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("printf");
        command.args(["%s", "two words", "it's"]);
        assert_eq!(shown(&command), r"printf %s 'two words' 'it'\''s'");
    }

    #[test]
    fn sudo_gets_the_environment_as_words() {
        let command = Elevation::Sudo.command("guard", &[("A", OsStr::new("b c"))]);
        assert_eq!(command.map(|c| shown(&c)).as_deref(), Some("sudo -- env 'A=b c' guard"));
    }

    #[test]
    fn without_root_and_sudo_there_is_no_command() {
        assert!(Elevation::Impossible.command("guard", &[]).is_none());
    }
}
