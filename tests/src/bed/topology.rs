//! Who is there and how they are connected.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;

use super::{Answer, Namespace, get, next_number, wait::until};
use crate::{
    packet::{Ethernet, ethernet},
    policy::{FRIEND4, FRIEND6, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

/// The server's interface.
pub const SERVER_DOOR: &str = "door0";
/// The interface of every client.
pub const CLIENT_INTERFACE: &str = "eth0";
/// The switch's end of the server's cable: frames that are sent here arrive at [`SERVER_DOOR`]
/// whatever a bridge thinks of them.
pub const SWITCH_TO_SERVER: &str = "to-server";

/// The server's hardware address.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The friend's hardware address.
pub const FRIEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The IPv4 stranger's hardware address.
pub const STRANGER4_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// The IPv6 stranger's hardware address.
pub const STRANGER6_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];

/// Everybody's network is on this one segment.
const NETWORKS4: [&str; 3] = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"];
const NETWORKS6: [&str; 3] = ["2001:db8:1::/64", "2001:db8:7::/64", "2001:db8:bad::/64"];

/// A port that nobody listens on, to see whether the way is free.
const CLOSED_PORT: u16 = 9;
const READY_LIMIT: Duration = Duration::from_secs(10);

/// A host of the bed.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its IPv4 address, if it has one.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address, if it has one.
    pub v6: Option<Ipv6Addr>,
}

impl Host {
    /// The head of a frame from this host to the server.
    #[must_use]
    pub const fn ethernet(&self) -> Ethernet {
        ethernet().from(self.mac).to(SERVER_MAC)
    }

    /// The server's sockets that this host has an address to reach from.
    #[must_use]
    pub fn servers(&self, port: u16) -> Vec<SocketAddr> {
        let v4 = self.v4.map(|_| SocketAddr::from((SERVER4, port)));
        let v6 = self.v6.map(|_| SocketAddr::from((SERVER6, port)));
        [v4, v6].into_iter().flatten().collect()
    }
}

/// A server with one door, a friend and two strangers.
#[derive(Debug)]
pub struct Bed {
    /// The server, reached by [`SERVER4`] and [`SERVER6`] at [`SERVER_DOOR`].
    pub server: Host,
    /// [`FRIEND4`] and [`FRIEND6`].
    pub friend: Host,
    /// [`STRANGER4`].
    pub stranger4: Host,
    /// [`STRANGER6`].
    pub stranger6: Host,
    /// Where the cables meet.
    pub switch: Namespace,
}

impl Bed {
    /// Builds the bed and waits until everybody reaches the server.
    ///
    /// # Errors
    ///
    /// If something can't be made, mostly for want of root, or does not come up.
    pub fn new() -> Result<Self> {
        let number = next_number();
        let switch = Namespace::new(number, "switch")?;
        switch.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
        switch.ip(&["link", "set", "br0", "up"])?;
        let place = |role, interface, mac, v4, v6| -> Result<Host> {
            let namespace = Namespace::new(number, role)?;
            let host = Host { namespace, mac, v4, v6 };
            connect(&switch, &host, interface, &format!("to-{role}"))?;
            Ok(host)
        };
        let bed = Self {
            server: place("server", SERVER_DOOR, SERVER_MAC, Some(SERVER4), Some(SERVER6))?,
            friend: place("friend", CLIENT_INTERFACE, FRIEND_MAC, Some(FRIEND4), Some(FRIEND6))?,
            stranger4: place("guest4", CLIENT_INTERFACE, STRANGER4_MAC, Some(STRANGER4), None)?,
            stranger6: place("guest6", CLIENT_INTERFACE, STRANGER6_MAC, None, Some(STRANGER6))?,
            switch,
        };
        bed.wait_for_the_cables()?;
        Ok(bed)
    }

    /// The friend and the strangers.
    #[must_use]
    pub const fn clients(&self) -> [&Host; 3] {
        [&self.friend, &self.stranger4, &self.stranger6]
    }

    /// A closed port refuses: the way there and back is free.
    fn wait_for_the_cables(&self) -> Result<()> {
        for client in self.clients() {
            for server in client.servers(CLOSED_PORT) {
                let what = format!("{} to reach {server}", client.namespace.name());
                until(&what, READY_LIMIT, || {
                    let patience = Duration::from_millis(200);
                    matches!(get(&client.namespace, server, "/", patience), Ok(Answer::Refused))
                })?;
            }
        }
        Ok(())
    }
}

/// Lays a cable from the switch to a host, and gives the host its addresses.
fn connect(switch: &Namespace, host: &Host, interface: &str, port: &str) -> Result<()> {
    let mac = host.mac.map(|byte| format!("{byte:02x}")).join(":");
    let peer = host.namespace.name();
    switch.ip(&[
        "link", "add", port, "type", "veth", "peer", "name", interface, "address", &mac, "netns",
        peer,
    ])?;
    switch.ip(&["link", "set", port, "master", "br0", "up"])?;
    host.namespace.ip(&["link", "set", interface, "up"])?;
    let v4 = host.v4.map(IpAddr::from);
    settle(&host.namespace, interface, v4.into_iter().chain(host.v6.map(IpAddr::from)))
}

/// Gives an interface addresses, and the ways to all networks of their families.
pub(super) fn settle(
    namespace: &Namespace,
    interface: &str,
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Result<()> {
    for address in addresses {
        let (family, length, networks, flags) = match address {
            IpAddr::V4(_) => ("-4", 24, NETWORKS4, &[][..]),
            IpAddr::V6(_) => ("-6", 64, NETWORKS6, &["nodad"][..]),
        };
        let prefix = format!("{address}/{length}");
        let add = [family, "address", "add", &prefix, "dev", interface];
        namespace.ip(&[&add, flags].concat())?;
        for network in networks {
            namespace.ip(&[family, "route", "replace", network, "dev", interface])?;
        }
    }
    Ok(())
}
