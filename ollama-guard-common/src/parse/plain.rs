//! What nearly every packet looks like, read with as few steps as can be.

use crate::{
    flow::{Flow, Network, Protocol},
    frame::Frame,
};

use super::Start;

/// Finds the port of a frame that has at most one VLAN tag, no IPv4 options, no IPv6 extension
/// header, and is no fragment. `None` for any other, which [`super::locate`] has to look at: where
/// there is an answer here, the one there is the same.
///
/// Several fields are read and compared at a time.
#[inline(always)]
pub fn locate_plainly<F: Frame + ?Sized>(frame: &F, start: Start) -> Option<Flow> {
    match start {
        Start::Link => {
            // The least that an IPv4 packet takes, so that one comparison of bounds does for it.
            let bytes = frame.load_near::<{ 14 + V4_BYTES }>(0)?;
            let word = word(&bytes, 12);
            match (word >> 48) as u16 {
                IPV4 => v4(&bytes, word, 14),
                IPV6 => v6(&frame.load_near::<{ 14 + V6_BYTES }>(0)?, word, 14),
                VLAN_8021Q | VLAN_8021AD => {
                    let bytes = frame.load_near::<{ 18 + V4_BYTES }>(0)?;
                    let word = self::word(&bytes, 16);
                    match (word >> 48) as u16 {
                        IPV4 => v4(&bytes, word, 18),
                        IPV6 => v6(&frame.load_near::<{ 18 + V6_BYTES }>(0)?, word, 18),
                        _ => None,
                    }
                }
                _ => None,
            }
        }
        // What looks like an IP header may be the control word of a tag: not plain.
        Start::Network => None,
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN_8021Q: u16 = 0x8100;
const VLAN_8021AD: u16 = 0x88a8;

/// A header without options, and the ports.
const V4_BYTES: usize = 20 + 4;
const V6_BYTES: usize = 40 + 4;

/// `word` is the EtherType and the first six bytes of the header.
#[inline(always)]
fn v4<const N: usize>(bytes: &[u8; N], word: u64, header: usize) -> Option<Flow> {
    // Version 4, five words of header.
    if (word >> 40) as u8 != 0x45 {
        return None;
    }
    let [flags, offset, _, protocol, ..] = self::word(bytes, header + 6).to_be_bytes();
    // All of the field but "reserved" and "don't fragment".
    if u16::from_be_bytes([flags, offset]) & 0x3fff != 0 {
        return None;
    }
    flow(bytes, Network::V4(header), protocol, header + 20)
}

#[inline(always)]
fn v6<const N: usize>(bytes: &[u8; N], word: u64, header: usize) -> Option<Flow> {
    if (word >> 44) & 0xf != 6 {
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
    let port = u16::from_be_bytes([bytes[transport + 2], bytes[transport + 3]]);
    Some(Flow { network, protocol, transport, port })
}

/// Eight bytes as a number, the first one the highest.
#[inline(always)]
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_be_bytes(core::array::from_fn(|index| bytes[at + index]))
}
