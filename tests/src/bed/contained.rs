//! A host with containers on a bridge, as Docker or a network plug-in for Kubernetes lays them out.
//!
//! ```text
//!   client ---- door0, host --- bridge0 --- web (11434 inside)
//!                                  +------- neighbour
//! ```
//!
//! The client speaks as the friend and as the strangers, from the documentation networks.

use std::{
    fs::{self, File},
    io::{Seek as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    Answer, CABLE_MTU, CLIENT_INTERFACE, Cgroup, Namespace, Pair, Process, SERVER_DOOR, get,
    next_number,
    process::{run, start},
    wait::until,
};
use crate::{
    packet::{ACK, Segment, ethernet, ipv4, ipv6, tcp},
    policy::{GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

/// The port of the host at which the container's is published.
pub const PUBLISHED: u16 = 8080;
const BRIDGE: &str = "bridge0";
const LIMIT: Duration = Duration::from_secs(10);

/// The host, its containers and a client.
#[derive(Debug)]
pub struct Contained {
    /// The host and the client.
    pub pair: Pair,
    /// The container that listens.
    pub web: Namespace,
    /// Another one on the same bridge.
    pub neighbour: Namespace,
    /// Where the sockets are made that are to be guarded.
    pub cgroup: Cgroup,
}

impl Contained {
    /// The host's addresses on the bridge, as containers see it.
    pub const GATEWAY: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd17, 0, 0, 0, 0, 0, 0, 1)),
    ];
    /// The addresses of the container that listens.
    pub const WEB: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(172, 17, 0, 2)),
        IpAddr::V6(Ipv6Addr::new(0xfd17, 0, 0, 0, 0, 0, 0, 2)),
    ];
    /// Those of the other one.
    pub const NEIGHBOUR: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(172, 17, 0, 3)),
        IpAddr::V6(Ipv6Addr::new(0xfd17, 0, 0, 0, 0, 0, 0, 3)),
    ];

    /// Builds it. Nobody listens yet, and nothing is published.
    ///
    /// # Errors
    ///
    /// If something can't be made, mostly for want of root.
    pub fn new() -> Result<Self> {
        let pair = Pair::new(CABLE_MTU)?;
        pair.settle(SERVER_DOOR, CLIENT_INTERFACE)?;
        let number = next_number();
        let web = Namespace::new(number, "web")?;
        let neighbour = Namespace::new(number, "neighbour")?;
        let host = &pair.server;
        host.ip(&["link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"])?;
        give(host, BRIDGE, Self::GATEWAY)?;
        host.enter(|| -> Result<()> {
            for knob in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(format!("/proc/sys/net/{knob}"), "1").context("forwarding")?;
            }
            Ok(())
        })??;
        for (container, port, addresses) in
            [(&web, "to-web", Self::WEB), (&neighbour, "to-neighbour", Self::NEIGHBOUR)]
        {
            let peer = ["peer", "name", "eth0", "netns", container.name()];
            host.ip(&[&["link", "add", port, "type", "veth"][..], &peer].concat())?;
            host.ip(&["link", "set", port, "master", BRIDGE, "up"])?;
            give(container, "eth0", addresses)?;
            for (family, gateway) in [("-4", Self::GATEWAY[0]), ("-6", Self::GATEWAY[1])] {
                let gateway = gateway.to_string();
                container.ip(&[family, "route", "add", "default", "via", &gateway])?;
            }
        }
        Ok(Self { pair, web, neighbour, cgroup: Cgroup::new()? })
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &Namespace {
        &self.pair.server
    }

    /// Starts the stand-in, a program of the test's own package, in the cgroup.
    ///
    /// # Errors
    ///
    /// If it does not listen in time.
    pub fn serve(&self, standin: &Path, inside: &Namespace, port: u16) -> Result<Process> {
        let mut command = self.cgroup.command(inside, standin);
        command.args(["--listen", &format!("[::]:{port}")]);
        let process = start(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        let own = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        until("the stand-in to listen", LIMIT, || {
            // From within: loopback is nobody's door.
            matches!(get(inside, own, "/", Duration::from_secs(1)), Ok(Answer::Served(_)))
        })?;
        Ok(process)
    }

    /// Publishes the container's port at one of the host's by NAT, in both families, as `docker run -p` and
    /// Kubernetes' host ports do.
    ///
    /// # Errors
    ///
    /// If `nft` fails.
    pub fn publish(&self, port: u16) -> Result<()> {
        let [v4, v6] = Self::WEB;
        self.nft(&format!(
            "table inet published {{ chain in {{ type nat hook prerouting priority dstnat; \
             iifname != \"{BRIDGE}\" tcp dport {port} meta nfproto ipv4 dnat ip to {v4}:{GUARDED}; \
             iifname != \"{BRIDGE}\" tcp dport {port} meta nfproto ipv6 dnat ip6 to [{v6}]:{GUARDED}; }}\n}}\n"
        ))
    }

    /// Hides everybody who comes to the containers from outside behind the gateway's addresses.
    ///
    /// # Errors
    ///
    /// If `nft` fails.
    pub fn masquerade(&self) -> Result<()> {
        self.nft(&format!(
            "table inet hidden {{ chain out {{ type nat hook postrouting priority srcnat; \
             oifname \"{BRIDGE}\" masquerade; }}\n}}\n"
        ))
    }

    /// Sends a port of the host to the guarded one on loopback, in IPv4.
    ///
    /// # Errors
    ///
    /// If `nft` fails.
    pub fn send_to_loopback(&self, port: u16) -> Result<()> {
        self.host().enter(|| fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1"))??;
        self.nft(&format!(
            "table ip homeward {{ chain in {{ type nat hook prerouting priority dstnat; \
             tcp dport {port} dnat to 127.0.0.1:{GUARDED}; }}\n}}\n"
        ))
    }

    /// Publishes it as Docker does for programs of the host itself, by a process that hands connections on.
    ///
    /// # Errors
    ///
    /// If it does not listen in time.
    pub fn hand_on(&self) -> Result<Process> {
        let listen = format!("TCP6-LISTEN:{PUBLISHED},fork,reuseaddr,ipv6only=0");
        let connect = format!("TCP4:{}:{GUARDED}", Self::WEB[0]);
        // In the cgroup, so that what it forks is ended with it.
        let mut command = self.cgroup.command(self.host(), "socat");
        let process = start(command.args([listen, connect]).stdin(Stdio::null()))?;
        let port = SocketAddr::from((Ipv4Addr::LOCALHOST, PUBLISHED));
        until("the proxy to listen", LIMIT, || {
            !matches!(get(self.host(), port, "/", Duration::from_secs(1)), Ok(Answer::Refused))
        })?;
        Ok(process)
    }

    /// Knocks from the client's strangers, in both families, as they come out of its cable.
    ///
    /// # Errors
    ///
    /// If the interfaces can't be looked at.
    pub fn knocks(&self, port: u16) -> Result<Vec<Vec<u8>>> {
        let strangers = [(STRANGER4.into(), SERVER4.into()), (STRANGER6.into(), SERVER6.into())];
        let cable = [(&self.pair.client, CLIENT_INTERFACE), (self.host(), SERVER_DOOR)];
        Self::knocks_between(cable, &strangers, port)
    }

    /// Knocks from one interface to another on the same link, for each pair of addresses: the source's and the
    /// one that is knocked at.
    ///
    /// # Errors
    ///
    /// If the interfaces can't be looked at.
    pub fn knocks_between(
        [from, to]: [(&Namespace, &str); 2],
        addresses: &[(IpAddr, IpAddr)],
        port: u16,
    ) -> Result<Vec<Vec<u8>>> {
        let from = hardware_address(from.0, from.1)?;
        let to = hardware_address(to.0, to.1)?;
        let packet = |pair: &(IpAddr, IpAddr), segment: &Segment| match *pair {
            (IpAddr::V4(source), IpAddr::V4(server)) => Ok(ipv4(source, server).carries(segment)),
            (IpAddr::V6(source), IpAddr::V6(server)) => Ok(ipv6(source, server).carries(segment)),
            _ => bail!("{pair:?} are of two families"),
        };
        // From ports that no client is given by the kernel: none belongs to a connection that there was.
        let ports = 20_000..20_200_u16;
        let each = ports.flat_map(|client| addresses.iter().map(move |pair| (client, pair)));
        each.map(|(client, pair)| {
            let packet = packet(pair, &tcp(client, port))?;
            Ok(ethernet().from(from).to(to).carries_ip(&packet))
        })
        .collect()
    }

    /// An acknowledgement out of nowhere for each connection that a client could have had: from every port that
    /// the kernel gives to clients.
    ///
    /// # Errors
    ///
    /// If the interfaces can't be looked at.
    pub fn late_segments(
        [from, to]: [(&Namespace, &str); 2],
        (client, server): (Ipv4Addr, Ipv4Addr),
        port: u16,
    ) -> Result<Vec<Vec<u8>>> {
        let link = ethernet().from(hardware_address(from.0, from.1)?);
        let link = link.to(hardware_address(to.0, to.1)?);
        let segments = (32_768..61_000).map(|own| tcp(own, port).flags(ACK));
        Ok(segments.map(|late| link.carries_ip(&ipv4(client, server).carries(&late))).collect())
    }

    /// TCP connections that a container has accepted, and segments that it has sent.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn accepted_and_sent(container: &Namespace) -> Result<(u64, u64)> {
        let [accepted, sent] = tcp_counters(container, ["PassiveOpens", "OutSegs"])?;
        Ok((accepted, sent))
    }

    /// Waits until a container has no open connection, so that it has nothing to send unless it is asked.
    ///
    /// # Errors
    ///
    /// If one stays open.
    pub fn all_is_said(container: &Namespace) -> Result<()> {
        until("all connections to be closed", LIMIT, || {
            tcp_counters(container, ["CurrEstab"]).is_ok_and(|open| open == [0])
        })
    }

    fn nft(&self, rules: &str) -> Result<()> {
        let mut file = tempfile::tempfile()?;
        file.write_all(rules.as_bytes())?;
        file.rewind()?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), descriptor(&file));
        run(self.host().command("nft").args(["-f", &path]), LIMIT)?.expect_success()?;
        Ok(())
    }
}

