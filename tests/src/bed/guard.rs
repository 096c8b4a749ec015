//! The real daemon and its command line, in a namespace, with pins and files of its own.
//!
//! Long because it is a list of all that a test can do to a guard, a few lines each.

mod setup;
mod user;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{sys::signal::Signal, unistd::Pid};
use tempfile::TempDir;

pub use setup::{GuardSetup, guard_binary, layout_in};
pub use user::{RunsAs, SERVICE_CAPABILITIES, SERVICE_UID};

use super::{
    Namespace, ResolverFiles, Status,
    namespace::INNER_VARIABLE,
    process::{Finished, Process, complain, run, start},
    wait::{patience, until_some},
};

/// Loading programs takes a while on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long one question to the control socket may take.
const SOCKET_PATIENCE: Duration = Duration::from_secs(10);

/// The directory of this version's programs and maps below the pin directory.
pub const VERSION_DIRECTORY: &str = "v6";
const _: () = assert!(ollama_guard_common::abi::ABI_VERSION == 6, "it is named after the version");

/// A guard: a daemon that may run or not, and what it has put into the kernel. Dropping it
/// removes both.
#[derive(Debug)]
pub struct Guard<'bed> {
    namespace: &'bed Namespace,
    binary: PathBuf,
    arguments: Vec<String>,
    runs_as: RunsAs,
    /// Whether the file says where the inner door stands, and not the environment.
    is_inner_by_file: bool,
    pin_dir: PathBuf,
    daemon: Option<Process>,
    resolver: Option<ResolverFiles>,
    // In this order: what is mounted in the directory goes first.
    _bpffs: Option<user::Bpffs>,
    directory: TempDir,
}

