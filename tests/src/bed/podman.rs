//! Pods as podman plays them, in the network of a namespace, with everything that podman keeps in a directory
//! of its own.
//!
//! Dropping it removes containers, images and files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{
    Finished, Namespace,
    process::{complain, run},
    reap::PIN_DIR_PREFIX,
};
use crate::deployment::tool;

/// An image is unpacked, and a container of it made, on a machine that may be busy.
const LIMIT: Duration = Duration::from_secs(180);

/// A podman.
#[derive(Debug)]
pub struct Podman<'bed> {
    namespace: &'bed Namespace,
    script: PathBuf,
    kept: TempDir,
    /// What is played, to be taken down again.
    played: Vec<PathBuf>,
}

impl<'bed> Podman<'bed> {
    /// One with this image in it, whose pods are in the network of the namespace.
    ///
    /// # Errors
    ///
    /// If podman or the archive is missing.
    pub fn with_image(namespace: &'bed Namespace, archive: &Path) -> Result<Self> {
        let script = tool("podman/run")?;
        let kept = tempfile::Builder::new()
            .prefix(&format!("{PIN_DIR_PREFIX}{}-", std::process::id()))
            .tempdir()
            .context("making a directory for podman")?;
        let podman = Self { namespace, script, kept, played: Vec::new() };
        let archive = archive.to_str().context("the archive's name is not UTF-8")?;
        podman.call(&["load", "--quiet", "--input", archive])?.expect_success()?;
        Ok(podman)
    }

    /// A file for something that a pod mounts.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.kept.path().join(name)
    }

    /// Runs podman.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn call(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command: Command = self.namespace.command(&self.script);
        for (flag, name) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.file(name));
        }
        run(command.args(arguments), LIMIT)
    }

    /// Plays objects of Kubernetes, as they are written.
    ///
    /// # Errors
    ///
    /// If podman does not start it.
    pub fn play(&mut self, name: &str, yaml: &str) -> Result<()> {
        let file = self.file(name).with_extension("yaml");
        fs::write(&file, yaml)?;
        self.played.push(file.clone());
        let file = file.to_str().context("the file's name is not UTF-8")?;
        self.call(&["kube", "play", file])?.expect_success()?;
        Ok(())
    }

    /// Ends the pod that was played last, as the kubelet ends one.
    ///
    /// # Errors
    ///
    /// If podman does not.
    pub fn down(&mut self) -> Result<()> {
        let Some(file) = self.played.pop() else { return Ok(()) };
        let file = file.to_str().context("the file's name is not UTF-8")?;
        self.call(&["kube", "down", file])?.expect_success()?;
        Ok(())
    }

    /// Runs a program in a container, with its privileges.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn exec(&self, container: &str, words: &[&str]) -> Result<Finished> {
        self.call(&[&["exec", container], words].concat())
    }

    /// What a container has said.
    #[must_use]
    pub fn log(&self, container: &str) -> String {
        self.call(&["logs", container]).map(|log| log.stdout + &log.stderr).unwrap_or_default()
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        while !self.played.is_empty() {
            if let Err(error) = self.down() {
                complain(&format!("a pod stays: {error:#}"));
            }
        }
        for words in [&["pod", "rm", "--all", "--force"][..], &["rmi", "--all", "--force"]] {
            if let Err(error) = self.call(words) {
                complain(&format!("podman {words:?}: {error:#}"));
            }
        }
    }
}
