//! What a packet is for: the transport header, its ports and its flags.

use std::net::IpAddr;

use super::{
    cast::{CLOSED_PORT, LOOPBACK_PORT, OTHER_PORT, SINGLE_PORT},
    dice::Dice,
};
use crate::{
    packet::{
        ACK, FIN, PSH, RST, SYN, Segment, dccp, icmp, icmpv6, ipv4, ipv6, other, sctp, tcp, udp,
        udp_lite,
    },
    policy::GUARDED,
};

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A guarded TCP port.
    Guarded(u16),
    /// A TCP port that is not guarded.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// An echo of the kernel's.
    Echo,
    /// The guarded port's number in SCTP, DCCP or UDP-Lite.
    Sctp,
    /// See above.
    Dccp,
    /// See above.
    UdpLite,
    /// A protocol without ports, over bytes that look like a knock.
    Other(u8),
    /// A whole packet with a knock in it.
    Encapsulated,
}

/// Every target and how often it comes.
pub const TARGETS: [(usize, Target); 22] = [
    (46, Target::Guarded(GUARDED)),
    (4, Target::Guarded(LOOPBACK_PORT)),
    (4, Target::Guarded(SINGLE_PORT)),
    (9, Target::Tcp(OTHER_PORT)),
    (3, Target::Tcp(CLOSED_PORT)),
    (2, Target::Tcp(GUARDED - 1)),
    (6, Target::Udp(GUARDED)),
    (5, Target::Udp(OTHER_PORT)),
    (2, Target::Udp(CLOSED_PORT)),
    (3, Target::Echo),
    (1, Target::Sctp),
    (1, Target::Dccp),
    (1, Target::UdpLite),
    // IGMP, GRE, ESP, AH, no next header, Mobility, HIP, Shim6, and an experimental number.
    (1, Target::Other(2)),
    (1, Target::Other(47)),
    (1, Target::Other(50)),
    (1, Target::Other(51)),
    (1, Target::Other(59)),
    (1, Target::Other(135)),
    (1, Target::Other(139)),
    (1, Target::Other(253)),
    (3, Target::Encapsulated),
];

impl Target {
    /// What it is called in the name of a case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guarded(LOOPBACK_PORT) => "to the port that listens on 127.0.0.1",
            Self::Guarded(SINGLE_PORT) => "to the port that listens on one address",
            Self::Guarded(_) => "to the guarded port",
            Self::Tcp(OTHER_PORT) => "to another port",
            Self::Tcp(_) => "to a closed port",
            Self::Udp(GUARDED) => "to the guarded port's number in UDP",
            Self::Udp(OTHER_PORT) => "to another port in UDP",
            Self::Udp(_) => "to a closed port in UDP",
            Self::Echo => "an echo request",
            Self::Sctp => "SCTP",
            Self::Dccp => "DCCP",
            Self::UdpLite => "UDP-Lite",
            Self::Other(_) => "a protocol without ports",
            Self::Encapsulated => "a packet in a packet",
        }
    }
}

/// A transport header with what is in it.
#[derive(Clone, Debug)]
pub struct Upper {
    /// Its number in the IP header.
    pub protocol: u8,
    /// Its bytes, with the checksum right unless said otherwise.
    pub bytes: Vec<u8>,
}

/// Between whom.
#[derive(Clone, Copy, Debug)]
pub struct Between {
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// The source of what is inside a packet in a packet.
    pub inner: IpAddr,
    /// The case's number.
    pub number: u32,
}

