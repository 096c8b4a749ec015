//! IPv6 headers and extension headers, honest and otherwise.

use std::net::Ipv6Addr;

use super::segment::Segment;

/// Next-header numbers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Padding of one byte.
const PAD_1: u8 = 0;
/// An experimental option that a receiver without knowledge of it must skip (RFC 4727).
const SKIPPABLE: u8 = 0x1e;

/// An IPv6 header with its extension headers being written.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    /// Number and bytes of each extension header, outermost first. The first byte, which names
    /// what follows, is filled in when the packet is finished.
    extensions: Vec<(u8, Vec<u8>)>,
    identification: u32,
    version: u8,
    payload_length: Option<u16>,
}

/// A packet between two addresses.
#[must_use]
pub const fn ipv6(source: Ipv6Addr, destination: Ipv6Addr) -> Ipv6 {
    Ipv6 {
        source,
        destination,
        extensions: Vec::new(),
        identification: 0x4711,
        version: 6,
        payload_length: None,
    }
}

impl Ipv6 {
    /// A further extension header of any kind. Its first byte is overwritten.
    #[must_use]
    pub fn extension(mut self, number: u8, bytes: &[u8]) -> Self {
        self.extensions.push((number, bytes.to_vec()));
        self
    }

    /// A further hop-by-hop options header of this many bytes.
    #[must_use]
    pub fn hop_by_hop(self, length: usize) -> Self {
        self.extension(HOP_BY_HOP, &options(length))
    }

    /// A hop-by-hop options header with the jumbo payload option (RFC 2675).
    #[must_use]
    pub fn jumbo(self, length: u32) -> Self {
        let header = [&[0, 0, 0xc2, 4][..], &length.to_be_bytes()].concat();
        self.extension(HOP_BY_HOP, &header)
    }

    /// A further destination options header of this many bytes.
    #[must_use]
    pub fn destination_options(self, length: usize) -> Self {
        self.extension(DESTINATION_OPTIONS, &options(length))
    }

    /// `count` further destination options headers of eight bytes.
    #[must_use]
    pub fn many_destination_options(mut self, count: usize) -> Self {
        for _ in 0..count {
            self = self.destination_options(8);
        }
        self
    }

    /// A further routing header with one address.
    #[must_use]
    pub fn routing(self, kind: u8, segments_left: u8, address: Ipv6Addr) -> Self {
        let header = [&[0, 2, kind, segments_left, 0, 0, 0, 0][..], &address.octets()].concat();
        self.extension(ROUTING, &header)
    }

    /// With this identification in the fragment headers that follow.
    #[must_use]
    pub const fn identification(mut self, number: u32) -> Self {
        self.identification = number;
        self
    }

    /// A further fragment header.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        assert!(offset.is_multiple_of(8));
        let field = (offset | u16::from(more)).to_be_bytes();
        let identification = self.identification.to_be_bytes();
        self.extension(FRAGMENT, &[&[0, 0], &field[..], &identification].concat())
    }

    /// A fragment header that says "whole packet" (RFC 6946).
    #[must_use]
    pub fn atomic_fragment(self) -> Self {
        self.fragment(0, false)
    }

    /// With this version number, whether it is true or not.
    #[must_use]
    pub const fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// With this payload length, whether it is true or not.
    #[must_use]
    pub const fn payload_length(mut self, length: u16) -> Self {
        self.payload_length = Some(length);
        self
    }

    /// The packet with a transport segment.
    #[must_use]
    pub fn carries(&self, segment: &Segment) -> Vec<u8> {
        let bytes = segment.bytes(self.source.into(), self.destination.into());
        self.carries_bytes(segment.protocol(), &bytes)
    }

    /// The packet with any payload under any next-header number.
    #[must_use]
    pub fn carries_bytes(&self, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut tail = Vec::new();
        for (position, (_, bytes)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(position + 1).map_or(next_header, |next| next.0);
            tail.push(next);
            tail.extend(&bytes[1..]);
        }
        tail.extend(payload);
        let first = self.extensions.first().map_or(next_header, |first| first.0);
        let length = self.payload_length.unwrap_or(tail.len() as u16);
        let mut packet = vec![self.version << 4, 0, 0, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([first, 64]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(tail);
        packet
    }

    /// The two fragments of a packet, cut at this byte of its payload; the extension headers so
    /// far stand in front of the fragment header of both.
    #[must_use]
    pub fn fragments(&self, segment: &Segment, at: u16) -> [Vec<u8>; 2] {
        let bytes = segment.bytes(self.source.into(), self.destination.into());
        let (head, tail) = bytes.split_at(usize::from(at));
        [
            self.clone().fragment(0, true).carries_bytes(segment.protocol(), head),
            self.clone().fragment(at, false).carries_bytes(segment.protocol(), tail),
        ]
    }
}

/// An options header of this many bytes. Linux takes unknown options that may be skipped, and
/// refuses runs of more than seven bytes of padding.
fn options(length: usize) -> Vec<u8> {
    assert!(length.is_multiple_of(8) && (8..=2048).contains(&length));
    let mut header = vec![0, (length / 8 - 1) as u8];
    while header.len() < length {
        let room = length - header.len();
        if room == 1 {
            header.push(PAD_1);
        } else {
            let value = (room - 2).min(255);
            header.extend([SKIPPABLE, value as u8]);
            header.resize(header.len() + value, 0);
        }
    }
    header
}
