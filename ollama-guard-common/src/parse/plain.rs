//! What nearly every packet looks like, read with as few steps as can be.

use crate::{
    flow::{Flow, Network, Protocol},
    frame::Frame,
};

use super::Start;

/// Finds the port of a frame that has at most one VLAN tag, no IPv4 options, no IPv6 extension
/// header, and is no fragment. `None` for any other, which [`super::locate`] has to look at: where
/// there is an answer here, the one there is the same.
#[inline(always)]
pub fn locate_plainly<F: Frame + ?Sized>(frame: &F, start: Start) -> Option<Flow> {
    match start {
        Start::Link => {
            // The least that an IPv4 packet takes, so that one comparison of bounds does for it.
            let bytes = frame.load_near::<{ 14 + V4_BYTES }>(0)?;
            match raw(&bytes, 12) {
                IPV4 => v4(&bytes, 14),
                IPV6 => v6(&frame.load_near::<{ 14 + V6_BYTES }>(0)?, 14),
                VLAN_8021Q | VLAN_8021AD => {
                    let bytes = frame.load_near::<{ 18 + V4_BYTES }>(0)?;
                    match raw(&bytes, 16) {
                        IPV4 => v4(&bytes, 18),
                        IPV6 => v6(&frame.load_near::<{ 18 + V6_BYTES }>(0)?, 18),
                        _ => None,
                    }
                }
                _ => None,
            }
        }
        // What looks like an IP header may be the control word of a tag: not plain.
        Start::Network => None,
        Start::Packet => {
            let bytes = frame.load_near::<V4_BYTES>(0)?;
            match bytes[0] >> 4 {
                4 => v4(&bytes, 0),
                _ => v6(&frame.load_near::<V6_BYTES>(0)?, 0),
            }
        }
    }
}

// As they are read: in network byte order.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN_8021Q: u16 = 0x8100_u16.to_be();
const VLAN_8021AD: u16 = 0x88a8_u16.to_be();

/// A header without options, and the ports.
const V4_BYTES: usize = 20 + 4;
const V6_BYTES: usize = 40 + 4;

#[inline(always)]
fn v4<const N: usize>(bytes: &[u8; N], header: usize) -> Option<Flow> {
    // Version 4, five words of header.
    if bytes[header] != 0x45 {
        return None;
    }
    // All of the field but "reserved" and "don't fragment".
    if raw(bytes, header + 6) & 0x3fff_u16.to_be() != 0 {
        return None;
    }
    flow(bytes, Network::V4(header), bytes[header + 9], header + 20)
}

#[inline(always)]
fn v6<const N: usize>(bytes: &[u8; N], header: usize) -> Option<Flow> {
    if bytes[header] >> 4 != 6 {
        return None;
    }
    flow(bytes, Network::V6(header), bytes[header + 6], header + 40)
}

#[inline(always)]
fn flow<const N: usize>(
    bytes: &[u8; N],
    network: Network,
    protocol: u8,
    transport: usize,
) -> Option<Flow> {
    let protocol = match protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    let port = u16::from_be(raw(bytes, transport + 2));
    Some(Flow { network, protocol, transport, port })
}

/// Two bytes as they stand.
#[inline(always)]
fn raw<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}
