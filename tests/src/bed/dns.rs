//! A real name server, and a host of its own that asks it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Namespace, Process, process::start, until};

/// Where it listens, in its namespace.
const ADDRESS: &str = "127.0.0.1";
/// The domain that it knows all about.
pub const DOMAIN: &str = "example";
const PATIENCE: Duration = Duration::from_secs(10);

/// `dnsmasq`, as the authority of [`DOMAIN`], without anybody above it. Dropping it kills it.
#[derive(Debug)]
pub struct NameServer {
    process: Process,
    directory: TempDir,
}

impl NameServer {
    /// Starts one in a namespace with these addresses of names, and `alias.example` for `home.example`.
    ///
    /// # Errors
    ///
    /// If it is not there (package dnsmasq-base) or does not listen in time.
    pub fn start_in(namespace: &Namespace, records: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::tempdir().context("making a directory for dnsmasq")?;
        let hosts = directory.path().join("hosts");
        write(&hosts, records)?;
        let mut command = namespace.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ]);
        command.args(["--bind-interfaces", "--user=root", "--pid-file=", "--local-ttl=1"]);
        command.arg(format!("--listen-address={ADDRESS}")).arg(format!("--local=/{DOMAIN}/"));
        command.arg(format!("--addn-hosts={}", hosts.display()));
        command.arg(format!("--cname=alias.{DOMAIN},home.{DOMAIN}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = start(&mut command).context("`dnsmasq` is needed (dnsmasq-base)")?;
        until("dnsmasq to listen", PATIENCE, || {
            let bound = namespace.enter(|| std::net::UdpSocket::bind((ADDRESS, 53)).is_err());
            process.is_running() && bound.is_ok_and(|bound| bound)
        })?;
        Ok(Self { process, directory })
    }

    /// From now on these are the addresses of names. The server reads them within moments.
    ///
    /// # Errors
    ///
    /// If it does not run any more.
    pub fn set(&mut self, records: &[(&str, &str)]) -> Result<()> {
        write(&self.directory.path().join("hosts"), records)?;
        self.process.signal(Signal::SIGHUP)
    }
}

fn write(path: &Path, records: &[(&str, &str)]) -> Result<()> {
    let lines = records.iter().map(|(name, address)| format!("{address} {name}.{DOMAIN}\n"));
    fs::write(path, lines.collect::<String>()).context("writing what the name server knows")
}

/// The files by which a host looks up names, for one daemon alone: they lie over those of the machine in a mount
/// namespace of the daemon's own.
#[derive(Clone, Debug)]
pub struct ResolverFiles {
    directory: PathBuf,
}

impl ResolverFiles {
    /// Makes them in a directory: the name server of [`NameServer`], and a `hosts` file with nobody in it.
    ///
    /// # Errors
    ///
    /// If they can't be written.
    pub fn in_directory(directory: &Path) -> Result<Self> {
        let files = Self { directory: directory.to_owned() };
        files.ask(ADDRESS)?;
        files.set_hosts("")?;
        for name in ["resolv.conf", "hosts"] {
            fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o644))?;
        }
        Ok(files)
    }

    /// From now on this server is asked, briefly.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn ask(&self, server: &str) -> Result<()> {
        // A search domain that must not be used.
        let text = format!("search {DOMAIN}\nnameserver {server}\noptions timeout:1 attempts:1\n");
        fs::write(self.directory.join("resolv.conf"), text).context("writing resolv.conf")
    }

    /// Another content of the `hosts` file.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn set_hosts(&self, text: &str) -> Result<()> {
        fs::write(self.directory.join("hosts"), text).context("writing hosts")
    }

    /// What stands before a program that is to see them.
    pub(super) fn wrapper(&self) -> Vec<String> {
        let script = "mount --bind \"$0/resolv.conf\" /etc/resolv.conf && \
                      mount --bind \"$0/hosts\" /etc/hosts && exec \"$@\"";
        let directory = self.directory.to_string_lossy();
        let words =
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, &directory];
        words.map(str::to_owned).to_vec()
    }
}
