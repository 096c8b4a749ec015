//! Ethernet II and VLAN tags (IEEE 802.3, 802.1Q).

use super::{Located, ipv4, ipv6};
use crate::{frame::Frame, verdict::Reason};

/// VLAN tags that are followed. Linux delivers any number of stacked tags with VLAN number 0 on
/// an interface without any VLAN configuration (`__netif_receive_skb_core` strips a tag and starts
/// over), so they must be walked, and a frame with more of them must not be let through.
pub const MAX_VLAN_TAGS: usize = 8;

const ETHERTYPE_OFFSET: usize = 12;
const VLAN_TAG_BYTES: usize = 4;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q and 802.1ad: the two that the kernel's `eth_type_vlan` knows. Any other, such as 0x9100,
/// is not a tag to the kernel, and its payload reaches no socket.
const VLAN_8021Q: u16 = 0x8100;
const VLAN_8021AD: u16 = 0x88a8;

#[inline(always)]
pub(super) fn locate<F: Frame + ?Sized>(frame: &F) -> Located {
    // The common case first, and by itself: the verifier knows its offsets exactly.
    match frame.load(ETHERTYPE_OFFSET).map(u16::from_be_bytes) {
        Some(VLAN_8021Q | VLAN_8021AD) => behind_tag(frame, ETHERTYPE_OFFSET + VLAN_TAG_BYTES),
        ethertype => payload(frame, ethertype, ETHERTYPE_OFFSET + 2),
    }
}

/// What follows the first tag: its EtherType stands at `ethertype_offset`.
#[inline(always)]
pub(super) fn behind_tag<F: Frame + ?Sized>(frame: &F, mut ethertype_offset: usize) -> Located {
    for _ in 0..MAX_VLAN_TAGS {
        match frame.load(ethertype_offset).map(u16::from_be_bytes) {
            Some(VLAN_8021Q | VLAN_8021AD) => ethertype_offset += VLAN_TAG_BYTES,
            ethertype => return payload(frame, ethertype, frame.blur(ethertype_offset + 2)),
        }
    }
    Located::unreadable(Reason::TooManyVlanTags)
}

/// Whether four bytes are what a VLAN tag leaves at the start of a frame without an Ethernet
/// header, when its TPID is in the packet's protocol field: the tag's control word, and an
/// EtherType that leads to IP.
#[inline(always)]
pub(super) const fn is_tag([_, _, high, low]: [u8; 4]) -> bool {
    matches!(u16::from_be_bytes([high, low]), IPV4 | IPV6 | VLAN_8021Q | VLAN_8021AD)
}

#[inline(always)]
fn payload<F: Frame + ?Sized>(frame: &F, ethertype: Option<u16>, offset: usize) -> Located {
    match ethertype {
        Some(IPV4) => ipv4::locate(frame, offset),
        Some(IPV6) => ipv6::locate(frame, offset),
        Some(_) => Located::ELSEWHERE,
        None => Located::unreadable(Reason::LinkHeaderCut),
    }
}
