//! IPv6 and its extension headers (RFC 8200).

use super::{Located, ports};
use crate::{
    flow::{Network, Protocol},
    frame::Frame,
    verdict::Reason,
};

/// Extension headers that are followed. Linux follows 150 and more.
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// Bytes of extension headers that are followed. Linux follows several KiB in a single header,
/// so a limit on the count alone would not bound the walk.
pub const MAX_EXTENSION_BYTES: usize = 2048;

const FIXED_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// IPv4 and IPv6 in IPv6.
const IPV4_INSIDE: u8 = 4;
const IPV6_INSIDE: u8 = 41;

/// The fragment offset within the offset and flags field: its upper 13 bits.
const FRAGMENT_OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 0x0001;

#[inline(always)]
pub(super) fn locate<F: Frame + ?Sized>(frame: &F, header: usize) -> Located {
    let Some(bytes) = frame.load::<FIXED_HEADER>(header) else {
        return Located::unreadable(Reason::IpHeaderCut);
    };
    if bytes[0] >> 4 != 6 {
        return Located::unreadable(Reason::VersionMismatch);
    }
    let network = Network::V6(header);
    let payload = header + FIXED_HEADER;
    let mut next = bytes[6];
    // Bytes of extension headers walked so far.
    let mut walked = 0;
    let mut fragment_seen = false;
    let mut routing_seen = false;
    // In a first fragment, where its payload ends. Only there a length field counts: the kernel
    // cuts the packet at it and then takes the next header from another fragment, so that headers
    // behind the end would be read here and by nobody else. A fragment is never a merged packet,
    // whose lengths lie.
    let mut first_fragment_end = None;

    // One round more than there may be headers: the last one looks at what follows the last.
    for position in 0..=MAX_EXTENSION_HEADERS {
        let offset = payload + walked;
        if let Some(end) = first_fragment_end
            && offset + 4 > end
        {
            return Located::undecidable(Reason::FragmentWithoutPorts, network);
        }
        if let Some(protocol) = Protocol::from_number(next) {
            let offset = if position == 0 { offset } else { frame.blur(offset) };
            let is_first_fragment = first_fragment_end.is_some();
            return ports::locate(frame, network, protocol, offset, is_first_fragment);
        }
        let length = match next {
            HOP_BY_HOP if position > 0 => {
                return Located::undecidable(Reason::HopByHopMisplaced, network);
            }
            FRAGMENT if fragment_seen => {
                return Located::undecidable(Reason::FragmentNested, network);
            }
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => {
                if position == MAX_EXTENSION_HEADERS {
                    return Located::undecidable(Reason::TooManyExtensionHeaders, network);
                }
                let Some(extension) = frame.load::<4>(offset) else {
                    return Located::undecidable(cut(first_fragment_end.is_some()), network);
                };
                let length = if next == FRAGMENT {
                    let field = u16::from_be_bytes([extension[2], extension[3]]);
                    if field & FRAGMENT_OFFSET != 0 {
                        return Located::ELSEWHERE;
                    }
                    fragment_seen = true;
                    // Without "more", it is an atomic fragment (RFC 6946): a whole packet.
                    if field & MORE_FRAGMENTS != 0 {
                        let length = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
                        first_fragment_end = Some(payload + length);
                    }
                    FRAGMENT_HEADER
                } else {
                    routing_seen |= next == ROUTING;
                    (usize::from(extension[1]) + 1) * 8
                };
                next = extension[0];
                length
            }
            // Segment routing unpacks and delivers it (`ipv6_srh_rcv`, net/ipv6/exthdrs.c), if the
            // host has it switched on.
            IPV4_INSIDE | IPV6_INSIDE if routing_seen => {
                return Located::undecidable(Reason::EncapsulatedBehindRouting, network);
            }
            // AH, ESP, mobility, "no next header", ICMPv6, ...: no socket with a port behind them.
            _ => return Located::ELSEWHERE,
        };
        walked += length;
        if walked > MAX_EXTENSION_BYTES {
            return Located::undecidable(Reason::ExtensionHeadersTooLong, network);
        }
    }
    Located::undecidable(Reason::TooManyExtensionHeaders, network)
}

#[inline(always)]
const fn cut(is_first_fragment: bool) -> Reason {
    if is_first_fragment { Reason::FragmentWithoutPorts } else { Reason::ExtensionHeaderCut }
}