/// Writes it. `honest` leaves out what no kernel answers.
pub fn write(
    target: Target,
    between: Between,
    honest: bool,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> Upper {
    let Between { source, destination, number, .. } = between;
    notes.push(target.name());
    let from = source_port(number, dice, notes);
    let segment = match target {
        Target::Guarded(port) | Target::Tcp(port) => {
            tcp_segment(from, port, number, honest, dice, notes)
        }
        Target::Udp(port) => udp(from, port).payload(format!("knock {number}").as_bytes()),
        Target::Echo => {
            let body = [&number.to_be_bytes()[..], &[0x5a; 24]].concat();
            if source.is_ipv4() { icmp(8, 0, &body) } else { icmpv6(128, 0, &body) }
        }
        Target::Sctp => sctp(from, GUARDED),
        Target::Dccp => dccp(from, GUARDED),
        Target::UdpLite => udp_lite(from, GUARDED).payload(b"knock"),
        Target::Other(protocol) => {
            let knock = tcp(from, GUARDED).sequence(number).bytes(source, destination);
            other(protocol, &knock)
        }
        Target::Encapsulated => encapsulated(from, between),
    };
    let mut bytes = segment.bytes(source, destination);
    let is_tcp = segment.protocol() == 6;
    if !honest && is_tcp && dice.chance(4) {
        notes.push("a wrong TCP checksum");
        bytes[16] ^= 0x55;
    }
    Upper { protocol: segment.protocol(), bytes }
}

/// Any port, or one that a careless filter trusts.
fn source_port(number: u32, dice: &mut Dice, notes: &mut Vec<&'static str>) -> u16 {
    match dice.below(20) {
        0 => {
            notes.push("from the guarded port");
            GUARDED
        }
        1 => {
            notes.push("from a well-known port");
            dice.pick(&[20, 53, 80, 123, 443, OTHER_PORT])
        }
        _ => 20_000 + (number % 40_000) as u16,
    }
}

fn tcp_segment(
    from: u16,
    to: u16,
    number: u32,
    honest: bool,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> Segment {
    let knock = tcp(from, to).sequence(number);
    let kind = if honest { dice.below(11) } else { dice.below(22) };
    let mut odd = |what, flags| {
        notes.push(what);
        knock.clone().flags(flags)
    };
    match kind {
        // The maximum segment size, selective acknowledgements, window scale.
        8 => {
            notes.push("a SYN with options");
            knock.options(&[2, 4, 5, 0xb4, 4, 2, 3, 3, 7, 1, 1, 1])
        }
        9 => {
            notes.push("a SYN with data");
            knock.payload(b"GET / HTTP/1.1\r\n\r\n")
        }
        10 => {
            notes.push("a long SYN");
            knock.payload(&[0x41; 400])
        }
        11 => odd("an ACK out of the blue", ACK),
        12 => odd("a SYN+ACK out of the blue", SYN | ACK),
        13 => odd("a FIN out of the blue", FIN),
        14 => odd("data out of the blue", PSH | ACK).payload(b"GET / HTTP/1.1\r\n\r\n"),
        15 => odd("no flags", 0),
        16 => odd("all flags", 0x3f),
        17 => odd("SYN and FIN", SYN | FIN),
        18 => odd("a RST", RST),
        19 => {
            notes.push("a TCP header of four words");
            knock.header_words(4)
        }
        20 => {
            notes.push("a TCP header that is longer than the packet");
            knock.header_words(15)
        }
        21 => {
            notes.push("TCP Fast Open");
            // A request for a cookie (RFC 7413), padded.
            knock.options(&[34, 2, 1, 1]).payload(b"GET / HTTP/1.1\r\n\r\n")
        }
        _ => knock,
    }
}

/// A knock from the inner source, as a packet of its own.
fn encapsulated(from: u16, between: Between) -> Segment {
    let knock = tcp(from, GUARDED).sequence(between.number);
    match (between.inner, between.destination) {
        (IpAddr::V4(inner), IpAddr::V4(destination)) => {
            other(4, &ipv4(inner, destination).carries(&knock))
        }
        (IpAddr::V6(inner), IpAddr::V6(destination)) => {
            other(41, &ipv6(inner, destination).carries(&knock))
        }
        (IpAddr::V4(inner), IpAddr::V6(_)) => {
            other(4, &ipv4(inner, crate::policy::SERVER4).carries(&knock))
        }
        (IpAddr::V6(inner), IpAddr::V4(_)) => {
            other(41, &ipv6(inner, crate::policy::SERVER6).carries(&knock))
        }
    }
}
