//! The chart in a real cluster: its pods are told by a real API server, started by a real kubelet and reached by a
//! real kube-proxy's and CNI's ways, with a real LLM server behind them.
//!
//! ```text
//!   friend ----+            +----------------------- node: door0 ------------------------+
//!   stranger4 -+- switch ---+  API server, scheduler, kubelet, containerd, kube-proxy    |
//!   stranger6 -+            |  cni0 (a bridge) --- pods: llm, friend, stranger           |
//!                           +-------------------------------------------------------------+
//! ```
//!
//! The node is a [`Bed`](crate::bed::Bed)'s server, with process ids, mounts, a BPF file system and a cgroup of its
//! own. Nothing of it is the machine's: the machine's network is not in it, the inner door stands at the node's cgroup
//! and not at the root, and its pins are in its own file system. When the first process of the node ends, all of its
//! processes do.
//!
//! Needs root, and what `cargo xtask cluster` builds.

mod curve;
mod kube;
mod left;
mod node;
mod objects;
mod plane;
mod report;
mod settings;
mod story;
mod ways;

use std::path::PathBuf;

pub use report::Report;
pub use story::play;

/// What the story needs.
#[derive(Clone, Debug)]
pub struct Props {
    /// The directory with helm and kubectl.
    pub tools: PathBuf,
    /// The directory with Kubernetes' own programs (`bin/`), and with what a node needs beside (`node/`).
    pub programs: PathBuf,
    /// The directory with the images of pods.
    pub images: PathBuf,
    /// The language model.
    pub model: PathBuf,
    /// The archive of the guard's image.
    pub guard: PathBuf,
    /// The archive of the next version's image, whose maps have another layout.
    pub next: PathBuf,
    /// Where files may be made.
    pub work: PathBuf,
    /// Whether a cluster in which something was not as it should be waits for Enter before it goes.
    pub hold: bool,
}
