//! What a packet shows about its sender's conversation, for learning who uses a port. No part of the
//! decision.
//!
//! Only what comes in is seen, so that an answer is known by what it brings about: data and
//! acknowledgements. Somebody who can make up a source address can make up these as well.

use crate::{
    flow::Network,
    frame::Frame,
    parse::{Located, Outcome},
};

/// It asks for a TCP connection.
pub const SYN: u64 = 1 << 0;
/// It acknowledges something in a TCP connection, and was delivered.
pub const ACK: u64 = 1 << 1;
/// It carries data in a TCP connection, and was delivered.
pub const DATA: u64 = 1 << 2;
/// It carries data in a TCP connection, and was dropped.
pub const DATA_DROPPED: u64 = 1 << 3;
/// It is of another protocol, which shows nothing about conversations.
pub const DATAGRAM: u64 = 1 << 4;
/// Its ports could not be read.
pub const UNREADABLE: u64 = 1 << 5;

// RFC 9293 section 3.1: flags, in the last byte of bytes 12 and 13 of the header.
const FLAG_SYN: u8 = 1 << 1;
const FLAG_RST: u8 = 1 << 2;
const FLAG_ACK: u8 = 1 << 4;

const TCP: u8 = 6;

/// What a packet shows. `length` is that of the whole frame, in bytes; `is_delivered` is whether it goes
/// on to the port.
#[inline(always)]
#[must_use]
pub fn of<F: Frame + ?Sized>(
    frame: &F,
    packet: &Located,
    length: usize,
    is_delivered: bool,
) -> u64 {
    let is_tcp = match packet.protocol {
        Some(protocol) => protocol.number() == TCP,
        None => false,
    };
    if !matches!(packet.outcome, Outcome::At) {
        return UNREADABLE;
    }
    if !is_tcp {
        return DATAGRAM;
    }
    let Some([offset, flags]) = frame.load::<2>(packet.transport + 12) else {
        return UNREADABLE;
    };
    if flags & FLAG_SYN != 0 {
        return if flags & FLAG_ACK == 0 { SYN } else { 0 };
    }
    if flags & FLAG_RST != 0 || flags & FLAG_ACK == 0 {
        return 0;
    }
    let header = (offset >> 4) as usize * 4;
    let has_data = end(frame, packet.network, length) > packet.transport + header;
    match (has_data, is_delivered) {
        (true, true) => ACK | DATA,
        (true, false) => DATA_DROPPED,
        (false, true) => ACK,
        (false, false) => 0,
    }
}

/// Where the packet ends: short frames are padded. A merged packet may have no length (BIG TCP).
#[inline(always)]
fn end<F: Frame + ?Sized>(frame: &F, network: Network, length: usize) -> usize {
    let (field, counted_from) = match network {
        Network::V4(header) => (header + 2, header),
        Network::V6(header) => (header + 4, header + 40),
    };
    match frame.load::<2>(field) {
        None | Some([0, 0]) => length,
        Some(bytes) => {
            let end = counted_from + u16::from_be_bytes(bytes) as usize;
            if end < length { end } else { length }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;
    use crate::parse::{Start, locate};

    /// A TCP segment over IPv4 or IPv6, padded as Ethernet does it.
    fn segment(is_v6: bool, flags: u8, options: usize, data: usize) -> Vec<u8> {
        let tcp = 20 + options + data;
        let mut packet = if is_v6 { vec![0; 40] } else { vec![0; 20] };
        if is_v6 {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&(tcp as u16).to_be_bytes());
            packet[6] = TCP;
        } else {
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&((20 + tcp) as u16).to_be_bytes());
            packet[9] = TCP;
        }
        let transport = packet.len();
        packet.resize(transport + tcp, 7);
        packet[transport + 12] = (((20 + options) / 4) << 4) as u8;
        packet[transport + 13] = flags;
        packet.resize(packet.len().max(46), 0);
        packet
    }

    fn shown(packet: &[u8], is_delivered: bool) -> u64 {
        of(packet, &locate(packet, Start::Network), packet.len(), is_delivered)
    }

    #[test]
    fn padding_is_no_data_and_one_byte_is() {
        for is_v6 in [false, true] {
            for options in [0, 12] {
                let bare = segment(is_v6, FLAG_ACK, options, 0);
                assert_eq!((shown(&bare, true), shown(&bare, false)), (ACK, 0));
                let full = segment(is_v6, FLAG_ACK | 8, options, 1);
                assert_eq!((shown(&full, true), shown(&full, false)), (ACK | DATA, DATA_DROPPED));
            }
        }
    }

    #[test]
    fn a_merged_packet_without_a_length_ends_with_its_frame() {
        let mut packet = segment(true, FLAG_ACK, 0, 100);
        packet[4..6].fill(0);
        assert_eq!(shown(&packet, true), ACK | DATA);
    }

    #[test]
    fn knocking_and_hanging_up_is_no_conversation() {
        for (flags, expected) in [
            (FLAG_SYN, SYN),
            (FLAG_SYN | FLAG_ACK, 0),
            (FLAG_RST, 0),
            (FLAG_RST | FLAG_ACK, 0),
            (0, 0),
            (1, 0),
        ] {
            assert_eq!(shown(&segment(false, flags, 0, 9), true), expected, "{flags:#x}");
        }
    }

    #[test]
    fn what_is_not_tcp_or_cannot_be_read_shows_nothing() {
        let mut udp = segment(false, 0, 0, 0);
        udp[9] = 17;
        assert_eq!(shown(&udp, true), DATAGRAM);
        let whole = segment(false, FLAG_ACK, 0, 50);
        // The ports are there, and the flags are not.
        assert_eq!(shown(&whole[..30], true), UNREADABLE);
        assert_eq!(shown(&whole[..22], true), UNREADABLE);
    }
}
