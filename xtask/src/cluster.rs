//! `cargo xtask cluster`: the chart in a real cluster of Kubernetes, with a real LLM server behind the guard.
//!
//! No package of a Kubernetes that one could start is in any release of Debian; the sources of one are, and so are a Go
//! compiler, etcd and containerd. So the control plane and the kubelet are built, once, which takes a quarter of
//! an hour, and kept in `target/cluster`. Nothing is installed. What is then played is the program `cluster` of the
//! tests: a node in namespaces of its own, which nothing of the machine's network leads to.
//!
//! It is not part of `cargo xtask test`: it downloads 400 MB the first time.

mod images;
mod model;
mod plane;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;

use crate::{
    build::{self, Profile},
    command::{self, Elevation},
    image, podman,
    recorded::{Page, play},
    setup::{self, Needs, kubernetes},
    workspace::Workspace,
};

/// The page that the figures are put into, and the line that they follow.
const PAGE: Page = Page {
    path: "ollama-guard/docs/kubernetes.md",
    mark: "<!-- What follows is written by `cargo xtask cluster --record`. -->\n",
};

/// What for.
#[derive(Args)]
pub struct Options {
    /// Only build what is missing, and start nothing
    #[arg(long)]
    prepare: bool,
    /// After a failure, wait for Enter before everything is taken down
    #[arg(long)]
    hold: bool,
    /// Write the figures into the documentation
    #[arg(long)]
    record: bool,
}

/// Builds what is missing, and plays it; anything that was not as it should be is an error.
pub fn cluster(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let compiler = setup::setup(workspace, Needs::TESTS)?;
    let place = directory(workspace);
    fs::create_dir_all(&place)?;
    let tools = kubernetes::ensure(workspace)?;
    let podman = podman::ensure(workspace)?;
    let programs = plane::ensure(&place)?;
    let images = images::ensure(&place, &programs, &podman)?;
    let model = model::ensure(&place)?;
    let guard = image::make(workspace, &compiler)?;
    let next = image::make_next(workspace, &compiler)?;
    build::both_sides(workspace, &compiler, Profile::Debug, &["cluster"])?;
    if options.prepare {
        println!("cluster: everything is there");
        return Ok(());
    }
    let program = workspace.debug_binary("cluster");
    let mut command = Elevation::detect().require("a cluster", program, &[])?;
    command.arg("--tools").arg(tools).arg("--programs").arg(programs).arg("--images").arg(images);
    command.arg("--model").arg(model).arg("--guard").arg(guard).arg("--next").arg(next);
    command.arg("--work").arg(place.join("work"));
    if options.hold {
        command.arg("--hold");
    }
    if !options.record {
        return command::run(&mut command);
    }
    let pages = workspace.root().join(PAGE.path);
    command.arg("--pictures").arg(pages.parent().context("a directory of pages")?);
    let report = play(&mut command, "the cluster")?;
    PAGE.record(workspace, "", report.trim())
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target().join("cluster")
}

/// Removes a directory, if it is there.
fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
