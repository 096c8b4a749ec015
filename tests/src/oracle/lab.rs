//! Servers that are alike but for the guard, and the ways to send them frames.
//!
//! Long because devices, addresses and settings of the servers have to be the same, and are so by
//! being made in one place.
//!
//! ```text
//!   outside ---- first cable, door0 ---- server     and the same again for each server
//!           ---- second cable, door1 --
//!      socket of ours, socat ---- tun0 --
//!      VXLAN in the first cable -- vx0 --
//! ```
//!
//! Outside is nobody: no address, no stack that would answer. What a server sends goes to a
//! gateway's hardware address on the first cable, where a packet socket hears it, or, for
//! link-local addresses, to neighbours that the server has by heart.

use std::{
    collections::HashMap,
    fmt::Write as _,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{MsgFlags, recv},
};
use tempfile::TempDir;

use super::{
    answer::{self, Heard},
    case::{Door, Frame},
    cast::{LINK_LOCALS, SERVER_LINK_LOCAL, SINGLE4, SINGLE6, link_local},
    inside::Inside,
    services::{Guest, Services},
};
use crate::{
    bed::{Direction, Namespace, Process, SERVER_MAC, Wire, next_number, start, until},
    packet::{ethernet, ipv4, udp},
    policy::{SERVER4, SERVER6},
};

/// Longer than every frame that is made.
const MTU: u32 = 9_000;
/// What the tunnel leaves of it.
const TUNNEL_MTU: u32 = 8_900;
/// The doors' names.
pub const CABLES: [&str; 2] = ["door0", "door1"];
/// The device without Ethernet header.
pub const TUN: &str = "tun0";
/// The tunnel with one.
pub const VXLAN: &str = "vx0";

const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0f];
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xff);
const VXLAN_PORT: u16 = 4_789;
const VXLAN_HEADER: [u8; 8] = [8, 0, 0, 0, 0, 0, 7, 0];
/// An EtherType for experiments (IEEE 802): frames that tell that all before them have been
/// through.
const MARKER: u16 = 0x88b5;
/// How long a marker may be on its way.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest frame, and more.
const FRAME_BYTES: usize = 70_000;

/// What is the same in every server. Nothing is remembered from one case for the next: queues
/// that do not fill, no cookies, no repeats, no limits of rates, fragments forgotten soon.
const SETTINGS: [(&str, &str); 23] = [
    ("core/somaxconn", "65535"),
    ("ipv4/tcp_max_syn_backlog", "1000000"),
    ("ipv4/tcp_syncookies", "0"),
    ("ipv4/tcp_synack_retries", "0"),
    ("ipv4/tcp_invalid_ratelimit", "0"),
    ("ipv4/tcp_challenge_ack_limit", "2147483647"),
    ("ipv4/tcp_no_metrics_save", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/icmp_ratemask", "0"),
    ("ipv4/icmp_msgs_per_sec", "1000000"),
    ("ipv4/icmp_msgs_burst", "1000000"),
    ("ipv4/ipfrag_high_thresh", "268435456"),
    ("ipv4/ipfrag_time", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/route_localnet", "1"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv6/ip6frag_high_thresh", "268435456"),
    ("ipv6/ip6frag_time", "1"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
    // What segment routing unpacks is delivered. Not `rpl_seg_enabled` as well: what becomes of a
    // routing header of type 3 behind other headers is not the same in generic mode, whatever the
    // program there says.
    ("ipv6/conf/all/seg6_enabled", "1"),
    ("ipv6/conf/default/seg6_enabled", "1"),
    ("unix/max_dgram_qlen", "1000"),
];

/// Namespaces for servers that are alike, and for nobody.
#[derive(Debug)]
pub struct Lab {
    outside: Namespace,
    /// The servers' namespaces, without anything in them.
    pub servers: Vec<Namespace>,
}

impl Lab {
    /// Makes a namespace for each of these roles.
    ///
    /// # Errors
    ///
    /// If it can't be made, mostly for want of root.
    pub fn new(roles: &[&str]) -> Result<Self> {
        let number = next_number();
        let outside = Namespace::new(number, "outside")?;
        set(&outside, &[("ipv6/conf/default/disable_ipv6", "1")])?;
        let servers =
            roles.iter().map(|role| Namespace::new(number, role)).collect::<Result<_>>()?;
        Ok(Self { outside, servers })
    }
}

/// A server, and our ends of its ways in.
#[derive(Debug)]
pub struct Server<'lab> {
    namespace: &'lab Namespace,
    services: Services,
    cables: [Wire; 2],
    inside: Inside,
    tunnels: Option<Tunnels>,
    marker: u64,
    buffer: Vec<u8>,
    /// What it has taken and said since it was asked last.
    seen: Seen,
}

#[derive(Debug)]
struct Tunnels {
    tun: UnixDatagram,
    _socat: Process,
    _directory: TempDir,
}

/// What a server has taken and said.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often each frame was seen behind the guard, by [`identity`].
    pub arrived: HashMap<u64, usize>,
    /// What it has sent.
    pub heard: Vec<Heard>,
    /// Who got to a listener.
    pub guests: Vec<Guest>,
}