impl Guard<'_> {
    /// Where its pins are.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Where its control socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("control/control.sock")
    }

    /// Its directory for rules that the command line added.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Its configuration file, which exists once it has been written.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    /// As whom daemon and command line run.
    #[must_use]
    pub const fn runs_as(&self) -> &RunsAs {
        &self.runs_as
    }

    /// Gives a file or directory that a test made to the user that the daemon runs as.
    ///
    /// # Errors
    ///
    /// If there is no such path.
    pub fn hand_over(&self, path: &Path) -> Result<()> {
        self.runs_as.own(path)
    }

    /// From now on, daemon and command line are another binary.
    ///
    /// # Errors
    ///
    /// If the user can't be given one that it may run.
    pub fn use_binary(&mut self, path: &Path) -> Result<()> {
        self.binary = self.runs_as.reachable(path.to_owned(), self.directory.path())?;
        Ok(())
    }

    /// A path for a file that a test needs beside it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration file. The daemon reads it when it starts.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn write_config(&self, content: &str) -> Result<()> {
        let path = self.config_file();
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))
    }

    /// The files by which its daemon looks up names from the next start on, instead of the machine's.
    ///
    /// # Errors
    ///
    /// If they can't be made.
    pub fn use_resolver_files(&mut self) -> Result<ResolverFiles> {
        let files = ResolverFiles::in_directory(self.directory.path())?;
        Ok(self.resolver.insert(files).clone())
    }

    /// The daemon's process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.daemon.as_ref().map(Process::pid)
    }

    /// Everything that the daemon has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it ends or does not answer in time; the message holds what it said.
    pub fn start(&mut self) -> Result<()> {
        anyhow::ensure!(self.daemon.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = self.run_command();
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut daemon = start(&mut command)?;
        let outcome = until_some("the daemon to answer", READY_LIMIT, || {
            if !daemon.is_running() {
                return Some(Err(anyhow::anyhow!("the daemon ended by itself")));
            }
            self.answers().then_some(Ok(()))
        });
        self.daemon = Some(daemon);
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) | Err(error) => {
                self.kill9()?;
                Err(error.context(format!("what it said:\n{}", self.log())))
            }
        }
    }

    /// Runs the daemon in the foreground, to see it refuse: it is to end by itself.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn run_to_the_end(&self, limit: Duration) -> Result<Finished> {
        run(&mut self.run_command(), limit)
    }

    /// Kills the daemon by SIGKILL, if it runs.
    ///
    /// # Errors
    ///
    /// If the kernel does not let us.
    pub fn kill9(&mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), |mut daemon| daemon.kill())
    }

    /// Ends the daemon by SIGTERM.
    ///
    /// # Errors
    ///
    /// If it does not run or does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.signal(Signal::SIGTERM)?;
        daemon.wait(STOP_LIMIT).with_context(|| format!("what it said:\n{}", self.log()))
    }

    /// Sends a signal to the daemon.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.daemon.as_mut().context("no daemon runs")?.signal(signal)
    }

    /// A command line, with the paths of this guard added where the command takes them.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let words = match arguments.first().copied() {
            Some("allow" | "deny") => 2,
            _ => 1,
        };
        let (verb, rest) = arguments.split_at(words.min(arguments.len()));
        let mut command = self.runs_as.command(&[], self.namespace, &self.binary);
        command.args(verb);
        match arguments.first().copied() {
            Some(
                "allow" | "deny" | "learn" | "reload" | "diff" | "top" | "confirm" | "revert"
                | "mode",
            ) => command.arg("--socket").arg(self.socket()),
            Some("events") => {
                command.arg("--socket").arg(self.socket()).arg("--state-dir").arg(self.state_dir())
            }
            Some("status" | "verify" | "explain" | "detach") => {
                command.arg("--socket").arg(self.socket()).arg("--pin-dir").arg(&self.pin_dir)
            }
            Some("doctor") => command.arg("--pin-dir").arg(&self.pin_dir),
            _ => &mut command,
        };
        command.args(rest);
        command
    }

    /// What `status` says from the kernel alone, without asking the daemon.
    ///
    /// # Errors
    ///
    /// If it can't be started or takes too long. A bad exit code is no error here.
    pub fn status_past_the_daemon(&self) -> Result<Finished> {
        let mut command = self.namespace.command(&self.binary);
        command.args(["status", "--socket"]).arg(self.file("no-such-socket"));
        run(command.arg("--pin-dir").arg(&self.pin_dir), COMMAND_LIMIT)
    }

    /// A command line of root's, whoever the daemon runs as: for what is root's work alone.
    ///
    /// # Errors
    ///
    /// If it can't be started or takes too long. A bad exit code is no error here.
    pub fn root_cli(&self, arguments: &[&str]) -> Result<Finished> {
        let (verb, rest) = arguments.split_at(1.min(arguments.len()));
        let mut command = self.namespace.command(&self.binary);
        command.args(verb).arg("--socket").arg(self.socket());
        run(command.arg("--pin-dir").arg(&self.pin_dir).args(rest), COMMAND_LIMIT)
    }

    /// What `doctor` says to root.
    ///
    /// # Errors
    ///
    /// If it can't be started or takes too long. A bad exit code is no error here.
    pub fn root_cli_doctor(&self) -> Result<String> {
        let mut command = self.namespace.command(&self.binary);
        command.arg("doctor").arg("--pin-dir").arg(&self.pin_dir);
        Ok(run(command.arg("--config").arg(self.config_file()), COMMAND_LIMIT)?.stdout)
    }

    /// Runs a command line to its end.
    ///
    /// # Errors
    ///
    /// If it can't be started or takes too long. A bad exit code is no error here.
    pub fn cli(&self, arguments: &[&str]) -> Result<Finished> {
        run(&mut self.command(arguments), COMMAND_LIMIT)
    }

    /// Runs a command line that has to succeed, and gives its standard output.
    ///
    /// # Errors
    ///
    /// If it does not succeed.
    pub fn done(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.cli(arguments)?.expect_success()?.to_owned())
    }

    /// What `status --json` says, whatever its exit code.
    ///
    /// # Errors
    ///
    /// If it says nothing that can be read.
    pub fn status(&self) -> Result<Status> {
        let finished = self.cli(&["status", "--json"])?;
        Status::parse(&finished.stdout)
            .with_context(|| format!("`{}` said: {}", finished.what, finished.stderr))
    }

    /// Starts a command line as a child, its standard output in a file of this name.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn follow(&self, arguments: &[&str], output: &str) -> Result<(Process, PathBuf)> {
        let path = self.file(output);
        let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let mut command = self.command(arguments);
        command.stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok((start(&mut command)?, path))
    }

    /// The arguments that a second daemon on the same pins would have.
    #[must_use]
    pub fn run_command(&self) -> Command {
        let wrapper = self.resolver.as_ref().map(ResolverFiles::wrapper).unwrap_or_default();
        let mut command = self.runs_as.command(&wrapper, self.namespace, &self.binary);
        if self.is_inner_by_file {
            let file = fs::read_to_string(self.config_file()).unwrap_or_default();
            assert!(
                file.contains("cgroup = "),
                "it would stand before every socket of the machine"
            );
            command.env_remove(INNER_VARIABLE);
        }
        command.arg("run").args(&self.arguments);
        command.arg("--pin-dir").arg(&self.pin_dir);
        command.arg("--state-dir").arg(self.state_dir());
        command.arg("--socket").arg(self.socket());
        if self.config_file().exists() {
            command.arg("--config").arg(self.config_file());
        }
        command
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("daemon.log")
    }

    /// Asks the control socket, without the command line in between.
    ///
    /// # Errors
    ///
    /// If nobody answers, or not with status 200; the message holds the answer.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let answer = self.exchange(method, path, body, patience(SOCKET_PATIENCE))?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        Ok(answer)
    }

    /// Asks the control socket, and gives the whole answer, whatever its status.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub fn exchange(
        &self,
        method: &str,
        path: &str,
        body: &str,
        patience: Duration,
    ) -> Result<String> {
        let mut stream = UnixStream::connect(self.socket())
            .with_context(|| format!("connecting to {}", self.socket().display()))?;
        stream.set_read_timeout(Some(patience))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: guard\r\nConnection: close\r\nContent-Type: \
             application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Replaces the allow rules that were added at run time, through the control socket: the
    /// fastest way there is.
    ///
    /// # Errors
    ///
    /// If the daemon refuses.
    pub fn replace_allowed(&self, prefixes: &[String]) -> Result<()> {
        let rules: Vec<_> =
            prefixes.iter().map(|prefix| serde_json::json!({ "prefix": prefix })).collect();
        let body = serde_json::json!({ "effect": "allow", "rules": rules, "anyone": false });
        self.ask("POST", "/v1/rules/replace", &body.to_string())?;
        Ok(())
    }

    /// Whether the control socket answers a request for the status.
    fn answers(&self) -> bool {
        self.ask("GET", "/v1/status", "").is_ok()
    }

    fn clean_up(&mut self) -> Result<()> {
        self.kill9()?;
        if !self.pin_dir.exists() {
            return Ok(());
        }
        let detached = self.cli(&["detach"]);
        if self.pin_dir.exists() {
            // Removing the pins is what releases links, programs and maps.
            fs::remove_dir_all(&self.pin_dir)
                .with_context(|| format!("removing {}", self.pin_dir.display()))?;
            match detached {
                Ok(finished) if finished.succeeded() => {}
                Ok(finished) => bail!("`detach` said: {}{}", finished.stdout, finished.stderr),
                Err(error) => return Err(error.context("`detach`")),
            }
        }
        Ok(())
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            complain(&format!("what the daemon said:\n{}", self.log()));
        }
        if let Err(error) = self.clean_up() {
            complain(&format!("cleaning up after the guard: {error:#}"));
        }
    }
}
