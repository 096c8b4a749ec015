//! A packet that knocks on a port.

use std::net::IpAddr;

use ollama_guard_common::{Protocol, Start};

use crate::policy::Port;

/// An address that nobody has (RFC 5737, RFC 3849): the decision does not look at it.
const DESTINATION_V4: [u8; 4] = [192, 0, 2, 1];
const DESTINATION_V6: u128 = 0x2001_0db8 << 96 | 1;
/// Ephemeral, and no port that anything listens on.
const SOURCE_PORT: u16 = 50_000;

/// The first packet of a connection from `source` to `port`: a TCP SYN, or a transport header of
/// zeros but for the ports.
pub(super) fn frame(source: IpAddr, port: Port, start: Start) -> Vec<u8> {
    let mut frame = Vec::new();
    if start == Start::Link {
        frame.extend([0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2]);
        let ethertype: u16 = if source.is_ipv4() { 0x0800 } else { 0x86dd };
        frame.extend(ethertype.to_be_bytes());
    }
    let transport = transport(port);
    match source {
        IpAddr::V4(source) => {
            let length = (20 + transport.len()) as u16;
            frame.extend([0x45, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, port.protocol.number(), 0, 0]);
            frame.extend(source.octets());
            frame.extend(DESTINATION_V4);
        }
        IpAddr::V6(source) => {
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((transport.len() as u16).to_be_bytes());
            frame.extend([port.protocol.number(), 64]);
            frame.extend(source.octets());
            frame.extend(DESTINATION_V6.to_be_bytes());
        }
    }
    frame.extend(transport);
    frame
}

fn transport(port: Port) -> [u8; 20] {
    let mut header = [0; 20];
    header[..2].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    header[2..4].copy_from_slice(&port.number.to_be_bytes());
    if port.protocol == Protocol::Tcp {
        // Five words of header, SYN.
        header[12] = 5 << 4;
        header[13] = 0x02;
    }
    header
}

#[cfg(test)]
mod tests {
    use ollama_guard_common::{Located, locate};

    use super::*;

    #[test]
    fn the_decision_finds_the_port() {
        for start in [Start::Link, Start::Network] {
            for source in ["192.0.2.7", "2001:db8::7"] {
                let frame = frame(source.parse().unwrap(), Port::OLLAMA, start);
                let Located::At(flow) = locate(frame.as_slice(), start) else {
                    panic!("{source} {start:?}")
                };
                assert_eq!((flow.protocol, flow.port), (Protocol::Tcp, 11_434));
            }
        }
    }
}