/// How a frame is known behind the guard.
#[must_use]
pub fn identity(door: Door, shown: &[u8]) -> u64 {
    let place: u8 = match door {
        Door::First => 0,
        Door::Second => 1,
        Door::Tun { .. } => 2,
        Door::Vxlan => 3,
    };
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    shown.hash(&mut hasher);
    hasher.finish()
}

fn set(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<()> {
    namespace.enter(|| {
        for (knob, value) in settings {
            let path = format!("/proc/sys/net/{knob}");
            std::fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
        }
        Ok(())
    })?
}

impl<'lab> Server<'lab> {
    /// Furnishes a namespace as a server. `role` names its cables.
    ///
    /// # Errors
    ///
    /// If something can't be made.
    pub fn new(lab: &'lab Lab, number: usize, role: &str, with_tunnels: bool) -> Result<Self> {
        let (outside, namespace) = (&lab.outside, &lab.servers[number]);
        set(namespace, &SETTINGS)?;
        let batch = tempfile::NamedTempFile::new().context("making a file of commands")?;
        std::fs::write(batch.path(), commands(role, outside.name(), with_tunnels))?;
        let path = batch.path().to_str().context("a path that is no text")?;
        namespace.ip(&["-batch", path])?;
        for cable in 0..CABLES.len() {
            outside.ip(&["link", "set", &far_end(role, cable), "up"])?;
        }
        let cable = |number| Wire::open(outside, &far_end(role, number));
        let cables = [cable(0)?, cable(1)?];
        let tunnels = with_tunnels.then(|| tunnels(namespace)).transpose()?;
        let mut doors = vec![(CABLES[0], Door::First), (CABLES[1], Door::Second)];
        if with_tunnels {
            doors.extend([(TUN, Door::Tun { ethertype: 0 }), (VXLAN, Door::Vxlan)]);
        }
        let inside = Inside::open(namespace, &doors)?;
        let services = Services::start_in(namespace)?;
        Ok(Self {
            namespace,
            services,
            cables,
            inside,
            tunnels,
            marker: 0,
            buffer: vec![0; FRAME_BYTES],
            seen: Seen::default(),
        })
    }

    /// Whether it has the tunnels too.
    #[must_use]
    pub const fn has(&self, door: Door) -> bool {
        door.is_cable() || self.tunnels.is_some()
    }

    /// Sends it a frame.
    ///
    /// # Errors
    ///
    /// If the wire does not take it.
    pub fn send(&self, frame: &Frame) -> Result<()> {
        self.put(frame.door, &frame.bytes)
    }

    fn put(&self, door: Door, bytes: &[u8]) -> Result<()> {
        let tunnels = || self.tunnels.as_ref().context("this server has no tunnels");
        match door {
            Door::First => self.cables[0].send(bytes),
            Door::Second => self.cables[1].send(bytes),
            Door::Tun { ethertype } => {
                let head = [[0, 0], ethertype.to_be_bytes()].concat();
                let packet = [&head[..], bytes].concat();
                tunnels()?.tun.send(&packet).context("sending through the tun device")?;
                Ok(())
            }
            Door::Vxlan => {
                tunnels()?;
                let inner = [&VXLAN_HEADER[..], bytes].concat();
                let outer =
                    ipv4(GATEWAY4, SERVER4).carries(&udp(4_000, VXLAN_PORT).payload(&inner));
                let head = ethernet().to(SERVER_MAC).from(GATEWAY_MAC);
                self.cables[0].send(&head.carries_ip(&outer))
            }
        }
    }

    /// Waits until everything that was sent has been through, lets the listeners do their part,
    /// and waits until what they said has been heard.
    ///
    /// # Errors
    ///
    /// If a marker gets lost, or a listener fails.
    pub fn settle(&mut self) -> Result<()> {
        let doors = [Door::First, Door::Second, Door::Tun { ethertype: MARKER }, Door::Vxlan];
        for door in doors {
            if !self.has(door) {
                continue;
            }
            self.marker += 1;
            let body = [&[0xff; 4][..], &self.marker.to_be_bytes()].concat();
            let frame = match door {
                Door::Tun { .. } => body,
                _ => ethernet().to(SERVER_MAC).carries(MARKER, &body),
            };
            self.put(door, &frame)?;
            self.wait_inside(door, &frame)?;
        }
        let guests = self.services.serve()?;
        self.seen.guests.extend(guests);
        for cable in 0..CABLES.len() {
            self.marker += 1;
            let body = [&[0xff; 4][..], &self.marker.to_be_bytes()].concat();
            let frame = ethernet().to(GATEWAY_MAC).from(SERVER_MAC).carries(MARKER, &body);
            self.inside.send(cable, &frame)?;
            self.wait_outside(cable, &frame)?;
        }
        if let Some(tunnels) = &self.tunnels {
            // What the kernel sends into the tun device of itself.
            let socket = tunnels.tun.as_raw_fd();
            while recv(socket, &mut self.buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        }
        Ok(())
    }

    /// Notes what has arrived behind the guard, until a marker comes.
    fn wait_inside(&mut self, from: Door, marker: &[u8]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.inside.poll(&mut self.buffer) {
                Some((frame, _)) if frame == marker => return Ok(()),
                Some((frame, door)) => {
                    *self.seen.arrived.entry(identity(door, frame)).or_default() += 1;
                }
                None => self.patiently(from, deadline)?,
            }
        }
    }

    /// Notes what the server has sent, until a marker comes.
    fn wait_outside(&mut self, cable: usize, marker: &[u8]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let door = [Door::First, Door::Second][cable];
        loop {
            match self.cables[cable].poll(&mut self.buffer) {
                Some((frame, Direction::In)) if frame == marker => return Ok(()),
                Some((frame, Direction::In)) => self.seen.heard.extend(answer::read(frame)),
                Some((_, Direction::Out)) => {}
                None => self.patiently(door, deadline)?,
            }
        }
    }

    fn patiently(&self, door: Door, deadline: Instant) -> Result<()> {
        if Instant::now() > deadline {
            bail!("a marker over {door:?} of {} got lost", self.namespace.name());
        }
        std::thread::yield_now();
        Ok(())
    }

    /// What it has taken and said since this was asked last.
    pub fn take_seen(&mut self) -> Seen {
        std::mem::take(&mut self.seen)
    }
}

fn far_end(role: &str, cable: usize) -> String {
    format!("{role}-{cable}")
}

/// Everything that `ip` has to do in a server.
fn commands(role: &str, outside: &str, with_tunnels: bool) -> String {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let (own, gateway) = (mac(SERVER_MAC), mac(GATEWAY_MAC));
    let mut text = String::new();
    let mut say = |line: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    for (number, door) in CABLES.iter().enumerate() {
        let peer = far_end(role, number);
        say(format!(
            "link add {door} mtu {MTU} address {own} type veth peer name {peer} mtu {MTU} netns \
             {outside}"
        ));
        say(format!("link set {door} up"));
        say(format!("address add {SERVER_LINK_LOCAL}/64 dev {door} nodad"));
        for (kind, neighbour) in
            [1, 2].into_iter().flat_map(|kind| (0..LINK_LOCALS as u16).map(move |n| (kind, n)))
        {
            let address = link_local(kind, neighbour);
            say(format!("neighbour add {address} lladdr {gateway} dev {door} nud permanent"));
        }
    }
    let door = CABLES[0];
    say(format!("address add {SERVER4}/24 broadcast + dev {door}"));
    say(format!("address add {SINGLE4}/32 dev {door}"));
    say(format!("address add {SERVER6}/64 dev {door} nodad"));
    say(format!("address add {SINGLE6}/128 dev {door} nodad"));
    for via in [IpAddr::from(GATEWAY4), GATEWAY6.into()] {
        let all = if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        say(format!("neighbour add {via} lladdr {gateway} dev {door} nud permanent"));
        say(format!("route add {all} via {via} dev {door} onlink"));
    }
    if with_tunnels {
        say(format!(
            "link add {VXLAN} mtu {TUNNEL_MTU} address {own} type vxlan id 7 local {SERVER4} remote \
             {GATEWAY4} dstport {VXLAN_PORT} dev {door} nolearning"
        ));
        say(format!("link set {VXLAN} up"));
    }
    text
}

/// The tun device, whose other end is a socket of ours: `socat` carries datagrams from one to the
/// other, with four bytes before each that hold the packet's EtherType.
fn tunnels(namespace: &Namespace) -> Result<Tunnels> {
    let directory = tempfile::tempdir().context("making a directory for a socket")?;
    let [ours, theirs] = ["ours", "theirs"].map(|name| directory.path().join(name));
    let tun = UnixDatagram::bind(&ours).context("binding a socket")?;
    let carrier = format!("UNIX-SENDTO:{},bind={}", ours.display(), theirs.display());
    let device = format!("TUN,tun-name={TUN},up");
    let socat = start(namespace.command("socat").args(["-b", "65536", &carrier, &device]))?;
    until(&format!("{TUN} by `socat` (package socat)"), PATIENCE, || {
        theirs.exists() && namespace.enter(|| if_nametoindex(TUN).is_ok()).unwrap_or(false)
    })?;
    namespace.ip(&["link", "set", TUN, "mtu", &MTU.to_string(), "up"])?;
    tun.connect(&theirs).context("connecting to `socat`")?;
    tun.set_write_timeout(Some(PATIENCE))?;
    if directory.path().as_os_str().len() > 90 {
        bail!("{} is too long for a socket's name", directory.path().display());
    }
    Ok(Tunnels { tun, _socat: socat, _directory: directory })
}
