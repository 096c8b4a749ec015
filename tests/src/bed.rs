//! Network namespaces with a server, a friend, strangers, and the real daemon.
//!
//! ```text
//!   friend ----+
//!   stranger4 -+- switch (a bridge) ---- door0, server
//!   stranger6 -+
//! ```
//!
//! Every host has a namespace of its own; the server has one guarded door. For devices other than
//! a plain cable there is a [`Pair`] of hosts. Everything that is
//! made here has a name with this process's id in it, is removed when its owner is dropped (also
//! by a panic), and, should the process have been killed, by the next run: see [`reap`].
//!
//! Needs root, `ip` (iproute2) and `nsenter` (util-linux). `nsenter` and not `ip netns exec`: the
//! latter mounts a fresh `/sys` without bpffs.

mod cgroup;
mod client;
mod contained;
mod dns;
mod flood;
mod foreign;
mod foreign_tc;
mod garbage;
mod guard;
#[cfg(target_arch = "x86_64")]
mod intruder;
mod kernel;
mod knock;
mod namespace;
mod pair;
mod passing;
mod podman;
pub mod policy_table;
mod process;
mod prometheus;
mod reap;
mod screen;
mod server;
mod socat_tun;
mod status;
mod topology;
mod tun;
mod under_flood;
mod wait;
mod wire;
mod without_links;

pub use cgroup::{Cgroup, hierarchies, remove as remove_cgroup};
pub use client::{Answer, Asker, download, get, post};
pub use contained::{Contained, PUBLISHED};
pub use dns::{DOMAIN, NameServer, ResolverFiles};
pub use flood::Flood;
pub use foreign::{Foreign, XDP_PASS, XDP_TX, takes_short_linear_part};
pub use foreign_tc::{ForeignTc, Place, TC_ACT_OK};
pub use garbage::write_garbage;
pub use guard::{
    Guard, GuardSetup, RunsAs, SERVICE_CAPABILITIES, SERVICE_UID, VERSION_DIRECTORY, guard_binary,
    layout_in,
};
#[cfg(target_arch = "x86_64")]
pub use intruder::Intruder;
pub use kernel::{Objects, hook_at_tc, kernel_release, pins, xdp_program_id};
pub use knock::{Knock, everyone_is_served, knock, only_the_friend_is_served};
pub use namespace::Namespace;
pub use pair::{CABLE_MTU, Pair};
pub use passing::{NEWCOMER4, passes, passes_to, passing, until_passing};
pub use podman::Podman;
pub use process::{Finished, Process, run, start};
pub use prometheus::{Labels, Page, Prometheus, fetch, prometheus_program};
pub use reap::{PIN_DIR_PREFIX, reap};
pub use screen::Screen;
pub use server::{GREETING, Standin};
pub use socat_tun::SocatTun;
pub use status::{Book, Door, Status};
pub use topology::{
    Bed, CLIENT_INTERFACE, FRIEND_MAC, Host, SERVER_DOOR, SERVER_MAC, STRANGER4_MAC, STRANGER6_MAC,
    SWITCH_TO_SERVER,
};
pub use tun::TunEnd;
pub use under_flood::UnderFlood;
pub use wait::{patience, rounds, until, until_some};
pub use wire::{Capture, Direction, Heard, Wire};
pub use without_links::without_links;

use std::sync::atomic::{AtomicUsize, Ordering};

/// A number that this process has not used yet.
pub(crate) fn next_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
