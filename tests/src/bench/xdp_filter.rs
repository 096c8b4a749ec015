//! xdp-filter of xdp-tools, Debian's package: the XDP filter that is at hand everywhere.
//!
//! It can't say what the guard says, "this port from these sources only": any match decides, so that a
//! port can only be closed to everybody. That much, with the object for all of its features, is what
//! the guard is compared with.

use anyhow::{Context as _, Result};
use aya::programs::{ProgramFd, loaded_programs};

use crate::{
    bed::{Namespace, SERVER_DOOR, xdp_program_id},
    policy::GUARDED,
};

/// What it is called in tables.
pub const NAME: &str = "xdp-filter, all features, the port closed to everybody";

/// The command that starts it at the server's door. Its pins are in a bpffs that nobody else sees, and
/// that ends with the command; the program stays.
#[must_use]
pub fn start() -> String {
    format!(
        "unshare --mount sh -ec 'mount -t bpf bpf /sys/fs/bpf; \
         xdp-filter load --mode native --policy allow -f tcp,udp,ipv4,ipv6 {SERVER_DOOR}; \
         xdp-filter port {GUARDED} -p tcp -m dst'"
    )
}

/// The command that ends it.
#[must_use]
pub fn end() -> String {
    format!("ip link set dev {SERVER_DOOR} xdp off")
}

/// Its program, which runs at the server's door.
///
/// # Errors
///
/// If none does.
pub fn program(server: &Namespace) -> Result<ProgramFd> {
    let id = xdp_program_id(server, SERVER_DOOR)?.context("xdp-filter is not attached")?;
    for program in loaded_programs() {
        let program = program?;
        if u64::from(program.id()) == id {
            return Ok(program.fd()?);
        }
    }
    anyhow::bail!("the program {id} of xdp-filter is gone")
}
