//! A layer-3 tunnel between two hosts: `socat` carries the packets in UDP.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use nix::net::if_::if_nametoindex;

use super::{Namespace, Pair, Process, start, until};

const PATIENCE: Duration = Duration::from_secs(10);
const TUNNEL_PORT: u16 = 5000;

/// A tunnel over the cable of a [`Pair`], without addresses of its own. Dropping it removes both
/// devices.
#[derive(Debug)]
pub struct SocatTun {
    _ends: [Process; 2],
}

impl SocatTun {
    /// The device's name at both ends.
    pub const NAME: &str = "tun0";
    /// Bytes before the inner packet on the cable: Ethernet, IPv4 and UDP headers.
    pub const OVERHEAD: usize = 14 + 20 + 8;

    /// Lays it.
    ///
    /// # Errors
    ///
    /// If a device does not appear.
    pub fn lay_over(pair: &Pair) -> Result<Self> {
        let ends = [
            end(&pair.server, Pair::SERVER_END, Pair::CLIENT_END)?,
            end(&pair.client, Pair::CLIENT_END, Pair::SERVER_END)?,
        ];
        Ok(Self { _ends: ends })
    }
}

fn end(namespace: &Namespace, own: Ipv4Addr, peer: Ipv4Addr) -> Result<Process> {
    let name = SocatTun::NAME;
    let carrier = format!("UDP4-DATAGRAM:{peer}:{TUNNEL_PORT},bind={own}:{TUNNEL_PORT}");
    let device = format!("TUN,tun-name={name},iff-no-pi,up");
    let socat = start(namespace.command("socat").args([carrier, device]))?;
    until(&format!("{name} by `socat` (package socat)"), PATIENCE, || {
        namespace.enter(|| if_nametoindex(name).is_ok()).unwrap_or(false)
    })?;
    // `socat` does so too, a moment later; an address needs it now.
    namespace.ip(&["link", "set", name, "up"])?;
    Ok(socat)
}
