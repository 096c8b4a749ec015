//! What comes back from a server, put so that two servers can be compared.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::{ACK, FIN, RST, SYN};

/// One frame that a server has sent to somebody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// What it says, without what differs from one server to the next: identifications, initial
    /// sequence numbers, windows.
    pub text: String,
    /// The server's address and port, in TCP and UDP.
    pub from: Option<(u8, IpAddr, u16)>,
    /// Whether it is an ICMP error, which quotes what somebody has sent.
    pub is_error: bool,
}

/// A connection that a server has begun to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynAck {
    /// The server's end.
    pub server: (IpAddr, u16),
    /// The other end.
    pub client: (IpAddr, u16),
    /// What the server begins to count from.
    pub sequence: u32,
    /// What it expects next.
    pub acknowledged: u32,
}

/// A frame that has been read.
#[derive(Clone, Debug)]
pub struct Heard {
    /// To whom it goes.
    pub to: IpAddr,
    /// What it says. `None` for what depends on time alone: acknowledgements without data, the
    /// end of a connection, and reports of fragments that nobody completed.
    pub answer: Option<Answer>,
    /// The server's address and port, in TCP and UDP.
    pub from: Option<(u8, IpAddr, u16)>,
    /// If it begins a connection.
    pub syn_ack: Option<SynAck>,
}

/// Reads an untagged frame that a server has sent. `None` for what is no answer to anybody:
/// neighbour discovery, multicast reports, markers of our own.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Heard> {
    let packet = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = packet.get(..20)?;
            let octets = |at: usize| [0, 1, 2, 3].map(|byte: usize| header[at + byte]);
            let (source, to) = (Ipv4Addr::from(octets(12)), Ipv4Addr::from(octets(16)));
            let begin = usize::from(header[0] & 15) * 4;
            let end = usize::from(u16::from_be_bytes([header[2], header[3]]));
            upper(header[9], packet.get(begin..end)?, source.into(), to.into())
        }
        [0x86, 0xdd] => {
            let header = packet.get(..40)?;
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(octets).into())
            };
            let end = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
            upper(header[6], packet.get(40..end)?, address(8)?, address(24)?)
        }
        _ => None,
    }
}

fn upper(protocol: u8, bytes: &[u8], source: IpAddr, to: IpAddr) -> Option<Heard> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let plain = |text: String, is_error| {
        let answer = Answer { text, from: None, is_error };
        Some(Heard { to, answer: Some(answer), from: None, syn_ack: None })
    };
    match protocol {
        6 => tcp(bytes, source, to),
        17 => {
            let from = Some((17, source, word(0)?));
            let payload = String::from_utf8_lossy(bytes.get(8..)?).into_owned();
            let text = format!("UDP from {source}:{} to {}: {payload}", word(0)?, word(2)?);
            let answer = Answer { text, from, is_error: false };
            Some(Heard { to, answer: Some(answer), from, syn_ack: None })
        }
        // Time exceeded: fragments that were not completed.
        1 if bytes.first()? == &11 => Some(Heard { to, answer: None, from: None, syn_ack: None }),
        58 if bytes.first()? == &3 => Some(Heard { to, answer: None, from: None, syn_ack: None }),
        1 | 58 => {
            let (kind, code) = (*bytes.first()?, *bytes.get(1)?);
            match (protocol, kind) {
                (1, 0) | (58, 129) => {
                    plain(format!("echo reply from {source}, {:02x?}", bytes.get(4..)?), false)
                }
                // With the pointer to the problem.
                (1, 12) | (58, 4) => plain(
                    format!("parameter problem {code} at {:02x?} from {source}", bytes.get(4..8)?),
                    true,
                ),
                (1, 3) | (58, 1) => plain(format!("unreachable {code} from {source}"), true),
                (58, 2) => plain(format!("too big, from {source}"), true),
                _ => None,
            }
        }
        other => plain(format!("protocol {other} from {source}"), false),
    }
}

fn tcp(bytes: &[u8], source: IpAddr, to: IpAddr) -> Option<Heard> {
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let number = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
    let payload = bytes.get(usize::from(bytes.get(19).map(|_| bytes[12] >> 4)?) * 4..)?;
    let from = Some((6, source, word(0)));
    let flags = bytes[13];
    let ends = format!("{source}:{} to {}", word(0), word(2));
    let acknowledged = number(8);
    let text = if flags & RST != 0 {
        Some(format!("RST from {ends}, flags {flags:#04x}, acknowledging {acknowledged}"))
    } else if flags & (SYN | ACK) == SYN | ACK {
        Some(format!("SYN-ACK from {ends}, acknowledging {acknowledged}"))
    } else if !payload.is_empty() {
        Some(format!("data from {ends}: {}", String::from_utf8_lossy(payload)))
    } else if flags & !FIN == ACK {
        None
    } else {
        Some(format!("flags {flags:#04x} from {ends}"))
    };
    let syn_ack = (flags & (SYN | ACK | RST) == SYN | ACK).then(|| SynAck {
        server: (source, word(0)),
        client: (to, word(2)),
        sequence: number(4),
        acknowledged,
    });
    let answer = text.map(|text| Answer { text, from, is_error: false });
    Some(Heard { to, answer, from, syn_ack })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::{ethernet, ipv4, ipv6, tcp, udp},
        policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, SERVER6},
    };

    #[test]
    fn a_syn_ack_is_read_with_its_numbers() {
        let segment = tcp(GUARDED, 40_000).flags(SYN | ACK).sequence(7).acknowledgement(9);
        let frame = ethernet().carries_ip(&ipv4(SERVER4, FRIEND4).carries(&segment));
        let heard = read(&frame).expect("an answer");
        let expected = SynAck {
            server: (SERVER4.into(), GUARDED),
            client: (FRIEND4.into(), 40_000),
            sequence: 7,
            acknowledged: 9,
        };
        assert_eq!(heard.syn_ack, Some(expected));
        assert_eq!(heard.from, Some((6, SERVER4.into(), GUARDED)));
    }

    #[test]
    fn what_differs_by_chance_makes_no_difference() {
        let answer = |sequence| {
            let segment = tcp(GUARDED, 40_000).flags(SYN | ACK).sequence(sequence);
            read(&ethernet().carries_ip(&ipv6(SERVER6, FRIEND6).carries(&segment)))
                .and_then(|heard| heard.answer)
        };
        assert!(answer(1).is_some());
        assert_eq!(answer(1), answer(2));
        let data = |text: &[u8]| {
            let datagram = udp(53, 40_000).payload(text);
            read(&ethernet().carries_ip(&ipv4(SERVER4, FRIEND4).carries(&datagram)))
                .and_then(|heard| heard.answer)
        };
        assert_ne!(data(b"one"), data(b"two"));
    }
}
