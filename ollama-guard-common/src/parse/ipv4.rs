//! IPv4 (RFC 791).

use super::{Located, ports};
use crate::{
    flow::{Network, Protocol},
    frame::Frame,
    verdict::Reason,
};

/// Bytes of the header without options.
const FIXED_HEADER: usize = 20;
/// The fragment offset, in units of eight bytes, within the flags and offset field.
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// More fragments follow. The bit above it, "don't fragment", makes no fragment.
const MORE_FRAGMENTS: u16 = 0x2000;

#[inline(always)]
pub(super) fn locate<F: Frame + ?Sized>(frame: &F, header: usize) -> Located {
    let Some(bytes) = frame.load::<FIXED_HEADER>(header) else {
        return Located::unreadable(Reason::IpHeaderCut);
    };
    if bytes[0] >> 4 != 4 {
        return Located::unreadable(Reason::VersionMismatch);
    }
    let network = Network::V4(header);
    let words = usize::from(bytes[0] & 0x0f);
    if words < FIXED_HEADER / 4 {
        return Located::undecidable(Reason::Ipv4HeaderLength, network);
    }
    let fragment = u16::from_be_bytes([bytes[6], bytes[7]]);
    if fragment & FRAGMENT_OFFSET != 0 {
        return Located::ELSEWHERE;
    }
    let Some(protocol) = Protocol::from_number(bytes[9]) else {
        return Located::ELSEWHERE;
    };
    let is_first_fragment = fragment & MORE_FRAGMENTS != 0;
    ports::locate(frame, network, protocol, header + words * 4, is_first_fragment)
}