/// Counters of RFC 4022, of a namespace.
fn tcp_counters<const N: usize>(namespace: &Namespace, wanted: [&str; N]) -> Result<[u64; N]> {
    let text = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().context("Tcp")?, lines.next().context("Tcp")?);
    let mut counters = [0; N];
    for (counter, name) in counters.iter_mut().zip(wanted) {
        let at = names.split(' ').position(|one| one == name).context(name.to_owned())?;
        *counter = values.split(' ').nth(at).context(name.to_owned())?.parse()?;
    }
    Ok(counters)
}

fn hardware_address(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let told = namespace.run("ip", &["-json", "link", "show", interface], LIMIT)?;
    let links: serde_json::Value = serde_json::from_str(told.expect_success()?)?;
    let text = links[0]["address"].as_str().context("no hardware address")?;
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{text} is no hardware address"))
}

fn descriptor(file: &File) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(file)
}

fn give(namespace: &Namespace, interface: &str, addresses: [IpAddr; 2]) -> Result<()> {
    for (address, (family, length)) in addresses.into_iter().zip([("-4", 16), ("-6", 64)]) {
        let prefix = format!("{address}/{length}");
        namespace.ip(&[family, "address", "add", &prefix, "dev", interface])?;
    }
    namespace.ip(&["link", "set", interface, "up"])
}
